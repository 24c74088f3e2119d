//! `foregate run`: the gateway, until it is told to end.

use std::collections::HashMap;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use foregate_filters::peer::PeerPattern;
use foregate_filters::units::TimeSpan;
use foregate_inference::pool::default_threads;
use foregate_policy::compile::Options;

use crate::cli::capacity::CapacityArgs;
use crate::cli::control::ControlArgs;
use crate::cli::fleet::FleetArgs;
use crate::cli::output::{self, Format};
use crate::cli::pages::UNITS;
use crate::cli::telemetry::TelemetryArgs;
use crate::cli::{REFUSED, USAGE};
use crate::handover::HandoverOptions;
use crate::identity::Origin;
use crate::panics;
use crate::policies::PolicySource;
use crate::probes::{Applications, ProbesError};
use crate::quotas::StateOptions;
use crate::run_options::RunOptions;
use crate::server::{Process, RunError};
use crate::sidecar::{self, Place, SidecarOptions};
use crate::stream::Deadlines;
use crate::telemetry::TelemetryOptions;

#[derive(Debug, Args)]
#[command(after_help = UNITS)]
pub(super) struct Run {
    /// Folder with policy files; `secrets/NAME/tls.crt` and `tls.key` lie below it. Where it is not given, policies
    /// come from the control plane, and are kept in --state-dir.
    #[arg(value_name = "FOLDER", required_unless_present = "control")]
    policies: Option<PathBuf>,
    /// Where /metrics, /readyz, /livez, /config and /decisions are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Where /livez, /readyz and /metrics alone are served besides, for those who look after this process from other
    /// machines: the kubelet, Prometheus. In a sidecar /probes/CONTAINER/KIND asks the application at `POD_IP` what
    /// `FOREGATE_PROBES` tells of its probes.
    #[arg(long, value_name = "ADDRESS")]
    probes: Option<SocketAddr>,
    /// Worker threads of the data plane, 1 to 256 [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Threads of each version of a model that is too dear for those, 1 to 256; whoever serves requests goes before them [default: half
    /// of the processors, one at least].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    model_threads: Option<u16>,
    /// Lets a listener listen elsewhere than the policy says; port 0 takes a free one. Repeatable.
    #[arg(long, value_name = "GATEWAY/LISTENER=ADDRESS", value_parser = parse_bind)]
    bind: Vec<(String, SocketAddr)>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Time for a request head, from its first byte; also for a TLS handshake.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    head_timeout: TimeSpan,
    /// Time for a body that filters wait for; also between two pieces of one that streams, once its answer has begun.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    body_timeout: TimeSpan,
    /// Time a connection may stay idle between requests, and a client may take nothing of a response.
    #[arg(long, value_name = "TIME", default_value = "75s")]
    idle_timeout: TimeSpan,
    /// Time a WebSocket or gRPC call may be silent.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    tunnel_timeout: TimeSpan,
    /// Longest time to finish what is under way, after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_timeout: TimeSpan,
    /// Time during which a drain announces the close to idle HTTP/1 connections before it closes them.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    drain_notice: TimeSpan,
    #[command(flatten)]
    capacity: CapacityArgs,
    /// Identity of this workload: `dir:FOLDER`, `unix:SOCKET` of the SPIFFE Workload API, `spire` for the socket in
    /// `SPIFFE_ENDPOINT_SOCKET`, or `control` for a certificate of the control plane.
    #[arg(long, value_name = "WHERE")]
    identity: Option<Origin>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Unix socket on which a new process takes the place of this one; it is for this user alone.
    #[arg(long, value_name = "FILE")]
    upgrade_socket: Option<PathBuf>,
    /// Takes the listening sockets from the process at the upgrade socket; once this one serves, that one
    /// drains and ends. Where this one cannot start, that one goes on.
    #[arg(long, requires = "upgrade_socket")]
    upgrade: bool,
    /// Time for a new process to become ready once it has the sockets; one that is late ends, and the old one goes on.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    upgrade_timeout: TimeSpan,
    /// Zone that this gateway stands in: endpoints of upstreams that name it are used first.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    #[command(flatten)]
    sidecar: SidecarArgs,
    #[command(flatten)]
    state: StateArgs,
}

/// Where models with `placement: Sidecar` are scored.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they name options that stand among others")]
struct SidecarArgs {
    /// The inference server that scores models with `placement: Sidecar`: `unix:SOCKET`, or `https://HOST:PORT` with
    /// mutual TLS.
    #[arg(long, value_name = "WHERE")]
    inference_sidecar: Option<Place>,
    /// SPIFFE id that the inference server at `https://` must show; this workload shows its own, of `--identity`.
    #[arg(long, value_name = "ID", requires = "inference_sidecar", value_parser = parse_peer)]
    inference_sidecar_peer: Option<PeerPattern>,
    /// Calls of the inference server under way at once, 1 to 100000; beyond them a score is `busy`. The server takes
    /// `--max-requests` of all its clients.
    #[arg(long, value_name = "N", default_value_t = sidecar::CALLS, requires = "inference_sidecar", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    inference_sidecar_calls: u32,
}

