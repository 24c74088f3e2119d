//! One of several replicas leads: it holds a Lease, and renews it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::clock;
use crate::event::event;
use crate::process::Shutdown;

/// Which Lease, and how long it lasts.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub name: String,
    /// Of this replica; no other may have it.
    pub identity: String,
    /// After how long without a sign of life others may take over. A holder that cannot renew gives up after two
    /// thirds of it.
    pub duration: Duration,
    /// Between two looks, or renewals.
    pub retry: Duration,
}

/// What was seen last, and when by the clock of this process: those of others need not agree.
#[derive(Debug, Default)]
struct Seen {
    holder: String,
    renewed: Option<Timestamp>,
    version: Option<String>,
    at: Duration,
}

/// Tries to hold the Lease until the process ends; then gives it away.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    settings: Settings,
    seen: Seen,
    leading: watch::Sender<bool>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Late,
}

impl Election {
    pub fn new(client: Client, settings: Settings) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        let api = Api::namespaced(client, &settings.namespace);
        (Self { api, settings, seen: Seen::default(), leading }, receiver)
    }

    /// Runs until the process begins to end.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut renewed = None;
        loop {
            let began = clock::monotonic();
            let outcome = tokio::select! {
                outcome = self.in_time() => outcome,
                () = shutdown.begun() => break,
            };
            match outcome {
                Ok(true) => {
                    renewed = Some(began);
                    self.lead(true);
                }
                Ok(false) => {
                    renewed = None;
                    self.lead(false);
                }
                Err(error) => {
                    let patience = self.settings.duration * 2 / 3;
                    let late = renewed.is_none_or(|renewed: Duration| {
                        clock::monotonic().saturating_sub(renewed) >= patience
                    });
                    if late && *self.leading.borrow() {
                        let fields = [("error", error.to_string().into())];
                        event(log::Level::Warn, "kubernetes lease lost", &fields);
                    }
                    if late {
                        renewed = None;
                        self.lead(false);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                () = shutdown.begun() => break,
            }
        }
        if *self.leading.borrow() {
            self.lead(false);
            let release = tokio::time::timeout(self.settings.retry, self.release()).await;
            if !matches!(release, Ok(Ok(()))) {
                event(log::Level::Warn, "kubernetes lease not released", &[]);
            }
        }
    }

    fn lead(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        if changed {
            let fields = [("leading", leads.into()), ("identity", self.settings.identity.clone().into())];
            event(log::Level::Info, "kubernetes lease", &fields);
        }
    }

    /// Up to a fifth longer than the setting, so that replicas do not come at once.
    fn pause(&self) -> Duration {
        let spread = clock::now().unix.subsec_nanos() % 1000;
        self.settings.retry + self.settings.retry * spread / 5000
    }

    async fn in_time(&mut self) -> Result<bool, Failure> {
        let limit = self.settings.duration / 3;
        tokio::time::timeout(limit, self.hold()).await.unwrap_or(Err(Failure::Late))
    }

    /// Takes or renews the Lease where that may be; true where it is held.
    async fn hold(&mut self) -> Result<bool, Failure> {
        let Some(lease) = self.api.get_opt(&self.settings.name).await? else {
            let metadata = ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None, 0)) };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or(0);
        if holder == self.settings.identity {
            return self.take(lease, spec.acquire_time, transitions).await;
        }
        self.observe(&lease, &spec, &holder);
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(self.settings.duration, Duration::from_secs);
        let over = clock::monotonic().saturating_sub(self.seen.at) >= lasts;
        if holder.is_empty() || over {
            return self.take(lease, None, transitions.saturating_add(1)).await;
        }
        Ok(false)
    }

    fn observe(&mut self, lease: &Lease, spec: &LeaseSpec, holder: &str) {
        let renewed = spec.renew_time.as_ref().map(|time| time.0);
        let version = &lease.metadata.resource_version;
        if self.seen.version.is_some()
            && (&*self.seen.holder, self.seen.renewed) == (holder, renewed)
            && self.seen.version == *version
        {
            return;
        }
        let (holder, version) = (holder.to_owned(), version.clone());
        self.seen = Seen { holder, renewed, version, at: clock::monotonic() };
    }

    /// Writes it in our name. The version goes with it, so that of two who try only one succeeds.
    async fn take(
        &self,
        mut lease: Lease,
        acquired: Option<MicroTime>,
        transitions: i32,
    ) -> Result<bool, Failure> {
        lease.spec = Some(self.spec(acquired, transitions));
        taken(self.api.replace(&self.settings.name, &PostParams::default(), &lease).await)
    }

    fn spec(&self, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: i32::try_from(self.settings.duration.as_secs().max(1)).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Leaves it to whoever comes next.
    async fn release(&self) -> Result<(), Failure> {
        let mut lease = self.api.get(&self.settings.name).await?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&self.settings.identity)
        {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// Somebody else was faster where the versions differ.
fn taken(outcome: Result<Lease, kube::Error>) -> Result<bool, Failure> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
