//! What hangs on a Gateway: all that a proxy which serves it needs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foregate_policy::compile::backends::{Speech, upstream_name};
use foregate_policy::document::{Document, Kind, ObjectName};
use foregate_policy::node::{Node, NodeKind};

use crate::revision::document_name;

/// A document, as far as others have to do with it.
#[derive(Debug)]
struct Object {
    /// As a resource.
    resource: Arc<str>,
    kind: Kind,
    name: ObjectName,
    /// It comes along with any of these.
    attaches: Vec<(Kind, ObjectName)>,
    /// What it needs beside it.
    needs: Vec<Needs>,
    files: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Needs {
    One(Kind, ObjectName),
    /// All consumers of its namespace.
    Consumers,
    /// Grants of that namespace for documents of this one.
    Grants(Box<str>),
}

/// All documents of a revision, and how they hang together.
#[derive(Debug, Default)]
pub struct Objects {
    all: Vec<Object>,
    by_name: HashMap<(Kind, ObjectName), usize>,
    /// By what they attach to.
    attached: HashMap<(Kind, ObjectName), Vec<usize>>,
    consumers: HashMap<Box<str>, Vec<usize>>,
    grants: HashMap<Box<str>, Vec<usize>>,
}

/// Names of the resources a proxy gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    pub documents: BTreeSet<Arc<str>>,
    pub files: BTreeSet<Arc<str>>,
}

impl Objects {
    /// Adds a document with the files it refers to.
    pub fn add(&mut self, document: &Document, files: BTreeSet<Arc<str>>) {
        let spec = document.root.key("spec");
        let namespace = &document.name.namespace;
        let object = Object {
            resource: document_name(document.kind, &document.name).into(),
            kind: document.kind,
            name: document.name.clone(),
            attaches: spec.map(|spec| attaches(document.kind, namespace, spec)).unwrap_or_default(),
            needs: spec.map(|spec| needs(document.kind, namespace, spec)).unwrap_or_default(),
            files,
        };
        let index = self.all.len();
        for to in &object.attaches {
            self.attached.entry(to.clone()).or_default().push(index);
        }
        match object.kind {
            Kind::Consumer => self.consumers.entry(namespace.clone()).or_default().push(index),
            Kind::ReferenceGrant => self.grants.entry(namespace.clone()).or_default().push(index),
            _ => {}
        }
        self.by_name.insert((object.kind, object.name.clone()), index);
        self.all.push(object);
    }

    /// Names of all gateways.
    pub fn gateways(&self) -> impl Iterator<Item = &ObjectName> {
        self.all.iter().filter(|object| object.kind == Kind::Gateway).map(|object| &object.name)
    }

    /// All that hangs on these gateways.
    pub fn closure<'g>(&self, gateways: impl IntoIterator<Item = &'g ObjectName>) -> Closure {
        let mut closure = Closure::default();
        let mut seen = vec![false; self.all.len()];
        let mut open: Vec<usize> = gateways
            .into_iter()
            .filter_map(|name| self.by_name.get(&(Kind::Gateway, name.clone())).copied())
            .collect();
        while let Some(index) = open.pop() {
            let (Some(object), Some(seen)) = (self.all.get(index), seen.get_mut(index)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            closure.documents.insert(Arc::clone(&object.resource));
            closure.files.extend(object.files.iter().cloned());
            let on_it = self.attached.get(&(object.kind, object.name.clone()));
            open.extend(on_it.into_iter().flatten().copied());
            for need in &object.needs {
                self.needed(object, need, &mut open);
            }
        }
        closure
    }

    fn needed(&self, object: &Object, need: &Needs, open: &mut Vec<usize>) {
        match need {
            Needs::One(kind, name) => open.extend(self.by_name.get(&(*kind, name.clone())).copied()),
            Needs::Consumers => {
                open.extend(self.consumers.get(&object.name.namespace).into_iter().flatten().copied());
            }
            Needs::Grants(namespace) => {
                let grants = self.grants.get(namespace).into_iter().flatten().copied();
                // A grant says from where it may be used; those for others are their affair.
                open.extend(grants.filter(|index| {
                    self.all.get(*index).is_some_and(|grant| {
                        let from = (Kind::ReferenceGrant, ObjectName::new(Some(&object.name.namespace), ""));
                        grant.needs.iter().any(|need| *need == Needs::One(from.0, from.1.clone()))
                    })
                }));
            }
        }
    }
}

