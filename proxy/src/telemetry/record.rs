//! Everything known about one finished request, and the id of its decision.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::chain;
use foregate_filters::consumer::Consumer;
use foregate_filters::context::{AuditFact, LimitFact, ScoreFact, ShadowFact};
use foregate_filters::moment::Moment;
use foregate_filters::peer::Peer;
use foregate_filters::principal::Principal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::org_quota::OrgFact;
use crate::rare::REQUEST_ID_HEADER;
use crate::telemetry::code::Code;
use crate::telemetry::explain::Explanation;
use crate::telemetry::extent::MAX_DETAIL;
use crate::telemetry::random;
use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::traces::attempts::Attempt;

/// Names the decision in the response and nowhere else; a client's copy is never passed on.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("x-foregate-decision");

/// Longest request id that is passed on, in bytes: room for two UUIDs and a prefix.
const MAX_REQUEST_ID: usize = 128;

/// The id of one decision: a UUID of version 7 (RFC 9562, section 5.7), sortable by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId(u128);

/// A text that is not the id of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a decision id: 32 hexadecimal digits, with or without hyphens")]
pub struct DecisionIdError;

/// What the client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// A connection that was passed on unread.
    Tcp,
    /// The same, in TLS that the client spoke.
    Tls,
}

/// How the exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole response was sent.
    Complete,
    /// The client went away first.
    ClientGone,
    /// The upstream broke off after its response head.
    UpstreamBroke,
    /// It was not whole in the time that the route or the caller gave it.
    Late,
    /// It was open when something new was in force, which no longer allows it.
    Revoked,
    /// Nothing was said on it for too long.
    Idle,
    /// The process ended before it did.
    Drained,
}

/// Which step refused, why, by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub step: Step,
    pub reason: Reason,
    /// Empty where the step alone says it.
    pub rule: Box<str>,
    /// For the operator; holds no secret.
    pub detail: Box<str>,
}

/// How long a request and its parts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// From the head of the request to the last byte of the response.
    pub total: Duration,
    /// From dispatch to the response head of the upstream.
    pub upstream: Option<Duration>,
    /// Spent on features and scores.
    pub enrich: Option<Duration>,
    /// See [`Marks::added`].
    pub added: Option<Duration>,
    /// From the head of the request to its dispatch.
    pub dispatched: Option<Duration>,
}

/// When a request was where; monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub began: Duration,
    /// It was first sent to an upstream.
    pub dispatched: Option<Duration>,
    /// From then to the response head, or to its failure.
    pub upstream: Option<Duration>,
    /// The head of the response was ready.
    pub responded: Option<Duration>,
    /// Time before `responded` in which the gateway waited for the client or the upstream, or on purpose, and which is
    /// not within `upstream`.
    pub waited: Duration,
}

impl Marks {
    /// What the gateway added: until dispatch, and from the answer of the upstream until the head of the response was
    /// ready, or until it was where nothing was sent. `None` where the client left before either.
    pub fn added(&self) -> Option<Duration> {
        let until = self.dispatched.or(self.responded)?;
        let answered = self.dispatched.zip(self.upstream).map(|(at, took)| at.saturating_add(took));
        let since = self.responded.zip(answered).map(|(at, since)| at.saturating_sub(since));
        let added = until.saturating_sub(self.began).saturating_add(since.unwrap_or_default());
        Some(added.saturating_sub(self.waited))
    }
}

/// Headers that a request came with and that some logs tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CameWith {
    pub agent: Box<str>,
    /// Without query: queries may hold secrets.
    pub referer: Box<str>,
}

