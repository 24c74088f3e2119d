//! Probes led through the sidecar: the kubelet has no identity to connect with.

use serde_json::{Map, Value, json};

/// What paths of probes at the sidecar begin with: `/probes/CONTAINER/KIND`.
pub const PATH: &str = "/probes/";
/// Kinds of probes, and how paths call them.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];

/// A probe whose port has a name that no port of its container has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {probe} of the container `{container}` names the port `{port}`, which the container does not have"
)]
pub struct UnknownPort {
    pub container: String,
    pub probe: &'static str,
    pub port: String,
}

/// What the probes of a pod were, by `CONTAINER/KIND`.
pub type Originals = Map<String, Value>;

/// Leads the probes of a container to the sidecar at `port`. `before` is what an earlier call found out.
///
/// # Errors
/// Where a probe names a port that is not there.
pub fn rewrite(
    container: &mut Value,
    port: u16,
    before: &Originals,
    found: &mut Originals,
) -> Result<(), UnknownPort> {
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (field, word) in KINDS {
        let key = format!("{name}/{word}");
        let path = format!("{PATH}{key}");
        let Some(probe) = container.get(field).filter(|probe| probe.is_object()) else { continue };
        if is_led(probe, &path, port) {
            // By an earlier call: what it was is known, or the probe fails for want of it.
            if let Some(original) = before.get(&key) {
                found.insert(key, original.clone());
            }
            continue;
        }
        let Some(mut original) = original(container, &name, field, probe)? else { continue };
        if let (Some(fields), Some(timeout)) = (original.as_object_mut(), probe.get("timeoutSeconds")) {
            fields.insert("timeoutSeconds".to_owned(), timeout.clone());
        }
        found.insert(key, original);
        if let Some(fields) = container.get_mut(field).and_then(Value::as_object_mut) {
            for handler in ["httpGet", "tcpSocket", "grpc"] {
                fields.remove(handler);
            }
            fields.insert("httpGet".to_owned(), json!({ "path": path, "port": port, "scheme": "HTTP" }));
        }
    }
    Ok(())
}

fn is_led(probe: &Value, path: &str, port: u16) -> bool {
    probe.get("httpGet").is_some_and(|get| {
        get.get("path").is_some_and(|said| said == path) && get.get("port").is_some_and(|said| said == port)
    })
}

/// What the sidecar is to ask; `None` where the probe does not go to the network of the pod.
fn original(
    container: &Value,
    name: &str,
    probe_field: &'static str,
    probe: &Value,
) -> Result<Option<Value>, UnknownPort> {
    let number = |said: Option<&Value>| match said {
        Some(Value::Number(number)) => Ok(number.clone()),
        Some(Value::String(text)) => named(container, text).ok_or_else(|| UnknownPort {
            container: name.to_owned(),
            probe: probe_field,
            port: text.clone(),
        }),
        _ => Ok(80.into()),
    };
    if let Some(get) = probe.get("httpGet").filter(|get| get.is_object()) {
        // Another host is asked by the kubelet itself, as before.
        if get.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
            return Ok(None);
        }
        let mut http = json!({ "port": number(get.get("port"))?, "path": get.get("path").and_then(Value::as_str).unwrap_or("/") });
        if let Some(fields) = http.as_object_mut() {
            for field in ["scheme", "httpHeaders"] {
                if let Some(value) = get.get(field).filter(|value| !value.is_null()) {
                    fields.insert(field.to_owned(), value.clone());
                }
            }
        }
        return Ok(Some(json!({ "httpGet": http })));
    }
    if let Some(socket) = probe.get("tcpSocket").filter(|socket| socket.is_object()) {
        if socket.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
            return Ok(None);
        }
        return Ok(Some(json!({ "tcpSocket": { "port": number(socket.get("port"))? } })));
    }
    if let Some(call) = probe.get("grpc").filter(|call| call.is_object()) {
        let service = call.get("service").and_then(Value::as_str).unwrap_or_default();
        return Ok(Some(json!({ "grpc": { "port": number(call.get("port"))?, "service": service } })));
    }
    Ok(None)
}

/// The number of a port of the container.
fn named(container: &Value, name: &str) -> Option<serde_json::Number> {
    let ports = container.get("ports").and_then(Value::as_array)?;
    let port = ports.iter().find(|port| port.get("name").is_some_and(|said| said == name))?;
    match port.get("containerPort") {
        Some(Value::Number(number)) => Some(number.clone()),
        _ => None,
    }
}
