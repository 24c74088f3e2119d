//! Secrets that our kinds refer to, and files that they may not name.

use foregate_policy::codes;
use serde_json::{Map, Value, json};

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::Object;
use crate::kubernetes::references::{Holder, Reference};
use crate::kubernetes::render::{Rendering, list, text};
use crate::kubernetes::report::Verdict;

/// Fields whose text is the path of a file, or a variable, of the machine of a proxy.
const LOCAL: [&str; 4] = ["file", "env", "caFile", "endpointsFile"];
/// Below this, proxies have a folder with the features of each namespace.
const FEATURES: &str = "/var/lib/foregate/features";

impl Rendering<'_> {
    /// The spec with its references to Secrets led into the tree.
    pub fn anchored(&mut self, object: &Object) -> Result<Value, Verdict> {
        let mut spec = object.spec.clone();
        // What is known of a client is anything at all.
        let free = object.key.resource == Resource::Consumer;
        let model = object.key.resource == Resource::Model;
        let mut walk =
            Walk { namespace: &object.key.namespace, wanted: Vec::new(), local: None, free, model };
        walk.value(&mut spec, &mut Vec::new());
        if model {
            model_files(&object.key.namespace, &spec)?;
        }
        if let Some(way) = walk.local {
            let message = format!(
                "{}: {way}: an object cannot name a file or variable of the proxies; use secretRef",
                codes::LOCAL_FILE
            );
            return Err(Verdict::bad("Invalid", message));
        }
        for (reference, key) in walk.wanted {
            if let Some(why) = self.need(&reference, &key) {
                return Err(Verdict::bad("InvalidSecretRef", format!("{}: {why}", codes::OBJECT_REFUSED)));
            }
        }
        Ok(spec)
    }
}

/// Tells of paths that a model may not name. Its bundles, and the keys that these are signed with, lie where the proxies
/// are; its features, which are written to, in a folder for each namespace.
fn model_files(namespace: &str, spec: &Value) -> Result<(), Verdict> {
    let bundles = list(spec, "versions").iter().chain([spec]).filter_map(|holder| holder.get("bundle"));
    let mut beside = bundles.filter_map(|bundle| text(bundle, "path"));
    let mut signers = list(spec, "signedBy").iter().filter_map(|key| text(key, "file"));
    if let Some(path) = beside.find(|path| !is_plain(path)).or_else(|| signers.find(|path| !is_plain(path))) {
        let message = format!(
            "{}: `{path}`: an object has no files beside it; write an absolute path that every proxy has",
            codes::FILE_ABSENT
        );
        return Err(Verdict::bad("Invalid", message));
    }
    let own = format!("{FEATURES}/{namespace}/");
    let store = spec.get("featureStore").unwrap_or(&Value::Null);
    for field in ["path", "inbox"] {
        if text(store, field).is_some_and(|path| !path.starts_with(&own) || !is_plain(path)) {
            let message = format!(
                "{}: spec.featureStore.{field}: the features of this namespace are below {own}",
                codes::LOCAL_FILE
            );
            return Err(Verdict::bad("Invalid", message));
        }
    }
    Ok(())
}

/// True for an absolute path that goes straight on.
fn is_plain(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

struct Walk<'a> {
    namespace: &'a str,
    wanted: Vec<(Reference, String)>,
    /// The way to a file that is named.
    local: Option<String>,
    free: bool,
    model: bool,
}

impl Walk<'_> {
    fn value(&mut self, value: &mut Value, way: &mut Vec<String>) {
        match value {
            Value::Object(fields) => self.fields(fields, way),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    way.push(format!("[{index}]"));
                    self.value(item, way);
                    way.pop();
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &mut Map<String, Value>, way: &mut Vec<String>) {
        for (field, value) in fields {
            way.push(format!(".{field}"));
            match field.as_str() {
                "secretRef" if value.is_object() => self.secret(value),
                "clientCertificateRef" if value.is_object() => self.certificate(value),
                // Told by `model_files`.
                "signedBy" if self.model => {}
                local if LOCAL.contains(&local) && value.is_string() && !self.free => {
                    self.local.get_or_insert_with(|| format!("spec{}", way.concat()));
                }
                // Schemas of bodies are what others wrote: their fields mean nothing here.
                "inline" => {}
                _ => self.value(value, way),
            }
            way.pop();
        }
    }

    fn secret(&mut self, value: &mut Value) {
        let (name, key) = (text(value, "name").unwrap_or_default(), text(value, "key").unwrap_or_default());
        if name.is_empty() || key.is_empty() {
            return;
        }
        let reference = Reference::new(Holder::Secret, self.namespace, name);
        self.wanted.push((reference.clone(), key.to_owned()));
        if let Some(fields) = value.as_object_mut() {
            fields.insert("name".to_owned(), json!(reference.folder()));
        }
    }

    fn certificate(&mut self, value: &mut Value) {
        let Some(name) = text(value, "name") else { return };
        let reference = Reference::new(Holder::Secret, self.namespace, name);
        for key in ["tls.crt", "tls.key"] {
            self.wanted.push((reference.clone(), key.to_owned()));
        }
        if let Some(fields) = value.as_object_mut() {
            fields.insert("name".to_owned(), json!(reference.folder()));
        }
    }
}
