//! What may be wrong with a cluster that the control plane serves: one finding each.

mod access;
mod clocks;
mod definitions;
mod hooks;
mod lease;
mod namespaces;
mod read;
mod secret;

use std::path::Path;
use std::time::Duration;

use foregate_filters::fault::Code;
use foregate_policy::codes;
use foregate_policy::diagnostic::{Diagnostic, sort};
use kube::Client;

use crate::clock;
use crate::config::Config;
use crate::injection::settings::Interception;
use crate::inspect::read::{Reader, Unread};

/// Where the control plane keeps what is its own, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub namespace: String,
    /// The Lease of its replicas; the first of these that is there.
    pub leases: Vec<String>,
    /// The Secret of the certificate of its webhooks; the first of these that is there.
    pub secrets: Vec<String>,
    /// The configuration of its webhooks, of either kind; found by the names of the webhooks where absent.
    pub configuration: Option<String>,
    /// The `ConfigMap` with its roots in each namespace whose pods get sidecars.
    pub roots: String,
    pub interception: Interception,
    /// False where it was told to serve none.
    pub webhooks: bool,
    /// Whose rights are looked at: a service account of the namespace; of whoever asks where absent.
    pub account: Option<String>,
}

impl Names {
    /// As they are where nothing else was said.
    pub fn usual(namespace: &str) -> Self {
        let either = |first: &str, second: &str| vec![first.to_owned(), second.to_owned()];
        Self {
            namespace: namespace.to_owned(),
            leases: vec!["foregate-control".to_owned()],
            secrets: either("foregate-control-webhooks", "foregate-webhooks"),
            configuration: None,
            roots: "foregate-roots".to_owned(),
            interception: Interception::Redirect,
            webhooks: true,
            account: None,
        }
    }

    /// As a configuration says them; `None` where it says nothing of Kubernetes.
    pub fn of(config: &Config) -> Option<Self> {
        let cluster = config.kubernetes.as_ref()?;
        let usual = Self::usual(&cluster.namespace);
        let leases = vec![cluster.lease.clone()];
        Some(match &cluster.webhooks {
            None => Self { leases, webhooks: false, ..usual },
            Some(hooks) => Self {
                leases,
                secrets: vec![hooks.secret.clone()],
                configuration: Some(hooks.configuration.clone()),
                roots: hooks.injection.roots.clone(),
                interception: hooks.injection.interception,
                ..usual
            },
        })
    }
}

/// What was found so far, and how more is asked for.
#[derive(Debug)]
struct Inspection {
    reader: Reader,
    names: Names,
    now: Duration,
    findings: Vec<Diagnostic>,
}

/// Looks at all of it. Nothing is changed: what is sent to be refused is a dry run.
pub async fn inspect(client: Client, names: Names) -> Vec<Diagnostic> {
    let reader = Reader::new(client);
    let now = clock::now().unix;
    let mut inspection = Inspection { reader, names, now, findings: Vec::new() };
    if inspection.clocks().await {
        inspection.definitions().await;
        inspection.lease().await;
        if inspection.names.webhooks {
            inspection.webhooks().await;
            inspection.namespaces().await;
        }
        // Last: by now it is known what everything is called.
        inspection.access().await;
    }
    let mut findings = inspection.findings;
    sort(&mut findings);
    findings
}

impl Inspection {
    /// Notes an error about an object, such as `namespace/crm`.
    fn error(&mut self, object: &str, code: Code, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Diagnostic::file(Path::new(object), code, message).help(help));
    }

    fn warning(&mut self, object: &str, code: Code, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Diagnostic::file(Path::new(object), code, message).help(help).warning());
    }

    /// What could be read; notes why it could not.
    fn read<T>(&mut self, object: &str, outcome: Result<T, Unread>) -> Option<T> {
        match outcome {
            Ok(found) => Some(found),
            Err(Unread::Forbidden(why)) => {
                let help =
                    "run the check as somebody who may read it, such as an administrator of the cluster";
                self.warning(object, codes::CLUSTER_UNREAD, format!("this was not looked at: {why}"), help);
                None
            }
            Err(Unread::Failed(why)) => {
                let help = "look whether the API server is well, and whether the kubeconfig leads to it";
                self.error(
                    object,
                    codes::CLUSTER_UNREAD,
                    format!("the API server cannot be asked: {why}"),
                    help,
                );
                None
            }
        }
    }
}
