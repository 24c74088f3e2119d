//! Checks an object before it is stored, and tells what is wrong with it.

use std::path::PathBuf;
use std::sync::Arc;

use foregate_filters::fault::Code;
use foregate_policy::codes;
use foregate_policy::compile::{Options, compile};
use foregate_policy::diagnostic::{Diagnostic, Severity};
use foregate_policy::load::Sources;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::declared::Declared;
use crate::injection::review::{Answer, Asked};
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::{Object, World};
use crate::kubernetes::render;
use crate::kubernetes::verdict::{told, way};

/// Faults that may be mended by objects that come later.
const OF_OTHERS: [Code; 9] = [
    Code::REFERENCE,
    Code::FILE,
    Code::SECRET,
    Code::MODEL,
    codes::NOT_GRANTED,
    codes::SERVICE_UNKNOWN,
    codes::LISTENER_CONFLICT,
    codes::NOT_ALLOWED,
    codes::ROUTE_PROTOCOL,
];
/// Warnings that only the whole can give.
const OF_THE_WHOLE: [Code; 9] = [
    codes::POLICY_WITHOUT_TARGET,
    codes::UPSTREAM_UNUSED,
    codes::MODEL_UNUSED,
    codes::STORE_UNUSED,
    codes::ROUTE_DETACHED,
    codes::GATEWAY_EMPTY,
    codes::CONSUMER_IDLE,
    codes::GROUP_UNKNOWN,
    codes::ROUTE_SHADOWED,
];

/// The answer about an object; `world` is what the controller has seen.
pub fn validate(asked: &Asked, world: &World) -> Answer {
    if asked.operation == "DELETE" || asked.sub_resource.as_deref().is_some_and(|part| !part.is_empty()) {
        return Answer::default();
    }
    let kind = asked.object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some(resource) = Resource::find(kind) else { return Answer::default() };
    let version = asked.object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if resource.document().is_none()
        || version.split_once('/').map(|(group, _)| group) != Some(resource.group())
    {
        return Answer::default();
    }
    let Ok(read) = serde_json::from_value::<DynamicObject>(asked.object.clone()) else {
        return Answer::refused("this is no object of Kubernetes");
    };
    let mut object = Object::read(resource, read);
    if object.key.namespace.is_empty() {
        object.key.namespace = asked.namespace.as_str().into();
    }
    // An object whose end has begun, and changes that leave its spec alone, are not in the way of anything.
    let ends = asked.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if ends || (asked.operation == "UPDATE" && asked.old_object.get("spec") == asked.object.get("spec")) {
        return Answer::default();
    }
    judge(&object, world)
}

fn judge(object: &Object, world: &World) -> Answer {
    let text = match render::alone(&Arc::new(object.clone()), world) {
        Ok(Some(text)) => text,
        // It is not for this controller.
        Ok(None) => return Answer::default(),
        Err(why) => return Answer::refused(format!("{}\n{}", head(object), why.message)),
    };
    let path = render::path(&object.key);
    // What is missing may be on its way.
    let mut sources = Sources { incomplete: true, ..Sources::default() };
    sources.add(PathBuf::from(path), text);
    let diagnostics = match compile(&sources, &Declared::default(), Options::default()) {
        Ok(snapshot) => snapshot.warnings,
        Err(faults) => faults,
    };
    let (faults, warnings): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        diagnostics.iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    let text = |diagnostic: &&Diagnostic| told(diagnostic, way(&sources, diagnostic).as_ref());
    let faults: Vec<String> =
        faults.iter().filter(|fault| !OF_OTHERS.contains(&fault.code)).map(text).collect();
    let warnings =
        warnings.iter().filter(|warning| !OF_THE_WHOLE.contains(&warning.code)).map(text).collect();
    let refusal = (!faults.is_empty()).then(|| format!("{}\n{}", head(object), faults.join("\n")));
    Answer { patch: Vec::new(), refusal, warnings }
}

fn head(object: &Object) -> String {
    format!("the {} is refused; `foregate explain CODE` tells more of each fault:", object.key)
}
