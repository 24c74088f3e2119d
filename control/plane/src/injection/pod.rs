//! A pod with its sidecar: the same however often it is asked for.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::injection::probes::{self, Originals, UnknownPort};
use crate::injection::settings::{Injection, Interception};
use crate::injection::sidecar::{INIT, PROXY, VOLUMES, init, proxy, volumes};
use crate::injection::wishes::{PROBES, STATUS, Unclear, Wishes, wanted};

/// Why a pod is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Annotation(#[from] Unclear),
    #[error("{0}; write its number")]
    Port(#[from] UnknownPort),
    #[error(
        "the {0} runs as user {1}, as the sidecar does: its connections would not be redirected; give it another"
    )]
    Uid(String, u32),
    #[error("the pod has no `spec`")]
    Shape,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Injected {
    /// It is left as it is, and why.
    Not(Cow<'static, str>),
    /// Operations of a JSON patch (RFC 6902), none where all is there already; and what will not work in the pod.
    Patch(Vec<Value>, Vec<String>),
}

/// Adds the sidecar to a pod, or whatever is missing of it.
///
/// # Errors
/// Where the pod asks for something that cannot be.
pub fn inject(pod: &Value, settings: &Injection) -> Result<Injected, Refused> {
    if !wanted(pod)? {
        return Ok(Injected::Not("the pod wants no sidecar".into()));
    }
    let spec = pod.get("spec").and_then(Value::as_object).ok_or(Refused::Shape)?;
    if spec.get("hostNetwork").is_some_and(|said| said == true) {
        return Ok(Injected::Not(
            "the pod is on the network of its node, which a sidecar would redirect".into(),
        ));
    }
    let wishes = Wishes::read(pod, settings)?;
    let warnings =
        if wishes.interception == Interception::Redirect { handlers(spec, &wishes) } else { Vec::new() };
    own_user(spec, settings.uid)?;
    let mut new = spec.clone();
    let mut annotations =
        pod.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
    let originals = lead_probes(&mut new, &annotations, &wishes, settings)?;
    add(&mut new, "volumes", &VOLUMES, volumes(settings).into());
    let mut ours = Vec::new();
    if wishes.interception == Interception::Redirect {
        ours.push(init(settings, &wishes));
    }
    ours.push(proxy(settings, &wishes, !originals.is_empty()));
    add(&mut new, "initContainers", &[INIT, PROXY], ours);
    note(&mut annotations, &originals, &wishes);
    Ok(Injected::Patch(patch(pod, spec, &new, &annotations), warnings))
}

/// Handlers of the lifecycle that the kubelet would call on a port of the pod: it has no identity to connect with, and
/// no answer of a probe to wait for.
fn handlers(spec: &Map<String, Value>, wishes: &Wishes) -> Vec<String> {
    let mut found = Vec::new();
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            for (moment, kind) in ["postStart", "preStop"]
                .into_iter()
                .flat_map(|moment| [(moment, "httpGet"), (moment, "tcpSocket")])
            {
                let handler = container.pointer(&format!("/lifecycle/{moment}/{kind}"));
                let elsewhere = |handler: &Value| {
                    handler.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty())
                };
                // One that has a name may be any.
                let redirected = |handler: &Value| {
                    let port = handler.get("port").and_then(Value::as_u64);
                    port.is_none_or(|port| wishes.redirects(port))
                };
                if handler.is_some_and(|it| it.is_object() && !elsewhere(it) && redirected(it)) {
                    found.push(format!(
                        "lifecycle.{moment}.{kind} of `{name}` will fail, as the sidecar lets nobody in without a \
                         certificate: use exec, or name its port in foregate.dev/skip-inbound-ports"
                    ));
                }
            }
        }
    }
    found
}

