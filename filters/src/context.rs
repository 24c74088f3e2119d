//! Typed facts about one request, gathered as it passes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::body_memory::BodyMemory;
use crate::consumer::Consumer;
use crate::edits::Edits;
use crate::fairness::Tenant;
use crate::idempotency::Once;
use crate::inject::Injection;
use crate::moment::Moment;
use crate::peer::Peer;
use crate::principal::Principal;
use crate::rate_limit::OnError;
use crate::rate_limit::counted::Counted;
use crate::reason::Reason;
use crate::rule::RuleKind;
use crate::score::{Reasons, ScoreFault};
use crate::step::Step;
use crate::trace::Trace;
use crate::validate::Matched;

/// The other end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Whom the request speaks for: `peer`, unless a trusted proxy named another address.
    pub address: IpAddr,
    /// True where the connection is TLS.
    pub tls: bool,
    /// Where it meant to go; known where the kernel redirected it to us.
    pub destination: Option<SocketAddr>,
}

/// What one `enrich` rule found out.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreFact {
    /// Name of the `enrich` rule.
    pub rule: Arc<str>,
    pub model: Arc<str>,
    pub version: Arc<str>,
    /// One score a record, in order; the default stands in where there is none.
    pub scores: SmallVec<[f32; 1]>,
    /// Set where at least one record has no score of its own.
    pub fault: Option<ScoreFault>,
    /// What there is to say beside the scores; `None` where that is nothing.
    pub beside: Option<Box<Beside>>,
}

/// What a model says beside its scores, and what a rule makes of them. Each list has one entry a record, in order, or
/// none at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// Empty text for a record that has no score of its own.
    pub classes: Box<[Arc<str>]>,
    pub bands: Box<[Arc<str>]>,
    /// Of the first eight records, where the request was explained.
    pub reasons: Box<[Option<Reasons>]>,
}

impl ScoreFact {
    /// The class of the record with the highest score; empty where there is none.
    pub fn class(&self) -> &str {
        self.of_highest(|beside| &beside.classes)
    }

    /// The band of the highest score; empty where the rule has no bands.
    pub fn band(&self) -> &str {
        self.of_highest(|beside| &beside.bands)
    }

    fn of_highest(&self, list: fn(&Beside) -> &[Arc<str>]) -> &str {
        let best = self.scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let list = self.beside.as_deref().map(list).unwrap_or_default();
        best.and_then(|(place, _)| list.get(place)).map(|text| &**text).unwrap_or_default()
    }
}

/// How a limit stood when it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitFact {
    /// Name of the limit.
    pub rule: Arc<str>,
    /// A rate limit, a quota, or a bound of concurrency.
    pub kind: RuleKind,
    /// What may still be taken at once.
    pub remaining: u64,
    /// Time until what was asked for may be taken; `Duration::MAX` where nobody knows.
    pub retry_after: Duration,
    pub admitted: bool,
    /// A keyed hash of the key: equal for equal keys of one limit, and of no meaning elsewhere.
    pub key: u64,
    /// The store that counts it for several processes could not be asked, and this was done instead.
    pub unavailable: Option<OnError>,
}

/// A rule that would have refused, were it not in audit mode.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditFact {
    pub step: Step,
    pub rule: Arc<str>,
    pub detail: Box<str>,
}

/// What a policy in shadow mode would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowFact {
    /// Name of the policy.
    pub policy: Arc<str>,
    pub verdict: ShadowVerdict,
    /// True where the policies in force let the request pass.
    pub allowed: bool,
}

/// The verdict of a shadow policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowVerdict {
    Allow,
    Refuse {
        step: Step,
        reason: Reason,
        rule: Box<str>,
    },
    /// It reads what was not known when the request ended, or would have waited.
    Undecided,
}

/// Everything known about one request besides its head.
#[derive(Debug)]
pub struct RequestContext {
    /// The reading of the clocks that this request obeys.
    pub moment: Moment,
    /// What limits count with: later than `moment` where a body was waited for.
    pub counted_at: Moment,
    pub client: Client,
    /// Name of the route, empty before it is found.
    pub route: Arc<str>,
    /// The workload at the other end; set by *handshake*.
    pub peer: Option<Arc<Peer>>,
    /// Whom a token speaks for; set by *identify*.
    pub principal: Option<Arc<Principal>>,
    /// Whom an API key stands for; set by *identify*.
    pub consumer: Option<Arc<Consumer>>,
    /// Whom it counts for where an upstream is saturated; set by *admit* on routes that say so.
    pub tenant: Option<Box<Tenant>>,
    /// Whose call it is where an org counts them; set by *admit* on routes that say so.
    pub org_consumer: Option<Box<str>>,
    /// One bit for each set of access rules: set once one of its `allow` rules matched.
    pub allowed: u32,
    /// Set by *enrich*, one entry a rule.
    pub scores: Vec<ScoreFact>,
    /// Index of the backend that a rule of the policy chose; the weights decide where there is none.
    pub backend: Option<u16>,
    /// A fault that it is to meet on purpose.
    pub injection: Option<Box<Injection>>,
    /// Set where it is to be carried out once.
    pub once: Option<Box<Once>>,
    /// The whole request body, where a filter asked for it.
    pub body: Option<Bytes>,
    /// How many records the body holds, or why nobody knows: counted once, where a limit asks.
    pub records: OnceLock<Result<i64, &'static str>>,
    /// The body came encoded, and is decoded by now.
    pub decoded: bool,
    /// What filters make of a body counts there; nothing counts it where there is none.
    pub body_memory: Option<Arc<dyn BodyMemory>>,
    /// The operation of the service's contract; set by *admit* on routes with one.
    pub contract: Option<Box<Matched>>,
    pub edits: Edits,
    pub limits: Vec<LimitFact>,
    /// What it has taken from limits, and holds.
    pub counted: Counted,
    pub audits: Vec<AuditFact>,
    /// How far the chain came.
    pub trace: Trace,
    /// One entry for each shadow policy of the route.
    pub shadows: Vec<ShadowFact>,
}

impl RequestContext {
    pub fn new(moment: Moment, client: Client) -> Self {
        Self {
            moment,
            counted_at: moment,
            client,
            route: Arc::default(),
            peer: None,
            principal: None,
            consumer: None,
            tenant: None,
            org_consumer: None,
            allowed: 0,
            scores: Vec::new(),
            backend: None,
            injection: None,
            once: None,
            body: None,
            records: OnceLock::new(),
            decoded: false,
            body_memory: None,
            contract: None,
            edits: Edits::default(),
            limits: Vec::new(),
            counted: Counted::default(),
            audits: Vec::new(),
            trace: Trace::default(),
            shadows: Vec::new(),
        }
    }

    /// The same request as a shadow policy sees it: the facts so far, and nothing that it did.
    #[must_use]
    pub fn shadow(&self) -> Self {
        Self {
            route: Arc::clone(&self.route),
            peer: self.peer.clone(),
            principal: self.principal.clone(),
            consumer: self.consumer.clone(),
            scores: self.scores.clone(),
            body: self.body.clone(),
            records: self.records.clone(),
            decoded: self.decoded,
            counted_at: self.counted_at,
            ..Self::new(self.moment, self.client)
        }
    }

    /// What the `enrich` rule of this name found out.
    pub fn score(&self, rule: &str) -> Option<&ScoreFact> {
        self.scores.iter().find(|fact| &*fact.rule == rule)
    }
}

impl ShadowVerdict {
    /// The word in logs and labels.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Refuse { .. } => "refuse",
            Self::Undecided => "undecided",
        }
    }
}
