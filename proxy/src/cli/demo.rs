//! `foregate demo`: gateway, toy CRM, token issuer and model in one process.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use foregate_policy::compile::Options;
use log::LevelFilter;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::admission::capacity::Bounds;
use crate::cli::REFUSED;
use crate::cli::output::{self, Format};
use crate::clock;
use crate::demo::calls::Call;
use crate::demo::stage::{Stage, StageError};
use crate::listeners::Connections;
use crate::policies::PolicySource;
use crate::run_options::RunOptions;
use crate::server::{Bound, Process, RunError};
use crate::stream::Deadlines;
use crate::telemetry::TelemetryOptions;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::event;

/// The listener of the embedded policies.
const LISTENER: &str = "demo/http";
/// Longest time for one of the four requests when the demo sends them itself.
const CALL: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Port of the gateway on 127.0.0.1; a free one where it is taken. 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Sends the four requests itself, tells how they went, and ends.
    #[arg(long)]
    once: bool,
}

/// Why the demo ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot prepare the demo: {0}")]
    System(#[from] std::io::Error),
    #[error("the gateway ended before it listened")]
    Ended,
    #[error("no answer: {0}")]
    Client(#[from] reqwest::Error),
}

impl Demo {
    pub(super) fn run(self) -> ExitCode {
        match self.play() {
            Ok(code) => code,
            Err(DemoError::Run(RunError::Refused(faults))) => {
                output::diagnostics(&faults, Format::Human);
                ExitCode::from(REFUSED)
            }
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn play(self) -> Result<ExitCode, DemoError> {
        // People read the terminal: only what is wrong is told there.
        event::set_level(LevelFilter::Warn);
        let mut stage = Stage::new()?;
        let process = Process::new(self.options(&stage))?;
        let runtime = process.background().handle().clone();
        stage.serve(&runtime)?;
        let bound = process.bound();
        if self.once {
            once(&stage, process, &runtime, bound)
        } else {
            until_signal(self.port, &stage, process, bound)
        }
    }

    fn options(&self, stage: &Stage) -> RunOptions {
        let port = if is_free(self.port) { self.port } else { 0 };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        RunOptions {
            source: PolicySource {
                folder: stage.folder.policies(),
                options: Options::default(),
                bind: HashMap::from([(LISTENER.to_owned(), loopback(port))]),
            },
            admin: loopback(0),
            probes: None,
            applications: Arc::default(),
            threads: 2,
            model_threads: 1,
            telemetry: TelemetryOptions {
                access_log: AccessLog::File(stage.folder.access_log()),
                sample: 1,
                ..TelemetryOptions::default()
            },
            deadlines: Deadlines::default(),
            drain: Duration::from_secs(5),
            notice: Duration::ZERO,
            connections: Connections { total: 1000, ..Connections::default() },
            capacity: Bounds::default(),
            identity: None,
            control: None,
            control_token: None,
            handover: None,
            zone: None,
            sidecar: None,
            state: None,
            fleet: None,
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Where gateway and admin endpoint are, once both listen.
async fn listening(mut bound: watch::Receiver<Bound>) -> Result<(SocketAddr, SocketAddr), DemoError> {
    let ready = |bound: &Bound| bound.admin.is_some() && bound.listeners.contains_key(LISTENER);
    let bound = bound.wait_for(ready).await.map_err(|_| DemoError::Ended)?;
    bound.listeners.get(LISTENER).copied().zip(bound.admin).ok_or(DemoError::Ended)
}

fn until_signal(
    port: u16,
    stage: &Stage,
    process: Process,
    bound: watch::Receiver<Bound>,
) -> Result<ExitCode, DemoError> {
    let calls = stage.calls(clock::now().unix_seconds())?;
    let (crm, issuer, log) = (stage.crm, stage.issuer().to_owned(), stage.folder.access_log());
    process.background().spawn(async move {
        let Ok((gateway, admin)) = listening(bound).await else { return };
        let taken = if port != 0 && gateway.port() != port {
            format!("  (port {port} is taken)")
        } else {
            String::new()
        };
        output::text(&format!(
            "\nForegate stands before a toy CRM.\n\n  gateway     http://{gateway}{taken}\n  admin       http://{admin}  \
             (/metrics, /readyz, /config, /decisions)\n  CRM         http://{crm}\n  issuer      {issuer}\n  access log  \
             {}  (gone when the demo ends)\n",
            log.display()
        ));
        for (index, call) in calls.iter().enumerate() {
            output::text(&format!(
                "\n{}. {}: {}\n   {}.\n\n{}\n",
                index + 1,
                call.title,
                call.status,
                call.says,
                call.curl(&format!("http://{gateway}"))
            ));
        }
        output::text(&format!(
            "\nWhich rule refused, and why: curl -s 'http://{admin}/decisions?limit=5'\nCtrl-C ends the demo. The tokens are good for an hour.\n"
        ));
    });
    process.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Sends the four requests and compares. The gateway ends with the process.
fn once(
    stage: &Stage,
    process: Process,
    runtime: &Handle,
    bound: watch::Receiver<Bound>,
) -> Result<ExitCode, DemoError> {
    let calls = stage.calls(clock::now().unix_seconds())?;
    std::thread::Builder::new().name("gateway".to_owned()).spawn(move || {
        if let Err(error) = process.run() {
            output::error(&format!("foregate: {error}"));
        }
    })?;
    let kept = runtime.block_on(async {
        let (gateway, _) = listening(bound).await?;
        let client = reqwest::Client::builder().no_proxy().timeout(CALL).build()?;
        let mut kept = true;
        for call in &calls {
            kept &= tell(call, &client, &format!("http://{gateway}")).await?;
        }
        Ok::<_, DemoError>(kept)
    })?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tell(call: &Call, client: &reqwest::Client, base: &str) -> Result<bool, DemoError> {
    let outcome = call.send(client, base).await?;
    let kept = call.kept(&outcome);
    let what = match (&outcome.score, &outcome.reason) {
        (Some(score), _) => format!("score {score}"),
        (None, Some(reason)) => reason.clone(),
        (None, None) => String::new(),
    };
    let verdict = if kept { "as promised".to_owned() } else { format!("but {} was promised", call.status) };
    output::line(&format!("{}  {:<18} {}: {verdict}", outcome.status, what, call.title));
    Ok(kept)
}