/// What a document comes along with.
fn attaches(kind: Kind, namespace: &str, spec: &Node) -> Vec<(Kind, ObjectName)> {
    let list = |key: &str| spec.key(key).into_iter().flat_map(Node::items);
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => list("parentRefs")
            .filter_map(|parent| Some((Kind::Gateway, referred(parent, namespace)?)))
            .collect(),
        Kind::Policy | Kind::BackendTlsPolicy => list("targetRefs")
            .filter_map(|target| {
                let kind = target.key("kind").and_then(Node::text)?;
                let kind = Kind::ALL.into_iter().find(|known| known.word() == kind)?;
                Some((kind, referred(target, namespace)?))
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn needs(kind: Kind, namespace: &str, spec: &Node) -> Vec<Needs> {
    let mut needs = Vec::new();
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            backends(spec, &mut |backend| {
                if let Some(name) = upstream(kind, backend, namespace) {
                    if *name.namespace != *namespace {
                        needs.push(Needs::Grants(name.namespace.clone()));
                    }
                    needs.push(Needs::One(Kind::Upstream, name));
                }
            });
        }
        Kind::Model => stores(spec, &mut |store| {
            needs.push(Needs::One(Kind::Store, ObjectName::new(Some(namespace), store)));
        }),
        Kind::Policy => {
            if spec.key("apiKey").is_some() {
                needs.push(Needs::Consumers);
            }
            for rule in spec.key("enrich").into_iter().flat_map(Node::items) {
                if let Some(model) = rule.key("model").and_then(Node::text) {
                    needs.push(Needs::One(Kind::Model, full(model)));
                }
            }
            stores(spec, &mut |store| {
                needs.push(Needs::One(Kind::Store, ObjectName::new(Some(namespace), store)));
            });
        }
        // From where it may be used, noted in the same form.
        Kind::ReferenceGrant => {
            for from in spec.key("from").into_iter().flat_map(Node::items) {
                let namespace = from.key("namespace").and_then(Node::text);
                needs.push(Needs::One(Kind::ReferenceGrant, ObjectName::new(namespace, "")));
            }
        }
        _ => {}
    }
    needs
}

/// The upstream that a backend of a route of this kind means; a Service is one by another name.
fn upstream(route: Kind, backend: &Node, namespace: &str) -> Option<ObjectName> {
    let name = referred(backend, namespace)?;
    let kind = backend.key("kind").and_then(Node::text).unwrap_or("Service");
    if kind != "Service" {
        return Some(name);
    }
    let NodeKind::Number(port) = &backend.key("port")?.kind else { return None };
    let port = u16::try_from(port.as_u64()?).ok()?;
    Some(ObjectName::new(Some(&name.namespace), &upstream_name(&name.name, port, Speech::of(route))))
}

/// The name that a reference means, in `namespace` where it says none.
fn referred(reference: &Node, namespace: &str) -> Option<ObjectName> {
    let name = reference.key("name").and_then(Node::text)?;
    let namespace = reference.key("namespace").and_then(Node::text).unwrap_or(namespace);
    Some(ObjectName::new(Some(namespace), name))
}

/// A name as rules write it: `name`, or `namespace/name`.
fn full(text: &str) -> ObjectName {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectName::new(Some(namespace), name),
        None => ObjectName::new(None, text),
    }
}

/// Every `backendRef`, and every one of `backendRefs`, at any depth.
fn backends(node: &Node, found: &mut dyn FnMut(&Node)) {
    match &node.kind {
        NodeKind::List(list) => list.iter().for_each(|item| backends(item, found)),
        NodeKind::Map(members) => {
            for member in members {
                match member.key.as_str() {
                    "backendRef" => found(&member.value),
                    "backendRefs" => member.value.items().iter().for_each(&mut *found),
                    _ => {}
                }
                backends(&member.value, found);
            }
        }
        _ => {}
    }
}

/// Every `store` that a policy or a model names.
fn stores(node: &Node, found: &mut dyn FnMut(&str)) {
    if let Some(store) = node.key("store").and_then(Node::text) {
        found(store);
    }
    node.items().iter().for_each(|item| stores(item, found));
    node.values().for_each(|value| stores(value, found));
}
