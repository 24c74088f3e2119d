//! Policies of the book, and parts of such: made whole, and checked.

use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::root;

/// What a block names and does not show: files such as schemas and keys, bundles, backends of a route.
const NOT_SHOWN: [&str; 3] = ["FG0305", "FG0501", "FG0642"];
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const OURS: &str = "foregate.dev";

/// What documents are called that do not say so.
const UNNAMED: &str = "unnamed";

/// Documents under way to be whole.
struct Parts(Vec<Value>);

/// What `foregate check` says of these documents once they are whole.
pub fn faults(text: &str) -> Vec<String> {
    let mut parts = Parts(Vec::new());
    for document in text.split("\n---\n").map(|text| text.trim_start_matches("---\n")) {
        match whole(document, parts.0.len()) {
            Ok(document) => parts.0.push(document),
            Err(error) => return vec![format!("no YAML: {error}")],
        }
    }
    parts.add_stand_ins();
    let folder = tempfile::tempdir().unwrap();
    let written: Vec<_> = parts.0.iter().map(|document| format!("{document:#}\n")).collect();
    fs::write(folder.path().join("block.yaml"), written.join("---\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_foregate"))
        .args(["check", "--without-secrets", "--format", "json"])
        .arg(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut faults: Vec<_> = text.lines().filter_map(fault).collect();
    if text.is_empty() && !output.status.success() {
        faults.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    faults
}

/// A diagnostic that is a fault of the block.
fn fault(line: &str) -> Option<String> {
    let diagnostic: Value = serde_json::from_str(line).unwrap();
    let code = diagnostic["code"].as_str().unwrap();
    let ours = diagnostic["severity"] == "error" && !NOT_SHOWN.contains(&code);
    ours.then(|| format!("{code}: {}", diagnostic["message"].as_str().unwrap()))
}

/// A document with the kind, name and fields that it leaves out.
fn whole(text: &str, number: usize) -> Result<Value, String> {
    let body = text.lines().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let deep = body.is_some_and(|line| line.starts_with(' '));
    let text = if deep { format!("spec:\n{text}") } else { text.to_owned() };
    let mut document: Value = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    let Some(fields) = document.as_object_mut() else { return Err("it is no document".to_owned()) };
    if let Some(rules) = fields.remove("rules") {
        fields.insert("spec".to_owned(), json!({ "rules": rules }));
    }
    let part = !fields.contains_key("metadata");
    let kind = fields.get("kind").and_then(Value::as_str).map(str::to_owned);
    let kind = kind.unwrap_or_else(|| said(&text).unwrap_or("Policy").to_owned());
    let api = match kind.as_str() {
        "Policy" | "Upstream" | "Model" | "Consumer" | "Store" | "Case" => format!("{OURS}/v1alpha1"),
        _ => format!("{GATEWAY_API}/v1"),
    };
    add(fields, "apiVersion", json!(api));
    add(fields, "metadata", json!({ "name": format!("{UNNAMED}-{number}") }));
    add(fields, "spec", json!({}));
    add(fields, "kind", json!(kind));
    if let Some(spec) = document["spec"].as_object_mut() {
        complete(&kind, spec);
        if part && kind == "Policy" {
            add(spec, "authorize", json!([{ "name": "all", "allow": "true" }]));
        }
    }
    Ok(document)
}

/// The kind in a comment such as `# of an Upstream: ..`.
fn said(text: &str) -> Option<&str> {
    let (_, rest) = text.lines().next()?.split_once("# of a")?;
    rest.trim_start_matches('n').trim_start().split(|c: char| !c.is_alphanumeric()).next()
}

fn add(fields: &mut Map<String, Value>, name: &str, value: Value) {
    fields.entry(name).or_insert(value);
}

/// Fields without which a spec of this kind is none.
fn complete(kind: &str, spec: &mut Map<String, Value>) {
    let text = Value::Object(spec.clone()).to_string();
    match kind {
        "Policy" => {
            add(
                spec,
                "targetRefs",
                json!([{ "group": GATEWAY_API, "kind": "HTTPRoute", "name": "example" }]),
            );
            if text.contains("jwt.") && !text.contains("introspection") {
                let keys = json!({ "uri": "https://idp.example.com/keys" });
                let issuer =
                    json!({ "issuer": "https://idp.example.com/", "audiences": ["crm"], "jwks": keys });
                add(spec, "jwt", json!([issuer]));
            }
            if text.contains("enrich.lead.") {
                add(spec, "enrich", json!([{ "name": "lead", "model": "lead-score", "deadline": "5ms" }]));
            }
        }
        "Upstream" if !["endpointsFile", "captured"].iter().any(|name| spec.contains_key(*name)) => {
            add(spec, "endpoints", json!(["127.0.0.1:1"]));
        }
        "Gateway" => {
            add(spec, "gatewayClassName", json!("foregate"));
            add(spec, "listeners", json!([{ "name": "http", "protocol": "HTTP", "port": 8080 }]));
        }
        "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" => {
            add(spec, "parentRefs", json!([{ "name": "example" }]));
            add(spec, "rules", json!([{}]));
            for rule in spec["rules"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                if !rule.contains_key("filters") {
                    add(
                        rule,
                        "backendRefs",
                        json!([{ "group": OURS, "kind": "Upstream", "name": "example" }]),
                    );
                }
            }
        }
        _ => {}
    }
}

impl Parts {
    /// Documents that are named and not shown.
    fn add_stand_ins(&mut self) {
        // What a stand-in names needs one, too: policies name routes, these gateways and upstreams.
        for _ in 0..3 {
            let mut named = Vec::new();
            for document in &self.0 {
                references(&document["spec"], &mut named);
            }
            for (kind, name) in named {
                self.stand_in(&kind, &name);
            }
        }
        self.guard_routes();
    }

    /// Where no policy is shown, somebody may call all the same.
    fn guard_routes(&mut self) {
        if self.0.iter().any(|document| document["kind"] == "Policy") {
            return;
        }
        let routes = self.0.iter().filter(|document| document["kind"].as_str().unwrap().ends_with("Route"));
        let targets: Vec<_> = routes
            .map(|route| json!({ "group": GATEWAY_API, "kind": route["kind"], "name": route["metadata"]["name"] }))
            .collect();
        let spec = json!({ "targetRefs": targets, "authorize": [{ "name": "all", "allow": "true" }] });
        let metadata = json!({ "name": "all" });
        self.0.push(json!({ "apiVersion": format!("{OURS}/v1alpha1"), "kind": "Policy", "metadata": metadata, "spec": spec }));
    }

    fn stand_in(&mut self, kind: &str, name: &str) {
        let known = |document: &Value| document["kind"] == kind && document["metadata"]["name"] == name;
        if self.0.iter().any(known) {
            return;
        }
        let nameless = |document: &&mut Value| {
            document["kind"] == kind
                && document["metadata"]["name"].as_str().unwrap_or("").starts_with(UNNAMED)
        };
        // What is shown without a name is what is meant.
        if let Some(document) = self.0.iter_mut().find(nameless) {
            document["metadata"]["name"] = json!(name);
            return;
        }
        let mut spec = match kind {
            "Model" => json!({ "bundle": { "path": root().join("inference-sidecar/bundles/lead-score") } }),
            "Store" => json!({ "redis": { "addresses": ["127.0.0.1:6379"] } }),
            _ => json!({}),
        };
        complete(kind, spec.as_object_mut().unwrap());
        let api = match kind {
            "Upstream" | "Model" | "Store" => format!("{OURS}/v1alpha1"),
            _ => format!("{GATEWAY_API}/v1"),
        };
        self.0.push(json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name }, "spec": spec }));
    }
}

/// Kinds and names that a value refers to.
fn references(value: &Value, into: &mut Vec<(String, String)>) {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let each = value.as_array().into_iter().flatten();
                match field.as_str() {
                    "parentRefs" => {
                        into.extend(
                            each.filter_map(|parent| Some(("Gateway".to_owned(), name(&parent["name"])?))),
                        );
                    }
                    "targetRefs" | "backendRefs" => into.extend(
                        each.filter_map(|target| Some((name(&target["kind"])?, name(&target["name"])?))),
                    ),
                    "model" => into.extend(name(value).map(|name| ("Model".to_owned(), name))),
                    "store" => into.extend(name(value).map(|name| ("Store".to_owned(), name))),
                    _ => {}
                }
                references(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}
