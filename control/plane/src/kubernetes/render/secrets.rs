//! Secrets that our kinds refer to, and files that they may not name.

use foregate_policy::codes;
use serde_json::{Map, Value, json};

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::Object;
use crate::kubernetes::references::{Holder, Reference};
use crate::kubernetes::render::{Rendering, text};
use crate::kubernetes::report::Verdict;

/// Fields whose text is the path of a file, or a variable, of the machine of a proxy.
const LOCAL: [&str; 4] = ["file", "env", "caFile", "endpointsFile"];

impl Rendering<'_> {
    /// The spec with its references to Secrets led into the tree.
    pub fn anchored(&mut self, object: &Object) -> Result<Value, Verdict> {
        let mut spec = object.spec.clone();
        // What is known of a client is anything at all; bundles of models lie where the proxies are.
        let free = matches!(object.key.resource, Resource::Consumer | Resource::Model);
        let mut walk = Walk { namespace: &object.key.namespace, wanted: Vec::new(), local: None, free };
        walk.value(&mut spec, &mut Vec::new());
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

struct Walk<'a> {
    namespace: &'a str,
    wanted: Vec<(Reference, String)>,
    /// The way to a file that is named.
    local: Option<String>,
    free: bool,
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
