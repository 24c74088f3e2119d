//! Rate limits, quotas and concurrency per key: taken together, told to callers.

pub mod calendar;
pub mod concurrency;
pub mod counted;
mod counting;
#[cfg(test)]
pub(crate) mod fake;
mod headers;
pub mod in_process;
mod limit;
pub mod limiter;
pub mod placed;
pub mod quota;
pub mod shared;
mod spec;
mod store;
#[cfg(test)]
mod tests;
mod turns;
pub mod windows;

use std::sync::Arc;

use http::request;

use crate::chain::Built;
use crate::context::RequestContext;
use crate::expression::{Environment, Reads};
use crate::fault::{Code, Fault, Path};
use crate::filter::{BodyNeed, Filter, Pending};
use crate::resources::Resources;
use crate::rule::Rule;
use crate::step::Step;
use crate::verdict::Verdict;
pub use limit::Limit;
use limit::Site;
pub use placed::Limits;
pub use spec::{Headers, OnError, SharedSpec, Spec};
use turns::Sharing;

/// The limits of one policy as they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    pub rate_limit: &'a [Spec],
    pub quota: &'a [quota::Spec],
    pub concurrency: &'a [concurrency::Spec],
}

/// Limits of one policy that run at one step, in the order of the document: rate limits, quotas, concurrency.
///
/// A request takes from all of them, or from none, at one moment for all threads. Where a later filter of
/// limits refuses, what was taken here is given back, but for limits in *guard* that a later step would
/// give back to.
#[derive(Debug)]
pub struct RateLimit {
    step: Step,
    limits: Vec<Limit>,
    /// Their indices in the order in which they are held.
    order: Vec<usize>,
    sharing: Option<Sharing>,
    body: BodyNeed,
    /// Others are asked after it, and may refuse.
    followed: bool,
}

impl Written<'_> {
    /// Every name, with its list and its place there.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, usize, &str)> {
        let rates = self.rate_limit.iter().map(|it| it.name.as_str()).enumerate();
        let quotas = self.quota.iter().map(|it| it.name.as_str()).enumerate();
        let open = self.concurrency.iter().map(|it| it.name.as_str()).enumerate();
        let rates = rates.map(|(index, name)| ("rateLimit", index, name));
        let quotas = quotas.map(|(index, name)| ("quota", index, name));
        rates.chain(quotas).chain(open.map(|(index, name)| ("concurrency", index, name)))
    }

    /// What is said of sharing, each with its place.
    fn shared<'a>(&'a self, at: &Path) -> Vec<(&'a SharedSpec, Path)> {
        let place = |list: &str, index: usize| at.key(list).index(index).key("shared");
        let rates = self.rate_limit.iter().enumerate();
        let quotas = self.quota.iter().enumerate();
        rates
            .filter_map(|(index, it)| Some((it.shared.as_ref()?, place("rateLimit", index))))
            .chain(quotas.filter_map(|(index, it)| Some((it.shared.as_ref()?, place("quota", index)))))
            .collect()
    }

    /// Shared limits are taken in one step of one store.
    fn one_store(&self, at: &Path) -> Vec<Fault> {
        let shared = self.shared(at);
        let Some((first, _)) = shared.first() else { return Vec::new() };
        let others = shared.iter().filter(|(it, _)| it.store != first.store);
        let fault = |(it, at): &(&SharedSpec, Path)| {
            let message = format!(
                "the limits of a policy share one store, and {} is another than {}",
                it.store, first.store
            );
            let help = "name the same store, or put the limit into a policy of its own";
            Fault::new(Code::CONFLICT, at.key("store"), message).help(help)
        };
        others.map(fault).collect()
    }
}

impl Limits {
    /// Builds the limits of the policy of this name; `at` is the way to its `spec`.
    pub fn build(
        written: Written<'_>,
        policy: &str,
        environment: &Environment,
        at: &Path,
        resources: &dyn Resources,
    ) -> Built<Self> {
        let environment = Environment { body: true, ..environment.clone() };
        let group = (written.shared(at).len() > 1).then(|| Arc::from(policy));
        let site = Site { policy, environment: &environment, resources, group };
        let (mut limits, mut faults) = (Self::default(), written.one_store(at));
        let mut keep = |built: Built<(Limit, Reads)>| match built {
            Ok((limit, reads)) => limits.list(reads).push(limit),
            Err(mut wrong) => faults.append(&mut wrong),
        };
        for (index, spec) in (0_u16..).zip(written.rate_limit) {
            keep(Limit::rate(spec, index, &site, &at.key("rateLimit").index(index.into())));
        }
        for (index, spec) in (0_u16..).zip(written.quota) {
            keep(Limit::quota(spec, index, &site, &at.key("quota").index(index.into())));
        }
        for (index, spec) in (0_u16..).zip(written.concurrency) {
            keep(Limit::open(spec, index, &site, &at.key("concurrency").index(index.into())));
        }
        if faults.is_empty() { Ok(limits) } else { Err(faults) }
    }
}

impl RateLimit {
    fn new(step: Step, limits: Vec<Limit>, body: BodyNeed, followed: bool) -> Self {
        let mut order: Vec<usize> = (0..limits.len()).collect();
        order.sort_by_key(|index| limits.get(*index).map(Limit::place));
        let sharing = Sharing::of(&limits);
        Self { step, limits, order, sharing, body, followed }
    }
}

impl Filter for RateLimit {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        match &self.sharing {
            None => self.alone(head, ctx),
            Some(sharing) => self.at_once(sharing, head, ctx),
        }
    }

    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(self.with_others(head, ctx))
    }

    fn body(&self) -> BodyNeed {
        self.body
    }

    fn rules(&self) -> Vec<Rule> {
        self.limits.iter().map(Limit::rule).collect()
    }

    /// A request is counted once.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }
}
