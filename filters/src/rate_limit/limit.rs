//! One rate limit, quota or bound of concurrency, ready to count.

use std::sync::Arc;

use ahash::RandomState;

use super::concurrency;
use super::counting::{Local, Shared};
use super::headers::Told;
use super::limiter::Decision;
use super::quota;
use super::shared::{Admits, Counter, Take};
use super::spec::{OnError, SharedSpec, Spec};
use super::store::Key;
use crate::authorize::Mode;
use crate::chain::Built;
use crate::expression::int::IntExpression;
use crate::expression::{BoolExpression, Environment, EvaluationError, KeyExpression, Reads, Scope};
use crate::fault::{Fault, Path};
use crate::reason::Reason;
use crate::resources::Resources;
use crate::rule::{Rule, RuleKind};

/// Costs of a request.
const COSTS: std::ops::RangeInclusive<i64> = 0..=1_000_000;

/// One limit, ready to count.
#[derive(Debug)]
pub struct Limit {
    pub(super) name: Arc<str>,
    pub(super) kind: RuleKind,
    pub(super) mode: Mode,
    /// The list of the document it stands in, and its place there.
    list: &'static str,
    place: u16,
    terms: Terms,
    /// It is asked once the body is there.
    reads_body: bool,
    pub(super) counting: Counting,
    pub(super) told: Told,
}

/// Whom it counts, when, and by how much.
#[derive(Debug)]
struct Terms {
    key: KeyExpression,
    when: Option<BoolExpression>,
    cost: Option<IntExpression>,
}

/// Where it counts.
#[derive(Debug)]
pub(super) enum Counting {
    Local(Local),
    Shared {
        shared: Shared,
        /// Counts where the store cannot be asked.
        fallback: Option<Local>,
        hasher: RandomState,
    },
}

/// What one request asks of one limit.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) cost: u32,
    /// The key itself, where the store must know it.
    pub(super) text: Option<Box<str>>,
}

/// How one limit stands to one request; nothing where it does not apply.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) ask: Option<Ask>,
    pub(super) error: Option<EvaluationError>,
    pub(super) decision: Option<Decision>,
    /// The store could not be asked.
    pub(super) unavailable: Option<OnError>,
}

/// Where the limits of one policy are built.
pub(super) struct Site<'a> {
    /// The first part of their names in [`Resources`].
    pub(super) policy: &'a str,
    pub(super) environment: &'a Environment,
    pub(super) resources: &'a dyn Resources,
    /// What is shared lies at one place of the store; `None` where there is but one such limit.
    pub(super) group: Option<Arc<str>>,
}

impl Turn {
    /// The key as the counters of this process hash it, where one of them stands in for the store.
    pub(super) fn rehash(&mut self, limit: &Limit) {
        let local = limit.local(self).cloned();
        if let (Some(local), Some(ask)) = (local, &mut self.ask)
            && let Some(text) = &ask.text
        {
            ask.key = local.key(text);
        }
    }
}

impl Terms {
    fn build(
        [key, when, cost]: [Option<&str>; 3],
        environment: &Environment,
        at: &Path,
    ) -> Built<(Self, Reads)> {
        let key = KeyExpression::new(key.unwrap_or_default(), environment, &at.key("key"));
        let when = when.map(|when| BoolExpression::new(when, environment, &at.key("when"))).transpose();
        let cost =
            cost.map(|cost| IntExpression::new(cost, "a cost", environment, &at.key("cost"))).transpose();
        match (key, when, cost) {
            (Ok(key), Ok(when), Ok(cost)) => {
                let when_reads = when.as_ref().map(BoolExpression::reads).unwrap_or_default();
                let cost_reads = cost.as_ref().map(IntExpression::reads).unwrap_or_default();
                let reads = key.reads() | when_reads | cost_reads;
                Ok((Self { key, when, cost }, reads))
            }
            (key, when, cost) => {
                let faults = [key.err(), when.err(), cost.err()];
                Err(faults.into_iter().flatten().flatten().collect())
            }
        }
    }
}

