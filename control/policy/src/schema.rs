//! The JSON Schema of every kind of document, generated from the types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::document::Kind;
use crate::documents::{
    backend_tls, case, consumer, gateway, grpc_route, http_route, model, policy, reference_grant, store,
    stream_route, upstream,
};

/// Where editors find the schema of this version.
pub const ID: &str = "https://foregate.dev/schemas/v1alpha1/policy.json";

/// The schema of one kind, without references.
pub fn of(kind: Kind) -> Value {
    let mut schema = match kind {
        Kind::Gateway => generate::<gateway::Gateway>(),
        Kind::HttpRoute => generate::<http_route::HttpRoute>(),
        Kind::TcpRoute => generate::<stream_route::TcpRoute>(),
        Kind::TlsRoute => generate::<stream_route::TlsRoute>(),
        Kind::BackendTlsPolicy => generate::<backend_tls::BackendTlsPolicy>(),
        Kind::GrpcRoute => generate::<grpc_route::GrpcRoute>(),
        Kind::ReferenceGrant => generate::<reference_grant::ReferenceGrant>(),
        Kind::Upstream => generate::<upstream::Upstream>(),
        Kind::Policy => generate::<policy::Policy>(),
        Kind::Model => generate::<model::Model>(),
        Kind::Consumer => generate::<consumer::Consumer>(),
        Kind::Store => generate::<store::Store>(),
        Kind::Case => generate::<case::Case>(),
    };
    if kind == Kind::Policy {
        for list in ["allow", "deny", "trustedProxies"] {
            mark_networks(&mut schema, list);
        }
    }
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.insert("title".to_owned(), json!(kind.word()));
    }
    if let Some(properties) = schema.pointer_mut("/properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".to_owned(), json!({ "const": kind.api_version() }));
        properties.insert("kind".to_owned(), json!({ "const": kind.word() }));
    }
    schema
}

/// One schema for every document that a policy folder may hold.
pub fn all() -> Value {
    let kinds: Vec<Value> = Kind::ALL.into_iter().map(of).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "Foregate policy document",
        "description": "One document of a policy folder: listeners, routes, upstreams, policies, models, consumers, stores, cases.",
        "oneOf": kinds
    })
}

/// The text of [`all`] as it is committed and printed.
pub fn text() -> String {
    format!("{:#}\n", all())
}

fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The filters' types say "a list of strings" of networks: say which strings.
fn mark_networks(schema: &mut Value, list: &str) {
    let Some(addresses) = schema.pointer_mut("/properties/spec/properties/addresses") else { return };
    let branches: Vec<&mut Value> = match addresses.get("anyOf") {
        Some(_) => match addresses.pointer_mut("/anyOf").and_then(Value::as_array_mut) {
            Some(branches) => branches.iter_mut().collect(),
            None => return,
        },
        None => vec![addresses],
    };
    for branch in branches {
        let items = branch.pointer_mut(&format!("/properties/{list}/items")).and_then(Value::as_object_mut);
        if let Some(items) = items {
            items.insert("format".to_owned(), json!("cidr"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{all, of, text};
    use crate::document::Kind;

    #[test]
    fn the_committed_schema_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/schema.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        if std::env::var_os("FOREGATE_WRITE_SCHEMA").is_some() && committed != text() {
            std::fs::write(path, text()).unwrap();
            return;
        }
        assert!(
            committed == text(),
            "policies/schema.json is stale: run this test with FOREGATE_WRITE_SCHEMA=1"
        );
    }

    #[test]
    fn schemas_need_no_references_and_refuse_unknown_fields() {
        let schema = text();
        assert!(!schema.contains("$ref"), "a schema refers to another");
        for kind in Kind::ALL {
            assert_eq!(of(kind)["additionalProperties"], false, "{}", kind.word());
            assert_eq!(of(kind)["properties"]["kind"]["const"], kind.word());
        }
        assert_eq!(all()["oneOf"].as_array().unwrap().len(), Kind::ALL.len());
        assert_eq!(schema.matches("\"cidr\"").count(), 4);
    }
}
