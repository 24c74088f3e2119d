//! Concurrency of upstreams: what is said of it, within its bounds.

use std::time::Duration;

use foregate_filters::fault::Code;
use foregate_filters::units::TimeSpan;

use crate::codes;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::concurrency;
use crate::snapshot::Concurrency;

const WAITS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);

/// What holds for one upstream; tells what cannot be meant.
pub fn read(
    document: &Document,
    said: Option<&concurrency::Concurrency>,
    faults: &mut Vec<Diagnostic>,
) -> Concurrency {
    let default = Concurrency::default();
    let Some(said) = said else { return default };
    let at = spec().key("concurrency");
    let max = said.max.unwrap_or(default.max);
    let min = said.min.unwrap_or(default.min.min(max));
    if min > max {
        let message = format!("the limit cannot stay at {min} or above and at {max} or below");
        let fault = Diagnostic::at(document, &at.key("min"), codes::CONCURRENCY, message);
        faults.push(fault.help("lower min, or raise max"));
    }
    let adaptive = said.adaptive.unwrap_or(true);
    if !adaptive && said.min.is_some() {
        let message = "a limit that does not adapt is max, and has no min";
        let fault = Diagnostic::at(document, &at.key("min"), codes::CONCURRENCY, message);
        faults.push(fault.help("leave min out, or set adaptive: true"));
    }
    let wait = said.queue.wait.map_or(default.wait, |TimeSpan(wait)| wait);
    if !WAITS.contains(&wait) {
        let message = "the wait must be between 1ms and 10s";
        faults.push(Diagnostic::at(document, &at.key("queue").key("wait"), Code::VALUE, message));
    }
    let queue = said.queue.size.unwrap_or(default.queue);
    Concurrency { max, min: if adaptive { min } else { max }, adaptive, queue, wait }
}