impl Site<'_> {
    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.policy)
    }

    /// The full name of a store: policies count in those of their own namespace.
    fn store(&self, name: &str) -> String {
        match self.policy.rsplit_once('/') {
            Some((namespace, _)) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }

    /// Counts with others where `shared` says so, and here otherwise.
    fn counting(
        &self,
        name: &str,
        shared: Option<&SharedSpec>,
        admits: Admits,
        local: impl FnOnce(&str) -> Local,
        at: &Path,
    ) -> Built<Counting> {
        let full = self.full(name);
        let Some(spec) = shared else { return Ok(Counting::Local(local(&full))) };
        let at = at.key("shared");
        spec.check(&at)?;
        let counters = self.resources.counters(&self.store(&spec.store), &at.key("store"));
        let counters = counters.map_err(|fault| vec![fault])?;
        let name: Arc<str> = full.as_str().into();
        let group = self.group.clone().unwrap_or_else(|| Arc::clone(&name));
        let counter = Arc::new(Counter { name, admits, lease: spec.lease, group });
        let fallback = (spec.on_error == OnError::Local).then(|| local(&format!("{full} (local)")));
        let shared = Shared { counters, counter, on_error: spec.on_error };
        Ok(Counting::Shared { shared, fallback, hasher: RandomState::new() })
    }
}

/// Both parts, or all faults.
fn both<A, B>(one: Built<A>, other: Built<B>) -> Built<(A, B)> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => {
            let faults: [Option<Vec<Fault>>; 2] = [one.err(), other.err()];
            Err(faults.into_iter().flatten().flatten().collect())
        }
    }
}

impl Limit {
    pub(super) fn rate(spec: &Spec, place: u16, site: &Site<'_>, at: &Path) -> Built<(Self, Reads)> {
        let texts = [Some(spec.key.as_str()), spec.when.as_deref(), spec.cost.as_deref()];
        let (rate, (terms, reads)) = both(spec.rate(at), Terms::build(texts, site.environment, at))?;
        let local = |name: &str| Local::Rate(site.resources.limiter(name, &rate));
        let counting = site.counting(&spec.name, spec.shared.as_ref(), Admits::Rate(rate), local, at)?;
        let told = Told::rate(&spec.name, &rate, spec.headers);
        let reads_body = reads.contains(Reads::BODY);
        let (name, kind, list) = (spec.name.as_str().into(), RuleKind::Limit, "rateLimit");
        Ok((Self { name, kind, mode: spec.mode, list, place, terms, reads_body, counting, told }, reads))
    }

    pub(super) fn quota(spec: &quota::Spec, place: u16, site: &Site<'_>, at: &Path) -> Built<(Self, Reads)> {
        let texts = [Some(spec.key.as_str()), spec.when.as_deref(), spec.cost.as_deref()];
        let (calendar, (terms, reads)) = both(spec.calendar(at), Terms::build(texts, site.environment, at))?;
        let admits = Admits::Window { limit: spec.limit.into(), calendar: Arc::clone(&calendar) };
        let local = |name: &str| Local::Quota {
            counter: site.resources.quota(name, &calendar),
            limit: spec.limit,
            calendar: Arc::clone(&calendar),
        };
        let counting = site.counting(&spec.name, spec.shared.as_ref(), admits, local, at)?;
        let told = Told::quota(&spec.name, spec.limit, Arc::clone(&calendar), spec.headers);
        let reads_body = reads.contains(Reads::BODY);
        let (name, kind, list) = (spec.name.as_str().into(), RuleKind::Quota, "quota");
        Ok((Self { name, kind, mode: spec.mode, list, place, terms, reads_body, counting, told }, reads))
    }

