//! What injected sidecars are to be.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The same for all pods; annotations change some of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Injection {
    /// The image of sidecar and init container.
    pub image: String,
    /// `https://HOST:PORT` of the control plane, as pods reach it.
    pub control: String,
    /// Audience of the token that a sidecar proves itself with.
    #[serde(default = "audience")]
    pub audience: String,
    /// The `ConfigMap` with `ca.crt` that the control plane is known by; one in each namespace.
    #[serde(default = "roots")]
    pub roots: String,
    /// The user that sidecars run as, and nothing else in a pod. Not 0.
    #[serde(default = "uid")]
    pub uid: u32,
    #[serde(default)]
    pub interception: Interception,
    #[serde(default)]
    pub ports: Ports,
    /// `requests` and `limits` of the sidecar.
    #[serde(default = "resources")]
    pub resources: Map<String, Value>,
}

/// How connections come to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interception {
    /// An init container redirects them, which needs the capability `NET_ADMIN`.
    #[default]
    Redirect,
    /// The application is told where the sidecar is, or the network plugin redirects: Pod Security `restricted` allows it.
    None,
}

/// Ports of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ports {
    pub inbound: u16,
    pub outbound: u16,
    /// Where the kubelet asks for the sidecar and, through it, for the application.
    pub probes: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { inbound: 15_006, outbound: 15_001, probes: 15_021 }
    }
}

fn audience() -> String {
    "foregate-control".to_owned()
}

fn roots() -> String {
    "foregate-roots".to_owned()
}

const fn uid() -> u32 {
    2102
}

fn resources() -> Map<String, Value> {
    let requests = serde_json::json!({ "cpu": "10m", "memory": "32Mi" });
    let limits = serde_json::json!({ "memory": "256Mi" });
    [("requests".to_owned(), requests), ("limits".to_owned(), limits)].into_iter().collect()
}
