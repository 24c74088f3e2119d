//! `BackendTLSPolicy`: TLS that is said of upstreams from outside.

use ahash::AHashMap;
use foregate_filters::fault::{Code, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::backend_tls::{SubjectAltName, SubjectAltNameType, Validation};
use crate::snapshot::{AltName, Shown, UpstreamTls};

/// What policies say of upstreams, by name.
pub type BackendTls = AHashMap<ObjectName, UpstreamTls>;

impl Compilation<'_> {
    /// Reads every policy, and tells of those that do not go together with each other or with their target.
    pub fn backend_tls(&mut self) -> BackendTls {
        let mut found = BackendTls::new();
        let mut first: AHashMap<ObjectName, ObjectName> = AHashMap::new();
        for typed in std::mem::take(&mut self.documents.backend_tls) {
            let document = typed.document;
            let tls = self.validated(document, &typed.spec.validation);
            for (index, target) in typed.spec.target_refs.iter().enumerate() {
                let at = spec().key("targetRefs").index(index).key("name");
                let name = ObjectName::new(Some(&document.name.namespace), &target.name);
                let upstream = self.documents.upstreams.iter().find(|other| other.document.name == name);
                let Some(upstream) = upstream else {
                    self.missing(document, Kind::Upstream, &name, &at);
                    continue;
                };
                let conflict = if let Some(other) = first.get(&name) {
                    let message =
                        format!("the BackendTLSPolicy `{other}` is about the Upstream `{name}` already");
                    Some((message, "keep one of the two"))
                } else if upstream.spec.tls.is_some() {
                    let message = format!("the Upstream `{name}` says itself how TLS is spoken to it");
                    Some((message, "remove `tls` from the Upstream, or this target"))
                } else {
                    None
                };
                first.entry(name.clone()).or_insert_with(|| document.name.clone());
                match conflict {
                    Some((message, help)) => {
                        let fault = Diagnostic::at(document, &at, codes::BACKEND_TLS, message).help(help);
                        self.fault(fault);
                    }
                    None => drop(found.insert(name, tls.clone())),
                }
            }
        }
        found
    }

    fn validated(&mut self, document: &Document, said: &Validation) -> UpstreamTls {
        let at = spec().key("validation");
        let (message, field) = match (said.authorities.is_empty(), said.well_known) {
            (true, None) => ("nothing says which authorities are trusted", ""),
            (false, Some(_)) => {
                ("authorities of files and those of the system are both named", "caCertificateRefs")
            }
            _ => ("", ""),
        };
        if !message.is_empty() {
            let help = "write caCertificateRefs: [..], or wellKnownCACertificates: System";
            let at = if field.is_empty() { at.clone() } else { at.key(field) };
            self.fault(Diagnostic::at(document, &at, Code::CONFLICT, message).help(help));
        }
        let list = at.key("caCertificateRefs");
        let named = said.authorities.iter().enumerate();
        let ca_files = named
            .map(|(index, reference)| {
                let file = self.sources.root.join("secrets").join(&reference.name).join("ca.crt");
                if let Err(why) = self.materials.authorities(&file) {
                    let at = list.index(index).key("name");
                    let message = format!("the authorities `{}` cannot be used: {why}", reference.name);
                    let help =
                        format!("ca.crt is looked for in {}", file.parent().unwrap_or(&file).display());
                    self.fault(Diagnostic::at(document, &at, Code::FILE, message).help(help));
                }
                file
            })
            .collect();
        let list = at.key("subjectAltNames");
        let alternatives = said.subject_alt_names.iter().enumerate();
        let alt_names = alternatives
            .filter_map(|(index, name)| self.alt_name(document, name, &list.index(index)))
            .collect();
        let server_name = Some(said.hostname.as_str().into());
        UpstreamTls { server_name, ca_files, alt_names, shown: Shown::Nothing }
    }

    fn alt_name(&mut self, document: &Document, said: &SubjectAltName, at: &Path) -> Option<AltName> {
        let (message, field) = match (said.kind, &said.hostname, &said.uri) {
            (SubjectAltNameType::Hostname, Some(name), None) => {
                return Some(AltName::Dns(name.as_str().into()));
            }
            (SubjectAltNameType::URI, None, Some(uri)) if is_uri(uri) => {
                return Some(AltName::Uri(uri.as_str().into()));
            }
            (SubjectAltNameType::URI, None, Some(_)) => ("this is no URI with a scheme and a host", "uri"),
            (SubjectAltNameType::Hostname, ..) => {
                ("with type Hostname it has a `hostname`, and no `uri`", "type")
            }
            (SubjectAltNameType::URI, ..) => ("with type URI it has a `uri`, and no `hostname`", "type"),
        };
        let help = "write { type: Hostname, hostname: .. } or { type: URI, uri: \"spiffe://..\" }";
        self.fault(Diagnostic::at(document, &at.key(field), Code::VALUE, message).help(help));
        None
    }
}

/// True for a scheme, `://`, and something behind it.
fn is_uri(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(plain)
            && !rest.is_empty()
    })
}
