//! `CustomResourceDefinitions` of our kinds, generated from the schemas of their documents.

use foregate_policy::compile::backends::RESERVED;
use foregate_policy::schema;
use serde_json::{Map, Value, json};

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::yaml;

/// Formats that the API server knows; others would only look as if they were checked.
const FORMATS: [&str; 6] = ["int32", "int64", "float", "double", "date-time", "cidr"];
/// What is said of values in the same words.
const KEPT: [&str; 9] = [
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "required",
    "description",
];

/// The file name of a definition, and its text.
pub fn file(resource: Resource) -> (String, String) {
    let name = format!("{}_{}.yaml", resource.group(), resource.plural());
    (
        name,
        format!(
            "# Generated: run the tests of foregate-control with FOREGATE_WRITE_CRDS=1.\n{}",
            yaml::write(&definition(resource))
        ),
    )
}

/// The whole definition.
pub fn definition(resource: Resource) -> Value {
    let (plural, word) = (resource.plural(), resource.word());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{}", resource.group()) },
        "spec": {
            "group": resource.group(),
            "names": {
                "kind": word,
                "listKind": format!("{word}List"),
                "plural": plural,
                "singular": word.to_lowercase(),
                "categories": ["foregate"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": resource.version(),
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Accepted", "type": "string", "jsonPath": accepted(resource) },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": root(resource) },
            }],
        },
    })
}

fn accepted(resource: Resource) -> &'static str {
    if resource == Resource::Policy {
        ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status"
    } else {
        ".status.conditions[?(@.type==\"Accepted\")].status"
    }
}

fn root(resource: Resource) -> Value {
    let source = resource.document().map(schema::of).unwrap_or_default();
    let spec = source.pointer("/properties/spec").map(structural).unwrap_or_default();
    let spec = ruled(resource, spec);
    let mut root = json!({
        "type": "object",
        "description": format!("A {} of {}.", resource.word(), resource.api_version()),
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec,
            "status": status(resource),
        },
    });
    if resource == Resource::Upstream
        && let Some(fields) = root.as_object_mut()
    {
        let rule = json!([{
            "rule": format!("!self.metadata.name.startsWith('{RESERVED}')"),
            "message": format!("FG0793: names that begin with `{RESERVED}` are for Services"),
        }]);
        fields.insert("x-kubernetes-validations".to_owned(), rule);
    }
    root
}

/// What an object may not say, though a document of a folder may.
fn ruled(resource: Resource, mut spec: Value) -> Value {
    if resource == Resource::Upstream
        && let Some(fields) = spec.as_object_mut()
    {
        let rules = json!([{
            "rule": "!has(self.endpointsFile)",
            "message": "FG0792: an object cannot name a file of the proxies; write endpoints, or lead to a Service",
        }]);
        fields.insert("x-kubernetes-validations".to_owned(), rules);
    }
    secrets(&mut spec);
    spec
}

/// References to secrets lead to Secrets alone.
fn secrets(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let names: Vec<String> = fields
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .cloned()
        .collect();
    if ["env", "file", "secretRef"].iter().all(|name| names.iter().any(|known| known == name)) {
        let rules = json!([{
            "rule": "has(self.secretRef) && !has(self.env) && !has(self.file)",
            "message": "FG0792: an object cannot name a file or variable of the proxies; use secretRef",
        }]);
        fields.insert("x-kubernetes-validations".to_owned(), rules);
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(secrets);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            secrets(inner);
        }
    }
}

