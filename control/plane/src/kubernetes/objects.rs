//! What is known of the objects of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::services::Services;

/// Where an object is found. The namespace is empty for those of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub resource: Resource,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

/// An object, as far as anybody asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub key: Key,
    pub generation: i64,
    pub resource_version: String,
    /// RFC 3339, so that the text sorts as the times do.
    pub created: String,
    pub labels: BTreeMap<String, String>,
    pub spec: Value,
    pub status: Value,
}

/// Labels of a namespace.
pub type Labels = BTreeMap<String, String>;

/// What an event changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// What was said of an object, not what it says.
    Status,
    Spec,
}

/// Every object that was seen. Cloning it copies no object.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub objects: BTreeMap<Key, Arc<Object>>,
    pub services: Services,
    pub namespaces: BTreeMap<Box<str>, Arc<Labels>>,
}

impl Key {
    pub fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} `{}`", self.resource.word(), self.name);
        }
        write!(f, "{} `{}/{}`", self.resource.word(), self.namespace, self.name)
    }
}

impl Object {
    pub fn read(resource: Resource, object: DynamicObject) -> Self {
        let key =
            Key::new(resource, object.metadata.namespace.as_deref().unwrap_or_default(), &object.name_any());
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        let mut data = object.data;
        let mut take = |field: &str| data.get_mut(field).map(Value::take).unwrap_or_default();
        let (spec, status) = (take("spec"), take("status"));
        Self {
            key,
            generation: object.metadata.generation.unwrap_or(0),
            resource_version: object.metadata.resource_version.unwrap_or_default(),
            created: created.unwrap_or_default(),
            labels: object.metadata.labels.unwrap_or_default(),
            spec,
            status,
        }
    }

    /// Which of two that want the same thing has it: the older one, then the first by name.
    pub fn seniority(&self) -> (&str, &str, &str) {
        (&self.created, &self.key.namespace, &self.key.name)
    }
}

impl World {
    pub fn of(&self, resource: Resource) -> impl Iterator<Item = &Arc<Object>> {
        self.objects
            .range(Key::new(resource, "", "")..)
            .map(|(_, object)| object)
            .take_while(move |object| object.key.resource == resource)
    }

    pub fn find(&self, resource: Resource, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&Key::new(resource, namespace, name))
    }

    pub fn apply(&mut self, object: Object) -> Change {
        let old = self.objects.get(&object.key);
        let change = match old {
            Some(old) if **old == object => Change::Nothing,
            Some(old) if old.spec == object.spec && old.labels == object.labels => Change::Status,
            _ => Change::Spec,
        };
        // The generation belongs to the status, too.
        if change != Change::Nothing {
            self.objects.insert(object.key.clone(), Arc::new(object));
        }
        change
    }

    pub fn remove(&mut self, key: &Key) -> Change {
        if self.objects.remove(key).is_some() { Change::Spec } else { Change::Nothing }
    }

    /// Takes over a whole list: what is not in it is gone.
    pub fn replace(&mut self, resource: Resource, list: Vec<Object>) -> Change {
        let listed: BTreeSet<Key> = list.iter().map(|object| object.key.clone()).collect();
        let mut change = Change::Nothing;
        let old: Vec<Key> = self.of(resource).map(|object| object.key.clone()).collect();
        for key in old.iter().filter(|key| !listed.contains(key)) {
            change = change.and(self.remove(key));
        }
        for object in list {
            change = change.and(self.apply(object));
        }
        change
    }
}

impl Change {
    /// The larger of two.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Spec, _) | (_, Self::Spec) => Self::Spec,
            (Self::Status, _) | (_, Self::Status) => Self::Status,
            _ => Self::Nothing,
        }
    }
}
