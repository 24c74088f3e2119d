//! `foregate tap`: decisions as they are made, a line each.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Response};
use serde_json::Value;

use crate::cli::USAGE;
use crate::cli::admin::{Admin, AdminError};
use crate::cli::output::{self, Paint, TextFormat, Tone, printable};
use crate::console::stream::{DROPPED, DROPPED_AT_MOST};
use crate::telemetry::code::Code;
use crate::telemetry::filter::Filter;

const PATH: &str = "/decisions/stream";

/// Longest event that is read, in bytes: the facts of one decision take a few KiB.
const MAX_EVENT: usize = 1 << 20;

/// A stream that ends is asked for again so often, after this pause each: long enough for a restart.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Tap {
    #[command(flatten)]
    admin: Admin,
    /// Of this route; `-` for requests that found none.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// With this status, such as 429 or 4xx.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Refused in this step, such as admit.
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Refused for this reason, such as `RateLimited`.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Refused by this rule.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Of this consumer.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Refused ones alone.
    #[arg(long)]
    refused: bool,
    /// Ends after so many, 1 or more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How a decision is told: a line, or all of it as a JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

/// One event of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Takes events out of what comes, however it is cut.
#[derive(Debug, Default)]
struct Events {
    pending: Vec<u8>,
}

/// How following a stream went on.
enum Followed {
    /// There is nobody to tell any more, or nothing more to tell.
    Done,
    Ended,
}

