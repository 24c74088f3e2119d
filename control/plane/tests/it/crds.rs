//! The definitions of our kinds: fresh, structural, as wide as their source.

use std::path::{Path, PathBuf};

use foregate_control::kubernetes::crds::{definition, file};
use foregate_control::kubernetes::kinds::Resource;
use foregate_policy::load::load_folder;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds")
}

#[test]
fn the_committed_definitions_are_fresh() {
    let mut names = Vec::new();
    for resource in Resource::OURS {
        let (name, text) = file(resource);
        let path = folder().join(&name);
        names.push(name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        if std::env::var_os("FOREGATE_WRITE_CRDS").is_some() && committed != text {
            std::fs::write(&path, text).unwrap();
            continue;
        }
        assert!(committed == text, "{} is stale: run this test with FOREGATE_WRITE_CRDS=1", path.display());
    }
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name} is of no kind");
    }
}

/// Words that a schema of apiextensions v1 may use.
const ALLOWED: [&str; 20] = [
    "type",
    "description",
    "format",
    "enum",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
];

fn structural(schema: &Value, way: &str, faults: &mut Vec<String>) {
    let fields = schema.as_object().unwrap_or_else(|| panic!("{way}: {schema}"));
    for word in fields.keys().filter(|word| !ALLOWED.contains(&word.as_str())) {
        faults.push(format!("{way}: `{word}`"));
    }
    let free = fields.get("x-kubernetes-preserve-unknown-fields").is_some();
    match fields.get("type").and_then(Value::as_str) {
        Some("array") => structural(&fields["items"], &format!("{way}[]"), faults),
        Some("object") => {
            let (properties, more) = (fields.get("properties"), fields.get("additionalProperties"));
            if properties.is_some() && more.is_some()
                || properties.is_none() && more.is_none() && !free && way != ".metadata"
            {
                faults.push(format!("{way}: either properties or additionalProperties"));
            }
            for (name, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
                structural(schema, &format!("{way}.{name}"), faults);
            }
            if let Some(more) = more {
                structural(more, &format!("{way}.*"), faults);
            }
        }
        Some("string" | "integer" | "number" | "boolean") => {}
        None if free => {}
        other => faults.push(format!("{way}: the type is {other:?}")),
    }
}

#[test]
fn the_definitions_obey_the_rules_of_structural_schemas() {
    for resource in Resource::OURS {
        let definition = definition(resource);
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut faults = Vec::new();
        structural(schema, "", &mut faults);
        assert!(faults.is_empty(), "{}: {}", resource.word(), faults.join("\n"));
        assert_eq!(definition["metadata"]["name"], format!("{}.foregate.dev", resource.plural()));
    }
}

/// As the API server does: what the schema does not know is gone. Tells what it would refuse.
fn pruned(value: &Value, schema: &Value, way: &str, faults: &mut Vec<String>) -> Value {
    if let Some(list) = schema["enum"].as_array()
        && !list.contains(value)
    {
        faults.push(format!("{way}: {value} is none of {list:?}"));
    }
    let fits = match (value, schema["type"].as_str()) {
        (_, None)
        | (Value::Object(_), Some("object"))
        | (Value::Array(_), Some("array"))
        | (Value::String(_), Some("string"))
        | (Value::Bool(_), Some("boolean"))
        | (Value::Number(_), Some("number")) => true,
        (Value::Number(number), Some("integer")) => !number.is_f64(),
        (Value::Null, _) => schema["nullable"] == true,
        _ => false,
    };
    if !fits {
        faults.push(format!("{way}: {value} is no {}", schema["type"]));
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return value.clone();
    }
    match value {
        Value::Object(fields) => {
            let inner = |name: &str| {
                let known = schema["properties"].get(name);
                known.or_else(|| schema.get("additionalProperties")).cloned()
            };
            let kept = fields.iter().filter_map(|(name, value)| {
                Some((name.clone(), pruned(value, &inner(name)?, &format!("{way}.{name}"), faults)))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(at, item)| pruned(item, &schema["items"], &format!("{way}[{at}]"), faults))
            .collect(),
        value => value.clone(),
    }
}

#[test]
fn every_policy_that_is_shipped_passes_the_api_server_as_it_is() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut seen = std::collections::BTreeSet::new();
    for entry in
        std::fs::read_dir(policies).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir())
    {
        for document in load_folder(&entry.path()).unwrap().documents {
            let ours = Resource::OURS.into_iter().find(|resource| resource.document() == Some(document.kind));
            let Some(resource) = ours else { continue };
            seen.insert(resource);
            let schema = definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
            let spec = document.root.key("spec").unwrap().to_json();
            let mut faults = Vec::new();
            let kept = pruned(&spec, &schema, "spec", &mut faults);
            let place = format!("{}: {}", document.file.path.display(), document.name);
            assert!(faults.is_empty(), "{place}: {}", faults.join("\n"));
            assert_eq!(kept, spec, "{place}");
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[test]
fn the_command_prints_what_is_committed() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_foregate-control")).arg("crds").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let committed =
        Resource::OURS.map(|resource| std::fs::read_to_string(folder().join(file(resource).0)).unwrap());
    assert_eq!(text, committed.join("---\n"));
    assert_eq!(
        foregate_policy::parse::foreign(&committed[0], 100_000, 64).unwrap().key("kind").unwrap().text(),
        Some("CustomResourceDefinition")
    );
}
