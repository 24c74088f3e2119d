//! Secrets and `ConfigMaps` that objects refer to, and the folders they become.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Secrets and `ConfigMaps` that are watched at once, at most, and those of one namespace.
pub const MAX_REFERENCES: usize = 4096;
pub const MAX_OF_NAMESPACE: usize = 1024;
/// Longest name of a folder; those that would be longer end in a hash.
const MAX_NAME: usize = 253;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    Secret,
    ConfigMap,
}

/// A Secret or `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub holder: Holder,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// It was asked for, and nothing came yet.
    Loading,
    Absent,
    /// So many others are watched that this one is not.
    Over,
    /// The API server does not show it.
    Withheld(String),
    Present(BTreeMap<String, Bytes>),
}

/// All that were asked for. Cloning it copies no content.
pub type References = BTreeMap<Reference, Arc<Content>>;

/// Which keys are needed of each.
pub type Needed = BTreeMap<Reference, BTreeSet<String>>;

impl Holder {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    pub fn find(word: &str) -> Option<Self> {
        [Self::Secret, Self::ConfigMap].into_iter().find(|holder| holder.word() == word)
    }
}

impl Reference {
    pub fn new(holder: Holder, namespace: &str, name: &str) -> Self {
        Self { holder, namespace: namespace.into(), name: name.into() }
    }

    /// Its folder in `secrets`. A namespace has no dots, so that no two share one.
    pub fn folder(&self) -> String {
        let holder = match self.holder {
            Holder::Secret => "secret",
            Holder::ConfigMap => "configmap",
        };
        let whole = format!("{holder}.{}.{}", self.namespace, self.name);
        if whole.len() <= MAX_NAME {
            return whole;
        }
        let digest = Sha256::digest(whole.as_bytes());
        let hash = digest.iter().take(16).fold(0_u128, |all, byte| all << 8 | u128::from(*byte));
        let kept = whole.get(..MAX_NAME - 33).unwrap_or_default().trim_end_matches(['.', '-']);
        format!("{kept}.{hash:032x}")
    }

    /// Where a key of it stands in the tree.
    pub fn path(&self, key: &str) -> String {
        format!("secrets/{}/{key}", self.folder())
    }
}

impl Content {
    pub fn key(&self, key: &str) -> Option<&Bytes> {
        match self {
            Self::Present(keys) => keys.get(key),
            _ => None,
        }
    }

    /// Why a key of it cannot be had; `None` where it can, or where nobody knows yet.
    pub fn lacks(&self, what: &Reference, key: &str) -> Option<String> {
        let name = format!("the {} `{}/{}`", what.holder.word(), what.namespace, what.name);
        match self {
            Self::Present(keys) if keys.contains_key(key) => None,
            Self::Loading => None,
            Self::Present(_) => Some(format!("{name} has no key `{key}`")),
            Self::Absent => Some(format!("{name} does not exist")),
            Self::Over => Some(format!(
                "{name} cannot be read: at most {MAX_REFERENCES} Secrets and ConfigMaps are, {MAX_OF_NAMESPACE} of a namespace"
            )),
            Self::Withheld(why) => Some(format!("{name} cannot be read: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Reference};

    #[test]
    fn folders_are_names_that_no_two_share() {
        let long = "a".repeat(253);
        let mut folders: Vec<String> = [
            (Holder::Secret, "a", "b.c"),
            (Holder::Secret, "b", "c"),
            (Holder::ConfigMap, "b", "c"),
            (Holder::Secret, "configmap", "b.c"),
            (Holder::Secret, "a", &long),
            (Holder::Secret, "b", &long),
        ]
        .map(|(holder, namespace, name)| Reference::new(holder, namespace, name).folder())
        .into();
        assert!(folders.iter().all(|folder| folder.len() <= 253), "{folders:?}");
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), 6);
    }
}
