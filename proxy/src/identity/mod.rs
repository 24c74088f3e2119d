//! The identity of this workload: its certificate and key, and whom it trusts.

pub mod certificate;
pub mod clients;
pub mod control;
pub mod directory;
pub mod keep;
pub mod kept;
pub mod peers;
pub mod set;
pub mod start;
#[cfg(test)]
mod tests;
pub mod token;
pub mod trust;
pub mod workload_api;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;

use crate::identity::set::{Set, SetError};
use crate::telemetry::Telemetry;
use crate::telemetry::json::Timestamp;
use crate::telemetry::sources::Kind;
use crate::tls::TlsError;

/// The variable that names the socket of the Workload API (SPIFFE Workload Endpoint, section 4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Where the identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A folder with certificate, key and bundle.
    Directory(PathBuf),
    /// The unix socket of the SPIFFE Workload API.
    Socket(PathBuf),
    /// The control plane.
    Control,
}

/// Gives the sets of an identity, one after the other.
#[async_trait]
pub trait Source: fmt::Debug + Send {
    /// The first set at once; then, whenever there is another one. May be dropped and asked again.
    ///
    /// # Errors
    /// What is wrong now; ask again.
    async fn next(&mut self) -> Result<Set, SourceError>;

    /// Longest pause before it is asked again after a fault.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }
}

/// Why a source has no set.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    File(#[from] TlsError),
    #[error("{0}")]
    Directory(String),
    #[error("the folder {folder} cannot be watched: {source}")]
    Watch { folder: String, source: notify::Error },
    #[error(transparent)]
    Set(#[from] SetError),
    #[error("the Workload API at {socket}: {fault}")]
    Api { socket: String, fault: String },
    #[error("the control plane: {0}")]
    Control(String),
}

/// The identity of the process, as it is now.
#[derive(Debug)]
pub struct Identity {
    current: ArcSwapOption<Set>,
    /// Counts the sets.
    changed: watch::Sender<u64>,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Why the last attempt gave nothing; empty after one that did.
    fault: Mutex<Option<String>>,
}

/// What operators are told of the identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentityStatus {
    pub spiffe_id: Option<String>,
    #[serde(serialize_with = "expiry")]
    pub expires: Duration,
    /// When a token last proved the workload to the control plane; it is to be proved again in time.
    #[serde(serialize_with = "moment", skip_serializing_if = "Option::is_none")]
    pub attested: Option<Duration>,
    /// Until when its certificate is renewed without such a proof.
    #[serde(serialize_with = "moment", skip_serializing_if = "Option::is_none")]
    pub attested_until: Option<Duration>,
    pub trust_domains: Vec<String>,
    /// Lists of revoked certificates in force.
    pub revocation_lists: usize,
    /// Set where a later set was refused; the one before it stays in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