    pub(super) fn open(
        spec: &concurrency::Spec,
        place: u16,
        site: &Site<'_>,
        at: &Path,
    ) -> Built<(Self, Reads)> {
        let texts = [Some(spec.key.as_str()), spec.when.as_deref(), None];
        let (terms, reads) = both(spec.check(at), Terms::build(texts, site.environment, at))?.1;
        let open = site.resources.concurrency(&site.full(&spec.name));
        let counting = Counting::Local(Local::Open { open, limit: spec.limit });
        let reads_body = reads.contains(Reads::BODY);
        let (name, kind, list) = (spec.name.as_str().into(), RuleKind::Concurrency, "concurrency");
        Ok((
            Self {
                name,
                kind,
                mode: spec.mode,
                list,
                place,
                terms,
                reads_body,
                counting,
                told: Told::nothing(),
            },
            reads,
        ))
    }

    pub(super) fn reads_body(&self) -> bool {
        self.reads_body
    }

    pub(super) fn list(&self) -> &'static str {
        self.list
    }

    pub(super) fn rule(&self) -> Rule {
        let rule = Rule::listed(self.name.clone(), self.kind, self.list, self.place);
        let Terms { key, when, cost } = &self.terms;
        let when = when.iter().flat_map(BoolExpression::inputs);
        let cost = cost.iter().flat_map(IntExpression::inputs);
        let reads = key.inputs().iter().chain(when).chain(cost).cloned().collect();
        Rule { mode: self.mode, source: key.source().into(), reads, ..rule }
    }

    /// What a request asks of it.
    pub(super) fn turn(&self, scope: &Scope<'_>) -> Turn {
        match self.ask(scope) {
            Ok(ask) => Turn { ask, ..Turn::default() },
            Err(error) => Turn { error: Some(error), ..Turn::default() },
        }
    }

    /// `None` where it does not apply.
    fn ask(&self, scope: &Scope<'_>) -> Result<Option<Ask>, EvaluationError> {
        if let Some(when) = &self.terms.when
            && !when.evaluate(scope)?
        {
            return Ok(None);
        }
        let cost = match &self.terms.cost {
            None => 1,
            Some(cost) => {
                let value = cost.evaluate(scope)?;
                let cost = u32::try_from(value).ok().filter(|_| COSTS.contains(&value));
                cost.ok_or(EvaluationError::Cost(value))?
            }
        };
        let asked = |key: &str| match &self.counting {
            Counting::Local(local) => Ask { key: local.key(key), cost, text: None },
            Counting::Shared { hasher, .. } => {
                Ask { key: Key(hasher.hash_one(key), 0), cost, text: Some(key.into()) }
            }
        };
        self.terms.key.evaluate(scope, asked).map(Some)
    }

    /// What counts here for a request, where anything does.
    pub(super) fn local(&self, turn: &Turn) -> Option<&Local> {
        match &self.counting {
            Counting::Local(local) => Some(local),
            Counting::Shared { fallback, .. } => {
                fallback.as_ref().filter(|_| turn.unavailable == Some(OnError::Local))
            }
        }
    }

    /// See [`Local::place`].
    pub(super) fn place(&self) -> usize {
        match &self.counting {
            Counting::Local(local) | Counting::Shared { fallback: Some(local), .. } => local.place(),
            Counting::Shared { .. } => 0,
        }
    }

    pub(super) fn shared(&self) -> Option<&Shared> {
        match &self.counting {
            Counting::Local(_) => None,
            Counting::Shared { shared, .. } => Some(shared),
        }
    }

    /// What the store is asked for.
    pub(super) fn take(&self, turn: &Turn) -> Option<Take> {
        let (shared, ask) = (self.shared()?, turn.ask.as_ref()?);
        let counter = Arc::clone(&shared.counter);
        Some(Take { counter, key: ask.text.clone()?, cost: ask.cost })
    }

    /// True where the request cannot pass.
    pub(super) fn refuses(&self, turn: &Turn) -> bool {
        self.mode == Mode::Enforce
            && (turn.error.is_some()
                || turn.decision.is_some_and(|decision| !decision.admitted)
                || turn.unavailable == Some(OnError::Reject))
    }

    pub(super) fn reason(&self) -> Reason {
        match self.kind {
            RuleKind::Quota => Reason::QuotaExceeded,
            RuleKind::Concurrency => Reason::ConcurrencyLimited,
            _ => Reason::RateLimited,
        }
    }
}
