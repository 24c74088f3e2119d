//! All that talks to Kubernetes, as a part of the control plane with a configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::event::event;
use crate::injection::certificate::{self, Keeper};
use crate::injection::configurations;
use crate::injection::roots::Roots;
use crate::injection::serve::serve;
use crate::injection::settings::Injection;
use crate::kubernetes::controller::{Running, Settings, start};
use crate::kubernetes::lease;
use crate::kubernetes::reach::{ReachError, configuration};
use crate::kubernetes::watch::{CONNECT, SILENT};
use crate::process::Process;

/// After how long without a sign of life another replica leads.
const LEASE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);

/// The section `kubernetes` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The namespace of the control plane.
    pub namespace: String,
    /// Of this replica, such as the name of its pod.
    pub identity: String,
    /// How to reach the API server; where it is not given, as the environment says (`KUBECONFIG`, or the cluster
    /// that this runs in).
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// IP addresses and host names under which all Gateways are reached.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Name of the Lease that replicas share.
    #[serde(default = "lease_name")]
    pub lease: String,
    /// No webhooks are served where absent.
    #[serde(default)]
    pub webhooks: Option<Webhooks>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhooks {
    pub listen: SocketAddr,
    /// DNS names by which the API server calls, such as `foregate-control.foregate.svc`.
    pub names: Vec<String>,
    /// Name of the Secret that their certificate is kept in.
    #[serde(default = "secret_name")]
    pub secret: String,
    /// Name of their configurations, of either kind.
    #[serde(default = "configuration_name")]
    pub configuration: String,
    pub injection: Injection,
}

#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("no way to the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("no configuration of a client: {0}")]
    Config(#[from] ReachError),
    #[error("the webhooks cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

fn lease_name() -> String {
    "foregate-control".to_owned()
}

fn secret_name() -> String {
    "foregate-webhooks".to_owned()
}

fn configuration_name() -> String {
    "foregate".to_owned()
}

impl KubernetesConfig {
    /// Takes paths from this folder.
    pub fn resolve(&mut self, folder: &Path) {
        if let Some(file) = &mut self.kubeconfig {
            *file = folder.join(&*file);
        }
    }

    /// Starts all of it with the client of this pod or user. `roots` are the certificates in PEM that sidecars know the
    /// control plane by.
    ///
    /// # Errors
    /// Where there is no configuration of a client, or the webhooks cannot listen.
    pub async fn start(
        self,
        process: &Process,
        roots: watch::Receiver<Option<String>>,
    ) -> Result<Running, PartError> {
        let mut config = configuration(self.kubeconfig.as_deref()).await?;
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT), Some(SILENT));
        let client = Client::try_from(config)?;
        self.start_with(client, process, roots).await
    }

    /// The same with another client.
    ///
    /// # Errors
    /// Where the webhooks cannot listen.
    pub async fn start_with(
        self,
        client: Client,
        process: &Process,
        roots: watch::Receiver<Option<String>>,
    ) -> Result<Running, PartError> {
        let lease = lease::Settings {
            namespace: self.namespace.clone(),
            name: self.lease,
            identity: self.identity,
            duration: LEASE,
            retry: RETRY,
        };
        let addresses = self.addresses.iter().map(|text| address(text)).collect();
        let running = start(client.clone(), process, Settings { addresses, lease: Some(lease) });
        if let Some(hooks) = self.webhooks {
            hooks.start(client, self.namespace, process, &running, roots).await?;
        }
        Ok(running)
    }
}

impl Webhooks {
    async fn start(
        self,
        client: Client,
        namespace: String,
        process: &Process,
        running: &Running,
        roots: watch::Receiver<Option<String>>,
    ) -> Result<(), PartError> {
        let listener =
            TcpListener::bind(self.listen).await.map_err(|error| PartError::Listen(self.listen, error))?;
        let settings = certificate::Settings { namespace, secret: self.secret, names: self.names };
        let (keeper, served, authority) = Keeper::new(client.clone(), settings);
        tokio::spawn(keeper.run(process.shutdown.clone()));
        tokio::spawn(configurations::keep(client.clone(), self.configuration, authority));
        let name = self.injection.roots.clone();
        let (world, leading) = (running.world.clone(), running.leading.clone());
        tokio::spawn(Roots { name, roots, world: world.clone(), leading }.keep(client));
        let process = process.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(listener, served, self.injection, world, process).await {
                event(log::Level::Error, "webhooks ended", &[("error", error.to_string().into())]);
            }
        });
        Ok(())
    }
}

/// An entry of the addresses of a Gateway.
fn address(text: &str) -> Value {
    let kind = if text.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
    json!({ "type": kind, "value": text })
}