fn expiry<S: serde::Serializer>(unix: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Timestamp(*unix).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn moment<S: serde::Serializer>(unix: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    unix.map(Timestamp).serialize(serializer)
}

impl FromStr for Origin {
    type Err = String;

    /// Reads `dir:FOLDER`, `unix:SOCKET`, `spire`: the socket that the environment names, or `control`.
    fn from_str(text: &str) -> Result<Self, String> {
        let socket = |path: &str| {
            // unix:///run/spire/agent.sock and unix:/run/spire/agent.sock name the same.
            let path = path.strip_prefix("//").unwrap_or(path);
            path.starts_with('/').then(|| Self::Socket(path.into())).ok_or_else(|| {
                "a socket is named by its absolute path, such as unix:/run/spire/agent.sock".to_owned()
            })
        };
        if let Some(folder) = text.strip_prefix("dir:").filter(|folder| !folder.is_empty()) {
            Ok(Self::Directory(folder.into()))
        } else if let Some(path) = text.strip_prefix("unix:") {
            socket(path)
        } else if text == "spire" {
            let named = std::env::var(ENDPOINT_VARIABLE).unwrap_or_default();
            let path = named.strip_prefix("unix:");
            socket(path.ok_or_else(|| format!("{ENDPOINT_VARIABLE} names no unix: socket"))?)
        } else if text == "control" {
            Ok(Self::Control)
        } else {
            Err("expected dir:FOLDER, unix:SOCKET, spire or control".to_owned())
        }
    }
}

impl Identity {
    /// An identity with its first set.
    pub fn new(first: Set) -> Self {
        Self {
            current: ArcSwapOption::from_pointee(first),
            changed: watch::channel(0).0,
            succeeded: AtomicU64::new(1),
            failed: AtomicU64::new(0),
            fault: Mutex::new(None),
        }
    }

    /// The set in force.
    pub fn current(&self) -> Option<Arc<Set>> {
        self.current.load_full()
    }

    /// Tells of every later set.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Puts a set in force; false where it is the one in force already.
    pub fn publish(&self, set: Set) -> bool {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.current().is_some_and(|current| current.same_as(&set)) {
            return false;
        }
        self.current.store(Some(Arc::new(set)));
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// Nothing changes, and operators are told why.
    pub fn failed(&self, fault: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    pub fn status(&self) -> IdentityStatus {
        let current = self.current();
        let trust = current.as_ref().map(|set| &set.trust);
        IdentityStatus {
            spiffe_id: current.as_ref().map(|set| set.id.as_str().to_owned()),
            expires: current.as_ref().map(|set| set.expires).unwrap_or_default(),
            attested: current.as_ref().and_then(|set| set.attested),
            attested_until: current.as_ref().and_then(|set| set.attested_until),
            trust_domains: trust
                .map(|trust| trust.domains().map(str::to_owned).collect())
                .unwrap_or_default(),
            revocation_lists: trust.map(|trust| trust.revocations()).unwrap_or_default(),
            failure: self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Shows the identity among the metrics.
    pub fn measure(self: &Arc<Self>, telemetry: &Telemetry) {
        for (name, help, time) in [
            (
                "foregate_identity_expires_timestamp_seconds",
                "When the certificate of this workload expires, since the Unix epoch.",
                (|set: &Set| Some(set.expires)) as fn(&Set) -> Option<Duration>,
            ),
            (
                "foregate_identity_attested_timestamp_seconds",
                "When a token last proved this workload to the control plane, since the Unix epoch.",
                |set: &Set| set.attested,
            ),
            (
                "foregate_identity_attested_until_timestamp_seconds",
                "Until when the control plane renews the certificate of this workload without a token.",
                |set: &Set| set.attested_until,
            ),
        ] {
            let identity = Arc::clone(self);
            let time = move || identity.current().and_then(|set| time(&set));
            let read = move || time().map_or(f64::NAN, |time| time.as_secs_f64());
            telemetry.register_source(Kind::Gauge, name, help, &[], read);
        }
        for (name, help, count) in [
            (
                "foregate_identity_updates_succeeded_total",
                "Looks at the identity of this workload that gave a whole one.",
                (|identity: &Self| identity.succeeded.load(Ordering::Relaxed)) as fn(&Self) -> u64,
            ),
            (
                "foregate_identity_updates_failed_total",
                "Looks at the identity of this workload that gave none; the one before stays.",
                |identity: &Self| identity.failed.load(Ordering::Relaxed),
            ),
        ] {
            let identity = Arc::clone(self);
            #[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 2^53 is not reached")]
            let read = move || count(&identity) as f64;
            telemetry.register_source(Kind::Counter, name, help, &[], read);
        }
    }
}

#[cfg(test)]
mod origin_tests {
    use super::Origin;

    #[test]
    fn an_origin_is_a_folder_or_a_socket() {
        let folder = |path: &str| Ok(Origin::Directory(path.into()));
        let socket = |path: &str| Ok(Origin::Socket(path.into()));
        assert_eq!("dir:run/spiffe".parse(), folder("run/spiffe"));
        assert_eq!("unix:/run/agent.sock".parse(), socket("/run/agent.sock"));
        assert_eq!("unix:///run/agent.sock".parse(), socket("/run/agent.sock"));
        assert_eq!("control".parse(), Ok(Origin::Control));
        for bad in ["dir:", "unix:", "unix:agent.sock", "/run/spiffe", "", "tcp:127.0.0.1:1"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
