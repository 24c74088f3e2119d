//! Built filters in run order, and the body need folded from them.

use std::sync::Arc;

use http::{HeaderName, request, response};

use crate::context::RequestContext;
use crate::filter::{BodyNeed, Filter};
use crate::reason::Reason;
use crate::shadow::Shadow;
use crate::step::Step;
use crate::verdict::{Reply, Verdict};

/// Stands for the index of the policy where the route itself asks for a filter.
pub const OF_ROUTE: usize = usize::MAX;

/// A filter, and the step it runs in.
#[derive(Debug)]
pub struct Link {
    pub step: Step,
    /// Index of its policy among those of the route, or [`OF_ROUTE`].
    pub policy: usize,
    /// The part of the policy's `spec` that asks for it.
    pub section: &'static str,
    pub filter: Box<dyn Filter>,
}

/// All filters of a route, in run order. Immutable once built.
#[derive(Debug, Default)]
pub struct Chain {
    links: Vec<Link>,
    /// Index of the first filter that needs the body; the number of links where none does.
    body_from: usize,
    shadows: Vec<Shadow>,
}

/// A request refused: where, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub step: Step,
    pub reply: Box<Reply>,
}

impl Chain {
    /// Takes filters that already stand in run order.
    pub fn new(links: Vec<Link>) -> Self {
        debug_assert!(links.is_sorted_by_key(|link| link.step));
        let body_from =
            links.iter().position(|link| link.filter.body() == BodyNeed::Whole).unwrap_or(links.len());
        Self { links, body_from, shadows: Vec::new() }
    }

    /// Adds policies that are only compared.
    #[must_use]
    pub fn shadowed(mut self, shadows: Vec<Shadow>) -> Self {
        self.shadows = shadows;
        self
    }

    /// What the filters need of the body, taken together.
    pub fn body(&self) -> BodyNeed {
        if self.body_from < self.links.len() { BodyNeed::Whole } else { BodyNeed::None }
    }

    /// The same for one request.
    pub fn body_of(&self, head: &request::Parts) -> BodyNeed {
        let (_, links) = self.links.split_at(self.body_from);
        links.iter().map(|link| link.filter.body_of(head)).max().unwrap_or_default()
    }

    /// The filters, in run order.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The step of every filter, in run order.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.links.iter().map(|link| link.step)
    }

    /// Request headers that the filters set.
    pub fn owns(&self) -> impl Iterator<Item = HeaderName> {
        self.links.iter().flat_map(|link| link.filter.owns())
    }

    /// Request headers that hold secrets which the filters check.
    pub fn credentials(&self) -> impl Iterator<Item = HeaderName> {
        self.links.iter().flat_map(|link| link.filter.credentials())
    }

    /// Runs the filters that need no body: guard, identify, admit.
    pub async fn run_head(&self, head: &request::Parts, ctx: &mut RequestContext) -> Result<(), Refusal> {
        let (links, _) = self.links.split_at(self.body_from);
        let outcome = run(links, head, ctx).await;
        if let Err(refusal) = &outcome
            // Requests refused in guard cost nothing more.
            && refusal.step > Step::Guard
        {
            self.compare(head, ctx, false, false);
        }
        outcome
    }

    /// Runs the rest, once the body is in the context if [`Chain::body`] asks for it: enrich, decide.
    pub async fn run_body(&self, head: &request::Parts, ctx: &mut RequestContext) -> Result<(), Refusal> {
        let (_, links) = self.links.split_at(self.body_from);
        let outcome = run(links, head, ctx).await;
        self.compare(head, ctx, outcome.is_ok(), true);
        outcome
    }

    /// Asks every filter again about a request that was admitted earlier; see [`Filter::recheck`].
    pub async fn recheck(&self, head: &request::Parts, ctx: &mut RequestContext) -> Result<(), Refusal> {
        for link in &self.links {
            let verdict = link.filter.recheck(head, ctx);
            settle(link, verdict, head, ctx).await?;
        }
        Ok(())
    }

    fn compare(&self, head: &request::Parts, ctx: &mut RequestContext, allowed: bool, whole: bool) {
        for shadow in &self.shadows {
            let fact = shadow.judge(head, ctx, allowed, whole);
            ctx.shadows.push(fact);
        }
    }

    /// Lets every filter see the response head, in reverse order.
    pub fn respond(&self, head: &response::Parts, ctx: &mut RequestContext) {
        for link in self.links.iter().rev() {
            link.filter.on_response(head, ctx);
        }
    }
}

async fn run(links: &[Link], head: &request::Parts, ctx: &mut RequestContext) -> Result<(), Refusal> {
    for link in links {
        let started = ctx.trace.begin();
        let outcome = match link.filter.on_request(head, ctx) {
            Verdict::Continue => Ok(()),
            verdict => settle(link, verdict, head, ctx).await,
        };
        ctx.trace.end(started);
        if outcome.is_err() {
            ctx.trace.refused = true;
            return outcome;
        }
    }
    Ok(())
}

/// Waits where a filter asks for it, and turns a reply into a refusal.
async fn settle(
    link: &Link,
    mut verdict: Verdict,
    head: &request::Parts,
    ctx: &mut RequestContext,
) -> Result<(), Refusal> {
    if verdict == Verdict::Wait {
        verdict = link.filter.resume(head, ctx).await;
    }
    match verdict {
        Verdict::Continue => Ok(()),
        Verdict::Reply(reply) => Err(Refusal { step: link.step, reply }),
        Verdict::Wait => {
            let reply = Reply::new(Reason::Internal).detail("a filter waited twice");
            Err(Refusal { step: link.step, reply: Box::new(reply) })
        }
    }
}

/// What a build gives: the part, or everything that is wrong with its specification.
pub type Built<T> = Result<T, Vec<crate::fault::Fault>>;

/// A shared name, for labels and facts.
pub type Name = Arc<str>;