/// All facts of one finished request. A request makes exactly one.
#[derive(Debug)]
pub struct Record {
    pub id: DecisionId,
    /// What the client called the request, or the decision id.
    pub request_id: HeaderValue,
    /// When the request was pinned.
    pub moment: Moment,
    pub protocol: Protocol,
    pub listener: Arc<str>,
    /// Empty where no route matched.
    pub route: Arc<str>,
    pub method: Method,
    /// Set where a log tells of it.
    pub came_with: Option<Box<CameWith>>,
    /// Lower case, without port.
    pub host: Box<str>,
    /// Canonical, without query: queries may hold secrets.
    pub path: Box<str>,
    pub status: u16,
    /// How a gRPC call ended, as its caller was told; `None` of what is no call, or was left before.
    pub grpc: Option<Code>,
    pub refusal: Option<Refusal>,
    /// Whom the request speaks for.
    pub client: IpAddr,
    pub tls: bool,
    /// Only its SPIFFE id is ever written down.
    pub peer: Option<Arc<Peer>>,
    /// Only its issuer and subject are ever written down.
    pub subject: Option<Arc<Principal>>,
    /// Only its name is ever written down.
    pub consumer: Option<Arc<Consumer>>,
    /// Name of the upstream.
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<SocketAddr>,
    /// What it answered; 0 where nothing.
    pub upstream_status: u16,
    /// How often it was tried to have an answer; 0 where it came to none.
    pub attempts: u32,
    /// Each of them, where the trace is sampled.
    pub tries: Vec<Attempt>,
    pub durations: Durations,
    /// Bytes of the request body.
    pub bytes_received: u64,
    /// Bytes of the response body.
    pub bytes_sent: u64,
    pub scores: Vec<ScoreFact>,
    pub limits: Vec<LimitFact>,
    pub audits: Vec<AuditFact>,
    pub shadows: Vec<ShadowFact>,
    /// What a request with an idempotency key met.
    pub once: Option<&'static str>,
    /// How the calls of an org stood.
    pub org: Option<Box<OrgFact>>,
    pub trace: Option<TraceContext>,
    /// Its spans are sent.
    pub traced: bool,
    pub end: End,
    /// Set where the decision is kept.
    pub explanation: Option<Box<Explanation>>,
}

/// The request id to pass on: the client's where it sent one of 1 to 128 visible ASCII characters,
/// the decision id otherwise.
pub fn request_id(headers: &HeaderMap, decision: &HeaderValue) -> HeaderValue {
    let mut sent = headers.get_all(&REQUEST_ID_HEADER).iter();
    match (sent.next(), sent.next()) {
        (Some(value), None)
            if (1..=MAX_REQUEST_ID).contains(&value.len())
                && value.as_bytes().iter().all(u8::is_ascii_graphic) =>
        {
            value.clone()
        }
        _ => decision.clone(),
    }
}

impl DecisionId {
    /// A new id: 48 bits of milliseconds, 74 random bits, 6 bits that say UUID version 7.
    pub fn new(moment: Moment) -> Self {
        let random = (u128::from(random::next()) << 64) | u128::from(random::next());
        let millis = moment.unix.as_millis() << 80;
        let random = random & 0x0fff_3fff_ffff_ffff_ffff;
        Self(millis | random | 0x7000_8000_0000_0000_0000)
    }

    /// The 128 bits.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// True for one in this many ids, by their random bits.
    pub const fn draw(self, one_in: u32) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the random bits are the lowest")]
        let bits = self.0 as u32;
        bits.is_multiple_of(one_in)
    }

    /// The text as a header value.
    pub fn header_value(self) -> HeaderValue {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::from_u128(self.0).hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl FromStr for DecisionId {
    type Err = DecisionIdError;

    fn from_str(text: &str) -> Result<Self, DecisionIdError> {
        uuid::Uuid::try_parse(text).map(|id| Self(id.as_u128())).map_err(|_| DecisionIdError)
    }
}

impl Refusal {
    /// What is kept of a refusal: not what the caller was told.
    pub fn of(refusal: chain::Refusal) -> Self {
        let chain::Refusal { step, reply } = refusal;
        Self { step, reason: reply.reason, rule: reply.rule, detail: reply.detail }
    }
}

impl CameWith {
    /// What these headers say, cut to a bound.
    pub fn of(headers: &HeaderMap) -> Box<Self> {
        let read = |name: HeaderName| {
            let value = headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
            String::from_utf8_lossy(value.get(..MAX_DETAIL).unwrap_or(value)).into_owned()
        };
        let referer = read(REFERER);
        let referer = referer.split(['?', '#']).next().unwrap_or_default().into();
        Box::new(Self { agent: read(USER_AGENT).into(), referer })
    }
}

impl Protocol {
    /// As OpenTelemetry's `network.protocol.version` has it.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
            Self::Tcp | Self::Tls => "",
        }
    }

    /// True for a connection that was passed on unread: there are no requests in its record.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

