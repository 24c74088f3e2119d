//! Panics: told with their place, and contained to the request that caused them.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use http::Response;
use log::Level;
use serde_json::Value;

use crate::answer::ResponseBody;
use crate::life::Life;
use crate::problem;
use crate::telemetry::Telemetry;
use crate::telemetry::event::{self, event};
use crate::telemetry::record::DecisionId;
use crate::telemetry::sources::{Kind, number};

/// Longest wait for a panic to be written: the process may end with it, or it is a worker's, and requests wait behind it.
const TOLD: Duration = Duration::from_millis(100);

/// Requests that a panic has ended.
static CONTAINED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Where this thread panicked last: the place is known to the hook, the request to those who catch.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Tells every panic of the process as an event, with its place. What it says is told only where it is
/// fixed text: the rest may quote what a client sent.
pub fn install() {
    panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    let mut fields: Vec<(&str, Value)> = vec![("thread", thread.into()), ("place", place.clone().into())];
    if let Some(text) = panic.payload().downcast_ref::<&'static str>() {
        fields.push(("message", (*text).into()));
    }
    // Only where RUST_BACKTRACE asks for it.
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        fields.push(("backtrace", trace.to_string().into()));
    }
    event(Level::Error, "panic", &fields);
    event::flush(TOLD);
    PLACE.with_borrow_mut(|known| *known = Some(place));
}

/// Exports how many requests were ended by a panic.
pub fn export(telemetry: &Telemetry) {
    let help = "Requests that a defect of the gateway has ended.";
    telemetry.register_source(Kind::Counter, "foregate_request_panics_total", help, &[], || {
        number(CONTAINED.load(Ordering::Relaxed))
    });
}

/// What becomes of a request that panicked before it was answered.
pub fn refusal(life: &Life, payload: Box<dyn Any + Send>) -> Refusal {
    // Dropped where a panic of its own is caught as well.
    let _ = panic::catch_unwind(AssertUnwindSafe(move || drop(payload)));
    defect(life.id, step(life))
}

/// Counts and tells a panic that has ended a request or connection.
pub fn defect(id: DecisionId, step: Step) -> Refusal {
    CONTAINED.fetch_add(1, Ordering::Relaxed);
    let place = PLACE.with_borrow_mut(Option::take).unwrap_or_else(|| "an unknown place".to_owned());
    let fields = [("decision", id.to_string().into()), ("place", place.clone().into())];
    event(Level::Error, "request panicked", &fields);
    let detail = format!("a panic at {place}");
    Refusal { step, reply: Box::new(Reply::new(Reason::Internal).detail(detail)) }
}

/// Answers a request by what `respond` makes of it, which records it at its end; where that panics, with 500.
pub fn answered(id: DecisionId, respond: impl FnOnce() -> Response<ResponseBody>) -> Response<ResponseBody> {
    panic::catch_unwind(AssertUnwindSafe(respond)).unwrap_or_else(|payload| {
        let _ = panic::catch_unwind(AssertUnwindSafe(move || drop(payload)));
        // The request was recorded when it was dropped; see `blame`.
        problem::response(&Reply::new(Reason::Internal), id).map(ResponseBody::recorded)
    })
}

/// What the record of a request says that is dropped while its thread unwinds.
pub fn blame(life: &mut Life) {
    if life.status == 0 {
        life.status = Reason::Internal.status().as_u16();
    }
    life.refusal = Some(defect(life.id, Step::Respond));
}

/// The step that a request was in: that of the filter which has not answered, where there is one.
fn step(life: &Life) -> Step {
    if life.upstream.is_some() {
        return Step::Dispatch;
    }
    let Some(route) = life.route.and_then(|route| life.live.snapshot.routes.all().get(route)) else {
        return Step::Route;
    };
    let trace = &life.ctx.trace;
    let unanswered = (trace.ran > trace.done).then(|| route.chain.links().get(usize::from(trace.done)));
    unanswered.flatten().map_or(Step::Shape, |link| link.step)
}
