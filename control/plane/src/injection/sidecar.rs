//! The containers and volumes that are added to a pod.

use serde_json::{Value, json};

use crate::injection::settings::Injection;
use crate::injection::wishes::{PROBES, Wishes};

/// Names of what is added.
pub const PROXY: &str = "foregate-proxy";
pub const INIT: &str = "foregate-init";
pub const VOLUMES: [&str; 3] = ["foregate-token", "foregate-roots", "foregate-state"];

/// Where the sidecar finds what is its own.
const TOKEN: &str = "/var/run/secrets/foregate/token";
const ROOTS: &str = "/etc/foregate/roots";
const STATE: &str = "/var/lib/foregate";
/// How long a token lives, in seconds; the kubelet renews it.
const TOKEN_SECONDS: u32 = 3600;

/// The init container that redirects connections. It alone needs a capability, and no other.
pub fn init(settings: &Injection, wishes: &Wishes) -> Value {
    let arguments: Vec<&str> =
        std::iter::once("init").chain(wishes.init.iter().map(String::as_str)).collect();
    json!({
        "name": INIT,
        "image": settings.image,
        "args": arguments,
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" } },
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

/// The sidecar: started before all other containers, ended after them.
pub fn proxy(settings: &Injection, wishes: &Wishes, has_probes: bool) -> Value {
    let ports = settings.ports;
    let from = |path: &str| json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": path } });
    let mut variables = vec![
        json!({ "name": "POD_NAME", "valueFrom": from("metadata.name") }),
        json!({ "name": "POD_NAMESPACE", "valueFrom": from("metadata.namespace") }),
        json!({ "name": "POD_IP", "valueFrom": from("status.podIP") }),
    ];
    if has_probes {
        let path = format!("metadata.annotations['{PROBES}']");
        variables.push(json!({ "name": "FOREGATE_PROBES", "valueFrom": from(&path) }));
    }
    let ready = json!({ "path": "/readyz", "port": ports.probes, "scheme": "HTTP" });
    json!({
        "name": PROXY,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": [
            "run",
            "--control", settings.control,
            "--control-ca", format!("{ROOTS}/ca.crt"),
            "--control-token", TOKEN,
            "--identity", "control",
            "--state-dir", STATE,
            "--probes", format!("[::]:{}", ports.probes),
        ],
        "env": variables,
        "ports": [{ "name": "foregate-probes", "containerPort": ports.probes, "protocol": "TCP" }],
        "startupProbe": { "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 120, "successThreshold": 1 },
        "readinessProbe": { "httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 1, "failureThreshold": 3, "successThreshold": 1 },
        "resources": wishes.resources,
        "securityContext": {
            "runAsUser": settings.uid,
            "runAsGroup": settings.uid,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "foregate-token", "mountPath": "/var/run/secrets/foregate", "readOnly": true },
            { "name": "foregate-roots", "mountPath": ROOTS, "readOnly": true },
            { "name": "foregate-state", "mountPath": STATE },
        ],
    })
}

/// The volumes of the sidecar.
pub fn volumes(settings: &Injection) -> [Value; 3] {
    [
        json!({
            "name": "foregate-token",
            // Readable for the sidecar, whatever the pod says of groups.
            "projected": {
                "defaultMode": 420,
                "sources": [{
                    "serviceAccountToken": { "path": "token", "audience": settings.audience, "expirationSeconds": TOKEN_SECONDS }
                }],
            },
        }),
        json!({ "name": "foregate-roots", "configMap": { "name": settings.roots, "defaultMode": 420 } }),
        json!({ "name": "foregate-state", "emptyDir": { "sizeLimit": "256Mi" } }),
    ]
}
