//! Everything known about one finished request, and the id of its decision.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::chain;
use foregate_filters::consumer::Consumer;
use foregate_filters::context::{AuditFact, Beside, LimitFact, ScoreFact, ShadowFact};
use foregate_filters::moment::Moment;
use foregate_filters::peer::Peer;
use foregate_filters::principal::{Claims, Principal};
use foregate_filters::reason::Reason;
use foregate_filters::score::{Predictor, ScoreFault};
use foregate_filters::step::Step;
use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::org_quota::OrgFact;
use crate::rare::REQUEST_ID_HEADER;
use crate::telemetry::code::Code;
use crate::telemetry::explain::Explanation;
use crate::telemetry::labels::OTHER_METHOD;
use crate::telemetry::random;
use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::traces::attempts::Attempt;

/// Names the decision in the response and nowhere else; a client's copy is never passed on.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("x-foregate-decision");

/// Longest request id that is passed on, in bytes: room for two UUIDs and a prefix.
const MAX_REQUEST_ID: usize = 128;

/// Longest path kept, in bytes: a path may fill the whole head, a record may not.
const MAX_PATH: usize = 1_024;

/// Longest host kept, in bytes: a DNS name fits (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// Longest method kept, in bytes; a longer one is recorded as `_OTHER`, as OpenTelemetry has it.
const MAX_METHOD: usize = 32;

/// Longest free text kept, in bytes.
const MAX_DETAIL: usize = 512;

/// Most scores kept of one rule: the records of one Salesforce collection.
const MAX_SCORES: usize = 200;

/// Longest issuer or subject kept, in bytes.
const MAX_SUBJECT: usize = 255;

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

/// Cuts a text to `max` bytes at a character border, and says so with an ellipsis.
fn shorten(text: &mut Box<str>, max: usize) {
    if text.len() > max {
        *text = format!("{}\u{2026}", text.get(..text.floor_char_boundary(max)).unwrap_or_default()).into();
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

impl Record {
    /// True where the gateway or the upstream failed. What policies refuse and what clients do is no failure.
    pub fn failed(&self) -> bool {
        self.status >= 500 || self.fault().is_some()
    }

    /// True where it is more than one of many that went well: it was refused or audited, or failed.
    pub fn is_telling(&self) -> bool {
        self.refusal.is_some() || !self.audits.is_empty() || self.failed()
    }

    /// What failed where the status alone does not tell, as `error.type` of OpenTelemetry: the reason of a refusal, the
    /// code of a call, or that the upstream broke off.
    pub fn fault(&self) -> Option<&'static str> {
        match &self.refusal {
            Some(refusal) => {
                let failed = self.status >= 500 || refusal.reason.status().is_server_error();
                failed.then_some(refusal.reason.name())
            }
            None if self.status >= 500 => None,
            None => fault(self.grpc, self.end),
        }
    }

    /// How the upstream ended a call, where it did: codes of refusals are the gateway's own.
    pub fn upstream_grpc(&self) -> Option<Code> {
        let its = self.refusal.is_none() && self.end == End::Complete && self.upstream_status != 0;
        self.grpc.filter(|_| its)
    }

    /// The same as [`Self::fault`], of the exchange with the upstream alone.
    pub fn upstream_fault(&self) -> Option<&'static str> {
        let told = self.refusal.is_some() || self.upstream_status == 0 || self.upstream_status >= 500;
        // How long it is waited for says nothing of it.
        if told || self.end == End::Late { None } else { fault(self.upstream_grpc(), self.end) }
    }

    /// Cuts whatever a client can make long, so that queues of records stay bounded.
    pub fn bound(&mut self) {
        shorten(&mut self.path, MAX_PATH);
        shorten(&mut self.host, MAX_HOST);
        if self.method.as_str().len() > MAX_METHOD {
            self.method = Method::from_bytes(OTHER_METHOD.as_bytes()).unwrap_or_default();
        }
        let long = |it: &Arc<Principal>| it.issuer.len() > MAX_SUBJECT || it.subject.len() > MAX_SUBJECT;
        if self.subject.as_ref().is_some_and(long) {
            self.forget_claims();
        }
        if let Some(refusal) = &mut self.refusal {
            shorten(&mut refusal.detail, MAX_DETAIL);
        }
        for audit in &mut self.audits {
            shorten(&mut audit.detail, MAX_DETAIL);
        }
        for fact in &mut self.scores {
            fact.scores.truncate(MAX_SCORES);
            if let Some(beside) = &mut fact.beside {
                for list in [&mut beside.classes, &mut beside.bands] {
                    if list.len() > MAX_SCORES {
                        *list = list.iter().take(MAX_SCORES).cloned().collect();
                    }
                }
            }
            if let Some(ScoreFault::Feature(text) | ScoreFault::Model(text)) = &mut fact.fault {
                shorten(text, MAX_DETAIL);
            }
        }
    }

    /// Lets go of the claims, which may be large, and keeps what is written down: issuer and subject.
    pub fn forget_claims(&mut self) {
        if let Some(principal) = &self.subject {
            let short = |text: &str| {
                let mut text = Box::from(text);
                shorten(&mut text, MAX_SUBJECT);
                text.into()
            };
            let (issuer, subject) = (short(&principal.issuer), short(&principal.subject));
            self.subject = Some(Arc::new(Principal {
                issuer,
                subject,
                scopes: Arc::default(),
                claims: Claims::default(),
                expires: principal.expires,
            }));
        }
    }

    /// Memory that this record holds alone, in bytes, to within a few allocations.
    pub fn weight(&self) -> usize {
        let texts = self.path.len() + self.host.len();
        let refusal = self.refusal.as_ref().map_or(0, |it| it.rule.len() + it.detail.len());
        let beside = |it: &ScoreFact| it.beside.as_deref().map_or(0, beside);
        let score = |it: &ScoreFact| size_of::<ScoreFact>() + 4 * it.scores.len() + beside(it);
        let scores: usize = self.scores.iter().map(score).sum();
        let audits: usize = self.audits.iter().map(|it| size_of::<AuditFact>() + it.detail.len()).sum();
        let limits =
            self.limits.len() * size_of::<LimitFact>() + self.shadows.len() * size_of::<ShadowFact>();
        let subject =
            self.subject.as_ref().map_or(0, |it| size_of::<Principal>() + it.issuer.len() + it.subject.len());
        let peer = self.peer.as_ref().and_then(|peer| peer.id.as_ref());
        let peer = peer.map_or(0, |id| size_of::<Peer>() + id.as_str().len());
        let explanation = self.explanation.as_ref().map_or(0, |explanation| explanation.weight());
        let explanation = explanation + self.tries.capacity() * size_of::<Attempt>();
        explanation + size_of::<Self>() + texts + refusal + scores + audits + limits + subject + peer
    }
}

