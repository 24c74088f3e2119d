//! How `foregate run` is watched: access log, decisions, metrics, and what goes by OTLP.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::decisions::DecisionLogArgs;
use crate::telemetry::TelemetryOptions;
use crate::telemetry::access_log::{AccessLog, LogFormat};
use crate::telemetry::compat::Compat;
use crate::telemetry::otlp::Destination;
use crate::telemetry::otlp::signal::Signal;
use crate::telemetry::otlp::target::{Said, Target, headers_of};
use crate::telemetry::traces::TraceOptions;

#[derive(Debug, Args)]
pub(super) struct TelemetryArgs {
    /// `stdout`, `off`, or a file.
    #[arg(long, value_name = "WHERE", default_value = "stdout")]
    access_log: String,
    /// What a line of it looks like.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    access_log_format: LogFormat,
    /// Part of the requests that are logged, N from 1 to 1048576; refusals, audits and failures always are.
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = parse_sample)]
    access_log_sample: u32,
    /// Most recent decisions kept for /decisions and `foregate explain`, within 4 MiB, 0 to 1000000; 0 keeps none.
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    decisions: u32,
    /// Part of the decisions that refuse nothing which is kept, with the time of each step; N, 1 to 1048576, is
    /// rounded up to a power of two. 1/1 keeps and times every decision: for debugging.
    #[arg(long, value_name = "1/N", default_value = "1/16", value_parser = parse_sample)]
    decision_sample: u32,
    #[command(flatten)]
    decision_log: DecisionLogArgs,
    /// Names of metrics that dashboards of others ask for, besides our own.
    #[arg(long, value_name = "WHOSE", value_delimiter = ',')]
    metrics_compat: Vec<Compat>,
    #[command(flatten)]
    traces: TraceArgs,
    #[command(flatten)]
    logs: LogArgs,
    /// Sends headers to collectors on other machines without TLS as well, where whoever is between reads them.
    #[arg(long)]
    insecure_otlp_headers: bool,
}

/// Where spans go, and which.
#[derive(Debug, Args)]
struct TraceArgs {
    /// Collector that spans are sent to by OTLP: grpc://HOST:PORT, grpcs://HOST:PORT (with TLS), http://HOST:PORT or
    /// https://HOST:PORT; `off` for none [default: what `OTEL_EXPORTER_OTLP_ENDPOINT` names, else none].
    #[arg(long, value_name = "URL")]
    traces: Option<String>,
    /// Part of the traces that begin here which is sent, from 0 to 1. Those that a caller has begun are sent as it says.
    #[arg(long, value_name = "RATIO", default_value_t = 0.01, value_parser = parse_ratio)]
    trace_sample: f64,
    /// Refusals and errors of other traces that are sent besides, a second.
    #[arg(long, value_name = "N/s", default_value = "10/s", value_parser = parse_rate)]
    trace_refusals: u32,
    /// PEM file of the authorities that the collector is known by, in place of those of the system.
    #[arg(long, value_name = "FILE")]
    traces_ca: Option<PathBuf>,
    /// File with headers for the collector, `name: value` on each line; they may be secret.
    #[arg(long, value_name = "FILE")]
    traces_headers: Option<PathBuf>,
}

/// Where the access log is sent.
#[derive(Debug, Args)]
struct LogArgs {
    /// Collector that the access log is sent to by OTLP, besides where it is written, with the same sampling:
    /// grpc://HOST:PORT, grpcs://HOST:PORT (with TLS), http://HOST:PORT or https://HOST:PORT; `off` for none [default: what
    /// `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` names, `OTEL_EXPORTER_OTLP_ENDPOINT` with `OTEL_LOGS_EXPORTER=otlp`, else none].
    #[arg(long, value_name = "URL")]
    logs: Option<String>,
    /// PEM file of the authorities that this collector is known by, in place of those of the system.
    #[arg(long, value_name = "FILE")]
    logs_ca: Option<PathBuf>,
    /// File with headers for this collector, `name: value` on each line; they may be secret.
    #[arg(long, value_name = "FILE")]
    logs_headers: Option<PathBuf>,
}

impl TraceArgs {
    /// The options, with what the environment says; what is wrong with them in words for whoever wrote them.
    fn options(&self) -> Result<Option<TraceOptions>, String> {
        let to = destination(
            Signal::Traces,
            self.traces.as_deref(),
            self.traces_ca.as_deref(),
            self.traces_headers.as_deref(),
        )?;
        let (ratio, refusals) = (self.trace_sample, self.trace_refusals);
        Ok(to.map(|to| TraceOptions { to, ratio, refusals }))
    }
}

impl LogArgs {
    /// The same for logs.
    fn options(&self) -> Result<Option<Destination>, String> {
        destination(Signal::Logs, self.logs.as_deref(), self.logs_ca.as_deref(), self.logs_headers.as_deref())
    }
}

/// Where a signal goes: to the collector of the flag, or that of the environment.
fn destination(
    signal: Signal,
    url: Option<&str>,
    ca: Option<&Path>,
    headers: Option<&Path>,
) -> Result<Option<Destination>, String> {
    let (said, name) = (Said::read(signal), signal.name());
    let target = match url {
        Some("off") => None,
        Some(url) => Some(Target::parse(url, signal).map_err(|error| format!("--{name}: {error}"))?),
        None => Target::of_environment(&said)?,
    };
    let Some(mut target) = target else { return Ok(None) };
    (target.headers, target.limit) = (said.call_headers()?, said.limit()?);
    if let Some(file) = headers {
        target.headers.extend(headers_of(file).map_err(|error| format!("--{name}-headers: {error}"))?);
    }
    target.ca = ca.map(Path::to_owned);
    Ok(Some(Destination { target, resource: said.attributes()? }))
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or("expected a number from 0 to 1, such as 0.01".to_owned())
}

/// Reads `10/s`.
fn parse_rate(text: &str) -> Result<u32, String> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    rate.filter(|rate| *rate <= 100_000).ok_or("expected N/s, N from 0 to 100000".to_owned())
}

impl TelemetryArgs {
    /// # Errors
    /// What is wrong with an option or a variable of the environment.
    pub(super) fn options(&self) -> Result<TelemetryOptions, String> {
        let (traces, logs) = (self.traces.options()?, self.logs.options()?);
        for to in traces.iter().map(|it| &it.to).chain(&logs) {
            self.keep_headers(&to.target)?;
        }
        Ok(TelemetryOptions {
            access_log: match self.access_log.as_str() {
                "off" => AccessLog::Off,
                "stdout" => AccessLog::Stdout,
                file => AccessLog::File(file.into()),
            },
            log_format: self.access_log_format,
            log_sample: self.access_log_sample,
            decisions: usize::try_from(self.decisions).unwrap_or(usize::MAX),
            sample: self.decision_sample,
            decision_log: self.decision_log.clone().options(),
            compat: self.metrics_compat.clone(),
            traces,
            logs,
        })
    }

    /// Refuses to send what may be secret where others read it.
    fn keep_headers(&self, target: &Target) -> Result<(), String> {
        if self.insecure_otlp_headers || !target.shows_headers() {
            return Ok(());
        }
        Err(format!(
            "--{}: headers for {target} would be sent without TLS, where others read them: name it as grpcs:// or https://, or \
             say --insecure-otlp-headers",
            target.signal.name()
        ))
    }
}

/// Reads `1/16`.
fn parse_sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").and_then(|number| number.parse().ok());
    number
        .filter(|number| (1..=1 << 20).contains(number))
        .ok_or("expected 1/N, N from 1 to 1048576".to_owned())
}
