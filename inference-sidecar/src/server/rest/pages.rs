//! What is told of the server and its models, as JSON.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::fault::Fault;
use super::super::served::Served;
use super::super::tensors::Port;
use super::super::{EXTENSIONS, NAME};
use crate::protocol::BUNDLE;

pub(super) fn server() -> Value {
    json!({ "name": NAME, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS })
}

/// `served` is the one asked for; `versions` are all of that name.
pub(super) fn model(served: &Served, versions: &[Arc<Served>]) -> Value {
    let port =
        |port: &Port| json!({ "name": port.name, "datatype": port.datatype.name(), "shape": port.shape });
    json!({
        "name": served.name,
        "versions": versions.iter().map(|served| &*served.version).collect::<Vec<_>>(),
        "platform": served.platform(),
        "inputs": served.inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": served.outputs.iter().map(port).collect::<Vec<_>>(),
        "properties": { BUNDLE: served.digest() },
    })
}

pub(super) fn statistics(models: &[Arc<Served>]) -> Value {
    let line = |served: &Arc<Served>| {
        let counts = serde_json::to_value(served.statistics.counts()).unwrap_or_default();
        let mut line = json!({ "name": served.name, "version": served.version });
        if let (Value::Object(line), Value::Object(counts)) = (&mut line, counts) {
            line.extend(counts);
            line.insert("batch_stats".to_owned(), json!([]));
        }
        line
    };
    json!({ "model_stats": models.iter().map(line).collect::<Vec<_>>() })
}

/// As TensorFlow Serving tells it.
pub(super) fn status(models: &[Arc<Served>]) -> Value {
    let line = |served: &Arc<Served>| {
        json!({
            "version": served.version,
            "state": "AVAILABLE",
            "status": { "error_code": "OK", "error_message": "" },
        })
    };
    json!({ "model_version_status": models.iter().map(line).collect::<Vec<_>>() })
}

#[derive(Default, Deserialize)]
struct Asked<'a> {
    #[serde(default)]
    ready: bool,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

fn asked(body: &[u8]) -> Result<Asked<'_>, Fault> {
    if body.trim_ascii().is_empty() {
        return Ok(Asked::default());
    }
    serde_json::from_slice(body).map_err(|error| Fault::invalid(format!("the body: {error}")))
}

/// True where an index of loaded models alone is asked for.
pub(super) fn ready_alone(body: &[u8]) -> Result<bool, Fault> {
    Ok(asked(body)?.ready)
}

/// A model is loaded as it lies in the folder.
pub(super) fn check_load(body: &[u8]) -> Result<(), Fault> {
    let empty =
        |object: &str| object.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('}'));
    match asked(body)?.parameters {
        Some(parameters) if !empty(parameters.get()) => {
            Err(Fault::invalid("a model is loaded as it lies in the folder: no parameters"))
        }
        _ => Ok(()),
    }
}
