//! How `foregate run` is watched: access log, decisions, metrics.

use clap::Args;

use crate::cli::decisions::DecisionLogArgs;
use crate::telemetry::TelemetryOptions;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::compat::Compat;

#[derive(Debug, Args)]
pub(super) struct TelemetryArgs {
    /// `stdout`, `off`, or a file.
    #[arg(long, value_name = "WHERE", default_value = "stdout")]
    access_log: String,
    /// Most recent decisions kept for /decisions and `foregate explain`, within 4 MiB; 0 keeps none.
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    decisions: u32,
    /// Part of the decisions that refuse nothing which is kept, with the time of each step; N is rounded up
    /// to a power of two. 1/1 keeps and times every decision: for debugging.
    #[arg(long, value_name = "1/N", default_value = "1/16", value_parser = parse_sample)]
    decision_sample: u32,
    #[command(flatten)]
    decision_log: DecisionLogArgs,
    /// Names of metrics that dashboards of others ask for, besides our own.
    #[arg(long, value_name = "WHOSE", value_delimiter = ',')]
    metrics_compat: Vec<Compat>,
}

impl TelemetryArgs {
    pub(super) fn options(self) -> TelemetryOptions {
        TelemetryOptions {
            access_log: match self.access_log.as_str() {
                "off" => AccessLog::Off,
                "stdout" => AccessLog::Stdout,
                file => AccessLog::File(file.into()),
            },
            decisions: usize::try_from(self.decisions).unwrap_or(usize::MAX),
            sample: self.decision_sample,
            decision_log: self.decision_log.options(),
            compat: self.metrics_compat,
        }
    }
}

/// Reads `1/16`.
fn parse_sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").and_then(|number| number.parse().ok());
    number
        .filter(|number| (1..=1 << 20).contains(number))
        .ok_or("expected 1/N, N from 1 to 1048576".to_owned())
}
