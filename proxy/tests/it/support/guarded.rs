//! Routes under policies of a test's own, and the models they ask.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::policies::{GATEWAY, closed_route, route_below, upstream};

/// Everything to one HTTP/1.1 upstream under one policy, `rules`; `spec` is its spec without targets.
pub fn guarded(endpoint: impl Display, spec: &str) -> String {
    let rules = "  - name: rule\n    backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]\n";
    let documents =
        [GATEWAY, &closed_route("all", rules), &upstream("crm", endpoint, ""), &policy("all", spec)];
    documents.concat()
}

/// One route for each policy, at `/<name>`, all to one HTTP/1.1 upstream.
pub fn routes(endpoint: impl Display, specs: &[(&str, &str)]) -> String {
    let mut text = [GATEWAY, &upstream("crm", endpoint, "")].concat();
    for (name, spec) in specs {
        write!(text, "{}{}", route_below(name, "crm"), policy(name, spec)).unwrap();
    }
    text
}

/// The policy of a route, with the name of the route.
pub fn policy(route: &str, spec: &str) -> String {
    let lines = spec.lines().filter(|line| !line.trim().is_empty());
    let spec = lines.fold(String::new(), |spec, line| spec + "  " + line + "\n");
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {route} }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route} }}]
{spec}---"
    )
}

/// A model in this folder.
pub fn model(name: &str, bundle: &Path) -> String {
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: {name} }}
spec: {{ bundle: {{ path: {} }} }}
---",
        bundle.display()
    )
}

/// The folder of a shipped bundle.
pub fn bundle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles").join(name)
}

/// The golden vectors of a bundle: each record, and its score.
pub fn golden(bundle: &Path) -> Vec<(Value, f64)> {
    let text = std::fs::read(bundle.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    let vectors = golden["vectors"].as_array().unwrap();
    vectors.iter().map(|it| (it["record"].clone(), it["score"].as_f64().unwrap())).collect()
}

/// Copies a bundle, with its manifest edited and those of its golden vectors that fit, signed anew.
pub fn copy_bundle(from: &Path, to: &Path, edit: impl Fn(String) -> String, fits: impl Fn(&Value) -> bool) {
    let read = |file: &str| std::fs::read(from.join(file)).unwrap();
    let old = read("golden.json");
    let golden: Value = serde_json::from_slice(&old).unwrap();
    let kept: Vec<&Value> =
        golden["vectors"].as_array().unwrap().iter().filter(|vector| fits(&vector["record"])).collect();
    let new = serde_json::to_vec(&serde_json::json!({ "vectors": kept })).unwrap();
    let manifest = String::from_utf8(read("model.yaml")).unwrap().replace(&sha256(&old), &sha256(&new));
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(to.join("golden.json"), new).unwrap();
    for file in ["model.onnx", "reference.json"] {
        std::fs::write(to.join(file), read(file)).unwrap();
    }
    std::fs::write(to.join("model.yaml"), edit(manifest)).unwrap();
}

/// A digest in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