/// No other container may pass for the sidecar.
fn own_user(spec: &Map<String, Value>, uid: u32) -> Result<(), Refused> {
    let runs_so = |owner: &Value| owner.pointer("/securityContext/runAsUser").is_some_and(|said| said == uid);
    if spec
        .get("securityContext")
        .and_then(|context| context.get("runAsUser"))
        .is_some_and(|said| said == uid)
    {
        return Err(Refused::Uid("pod".to_owned(), uid));
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            if name != PROXY && runs_so(container) {
                return Err(Refused::Uid(format!("container `{name}`"), uid));
            }
        }
    }
    Ok(())
}

/// Has the probes of all other containers go through the sidecar, and tells what they were.
fn lead_probes(
    spec: &mut Map<String, Value>,
    annotations: &Map<String, Value>,
    wishes: &Wishes,
    settings: &Injection,
) -> Result<Originals, Refused> {
    let before = annotations.get(PROBES).and_then(Value::as_str);
    let before: Originals = before.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut found = Originals::new();
    if !wishes.rewrite_probes || wishes.interception == Interception::None {
        return Ok(found);
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.get("name").is_some_and(|name| name != PROXY) {
                probes::rewrite(container, settings.ports.probes, &before, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// Puts ours in front of a list, in the place of what an earlier call put there.
fn add(spec: &mut Map<String, Value>, field: &str, names: &[&str], ours: Vec<Value>) {
    let others = spec.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let is_ours =
        |entry: &Value| entry.get("name").and_then(Value::as_str).is_some_and(|name| names.contains(&name));
    let old: Vec<&Value> = others.iter().filter(|entry| is_ours(entry)).collect();
    let mut all: Vec<Value> = ours.into_iter().map(|ours| kept(ours, &old)).collect();
    all.extend(others.iter().filter(|entry| !is_ours(entry)).cloned());
    spec.insert(field.to_owned(), all.into());
}

/// What others added meanwhile to what is ours stays: fields, and mounts and variables of names that we do not use.
fn kept(mut ours: Value, old: &[&Value]) -> Value {
    let Some(old) =
        old.iter().find(|old| old.get("name") == ours.get("name")).and_then(|old| old.as_object())
    else {
        return ours;
    };
    if let Some(fields) = ours.as_object_mut() {
        for (field, value) in old {
            match (fields.get_mut(field), value) {
                (None, value) => drop(fields.insert(field.clone(), value.clone())),
                (Some(Value::Array(list)), Value::Array(more))
                    if matches!(field.as_str(), "env" | "volumeMounts") =>
                {
                    let key = if field == "env" { "name" } else { "mountPath" };
                    let new =
                        more.iter().filter(|entry| !list.iter().any(|own| own.get(key) == entry.get(key)));
                    let new: Vec<Value> = new.cloned().collect();
                    list.extend(new);
                }
                _ => {}
            }
        }
    }
    ours
}

fn note(annotations: &mut Map<String, Value>, originals: &Originals, wishes: &Wishes) {
    let containers: &[&str] =
        if wishes.interception == Interception::Redirect { &[INIT, PROXY] } else { &[PROXY] };
    let status = json!({ "initContainers": containers, "volumes": VOLUMES });
    annotations.insert(STATUS.to_owned(), status.to_string().into());
    if originals.is_empty() {
        annotations.remove(PROBES);
    } else {
        let mut sorted: Vec<_> = originals.iter().collect();
        sorted.sort_by_key(|(key, _)| key.as_str());
        let sorted: Map<String, Value> =
            sorted.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        annotations.insert(PROBES.to_owned(), Value::Object(sorted).to_string().into());
    }
}

/// Operations that make the one of the other: whole lists are replaced, so that the order is ours.
fn patch(
    pod: &Value,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    annotations: &Map<String, Value>,
) -> Vec<Value> {
    let mut operations = Vec::new();
    if pod.pointer("/metadata/annotations").and_then(Value::as_object) != Some(annotations) {
        operations.push(json!({ "op": "add", "path": "/metadata/annotations", "value": annotations }));
    }
    for (field, value) in new {
        if old.get(field) != Some(value) {
            operations.push(json!({ "op": "add", "path": format!("/spec/{field}"), "value": value }));
        }
    }
    operations
}
