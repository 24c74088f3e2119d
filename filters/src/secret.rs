//! Secrets: named by reference in documents, kept out of every text in memory.

use std::fmt;
use std::path::Path as FilePath;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::fault::{Code, Fault, Path};

/// Longest secret in bytes: private keys in PEM are a few KiB.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Where a secret is: exactly one of the three. It is never written into a document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of an environment variable of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 256))]
    pub env: Option<String>,
    /// File, relative to the policy file; re-read when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
    /// A key of a Secret in the folder `secrets` beside the policies, as Kubernetes mounts it; re-read when it
    /// changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

/// One key of a Secret: the file `secrets/<name>/<key>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        length(max = 253)
    )]
    pub name: String,
    #[schemars(regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"), length(max = 253))]
    pub key: String,
}

/// Bytes that nobody prints; overwritten when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl SecretRef {
    /// Makes paths absolute or relative to the working directory: `folder` is that of the policy file,
    /// `secrets` the one beside the policies.
    pub fn anchor(&mut self, folder: &FilePath, secrets: &FilePath) {
        if self.named() != 1 {
            return;
        }
        if let Some(file) = &mut self.file {
            *file = folder.join(&*file).display().to_string();
        }
        if let Some(SecretKeyRef { name, key }) = self.secret_ref.take() {
            self.file = Some(secrets.join(name).join(key).display().to_string());
        }
    }

    /// Tells what is wrong with the reference itself.
    pub fn check(&self, at: &Path, faults: &mut Vec<Fault>) {
        let message = match self.named() {
            0 => "no secret is named",
            1 => return,
            _ => "several secrets are named",
        };
        let fault = Fault::new(Code::CONFLICT, at.clone(), message);
        faults.push(fault.help("name exactly one of `env`, `file` and `secretRef`"));
    }

    fn named(&self) -> usize {
        let named = [self.env.is_some(), self.file.is_some(), self.secret_ref.is_some()];
        named.into_iter().filter(|named| *named).count()
    }
}

impl Secret {
    /// Takes the bytes over. One line end after them is not part of the secret: editors add it.
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut bytes = Zeroizing::new(bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self(bytes)
    }

    /// The secret itself: only for whoever sends it, signs or decrypts with it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The same as text.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, SecretKeyRef, SecretRef};
    use crate::fault::Path;

    #[test]
    fn a_secret_is_never_printed_and_loses_one_line_end() {
        for text in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            let secret = Secret::new(text.into());
            assert_eq!(secret.expose_text(), Some("hunter2"));
            assert_eq!(format!("{secret:?}"), "Secret");
        }
        assert_eq!(Secret::new(b"a\n\n".to_vec()).expose(), b"a\n");
    }

    #[test]
    fn paths_are_anchored_where_the_reference_is_sound() {
        let mut file = SecretRef { file: Some("a/b".into()), ..SecretRef::default() };
        file.anchor("policies".as_ref(), "root/secrets".as_ref());
        assert_eq!(file.file.as_deref(), Some("policies/a/b"));
        let key = SecretKeyRef { name: "crm".into(), key: "password".into() };
        let mut kept = SecretRef { secret_ref: Some(key.clone()), ..SecretRef::default() };
        kept.anchor("policies".as_ref(), "root/secrets".as_ref());
        assert_eq!((kept.file.as_deref(), kept.secret_ref), (Some("root/secrets/crm/password"), None));
        let both = SecretRef { env: Some("A".into()), secret_ref: Some(key), file: None };
        for (reference, told) in
            [(SecretRef::default(), "no secret is named"), (both, "several secrets are named")]
        {
            let mut faults = Vec::new();
            reference.check(&Path::default().key("value"), &mut faults);
            assert_eq!(faults[0].message, told);
        }
    }
}