impl End {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamBroke => "upstream_broke",
            Self::Late => "late",
            Self::Revoked => "revoked",
            Self::Idle => "idle",
            Self::Drained => "drained",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CameWith, DecisionId, Marks, request_id};
    use crate::telemetry::testing::MOMENT;
    use foregate_filters::moment::Moment;
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn an_id_is_a_uuid_of_version_7_that_sorts_by_time() {
        let id = DecisionId::new(MOMENT);
        let uuid = uuid::Uuid::from_u128(id.bits());
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        let later = Moment { unix: MOMENT.unix + Duration::from_millis(1), ..MOMENT };
        for _ in 0..100 {
            assert!(DecisionId::new(MOMENT) < DecisionId::new(later));
        }
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.header_value(), id.to_string());
        assert_eq!(id.to_string().replace('-', "").parse(), Ok(id));
        for bad in ["", "0", "g0000000-0000-7000-8000-000000000000", "00000000-0000-7000-8000-00000000000"] {
            assert!(bad.parse::<DecisionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_of_one_moment_differ() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| DecisionId::new(MOMENT)).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn a_valid_request_id_is_passed_on_and_others_are_replaced() {
        let id = DecisionId::new(MOMENT);
        let (longest, long) = ("x".repeat(128), "x".repeat(129));
        for (sent, kept) in [
            (vec!["abc-123"], true),
            (vec![longest.as_str()], true),
            (vec![], false),
            (vec![""], false),
            (vec![long.as_str()], false),
            (vec!["a b"], false),
            (vec!["a\tb"], false),
            (vec!["\u{e9}"], false),
            (vec!["a", "b"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &sent {
                headers.append("x-request-id", HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let expected = if kept { sent[0].to_owned() } else { id.to_string() };
            assert_eq!(request_id(&headers, &id.header_value()), expected, "{sent:?}");
        }
    }

    #[test]
    fn headers_that_logs_tell_are_cut_and_have_no_query() {
        let mut headers = HeaderMap::new();
        let long = "a".repeat(4_000);
        headers.insert("user-agent", HeaderValue::from_str(&long).unwrap());
        headers.insert("referer", HeaderValue::from_static("https://a.example/b?token=hunter2#x"));
        let came = CameWith::of(&headers);
        assert_eq!((came.agent.len(), &*came.referer), (512, "https://a.example/b"));
        headers.insert("user-agent", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(&*CameWith::of(&headers).agent, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_was_added_is_what_the_gateway_did_before_and_after_the_upstream() {
        let ms = Duration::from_millis;
        let began = Marks { began: ms(1_000), ..Marks::default() };
        let sent = Marks { dispatched: Some(ms(1_007)), ..began };
        let answered = Marks { upstream: Some(ms(200)), responded: Some(ms(1_210)), ..sent };
        let failed = Marks { upstream: None, responded: Some(ms(1_500)), ..sent };
        for (marks, added, what) in [
            (began, None, "the client left first"),
            (Marks { responded: Some(ms(1_004)), ..began }, Some(4), "it was refused"),
            (sent, Some(7), "the client left while the upstream was asked"),
            (answered, Some(10), "seven before, three after"),
            (Marks { waited: ms(6), ..answered }, Some(4), "for the body of the client"),
            (failed, Some(7), "nobody knows when the upstream was done"),
            (Marks { waited: ms(60), ..answered }, Some(0), "never less than nothing"),
        ] {
            assert_eq!(marks.added(), added.map(ms), "{what}");
        }
    }
}