impl SidecarArgs {
    fn options(self) -> Option<SidecarOptions> {
        let Self { inference_sidecar, inference_sidecar_peer: peer, inference_sidecar_calls: calls } = self;
        Some(SidecarOptions { place: inference_sidecar?, peer, calls })
    }
}

fn parse_peer(text: &str) -> Result<PeerPattern, String> {
    PeerPattern::parse(text).map_err(|error| error.to_string())
}

/// What outlives the process.
#[derive(Debug, Args)]
struct StateArgs {
    /// Folder where what quotas have used, and which versions of models were taken off, is kept for the next start; it is
    /// for this user alone.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Time after which what quotas have used is written again, if anything has changed, 100ms to 1h. After a crash, what was used
    /// since the last time may be used once more.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_interval, requires = "state_dir")]
    state_interval: TimeSpan,
}

impl StateArgs {
    fn options(self) -> Option<StateOptions> {
        Some(StateOptions { folder: self.state_dir?, interval: self.state_interval.0 })
    }
}

fn parse_interval(text: &str) -> Result<TimeSpan, String> {
    let interval: TimeSpan = text.parse().map_err(|_| format!("`{text}` is no time such as 5s"))?;
    if (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&interval.0) {
        Ok(interval)
    } else {
        Err(format!("it must be from 100ms to 1h, and is {interval}"))
    }
}

/// Reads `edge/https=127.0.0.1:8443`.
fn parse_bind(text: &str) -> Result<(String, SocketAddr), String> {
    let (listener, address) = text.split_once('=').ok_or("expected GATEWAY/LISTENER=ADDRESS")?;
    if !listener.contains('/') {
        return Err("a listener is named as GATEWAY/LISTENER, such as edge/https".to_owned());
    }
    let address =
        address.parse().map_err(|_| format!("`{address}` is not an address such as 127.0.0.1:8443"))?;
    Ok((listener.to_owned(), address))
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        panics::install();
        if self.policies.is_none() && self.state.state_dir.is_none() {
            output::error(
                "foregate: policies of a control plane are kept on disk: name a folder with --state-dir",
            );
            return ExitCode::from(USAGE);
        }
        let applications = match self.applications() {
            Ok(applications) => Arc::new(applications),
            Err(error) => {
                output::error(&format!("foregate: FOREGATE_PROBES or POD_IP: {error}"));
                return ExitCode::from(USAGE);
            }
        };
        let telemetry = match self.telemetry.options() {
            Ok(telemetry) => telemetry,
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                return ExitCode::from(USAGE);
            }
        };
        let outcome = Process::new(self.options(applications, telemetry)).and_then(Process::run);
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(RunError::Refused(diagnostics)) => {
                output::diagnostics(&diagnostics, Format::Human);
                ExitCode::from(REFUSED)
            }
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    /// The probes that injection took from the containers of this pod.
    fn applications(&self) -> Result<Applications, ProbesError> {
        if self.probes.is_none() {
            return Ok(Applications::default());
        }
        let variable = |name: &str| env::var(name).unwrap_or_default();
        Applications::parse(&variable("FOREGATE_PROBES"), &variable("POD_IP"))
    }

    fn options(self, applications: Arc<Applications>, telemetry: TelemetryOptions) -> RunOptions {
        let fleet = self.state.state_dir.clone().filter(|_| self.policies.is_none());
        let fleet = fleet.map(|state| self.fleet.options(state));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        RunOptions {
            source: PolicySource {
                // That of the fleet is known once its state is open.
                folder: self.policies.unwrap_or_default(),
                options: Options::default(),
                bind: self.bind.into_iter().collect::<HashMap<_, _>>(),
            },
            admin: self.admin,
            probes: self.probes,
            applications,
            threads: self.threads.map_or(processors, usize::from),
            model_threads: self.model_threads.map_or_else(default_threads, usize::from),
            telemetry,
            deadlines: Deadlines {
                head: self.head_timeout.0,
                body: self.body_timeout.0,
                idle: self.idle_timeout.0,
                tunnel: self.tunnel_timeout.0,
            },
            drain: self.drain_timeout.0,
            notice: self.drain_notice.0,
            capacity: self.capacity.bounds(),
            connections: self.capacity.connections(),
            identity: self.identity,
            control: self.control.options(),
            control_token: self.control.control_token,
            handover: self.upgrade_socket.map(|socket| HandoverOptions {
                socket,
                take_over: self.upgrade,
                patience: self.upgrade_timeout.0,
            }),
            zone: self.zone.map(Into::into),
            sidecar: self.sidecar.options(),
            state: self.state.options(),
            fleet,
        }
    }
}