impl Tap {
    pub(super) fn run(self) -> ExitCode {
        let filter = match self.filter() {
            Ok(filter) => filter,
            Err(error) => {
                output::error(&format!("foregate: --{error}"));
                return ExitCode::from(USAGE);
            }
        };
        match self.admin.block_on(self.follow(&filter)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn filter(&self) -> Result<Filter, crate::telemetry::filter::FilterError> {
        let Self { route, status, step, reason, rule, consumer, .. } = self;
        let words = [
            ("route", route),
            ("status", status),
            ("step", step),
            ("reason", reason),
            ("rule", rule),
            ("consumer", consumer),
        ];
        let words = words.into_iter().filter_map(|(word, value)| Some((word, value.as_deref()?)));
        Filter::parse(words.chain(self.refused.then_some(("refused", "true"))))
    }

    async fn follow(&self, filter: &Filter) -> Result<(), AdminError> {
        let words = filter.words();
        let client = self.admin.client()?;
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut answer = self.admin.open(&client, PATH, "", &words).await?;
        while let Followed::Ended = self.tell(&mut answer, &mut left).await? {
            output::error("foregate: the stream ended; it is asked for again");
            answer = self.again(&client, &words).await?;
        }
        Ok(())
    }

    /// The stream of the process that took the place of the one before.
    async fn again(&self, client: &Client, words: &[(&'static str, String)]) -> Result<Response, AdminError> {
        let mut tried = 0;
        loop {
            tokio::time::sleep(PAUSE).await;
            tried += 1;
            match self.admin.open(client, PATH, "", words).await {
                Err(AdminError::Unreachable(..)) if tried < ATTEMPTS => {}
                other => return other,
            }
        }
    }

    async fn tell(&self, answer: &mut Response, left: &mut u64) -> Result<Followed, AdminError> {
        let (mut events, paint) = (Events::default(), Paint::stdout());
        while let Ok(Some(chunk)) = answer.chunk().await {
            for event in events.take(&chunk) {
                if !self.told(&event, paint) {
                    return Ok(Followed::Done);
                }
                if event.name == "decision" {
                    *left -= 1;
                    if *left == 0 {
                        return Ok(Followed::Done);
                    }
                }
            }
            if events.pending.len() > MAX_EVENT {
                return Err(self.admin.strange(PATH));
            }
        }
        Ok(Followed::Ended)
    }

    /// False where nobody reads any more.
    fn told(&self, event: &Event, paint: Paint) -> bool {
        match (event.name.as_str(), self.format) {
            ("decision", TextFormat::Json) => output::written(&format!("{}\n", printable(&event.data))),
            ("decision", TextFormat::Human) => {
                let decision: Value = serde_json::from_str(&event.data).unwrap_or_default();
                output::written(&format!("{}\n", line(&decision, paint)))
            }
            _ => {
                if let Some(said) = lost(event) {
                    output::error(&format!("foregate: {said}"));
                }
                true
            }
        }
    }
}

/// What to say of decisions that were not sent; `None` for other events.
fn lost(event: &Event) -> Option<String> {
    let number = printable(&event.data);
    match event.name.as_str() {
        DROPPED => Some(format!("{number} decisions were dropped: more came than is sent")),
        DROPPED_AT_MOST => Some(format!("up to {number} decisions were dropped before the filter saw them")),
        _ => None,
    }
}

/// How a call of gRPC ended that did not end well: its HTTP status does not tell.
fn call(decision: &Value) -> Option<Code> {
    decision["rpc.response.status_code"].as_str().and_then(Code::named).filter(|code| !code.is_ok())
}

/// Time, status, request, what became of it, who asked, how long it took, and the id to explain it by.
fn line(decision: &Value, paint: Paint) -> String {
    let text = |name: &str| printable(decision[name].as_str().unwrap_or_default());
    let time = text("timestamp");
    let time = time.get(11..23).unwrap_or(&time);
    let (status, tone) = match (decision["http.response.status_code"].as_u64(), call(decision)) {
        (Some(status @ 500..), _) => (status.to_string(), Tone::Bad),
        (Some(status @ 400..), _) => (status.to_string(), Tone::Warn),
        (Some(status), None) => (status.to_string(), Tone::Good),
        (Some(status), Some(code)) => {
            let tone = if code.failed() { Tone::Bad } else { Tone::Warn };
            (format!("{status} {}", code.name()), tone)
        }
        (None, _) => (text("foregate.end"), Tone::Plain),
    };
    let route = [text("http.route"), text("foregate.route")].concat();
    let route = if route.is_empty() { "-" } else { &route };
    let verdict = match text("foregate.reason") {
        reason if reason.is_empty() => "passed".to_owned(),
        reason => [text("foregate.step"), reason, text("foregate.rule")].join(" ").trim_end().to_owned(),
    };
    let request = format!("{} {}", text("http.request.method"), text("url.path"));
    let consumer = text("foregate.consumer");
    let consumer = if consumer.is_empty() { String::new() } else { format!(" {consumer}") };
    #[expect(clippy::cast_precision_loss, reason = "told with one digit")]
    let took = decision["foregate.duration_us"].as_u64().unwrap_or_default() as f64 / 1e3;
    format!(
        "{} {} {request} {route} {}{consumer} {took:.1} ms {}",
        paint.paint(time, Tone::Faint),
        paint.paint(&status, tone),
        paint.paint(&verdict, if verdict == "passed" { Tone::Plain } else { Tone::Bold }),
        paint.paint(&text("foregate.decision"), Tone::Faint),
    )
}

impl Events {
    /// The events that are whole with what has come.
    fn take(&mut self, chunk: &[u8]) -> Vec<Event> {
        self.pending.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
            let whole: Vec<u8> = self.pending.drain(..end + 2).collect();
            let mut event = Event::default();
            for line in String::from_utf8_lossy(&whole).lines() {
                match line.split_once(':') {
                    Some(("event", name)) => name.trim_start().clone_into(&mut event.name),
                    Some(("data", data)) => data.trim_start().clone_into(&mut event.data),
                    _ => {}
                }
            }
            events.push(event);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Events, line, lost};
    use crate::cli::output::Paint;
    use crate::telemetry::code::Code;
    use crate::telemetry::json;
    use crate::telemetry::record::Record;
    use crate::telemetry::testing::{full_record, record};
    use serde_json::{Value, json};

    #[test]
    fn what_was_not_sent_is_told_no_surer_than_it_is_known() {
        let said = |name: &str| lost(&Event { name: name.to_owned(), data: "12".to_owned() });
        assert!(said("dropped").unwrap().starts_with("12 decisions"));
        assert!(said("dropped-at-most").unwrap().starts_with("up to 12 decisions"));
        assert_eq!(said("decision"), None);
    }

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let text = b"event: decision\ndata: {\"a\":1}\n\n:\n\nevent: dropped\ndata: 12\n\nevent: deci";
        let named = |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
        for size in 1..text.len() {
            let mut events = Events::default();
            let all: Vec<Event> = text.chunks(size).flat_map(|chunk| events.take(chunk)).collect();
            assert_eq!(
                all,
                [named("decision", "{\"a\":1}"), Event::default(), named("dropped", "12")],
                "{size}"
            );
            assert_eq!(events.pending, b"event: deci");
        }
    }

    fn told(record: &Record) -> Value {
        let mut text = Vec::new();
        json::write(record, &mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_line_says_what_became_of_a_request() {
        let (refused, passed) = (full_record(), record());
        let path = "POST /services/data/v62.0/sobjects/Lead leads";
        assert_eq!(
            line(&told(&refused), Paint(false)),
            format!("14:13:20.000 429 {path} admit RateLimited per-org 1.2 ms {}", refused.id)
        );
        assert_eq!(
            line(&told(&passed), Paint(false)),
            format!("14:13:20.000 201 {path} passed 1.2 ms {}", passed.id)
        );
        assert!(line(&told(&refused), Paint(true)).contains("\x1b[33m429\x1b[0m"));
        let call = Record { status: 200, grpc: Some(Code::of(14)), ..record() };
        assert!(line(&told(&call), Paint(true)).contains("\x1b[31m200 UNAVAILABLE\x1b[0m"));
        let call = Record { status: 200, grpc: Some(Code::of(0)), ..record() };
        assert!(line(&told(&call), Paint(true)).contains("\x1b[32m200\x1b[0m"));
    }

    #[test]
    fn nothing_that_a_client_sent_steers_the_terminal() {
        let hostile = json!({ "url.path": "/\u{1b}]0;owned\u{7}\n", "foregate.reason": "\u{202e}" });
        let line = line(&hostile, Paint(false));
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{line:?}");
    }
}
