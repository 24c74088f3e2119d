//! What a gateway is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::capacity::Bounds;
use crate::fleet::endpoint::ControlOptions;
use crate::fleet::follow::NodeOptions;
use crate::handover::HandoverOptions;
use crate::identity::Origin;
use crate::listeners::Connections;
use crate::own_files::OwnFiles;
use crate::policies::PolicySource;
use crate::probes::Applications;
use crate::quotas::StateOptions;
use crate::sidecar::SidecarOptions;
use crate::stream::Deadlines;
use crate::telemetry::TelemetryOptions;
use crate::telemetry::access_log::AccessLog;

/// How the names of the files begin that are kept in the folder of state.
const STATE: &[&str] = &["quotas.", "trials."];

/// How the process runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub source: PolicySource,
    /// Where `/metrics`, `/readyz` and the like are served; loopback by default.
    pub admin: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` alone are served besides: for other machines.
    pub probes: Option<SocketAddr>,
    /// What is asked there of the applications behind this sidecar.
    pub applications: Arc<Applications>,
    /// Worker threads of the data plane.
    pub threads: usize,
    /// Threads of each version of a model that is too dear for those.
    pub model_threads: usize,
    pub telemetry: TelemetryOptions,
    pub deadlines: Deadlines,
    /// Longest time a drain may take.
    pub drain: Duration,
    /// Time between the announcement of a close and the close of idle connections.
    pub notice: Duration,
    pub connections: Connections,
    pub capacity: Bounds,
    /// Where the identity of this workload comes from.
    pub identity: Option<Origin>,
    /// The control plane, where there is one.
    pub control: Option<ControlOptions>,
    /// The file with the token that the workload shows the control plane.
    pub control_token: Option<PathBuf>,
    /// How a new process takes the place of this one, and whether this one takes that of another.
    pub handover: Option<HandoverOptions>,
    /// Where this gateway stands: endpoints there are used first.
    pub zone: Option<Arc<str>>,
    /// Where models with `placement: Sidecar` are scored.
    pub sidecar: Option<SidecarOptions>,
    /// Where what quotas have used outlives the process.
    pub state: Option<StateOptions>,
    /// Where policies come from in place of a folder of the operator's.
    pub fleet: Option<FleetOptions>,
}

impl RunOptions {
    /// What this process writes itself.
    pub fn own_files(&self) -> OwnFiles {
        let access_log = match &self.telemetry.access_log {
            AccessLog::File(file) => Some(file),
            AccessLog::Off | AccessLog::Stdout => None,
        };
        let decision_log = self.telemetry.decision_log.as_ref().map(|log| &log.file);
        let own = OwnFiles::new([access_log, decision_log].into_iter().flatten().cloned());
        match &self.state {
            Some(state) => own.with_state(&state.folder, STATE),
            None => own,
        }
    }
}

/// A control plane that policies come from.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub node: NodeOptions,
    /// Folder of state: what was accepted last is kept there.
    pub state: PathBuf,
}
