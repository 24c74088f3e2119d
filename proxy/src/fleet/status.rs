//! How this proxy stands with the control plane, for operators.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_policy::fleet::Finding;
use serde::Serialize;

use crate::clock;
use crate::telemetry::Telemetry;
use crate::telemetry::json::Timestamp;
use crate::telemetry::sources::Kind;

/// As `/config` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetStatus {
    /// Where the control plane is.
    pub control: String,
    pub node: String,
    pub connected: bool,
    /// What the fleet calls what is in force; empty where nothing has come yet.
    pub revision: String,
    /// When it came in force here; since the Unix epoch.
    #[serde(serialize_with = "timestamp")]
    pub since: Duration,
    /// When the control plane was last heard; since the Unix epoch, zero for never.
    #[serde(serialize_with = "timestamp")]
    pub heard: Duration,
    /// Why nothing is granted to this proxy any more, whatever it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Arc<str>>,
    /// Why there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was refused last, until something is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedStatus {
    pub revision: String,
    #[serde(serialize_with = "timestamp")]
    pub at: Duration,
    pub findings: Vec<String>,
}

fn timestamp<S: serde::Serializer>(unix: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Timestamp(*unix).serialize(serializer)
}

/// The status, as it changes, and what is counted.
#[derive(Debug)]
pub struct Standing {
    status: Mutex<FleetStatus>,
    taken: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

impl Standing {
    pub fn new(control: String, node: String, revision: String) -> Self {
        let status = FleetStatus {
            control,
            node,
            connected: false,
            since: if revision.is_empty() { Duration::ZERO } else { clock::now().unix },
            revision,
            heard: Duration::ZERO,
            withheld: None,
            failure: None,
            refused: None,
        };
        Self {
            status: Mutex::new(status),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, FleetStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> FleetStatus {
        self.lock().clone()
    }

    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut status = self.lock();
        status.connected = true;
        status.failure = None;
    }

    pub fn disconnected(&self, failure: Option<String>) {
        let mut status = self.lock();
        status.connected = false;
        status.failure = failure;
    }

    pub fn heard(&self) {
        self.lock().heard = clock::now().unix;
    }

    pub fn taken(&self, revision: &str) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let mut status = self.lock();
        if status.revision != revision {
            status.since = clock::now().unix;
        }
        revision.clone_into(&mut status.revision);
        status.refused = None;
    }

    /// Says why nothing is granted, or that something is.
    pub fn withheld(&self, why: Option<Arc<str>>) {
        self.lock().withheld = why;
    }

    pub fn refused(&self, revision: &str, findings: &[Finding]) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let findings = findings.iter().map(one_line).collect();
        let (revision, at) = (revision.to_owned(), clock::now().unix);
        self.lock().refused = Some(RefusedStatus { revision, at, findings });
    }

    /// Shows the numbers among the metrics.
    pub fn measure(self: &Arc<Self>, telemetry: &Telemetry) {
        let this = Arc::clone(self);
        let read = move || if this.lock().connected { 1.0 } else { 0.0 };
        let help = "1 while the stream of policies from the control plane is open.";
        telemetry.register_source(Kind::Gauge, "foregate_control_connected", help, &[], read);
        let this = Arc::clone(self);
        let read = move || if this.lock().withheld.is_some() { 1.0 } else { 0.0 };
        let help = "1 while the control plane grants nothing to this proxy.";
        telemetry.register_source(Kind::Gauge, "foregate_control_withheld", help, &[], read);
        let this = Arc::clone(self);
        let read = move || {
            let status = this.lock();
            if status.revision.is_empty() { f64::NAN } else { status.since.as_secs_f64() }
        };
        let help = "When the revision of the fleet that is in force came in force, since the Unix epoch.";
        telemetry.register_source(
            Kind::Gauge,
            "foregate_control_revision_timestamp_seconds",
            help,
            &[],
            read,
        );
        for (name, help, count) in [
            (
                "foregate_control_changes_taken_total",
                "Changes from the control plane that were taken.",
                (|this: &Self| this.taken.load(Ordering::Relaxed)) as fn(&Self) -> u64,
            ),
            (
                "foregate_control_changes_refused_total",
                "Changes from the control plane that were refused; what was before stays.",
                |this: &Self| this.refused.load(Ordering::Relaxed),
            ),
            ("foregate_control_connections_total", "Streams of policies that were opened.", |this: &Self| {
                this.connections.load(Ordering::Relaxed)
            }),
        ] {
            let this = Arc::clone(self);
            #[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 2^53 is not reached")]
            let read = move || count(&this) as f64;
            telemetry.register_source(Kind::Counter, name, help, &[], read);
        }
    }
}

fn one_line(finding: &Finding) -> String {
    let Finding { code, file, line, column, message, .. } = finding;
    format!("{code} {file}:{line}:{column}: {message}")
}
