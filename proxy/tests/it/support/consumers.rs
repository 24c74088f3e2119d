//! Consumers whose keys a test knows.

use foregate_filters::api_key::key::{Digest, key, prefix};

/// A client with one key.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: &'static str,
    pub key: String,
}

/// A consumer of this name; each has another key.
pub fn known(name: &'static str) -> Known {
    let digest = Digest::of_key(name).to_string();
    let bytes = digest.as_bytes();
    Known { name, key: key(bytes[7..15].try_into().unwrap(), bytes[15..47].try_into().unwrap()) }
}

impl Known {
    /// Its document; `more` are further fields of the key and of the spec, such as `("expires: ..", "groups: [a]")`.
    pub fn document(&self, of_key: &str, of_spec: &str) -> String {
        let (prefix, hash) = (prefix(&self.key).unwrap(), Digest::of_key(&self.key));
        let comma = |more: &str| if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "
apiVersion: foregate.dev/v1alpha1
kind: Consumer
metadata: {{ name: {} }}
spec: {{ keys: [{{ prefix: \"{prefix}\", hash: \"{hash}\"{} }}]{} }}
---",
            self.name,
            comma(of_key),
            comma(of_spec)
        )
    }
}
