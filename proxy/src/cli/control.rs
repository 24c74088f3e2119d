//! Arguments of `foregate run` about the control plane.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use foregate_filters::units::TimeSpan;

use crate::fleet::endpoint::ControlOptions;
use crate::rpc::endpoint::Endpoint;

/// The control plane of this proxy.
#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// Where the control plane is.
    #[arg(
        long,
        value_name = "https://HOST:PORT",
        requires = "control_ca",
        required_if_eq("identity", "control")
    )]
    control: Option<Endpoint>,
    /// Roots to know the control plane by, in PEM; read anew for every connection.
    #[arg(long, value_name = "FILE", requires = "control")]
    control_ca: Option<PathBuf>,
    /// What this workload proves itself with to get its first certificate: the projected token of a Kubernetes service
    /// account, or a join token. Read anew each time; with --state-dir what was given is kept for the next start.
    #[arg(long, value_name = "FILE", requires = "control")]
    pub(super) control_token: Option<PathBuf>,
    /// Longest pause between two attempts to reach the control plane, 100ms to 5m.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_retry)]
    control_retry: TimeSpan,
}

fn parse_retry(text: &str) -> Result<TimeSpan, String> {
    let retry: TimeSpan = text.parse().map_err(|_| format!("`{text}` is no time such as 5s"))?;
    if (Duration::from_millis(100)..=Duration::from_mins(5)).contains(&retry.0) {
        Ok(retry)
    } else {
        Err(format!("it must be from 100ms to 5m, and is {retry}"))
    }
}

impl ControlArgs {
    /// Where the control plane is, if there is one.
    pub(super) fn options(&self) -> Option<ControlOptions> {
        let (endpoint, roots) = (self.control.clone()?, self.control_ca.clone()?);
        Some(ControlOptions { endpoint, roots, retry: self.control_retry.0 })
    }
}