/// What is wrong with an answer of this code that ended so.
fn fault(code: Option<Code>, end: End) -> Option<&'static str> {
    let ended = match end {
        End::UpstreamBroke => Some(Reason::UpstreamReset.name()),
        End::Late => Some(Reason::DeadlineExceeded.name()),
        End::Complete | End::ClientGone | End::Revoked | End::Idle | End::Drained => None,
    };
    code.filter(|code| code.failed()).map(Code::name).or(ended)
}

/// Names are shared with the model; what it read of one request is not.
fn beside(beside: &Beside) -> usize {
    let value = |it: &Predictor| size_of::<Predictor>() + it.value.as_ref().map_or(0, |value| value.len());
    let reasons = beside.reasons.iter().flatten().flat_map(|reasons| &reasons.predictors);
    let shared = (beside.classes.len() + beside.bands.len()) * size_of::<Arc<str>>();
    size_of::<Beside>() + shared + size_of_val(&*beside.reasons) + reasons.map(value).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{CameWith, DecisionId, End, Marks, Record, Refusal, request_id};
    use crate::telemetry::code::Code;
    use crate::telemetry::testing::{MOMENT, failed_records, full_record, record};
    use foregate_filters::moment::Moment;
    use foregate_filters::principal::{Claims, Principal};
    use foregate_filters::reason::Reason;
    use foregate_filters::step::Step;
    use http::{HeaderMap, HeaderValue, Method};
    use smallvec::SmallVec;
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

    #[test]
    fn what_clients_do_and_what_policies_refuse_is_no_failure() {
        assert!(failed_records().iter().all(|failed| failed.failed() && failed.is_telling()));
        let call =
            |code| Record { status: 200, upstream_status: 200, grpc: Some(Code::of(code)), ..record() };
        // A caller that was too slow is told as one that came too late.
        let slow =
            Refusal { step: Step::Dispatch, reason: Reason::BodyTimeout, rule: "".into(), detail: "".into() };
        for well in [
            record(),
            full_record(),
            Record { status: 499, end: End::ClientGone, ..record() },
            Record { end: End::ClientGone, ..record() },
            Record { end: End::Revoked, ..full_record() },
            Record { end: End::Drained, ..record() },
            call(0),
            call(1),
            call(5),
            Record { refusal: Some(slow), end: End::Idle, ..call(4) },
        ] {
            assert_eq!((well.failed(), well.fault(), well.upstream_fault()), (false, None, None), "{well:?}");
        }
    }

    #[test]
    fn what_a_client_makes_long_is_cut() {
        let mut long = full_record();
        long.path = "\u{e9}".repeat(40_000).into();
        long.host = "h".repeat(70_000).into();
        long.method = Method::from_bytes("M".repeat(9_000).as_bytes()).unwrap();
        long.refusal.as_mut().unwrap().detail = "d".repeat(9_000).into();
        long.audits[0].detail = "d".repeat(9_000).into();
        long.scores[0].scores = SmallVec::from_elem(0.5, 10_000);
        long.subject = Some(std::sync::Arc::new(Principal {
            issuer: "i".repeat(9_000).into(),
            subject: "s".repeat(9_000).into(),
            scopes: std::sync::Arc::default(),
            claims: Claims::default(),
            expires: 0,
        }));
        long.bound();
        assert!(long.weight() < size_of::<Record>() + 5_000, "{}", long.weight());
        assert_eq!(long.method.as_str(), "_OTHER");
        assert!(long.path.ends_with('\u{2026}'));
        let mut short = record();
        short.bound();
        assert_eq!(short.path, record().path);
    }
}
