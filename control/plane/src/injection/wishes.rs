//! What a pod asks for by its annotations.

use std::fmt;

use foregate_policy::redirect::{Ports, subnets};
use serde_json::{Value, json};

use crate::injection::settings::{Injection, Interception};

/// What all annotations of ours begin with.
pub const PREFIX: &str = "foregate.dev/";
/// Written to pods that were injected: the names of what was added.
pub const STATUS: &str = "foregate.dev/status";
/// Written to pods whose probes go through the sidecar: what they were.
pub const PROBES: &str = "foregate.dev/probes";

/// Annotations that pods may have.
const KNOWN: [&str; 13] = [
    "inject",
    "interception",
    "skip-inbound-ports",
    "inbound-only-ports",
    "skip-outbound-ports",
    "skip-subnets",
    "rewrite-probes",
    "cpu-request",
    "memory-request",
    "cpu-limit",
    "memory-limit",
    "status",
    "probes",
];

/// The wishes of one pod, over what is the same for all.
#[derive(Clone, Debug, PartialEq)]
pub struct Wishes {
    pub interception: Interception,
    /// Arguments of `foregate init`.
    pub init: Vec<String>,
    pub rewrite_probes: bool,
    pub resources: Value,
}

/// An annotation that says nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unclear {
    pub annotation: String,
    pub message: String,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata.annotations[{PREFIX}{}]: {}", self.annotation, self.message)
    }
}

fn unclear(annotation: &str, message: impl Into<String>) -> Unclear {
    Unclear { annotation: annotation.to_owned(), message: message.into() }
}

/// False where a pod wants no sidecar, by label or annotation.
///
/// # Errors
/// Where it is said otherwise than with true or false.
pub fn wanted(pod: &Value) -> Result<bool, Unclear> {
    for field in ["/metadata/annotations", "/metadata/labels"] {
        let Some(said) = pod.pointer(field).and_then(|all| all.get(format!("{PREFIX}inject"))) else {
            continue;
        };
        return match said.as_str() {
            Some("true" | "enabled") => Ok(true),
            Some("false" | "disabled") => Ok(false),
            _ => Err(unclear("inject", "write \"true\" or \"false\"")),
        };
    }
    Ok(true)
}

impl Wishes {
    /// Reads the annotations of a pod.
    ///
    /// # Errors
    /// The first annotation that is unknown or says nothing that can be done.
    pub fn read(pod: &Value, settings: &Injection) -> Result<Self, Unclear> {
        let none = serde_json::Map::new();
        let all = pod.pointer("/metadata/annotations").and_then(Value::as_object).unwrap_or(&none);
        for name in all.keys().filter_map(|name| name.strip_prefix(PREFIX)) {
            if !KNOWN.contains(&name) {
                return Err(unclear(
                    name,
                    format!("there is no such annotation; there are {}", KNOWN.join(", ")),
                ));
            }
        }
        let said = |name: &str| all.get(&format!("{PREFIX}{name}")).and_then(Value::as_str);
        let interception = match said("interception") {
            None => settings.interception,
            Some("redirect") => Interception::Redirect,
            Some("none") => Interception::None,
            Some(_) => return Err(unclear("interception", "write redirect or none")),
        };
        let rewrite_probes = match said("rewrite-probes") {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(unclear("rewrite-probes", "write \"true\" or \"false\"")),
        };
        Ok(Self {
            interception,
            init: init(&said, settings)?,
            rewrite_probes,
            resources: resources(&said, settings)?,
        })
    }

    /// True where connections to this port of the pod are led to the sidecar.
    pub fn redirects(&self, port: u64) -> bool {
        let listed = |name: &str| {
            let at = self.init.iter().position(|argument| argument == name)?;
            let ports: Ports = self.init.get(at + 1)?.parse().ok()?;
            Some(u16::try_from(port).is_ok_and(|port| ports.contains(port)))
        };
        listed("--inbound-only-ports").unwrap_or_else(|| listed("--skip-inbound-ports") != Some(true))
    }
}

/// Arguments of the init container.
fn init<'a>(said: &impl Fn(&str) -> Option<&'a str>, settings: &Injection) -> Result<Vec<String>, Unclear> {
    let ports = settings.ports;
    let mut arguments: Vec<String> = [
        ("--proxy-uid", settings.uid.to_string()),
        ("--inbound-port", ports.inbound.to_string()),
        ("--outbound-port", ports.outbound.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    if let Some(only) = said("inbound-only-ports") {
        if said("skip-inbound-ports").is_some() {
            return Err(unclear("inbound-only-ports", "it does not go together with skip-inbound-ports"));
        }
        arguments.extend(["--inbound-only-ports".to_owned(), port_list("inbound-only-ports", only)?]);
    } else {
        // Probes come from the kubelet, which has no identity.
        let mut skipped = ports.probes.to_string();
        if let Some(more) = said("skip-inbound-ports") {
            let more = port_list("skip-inbound-ports", more)?;
            skipped = port_list("skip-inbound-ports", &format!("{skipped},{more}"))?;
        }
        arguments.extend(["--skip-inbound-ports".to_owned(), skipped]);
    }
    if let Some(skipped) = said("skip-outbound-ports") {
        arguments.extend(["--skip-outbound-ports".to_owned(), port_list("skip-outbound-ports", skipped)?]);
    }
    if let Some(subnets) = said("skip-subnets") {
        arguments.extend(["--skip-subnets".to_owned(), subnet_list(subnets)?]);
    }
    Ok(arguments)
}

/// Networks and addresses, as `foregate init` reads them: it would fail in the pod for ever.
fn subnet_list(text: &str) -> Result<String, Unclear> {
    match subnets(text) {
        Ok(subnets) if subnets.is_empty() => Err(unclear("skip-subnets", "it names no subnet")),
        Ok(_) => Ok(parts(text)),
        Err(message) => Err(unclear("skip-subnets", message)),
    }
}

/// Ports and ranges of ports, as `foregate init` reads them.
fn port_list(annotation: &str, text: &str) -> Result<String, Unclear> {
    match text.parse::<Ports>() {
        Ok(ports) if ports.is_empty() => Err(unclear(annotation, "it names no port")),
        Ok(_) => Ok(parts(text)),
        Err(error) => Err(unclear(annotation, error.to_string())),
    }
}

/// A list as an argument: without what may stand around its parts.
fn parts(text: &str) -> String {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    parts.join(",")
}

fn resources<'a>(said: &impl Fn(&str) -> Option<&'a str>, settings: &Injection) -> Result<Value, Unclear> {
    let mut resources = json!(settings.resources);
    for (annotation, list, resource) in [
        ("cpu-request", "requests", "cpu"),
        ("memory-request", "requests", "memory"),
        ("cpu-limit", "limits", "cpu"),
        ("memory-limit", "limits", "memory"),
    ] {
        let Some(quantity) = said(annotation) else { continue };
        if !is_quantity(quantity) {
            return Err(unclear(annotation, format!("`{quantity}` is not a quantity such as 100m or 64Mi")));
        }
        if let Some(all) = resources.as_object_mut() {
            let list = all.entry(list).or_insert_with(|| json!({}));
            if let Some(list) = list.as_object_mut() {
                list.insert(resource.to_owned(), quantity.into());
            }
        }
    }
    Ok(resources)
}

/// A positive quantity of Kubernetes without exponent.
fn is_quantity(text: &str) -> bool {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let known = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit);
    known && number.parse::<f64>().is_ok_and(|number| number > 0.0)
}
