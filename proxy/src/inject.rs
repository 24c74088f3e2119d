//! Faults on purpose: a request waits, or is refused, before it is dispatched.

use foregate_filters::chain::Refusal;
use foregate_filters::inject::Injection;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use tokio::time::sleep;

use crate::clock;
use crate::life::Life;
use crate::telemetry::random;

/// Lets a request meet its fault, with the chance that the policy names.
///
/// # Errors
/// The refusal, where the fault is one.
pub async fn meet(life: &mut Life, injection: &Injection) -> Result<(), Refusal> {
    if random::next() % 100 >= u64::from(injection.percent) {
        return Ok(());
    }
    let metrics = life.connection.gateway.telemetry.metrics();
    if !injection.delay.is_zero() {
        metrics.injected(&injection.rule, "delay");
        let ((), took) = clock::timed(sleep(injection.delay)).await;
        life.waited += took;
    }
    if !injection.abort {
        return Ok(());
    }
    metrics.injected(&injection.rule, "abort");
    let reply = Reply::new(Reason::FaultInjected).rule(&injection.rule);
    Err(Refusal { step: Step::Decide, reply: Box::new(reply) })
}