/// A schema by the rules of structural schemas: every value has one type, and nothing is said twice. What fields are
/// unknown is for the API server to tell; defaults are left to the reader, so that objects stay as they were written.
pub fn structural(source: &Value) -> Value {
    let Some(fields) = source.as_object() else { return anything(None) };
    let description = fields.get("description");
    if let Some(words) = words(source) {
        return enumeration(&words, &told(source));
    }
    if let Some(branches) = fields.get("oneOf").or_else(|| fields.get("anyOf")).and_then(Value::as_array) {
        let nullable = branches.iter().any(is_null);
        let others: Vec<&Value> = branches.iter().filter(|branch| !is_null(branch)).collect();
        let [only] = others.as_slice() else { return anything(description) };
        return described(structural(only), description, nullable);
    }
    let (kind, nullable) = match fields.get("type") {
        Some(Value::String(kind)) => (kind.as_str(), false),
        Some(Value::Array(kinds)) => {
            let others: Vec<&str> =
                kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            let [only] = others.as_slice() else { return anything(description) };
            (*only, true)
        }
        _ => return anything(description),
    };
    let mut out = Map::new();
    out.insert("type".to_owned(), kind.into());
    for field in KEPT {
        if let Some(value) = fields.get(field) {
            out.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(format) = fields.get("format").filter(|format| FORMATS.iter().any(|known| *format == known)) {
        out.insert("format".to_owned(), format.clone());
    }
    if kind == "array" {
        out.insert("items".to_owned(), fields.get("items").map_or_else(|| anything(None), structural));
    }
    if kind == "object" {
        members(fields, &mut out);
    }
    described(Value::Object(out), None, nullable)
}

fn members(fields: &Map<String, Value>, out: &mut Map<String, Value>) {
    if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
        let properties: Map<String, Value> =
            properties.iter().map(|(name, schema)| (name.clone(), structural(schema))).collect();
        out.insert("properties".to_owned(), properties.into());
        return;
    }
    match fields.get("additionalProperties") {
        Some(schema) if schema.as_object().is_some_and(|schema| !schema.is_empty()) => {
            out.insert("additionalProperties".to_owned(), structural(schema));
        }
        _ => {
            out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
        }
    }
}

/// A value that is checked when documents are read, and not before.
fn anything(description: Option<&Value>) -> Value {
    described(json!({ "x-kubernetes-preserve-unknown-fields": true }), description, false)
}

fn described(mut schema: Value, description: Option<&Value>, nullable: bool) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        if let Some(description) = description {
            fields.insert("description".to_owned(), description.clone());
        }
        if nullable {
            fields.insert("nullable".to_owned(), true.into());
        }
    }
    schema
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

/// The closed list of values that a schema allows, however it is written; `Null` where none may stand.
fn words(schema: &Value) -> Option<Vec<Value>> {
    if let Some(word) = schema.get("const") {
        return Some(vec![word.clone()]);
    }
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return Some(list.clone());
    }
    let list = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array)?;
    let mut all = Vec::new();
    for schema in list {
        if is_null(schema) {
            all.push(Value::Null);
        } else {
            all.append(&mut words(schema)?);
        }
    }
    Some(all)
}

/// The description, and those of each value.
fn told(schema: &Value) -> String {
    let text = |schema: &Value| schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let mut lines: Vec<String> = text(schema).into_iter().collect();
    let branches = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    for branch in branches.into_iter().flatten() {
        match (branch.get("const").and_then(Value::as_str), text(branch)) {
            (Some(word), Some(text)) => lines.push(format!("{word}: {text}")),
            (None, _) if !is_null(branch) => {
                let inner = told(branch);
                if !inner.is_empty() {
                    lines.push(inner);
                }
            }
            _ => {}
        }
    }
    lines.join("\n")
}

fn enumeration(words: &[Value], description: &str) -> Value {
    let values: Vec<&Value> = words.iter().filter(|word| !word.is_null()).collect();
    let kind = match values.first() {
        Some(Value::String(_)) => "string",
        Some(Value::Number(number)) if !number.is_f64() => "integer",
        Some(Value::Bool(_)) => "boolean",
        _ => return anything(None),
    };
    let mut schema = json!({ "type": kind, "enum": values });
    if let Some(fields) = schema.as_object_mut() {
        if !description.is_empty() {
            fields.insert("description".to_owned(), description.into());
        }
        if values.len() < words.len() {
            fields.insert("nullable".to_owned(), true.into());
            // What may be null has to be in the list as well.
            if let Some(list) = fields.get_mut("enum").and_then(Value::as_array_mut) {
                list.push(Value::Null);
            }
        }
    }
    schema
}

fn status(resource: Resource) -> Value {
    let conditions = conditions();
    if resource != Resource::Policy {
        return json!({ "type": "object", "properties": { "conditions": conditions } });
    }
    let reference =
        |name: &str, longest: u32| (name.to_owned(), json!({ "type": "string", "maxLength": longest }));
    let fields: Map<String, Value> = [
        reference("group", 253),
        reference("kind", 63),
        reference("namespace", 63),
        reference("name", 253),
        reference("sectionName", 253),
    ]
    .into_iter()
    .collect();
    json!({
        "type": "object",
        "properties": {
            "ancestors": {
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["ancestorRef", "controllerName"],
                    "properties": {
                        "ancestorRef": { "type": "object", "required": ["name"], "properties": fields },
                        "controllerName": { "type": "string", "minLength": 1, "maxLength": 253 },
                        "conditions": conditions,
                    },
                },
            },
        },
    })
}

fn conditions() -> Value {
    json!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
            },
        },
    })
}
