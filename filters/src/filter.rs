//! The one trait every filter implements.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use http::{HeaderName, request, response};

use crate::context::RequestContext;
use crate::reason::Reason;
use crate::rule::Rule;
use crate::verdict::{Reply, Verdict};

/// A verdict that is still being waited for.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// What a filter needs of the request body before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyNeed {
    /// The body may stream past.
    #[default]
    None,
    /// The whole body must be in `ctx.body`.
    Whole,
}

/// One decision about a request.
///
/// A filter knows no socket, clock or log. It reads the head, leaves facts in the context and asks
/// for edits there; heads are shared and never changed by it.
pub trait Filter: Debug + Send + Sync {
    /// Decides. Never blocks, never waits.
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict;

    /// Finishes what [`Filter::on_request`] answered with [`Verdict::Wait`].
    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        let _ = (head, ctx);
        Box::pin(std::future::ready(
            Reply::new(Reason::Internal).detail("a filter waited that cannot resume").into(),
        ))
    }

    /// Sees the response head, in reverse order; edits go to `ctx.edits.response`.
    fn on_response(&self, head: &response::Parts, ctx: &mut RequestContext) {
        let _ = (head, ctx);
    }

    /// Decides once more about a request that was admitted earlier and whose response or tunnel is still open.
    ///
    /// Scores are in the context as they were; the body is not. What counts or changes something besides the
    /// context must not do so again.
    fn recheck(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        self.on_request(head, ctx)
    }

    /// Request headers that hold a secret which this filter checks.
    fn credentials(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Request headers that this filter sets. Copies sent by a client are removed on every route, so that
    /// a service behind several routes can believe them.
    fn owns(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Its rules as they are written, in the order of the document; the names are those in its facts.
    fn rules(&self) -> Vec<Rule> {
        Vec::new()
    }

    /// What must be there before [`Filter::on_request`] is called.
    fn body(&self) -> BodyNeed {
        BodyNeed::None
    }

    /// The same for one request: a filter that concerns some methods alone leaves other bodies to stream past. Never
    /// more than [`Filter::body`].
    fn body_of(&self, head: &request::Parts) -> BodyNeed {
        let _ = head;
        self.body()
    }
}
