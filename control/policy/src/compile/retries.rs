//! Retries of routes: bounds, and what is likely a slip.

use std::time::Duration;

use foregate_filters::fault::Path;
use foregate_filters::units::TimeSpan;

use crate::codes;
use crate::compile::Compilation;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::http_route::{self, Rule};
use crate::route::Retry;

/// Longest time before a retry.
const LONGEST: Duration = Duration::from_mins(1);

/// Statuses by which a server asks to come again; the others below 500 blame the request.
const PASSING: [u16; 4] = [408, 409, 425, 429];

impl Compilation<'_> {
    /// What the rule at `at` says of retries.
    pub fn retry(&mut self, document: &Document, rule: &Rule, at: &Path) -> Option<Retry> {
        let said = rule.retry.as_ref()?;
        let at = at.key("retry");
        let backoff = said.backoff.map_or(Duration::ZERO, |span| span.0);
        if backoff > LONGEST {
            let message = format!("the time must be at most {}", TimeSpan(LONGEST));
            let help = "the request waits as long, and its client with it";
            self.fault(Diagnostic::at(document, &at.key("backoff"), codes::RETRY, message).help(help));
        }
        self.weak_retry(document, rule, said, &at);
        Some(Retry { codes: said.codes.clone().into(), attempts: said.attempts.unwrap_or(1), backoff })
    }

    fn weak_retry(&mut self, document: &Document, rule: &Rule, said: &http_route::Retry, at: &Path) {
        let limit = rule.timeouts.as_ref().and_then(|timeouts| timeouts.backend_request);
        if said.attempts != Some(0) && limit.is_none_or(|limit| limit.0.is_zero()) {
            let message = "an endpoint that is silent is waited for until the request is over: nothing is left to retry";
            let help = "add timeouts: { backendRequest: 2s }, the time for one attempt";
            let lint = Diagnostic::at(document, at, codes::RETRY_UNTIMED, message);
            self.warnings.push(lint.help(help).warning());
        }
        for (index, code) in said.codes.iter().enumerate() {
            if (400..500).contains(code) && !PASSING.contains(code) {
                let message =
                    format!("{code} says that the request is at fault: another attempt gets the same");
                let at = at.key("codes").index(index);
                let lint = Diagnostic::at(document, &at, codes::RETRY_POINTLESS, message);
                self.warnings.push(lint.help("remove it").warning());
            }
        }
    }
}
