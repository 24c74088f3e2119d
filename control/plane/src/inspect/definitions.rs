//! Which versions of the API are served, and whether our definitions are current.

use foregate_policy::codes;
use serde_json::Value;

use crate::inspect::Inspection;
use crate::inspect::read::{items, text};
use crate::kubernetes::crds::definition;
use crate::kubernetes::kinds::Resource;

/// Groups of Kubernetes itself that are spoken to, all in this version.
const GROUPS: [&str; 5] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "authentication.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];
const VERSION: &str = "v1";

/// Where the schema of a version is.
const SCHEMA: &str = "/schema/openAPIV3Schema";
/// Where a definition is read.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

impl Inspection {
    pub(super) async fn definitions(&mut self) {
        for group in GROUPS {
            let object = format!("apiservice/{VERSION}.{group}");
            let asked = self.reader.get(&format!("/apis/{group}")).await;
            let Some(found) = self.read(&object, asked) else { continue };
            let served = found.as_ref().is_some_and(|found| {
                items(found, "/versions").iter().any(|version| text(version, "/version") == VERSION)
            });
            if !served {
                let help = "Kubernetes serves it from 1.29 on: update the cluster";
                let message = format!("the API server does not serve {group}/{VERSION}");
                self.error(&object, codes::API_ABSENT, message, help);
            }
        }
        for resource in Resource::ALL {
            self.definition_of(resource).await;
        }
    }

    async fn definition_of(&mut self, resource: Resource) {
        let name = format!("{}.{}", resource.plural(), resource.group());
        let object = format!("customresourcedefinition/{name}");
        let asked = self.reader.get(&format!("{DEFINITIONS}/{name}")).await;
        let Some(found) = self.read(&object, asked) else { return };
        let help = if resource.is_ours() {
            "foregate-control crds | kubectl apply --server-side -f -"
        } else {
            "install the definitions of Gateway API 1.6 or later, standard channel"
        };
        let version = found.as_ref().and_then(|found| served(found, resource.version()));
        let Some(version) = version else {
            let message = match &found {
                None => format!("{} is not installed: no object of it is seen", resource.word()),
                Some(found) => format!(
                    "{} is not served as {}, but as {}",
                    resource.word(),
                    resource.version(),
                    versions(found)
                ),
            };
            // Whoever writes no such routes needs no such kind.
            let needed = resource.is_ours()
                || matches!(resource, Resource::GatewayClass | Resource::Gateway | Resource::HttpRoute);
            if needed {
                self.error(&object, codes::API_ABSENT, message, help);
            } else {
                self.warning(&object, codes::API_ABSENT, message, help);
            }
            return;
        };
        if !resource.is_ours() {
            return;
        }
        let wanted = definition(resource);
        let wanted = wanted.pointer("/spec/versions/0").and_then(|version| version.pointer(SCHEMA));
        if let Some(way) = difference(wanted, version.pointer(SCHEMA), String::new()) {
            let message = format!(
                "its schema is not that of this foregate-control; the first difference is at `{way}`"
            );
            self.error(&object, codes::DEFINITION_OTHER, message, help);
        }
    }
}

/// The version of a definition, where it is served.
fn served<'v>(definition: &'v Value, name: &str) -> Option<&'v Value> {
    let is_served = |version: &&Value| {
        text(version, "/name") == name && version.get("served").is_some_and(|served| served == true)
    };
    items(definition, "/spec/versions").iter().find(is_served)
}

fn versions(definition: &Value) -> String {
    let names: Vec<&str> =
        items(definition, "/spec/versions").iter().map(|version| text(version, "/name")).collect();
    names.join(", ")
}

/// The way to the first difference; numbers are what they are worth.
fn difference(ours: Option<&Value>, theirs: Option<&Value>, way: String) -> Option<String> {
    let below = |key: &str| if way.is_empty() { key.to_owned() } else { format!("{way}.{key}") };
    match (ours, theirs) {
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
            let mut keys = ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
            keys.find_map(|key| difference(ours.get(key), theirs.get(key), below(key)))
        }
        (Some(Value::Array(ours)), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).enumerate().find_map(|(index, (one, other))| {
                difference(Some(one), Some(other), format!("{way}[{index}]"))
            })
        }
        (Some(Value::Number(one)), Some(Value::Number(other))) if one.as_f64() == other.as_f64() => None,
        (ours, theirs) => (ours != theirs).then_some(way),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::difference;

    #[test]
    fn the_first_difference_is_named_by_its_way() {
        let ours = json!({ "a": { "minimum": 1, "enum": ["x", "y"] } });
        let same = json!({ "a": { "minimum": 1.0, "enum": ["x", "y"] } });
        assert_eq!(difference(Some(&ours), Some(&same), String::new()), None);
        let other = json!({ "a": { "minimum": 1, "enum": ["x", "z"] } });
        assert_eq!(difference(Some(&ours), Some(&other), String::new()).as_deref(), Some("a.enum[1]"));
        let more = json!({ "a": { "minimum": 1, "enum": ["x", "y"], "maximum": 2 } });
        assert_eq!(difference(Some(&ours), Some(&more), String::new()).as_deref(), Some("a.maximum"));
    }
}
