//! The files that documents refer to, beside which they must stand.

use std::path::{Component, Path as FilePath, PathBuf};

use foregate_filters::fault::Path;

use crate::document::{Document, Kind};
use crate::node::{Node, NodeKind};

/// What a document expects of a path it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A file that is read.
    File,
    /// A file that is read where it is there.
    MaybeFile,
    /// A folder, with all that is in it.
    Folder,
    /// A file or folder that the gateway writes to.
    Written,
}

/// A path that a document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReference {
    /// Where the document names it.
    pub at: Path,
    /// As gateways look for it: below the folder of the document, or in `secrets` below the root.
    pub file: PathBuf,
    pub wants: Wants,
}

impl FileReference {
    /// The way below `root`, with `/`; `None` for absolute paths and those that lead out of it.
    pub fn below(&self, root: &FilePath) -> Option<String> {
        below(&self.file, root)
    }

    /// True for a path that stands for itself, wherever the policies are.
    pub fn is_absolute(&self, root: &FilePath) -> bool {
        self.file.is_absolute() && (!root.is_absolute() || self.file.strip_prefix(root).is_err())
    }
}

/// The way of a file below `root`, with `/`; `None` for absolute paths and those that lead out of it.
pub fn below(file: &FilePath, root: &FilePath) -> Option<String> {
    let relative = file.strip_prefix(root).ok()?;
    let mut parts: Vec<&str> = Vec::new();
    for part in relative.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Every path that the document names, in its order. `root` is the folder of all policies, `secrets` lies below it.
pub fn of(document: &Document, root: &FilePath) -> Vec<FileReference> {
    let named = matches!(
        document.kind,
        Kind::Gateway | Kind::Policy | Kind::Upstream | Kind::Model | Kind::Store | Kind::BackendTlsPolicy
    );
    let mut walk = Walk { folder: document.file.folder(), root, found: Vec::new() };
    if named && let Some(spec) = document.root.key("spec") {
        walk.node(spec, &Path::default().key("spec"));
    }
    walk.found
}

struct Walk<'a> {
    folder: &'a FilePath,
    root: &'a FilePath,
    found: Vec<FileReference>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, at: &Path) {
        match &node.kind {
            NodeKind::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    self.node(item, &at.index(index));
                }
            }
            NodeKind::Map(members) => {
                for member in members {
                    self.member(&member.key, &member.value, &at.key(&member.key));
                }
            }
            _ => {}
        }
    }

    fn member(&mut self, key: &str, value: &Node, at: &Path) {
        match key {
            "file" | "caFile" | "endpointsFile" => self.beside(value, at, Wants::File),
            // A schema written out may say anything.
            "inline" | "metadata" => {}
            "secretRef" => {
                let key = value.key("key").and_then(Node::text);
                self.secret(value, at, key.into_iter().map(|key| (key, Wants::File)));
            }
            "certificateRefs" => {
                for (index, item) in value.items().iter().enumerate() {
                    self.certificate(item, &at.index(index));
                }
            }
            "clientCertificateRef" => self.certificate(value, at),
            "caCertificateRefs" => {
                for (index, item) in value.items().iter().enumerate() {
                    let files = [("ca.crt", Wants::File), ("ca.crl", Wants::MaybeFile)];
                    self.secret(item, &at.index(index), files);
                }
            }
            "bundle" => {
                if let Some(path) = value.key("path") {
                    self.beside(path, &at.key("path"), Wants::Folder);
                }
            }
            "featureStore" => {
                for key in ["path", "inbox"] {
                    if let Some(path) = value.key(key) {
                        self.beside(path, &at.key(key), Wants::Written);
                    }
                }
                for key in ["key", "nextKey"] {
                    if let Some(secret) = value.key(key) {
                        self.node(secret, &at.key(key));
                    }
                }
            }
            _ => self.node(value, at),
        }
    }

    fn certificate(&mut self, reference: &Node, at: &Path) {
        self.secret(reference, at, [("tls.crt", Wants::File), ("tls.key", Wants::File)]);
    }

    fn beside(&mut self, value: &Node, at: &Path, wants: Wants) {
        if let Some(text) = value.text() {
            self.found.push(FileReference { at: at.clone(), file: self.folder.join(text), wants });
        }
    }

    fn secret<'k>(&mut self, reference: &Node, at: &Path, files: impl IntoIterator<Item = (&'k str, Wants)>) {
        let Some(name) = reference.key("name").and_then(Node::text) else { return };
        let folder = self.root.join("secrets").join(name);
        for (file, wants) in files {
            self.found.push(FileReference { at: at.key("name"), file: folder.join(file), wants });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Wants, of};
    use crate::load::Sources;

    const DOCUMENTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners: [{ name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: edge-cert }] } }]
  tls: { frontend: { default: { validation: { caCertificateRefs: [{ kind: ConfigMap, name: partners }] } } } }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: leads }
spec:
  jwt: [{ issuer: "https://idp", audiences: [crm], jwks: { file: ../keys/idp.json } }]
  validate: { body: { schema: { inline: { const: { file: not-a-path } } } } }
  introspection: [{ clientAuth: { secret: { secretRef: { name: idp, key: password } } } }]
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: lead }
spec:
  bundle: { path: ../../outside }
  featureStore: { path: /var/lib/features.redb, key: { file: key }, nextKey: { secretRef: { name: next, key: key } } }
---
apiVersion: foregate.dev/v1alpha1
kind: Consumer
metadata: { name: someone }
spec: { metadata: { file: anything } }
"#;

    #[test]
    fn every_file_is_found_where_gateways_look_for_it() {
        let mut sources = Sources { root: "root".into(), ..Sources::default() };
        sources.add("root/teams/a.yaml".into(), DOCUMENTS.to_owned());
        let found: Vec<_> =
            sources.documents.iter().flat_map(|document| of(document, &sources.root)).collect();
        let seen: Vec<_> = found
            .iter()
            .map(|one| (one.below(&sources.root), one.is_absolute(&sources.root), one.wants))
            .collect();
        let here = |path: &str, wants| (Some(path.to_owned()), false, wants);
        let want = [
            here("secrets/edge-cert/tls.crt", Wants::File),
            here("secrets/edge-cert/tls.key", Wants::File),
            here("secrets/partners/ca.crt", Wants::File),
            here("secrets/partners/ca.crl", Wants::MaybeFile),
            here("keys/idp.json", Wants::File),
            here("secrets/idp/password", Wants::File),
            (None, false, Wants::Folder),
            (None, true, Wants::Written),
            here("teams/key", Wants::File),
            here("secrets/next/key", Wants::File),
        ];
        assert_eq!(seen, want);
    }
}
