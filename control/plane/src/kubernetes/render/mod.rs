//! Turns objects into policy documents, and finds out what is wrong with them.

mod alone;
mod backends;
mod gateways;
mod grants;
mod listeners;
mod own;
mod parents;
mod routes;
mod secrets;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::kubernetes::kinds::{CONTROLLER_NAME, Resource};
use crate::kubernetes::objects::{Key, Object, World};
use crate::kubernetes::references::{Content, Needed, Reference, References};
use crate::kubernetes::report::{Report, Reports, Verdict};
use crate::kubernetes::services::{Place, Port};
use crate::kubernetes::yaml;
use crate::whole::{Contents, Files};
use foregate_policy::compile::backends::Speech;
use foregate_policy::document::CREATED;

pub use self::alone::alone;
use self::gateways::Plan;

/// What was found to be at fault, and is left out.
#[derive(Clone, Debug, Default)]
pub struct Exclusions {
    pub whole: BTreeMap<Key, Verdict>,
    /// By Gateway, and place in its list.
    pub listeners: BTreeMap<(Key, usize), Verdict>,
    /// By route, and place in its list.
    pub parents: BTreeMap<(Key, usize), Verdict>,
}

/// A file of the tree, and the object that it was made of.
#[derive(Clone, Debug)]
pub struct File {
    pub text: Arc<str>,
    pub origin: Option<Key>,
}

/// A file of endpoints that some document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsFile {
    pub path: Arc<str>,
    /// `None` where there is nothing behind it.
    pub port: Option<(Port, bool)>,
}

/// All that objects come to.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    pub files: BTreeMap<Arc<str>, File>,
    /// Contents of Secrets and `ConfigMaps`.
    pub secrets: BTreeMap<Arc<str>, Bytes>,
    /// Those that were asked for and have not come.
    pub awaited: BTreeSet<Arc<str>>,
    /// By Service.
    pub endpoints: BTreeMap<Place, Vec<EndpointsFile>>,
    pub needed: Needed,
    pub reports: Reports,
    /// Of a Gateway or route, where each entry of the list that was written stands in the object.
    pub places: BTreeMap<Key, Vec<usize>>,
}

impl Contents for Rendered {
    fn content(&self, way: &str) -> Option<Bytes> {
        self.secrets.get(way).cloned()
    }
}

impl Files for Rendered {
    fn has(&self, way: &str) -> bool {
        self.secrets.contains_key(way) || self.awaited.contains(way)
    }

    /// Objects have no folders beside them.
    fn below(&self, _: &str) -> Vec<Arc<str>> {
        Vec::new()
    }
}

/// The work under way.
pub(super) struct Rendering<'a> {
    pub world: &'a World,
    pub references: &'a References,
    pub excluded: &'a Exclusions,
    pub plans: Vec<Plan<'a>>,
    /// What is spoken to which port of which Service.
    pub services: BTreeMap<(Place, u16), BTreeSet<Speech>>,
    /// Namespaces where something leads nowhere, and what is spoken there.
    pub nowhere: BTreeSet<(Box<str>, Speech)>,
    /// What rests on something that is left out.
    pub refused: BTreeMap<Key, Verdict>,
    /// Gateways through which each target of a `BackendTLSPolicy` is reached.
    pub reached: BTreeMap<transport::Target, BTreeSet<Key>>,
    /// Upstreams and Services that must not be reached, for want of the TLS that a policy asks for.
    pub unsafe_targets: BTreeMap<transport::Target, Verdict>,
    pub out: Rendered,
}

/// Renders everything that is not excluded.
pub fn render(world: &World, references: &References, excluded: &Exclusions) -> Rendered {
    let mut work = Rendering::new(world, references, excluded);
    let own = work.plan_own();
    work.classes();
    work.plan_gateways();
    let transport = work.plan_transport();
    for resource in Resource::ROUTES {
        for route in world.of(resource) {
            work.route(route);
        }
    }
    work.write_gateways();
    work.write_transport(transport);
    work.write_grants();
    work.write_own(own);
    work.write_services();
    work.write_secrets();
    work.out
}

impl<'a> Rendering<'a> {
    fn new(world: &'a World, references: &'a References, excluded: &'a Exclusions) -> Self {
        Self {
            world,
            references,
            excluded,
            plans: Vec::new(),
            services: BTreeMap::new(),
            nowhere: BTreeSet::new(),
            refused: BTreeMap::new(),
            reached: BTreeMap::new(),
            unsafe_targets: BTreeMap::new(),
            out: Rendered::default(),
        }
    }

    fn classes(&mut self) {
        for class in self.ours() {
            let verdict = if class.spec.get("parametersRef").is_some_and(|reference| !reference.is_null()) {
                Verdict::bad("InvalidParameters", "parametersRef: this controller has no parameters")
            } else {
                Verdict::good("Accepted")
            };
            self.out.reports.insert(class.key.clone(), Report::Class(verdict));
        }
    }

    /// Classes of this controller.
    fn ours(&self) -> Vec<&'a Object> {
        let ours = |class: &&'a Arc<Object>| {
            class.spec.get("controllerName").is_some_and(|name| name == CONTROLLER_NAME)
        };
        self.world.of(Resource::GatewayClass).filter(ours).map(AsRef::as_ref).collect()
    }

    /// Writes one document into a file of its own.
    fn write(&mut self, object: &Object, spec: &Value) {
        let text = yaml::write(&document(object, spec));
        let path = path(&object.key);
        self.out.files.insert(path.into(), File { text: text.into(), origin: Some(object.key.clone()) });
    }

    /// Notes that a key of a Secret or `ConfigMap` is needed; says why it cannot be had.
    fn need(&mut self, reference: &Reference, key: &str) -> Option<String> {
        self.out.needed.entry(reference.clone()).or_default().insert(key.to_owned());
        self.references.get(reference).and_then(|content| content.lacks(reference, key))
    }

    /// The verdict that leaves an object out, where there is one.
    fn excluded(&self, key: &Key) -> Option<Verdict> {
        self.excluded.whole.get(key).or_else(|| self.refused.get(key)).cloned()
    }

    fn write_secrets(&mut self) {
        for (reference, keys) in &self.out.needed {
            let content = self.references.get(reference);
            let awaited = content.is_none_or(|content| **content == Content::Loading);
            for key in keys {
                let way: Arc<str> = reference.path(key).into();
                if let Some(bytes) = content.and_then(|content| content.key(key)) {
                    self.out.secrets.insert(way, bytes.clone());
                } else if awaited {
                    self.out.awaited.insert(way);
                }
            }
        }
    }
}

/// Where the document of an object stands in the tree.
pub fn path(key: &Key) -> String {
    format!("kubernetes/{}/{}/{}.yaml", key.namespace, key.resource.word(), key.name)
}

fn document(object: &Object, spec: &Value) -> Value {
    let Key { resource, namespace, name } = &object.key;
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), Value::from(&**name));
    metadata.insert("namespace".to_owned(), Value::from(&**namespace));
    if !object.labels.is_empty() {
        metadata.insert("labels".to_owned(), json!(object.labels));
    }
    if resource.is_route() && !object.created.is_empty() {
        metadata.insert("annotations".to_owned(), json!({ CREATED: object.created }));
    }
    json!({ "apiVersion": resource.api_version(), "kind": resource.word(), "metadata": metadata, "spec": spec })
}

/// The text at this key.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

/// The list at this key; none where there is none.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The port at this key.
pub(super) fn port(value: &Value, key: &str) -> Option<u16> {
    value.get(key).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())
}
