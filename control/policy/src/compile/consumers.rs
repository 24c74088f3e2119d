//! Clients known by key: their documents become one index a namespace.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use foregate_filters::api_key::key::{Digest, prefix};
use foregate_filters::consumer::Consumer;
use foregate_filters::consumers::{ClientId, Consumers, Registration, Secret};
use foregate_filters::fault::Path;
use foregate_filters::timestamp::Timestamp;

use crate::cases::credentials::{case_key, case_secret};
use crate::codes;
use crate::compile::typed::{Typed, spec};
use crate::compile::{Compilation, fingerprint};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, ObjectName};
use crate::documents::consumer::Spec;

/// The consumers of every namespace.
#[derive(Debug, Default)]
pub struct Registry {
    by_namespace: AHashMap<Box<str>, Arc<Consumers>>,
    /// Groups that some consumer belongs to, with their namespace.
    groups: AHashSet<(Box<str>, String)>,
    /// Changes with every consumer.
    fingerprint: u64,
}

impl Registry {
    /// Those that a policy of this name accepts: the consumers of its namespace.
    pub fn of(&self, policy: &str) -> Arc<Consumers> {
        let namespace = policy.split_once('/').map_or(ObjectName::DEFAULT_NAMESPACE, |(first, _)| first);
        self.by_namespace.get(namespace).cloned().unwrap_or_default()
    }

    /// A number that changes with every consumer.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// True where some consumer of the namespace belongs to the group.
    pub fn knows(&self, namespace: &str, group: &str) -> bool {
        self.groups.contains(&(namespace.into(), group.to_owned()))
    }
}

impl Compilation<'_> {
    pub fn consumers(&mut self) -> Registry {
        let mut by_namespace: AHashMap<Box<str>, Vec<Registration>> = AHashMap::new();
        let mut registry = Registry::default();
        let (mut prefixes, mut clients) = (AHashMap::new(), AHashMap::new());
        for typed in std::mem::take(&mut self.documents.consumers) {
            let document = typed.document;
            for (index, key) in typed.spec.keys.iter().enumerate() {
                let at = spec().key("keys").index(index);
                self.unique("key", &key.prefix, &mut prefixes, document, &at.key("prefix"));
                self.expired(document, key.expires, &at.key("expires"));
            }
            if let Some(client) = &typed.spec.client {
                let at = spec().key("client");
                self.unique("client id", &client.id, &mut clients, document, &at.key("id"));
                for (index, secret) in client.secrets.iter().enumerate() {
                    self.expired(document, secret.expires, &at.key("secrets").index(index).key("expires"));
                }
            }
            if typed.spec.keys.is_empty() && typed.spec.client.is_none() {
                let message = format!("the consumer `{}` has no key, so nobody can be it", document.name);
                let help = "make one with foregate token key, or remove the document";
                let fault = Diagnostic::at(document, &Document::name_path(), codes::CONSUMER_IDLE, message);
                self.warnings.push(fault.help(help).warning());
            }
            let namespace = &document.name.namespace;
            registry.groups.extend(typed.spec.groups.iter().map(|group| (namespace.clone(), group.clone())));
            let said = fingerprint::of(&(document.name.to_string(), &typed.spec));
            registry.fingerprint = fingerprint::of(&(registry.fingerprint, said));
            let registration = self.registration(&typed);
            by_namespace.entry(namespace.clone()).or_default().push(registration);
        }
        let index =
            |(namespace, all): (Box<str>, Vec<Registration>)| (namespace, Arc::new(Consumers::new(all)));
        registry.by_namespace = by_namespace.into_iter().map(index).collect();
        registry
    }

    /// What a consumer is known by. Where policies are compiled for cases only, these are keys that cases know.
    fn registration(&self, typed: &Typed<'_, Spec>) -> Registration {
        let name = typed.document.name.to_string();
        let said = &typed.spec;
        let digest = |hash: &str| hash.parse().unwrap_or(Digest::nobody());
        let (keys, client) = if self.materials.for_cases() {
            let key = case_key(&name);
            let secret = |digest| Secret { digest, expires: None };
            let of_client = |client: &crate::documents::consumer::Client| ClientId {
                id: client.id.as_str().into(),
                secrets: vec![secret(Digest::of_secret(&client.id, &case_secret(&name)))],
            };
            let public = prefix(&key).unwrap_or_default().into();
            (vec![(public, secret(Digest::of_key(&key)))], said.client.as_ref().map(of_client))
        } else {
            let secret = |hash: &str, expires| Secret { digest: digest(hash), expires };
            let keys =
                said.keys.iter().map(|key| (key.prefix.as_str().into(), secret(&key.hash, key.expires)));
            let client = said.client.as_ref().map(|client| ClientId {
                id: client.id.as_str().into(),
                secrets: client.secrets.iter().map(|one| secret(&one.hash, one.expires)).collect(),
            });
            (keys.collect(), client)
        };
        let groups = said.groups.iter().map(|group| group.as_str().into()).collect();
        let consumer = Consumer { name: name.into(), groups, metadata: said.metadata.clone() };
        Registration { consumer, keys, client }
    }

    /// One public part or id leads to one consumer only.
    fn unique(
        &mut self,
        what: &str,
        text: &str,
        seen: &mut AHashMap<String, String>,
        document: &Document,
        at: &Path,
    ) {
        if let Some(first) = seen.get(text) {
            let message = format!("the {what} `{text}` belongs to the consumer `{first}` already");
            self.fault(Diagnostic::at(document, at, codes::DUPLICATE_NAME, message));
        } else {
            seen.insert(text.to_owned(), document.name.to_string());
        }
    }

    fn expired(&mut self, document: &Document, expires: Option<Timestamp>, at: &Path) {
        if let Some(expires) = expires.filter(|expires| expires.is_past(self.materials.unix())) {
            let message = format!("the key has expired at {expires} and is refused");
            let fault = Diagnostic::at(document, at, codes::KEY_EXPIRED, message).help("remove it");
            self.warnings.push(fault.warning());
        }
    }

    /// Groups that policies name and nobody belongs to.
    pub fn unknown_groups(&mut self, registry: &Registry) {
        let mut warnings = Vec::new();
        for typed in &self.documents.policies {
            let groups = typed.spec.api_key.iter().flat_map(|section| section.groups.iter().enumerate());
            for (index, group) in groups {
                if !registry.knows(&typed.document.name.namespace, group) {
                    let message = format!("no consumer belongs to the group `{group}`");
                    let at = spec().key("apiKey").key("groups").index(index);
                    let fault = Diagnostic::at(typed.document, &at, codes::GROUP_UNKNOWN, message);
                    warnings.push(fault.warning());
                }
            }
        }
        self.warnings.append(&mut warnings);
    }
}

#[cfg(test)]
mod tests {
    use foregate_filters::api_key::key::{DIGEST, Digest};

    #[test]
    fn what_the_schema_accepts_is_a_digest() {
        let text = Digest::of_key("fg_a_b").to_string();
        assert!(regex::Regex::new(DIGEST).unwrap().is_match(&text));
    }
}
