//! What the controller knows, and what it made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::document::ObjectName;
use serde_json::Value;

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::{Change, Key, World};
use crate::kubernetes::references::{Content, MAX_OF_NAMESPACE, MAX_REFERENCES, Reference, References};
use crate::kubernetes::render::{self, EndpointsFile, Rendered};
use crate::kubernetes::report::{GatewayReport, Report, Verdict};
use crate::kubernetes::services::{Place, Slices};
use crate::kubernetes::status;
use crate::kubernetes::tree::Tree;
use crate::kubernetes::verdict::Outcome;
use crate::kubernetes::watch::Event;
use crate::kubernetes::write::Write;
use crate::stream::acknowledged::{Acknowledged, identified};

/// What an event makes necessary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Documents have to be made anew.
    pub documents: bool,
    /// Statuses have to be compared anew.
    pub statuses: bool,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<Place>,
}

#[derive(Debug, Default)]
pub struct State {
    pub world: World,
    pub references: References,
    slices: Slices,
    /// Lists that are still missing.
    missing: BTreeSet<&'static str>,
    /// Kinds that are not served in the version that is read, and may be in others.
    unserved: BTreeSet<&'static str>,
    /// Files of endpoints that documents in force name.
    files: BTreeMap<Place, Vec<EndpointsFile>>,
    rendered: Option<Arc<Rendered>>,
    pub tree: Tree,
}

/// References that have to be watched from now on, or no longer.
#[derive(Debug, Default)]
pub struct Followed {
    pub new: Vec<Reference>,
    pub old: Vec<Reference>,
    /// Some are not watched for want of room, which documents were made without knowing.
    pub unknown: bool,
}

impl State {
    pub fn new() -> Self {
        let mut missing: BTreeSet<&'static str> = Resource::ALL.into_iter().map(Resource::word).collect();
        missing.extend(["Service", "EndpointSlice", "Namespace"]);
        Self { missing, ..Self::default() }
    }

    /// True once every kind was listed.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// True once every kind was listed, or found not to be served.
    pub fn is_answered(&self) -> bool {
        self.missing.is_subset(&self.unserved)
    }

    pub fn take(&mut self, event: Event, effect: &mut Effect) {
        match event {
            Event::Unserved(kind) => drop(self.unserved.insert(kind)),
            Event::Object(object) => effect.object(self.world.apply(object)),
            Event::ObjectGone(object) => effect.object(self.world.remove(&object.key)),
            Event::Objects(resource, list) => {
                effect.object(self.world.replace(resource, list));
                self.arrived(resource.word(), effect);
            }
            Event::Ports(at, ports) => {
                let old = match ports {
                    Some(ports) if self.world.services.0.get(&at).is_some_and(|old| **old == ports) => return,
                    Some(ports) => self.world.services.0.insert(at, Arc::new(ports)),
                    None => self.world.services.0.remove(&at),
                };
                drop(old);
                effect.documents = true;
            }
            Event::AllPorts(list) => {
                let all = list.into_iter().map(|(at, ports)| (at, Arc::new(ports))).collect();
                if self.world.services.0 != all {
                    self.world.services.0 = all;
                    effect.documents = true;
                }
                self.arrived("Service", effect);
            }
            Event::Slice(at, name, slice) => {
                if self.slices.apply(&at, &name, slice) {
                    effect.endpoints.insert(at);
                }
            }
            Event::SliceGone(at, name) => {
                if self.slices.remove(&at, &name) {
                    effect.endpoints.insert(at);
                }
            }
            Event::Slices(list) => {
                effect.endpoints.extend(self.slices.replace(list));
                self.arrived("EndpointSlice", effect);
            }
            Event::Labels(name, labels) => {
                match labels {
                    Some(labels) if self.world.namespaces.get(&name).is_some_and(|old| **old == labels) => {
                        return;
                    }
                    Some(labels) => drop(self.world.namespaces.insert(name, Arc::new(labels))),
                    None => drop(self.world.namespaces.remove(&name)),
                }
                effect.documents = true;
            }
            Event::AllLabels(list) => {
                self.world.namespaces =
                    list.into_iter().map(|(name, labels)| (name, Arc::new(labels))).collect();
                self.arrived("Namespace", effect);
                effect.documents = true;
            }
            Event::Content(reference, content) => self.content(&reference, content, effect),
        }
    }

    fn arrived(&mut self, kind: &'static str, effect: &mut Effect) {
        effect.documents |= self.missing.remove(kind);
    }

    fn content(&mut self, reference: &Reference, content: Content, effect: &mut Effect) {
        // What was asked for once, and is not any more, comes too late.
        if let Some(old) = self.references.get_mut(reference)
            && **old != content
        {
            *old = Arc::new(content);
            effect.documents = true;
        }
    }

    /// Compares what is needed with what is watched.
    pub fn follow(&mut self, rendered: &Rendered) -> Followed {
        let needed = &rendered.needed;
        let old: Vec<Reference> =
            self.references.keys().filter(|reference| !needed.contains_key(*reference)).cloned().collect();
        for reference in &old {
            self.references.remove(reference);
        }
        let (mut all, mut of) = (0, BTreeMap::<Box<str>, usize>::new());
        for (reference, _) in self.references.iter().filter(|(_, content)| ***content != Content::Over) {
            all += 1;
            *of.entry(reference.namespace.clone()).or_default() += 1;
        }
        let mut followed = Followed { old, ..Followed::default() };
        for reference in needed.keys() {
            let known = self.references.get(reference);
            if known.is_some_and(|content| **content != Content::Over) {
                continue;
            }
            let of_one = of.entry(reference.namespace.clone()).or_default();
            if all < MAX_REFERENCES && *of_one < MAX_OF_NAMESPACE {
                (all, *of_one) = (all + 1, *of_one + 1);
                self.references.insert(reference.clone(), Arc::new(Content::Loading));
                followed.new.push(reference.clone());
            } else if known.is_none() {
                self.references.insert(reference.clone(), Arc::new(Content::Over));
                followed.unknown = true;
            }
        }
        followed
    }

    /// True while something that was asked for has not come.
    pub fn is_loading(&self) -> bool {
        self.references.values().any(|content| **content == Content::Loading)
    }

    /// Puts an outcome in force; true where the tree is another one.
    pub fn settle(&mut self, outcome: Outcome) -> bool {
        let rendered = Arc::new(outcome.rendered);
        self.rendered = Some(Arc::clone(&rendered));
        if !outcome.stuck.is_empty() {
            return false;
        }
        self.files.clone_from(&rendered.endpoints);
        let mut files: BTreeMap<Arc<str>, Bytes> = BTreeMap::new();
        for (path, file) in &rendered.files {
            let old = self.tree.files.get(path).filter(|old| **old == *file.text.as_bytes());
            let bytes = old.cloned().unwrap_or_else(|| Bytes::copy_from_slice(file.text.as_bytes()));
            files.insert(path.clone(), bytes);
        }
        files.extend(rendered.secrets.iter().map(|(path, bytes)| (path.clone(), bytes.clone())));
        for (at, wanted) in &self.files {
            for file in wanted {
                files.insert(file.path.clone(), self.endpoints(at, file));
            }
        }
        if files == self.tree.files && self.tree.revision > 0 {
            return false;
        }
        self.tree = Tree { revision: self.tree.revision + 1, files };
        true
    }

    /// Writes files of endpoints anew; gives how many differ.
    pub fn refresh(&mut self, changed: &BTreeSet<Place>) -> u64 {
        let mut different = 0;
        for at in changed {
            for file in self.files.get(at).into_iter().flatten() {
                let bytes = self.endpoints(at, file);
                if self.tree.files.get(&file.path) != Some(&bytes) {
                    self.tree.files.insert(file.path.clone(), bytes);
                    different += 1;
                }
            }
        }
        if different > 0 {
            self.tree.revision += 1;
        }
        different
    }

    fn endpoints(&self, at: &Place, file: &EndpointsFile) -> Bytes {
        match &file.port {
            Some((port, unready)) => self.slices.file(at, port, *unready).0.into(),
            None => Bytes::from_static(b"endpoints: []\n"),
        }
    }

    /// Statuses that objects should have and have not.
    pub fn writes(&self, addresses: &[Value], acknowledged: &Acknowledged, now: &str) -> Vec<Write> {
        let Some(rendered) = &self.rendered else { return Vec::new() };
        let mut writes = Vec::new();
        for (key, object) in self.world.objects.iter().filter(|(key, _)| key.resource.has_status()) {
            let wanted = match rendered.reports.get(key) {
                Some(Report::Gateway(gateway)) => {
                    let report = Report::Gateway(self.programmed(key, gateway, acknowledged));
                    Some(status::wanted(object, &report, addresses, now))
                }
                Some(report) => Some(status::wanted(object, report, addresses, now)),
                None => status::cleared(object),
            };
            if let Some(status) = wanted.filter(|wanted| !status::is_met(object, wanted)) {
                writes.push(Write { object: Arc::clone(object), status });
            }
        }
        writes
    }

    /// A Gateway is programmed once a proxy has it in force; where none is connected, once it is given out.
    fn programmed(&self, key: &Key, report: &GatewayReport, acknowledged: &Acknowledged) -> GatewayReport {
        let mut report = report.clone();
        let path = render::path(key);
        let name = ObjectName::new(Some(&key.namespace), &key.name);
        let (name, version) = identified(&name, &path, self.tree.text(&path));
        let Some(having) = acknowledged.get(&name) else { return report };
        if having.versions.contains(&version) {
            return report;
        }
        let refusing = match having.refusing {
            0 => String::new(),
            some => format!("; {some} refused it: `foregate-control status` tells why"),
        };
        let message = format!("none of {} proxies has it in force yet{refusing}", having.proxies);
        let listeners = report.listeners.iter_mut().map(|listener| &mut listener.programmed);
        for verdict in std::iter::once(&mut report.programmed).chain(listeners).filter(|verdict| verdict.ok) {
            *verdict = Verdict::bad("Pending", message.clone());
        }
        report
    }

    /// Objects that are not in force.
    pub fn refused(&self) -> usize {
        let reports = self.rendered.iter().flat_map(|rendered| rendered.reports.values());
        reports
            .filter(|report| match report {
                Report::Class(verdict) | Report::Plain(verdict) => !verdict.ok,
                Report::Gateway(gateway) => !gateway.programmed.ok,
                Report::Route(route) => route.parents.iter().any(|parent| !parent.accepted.ok),
                Report::Policy(policy) => policy.ancestors.iter().any(|(_, verdict)| !verdict.ok),
            })
            .count()
    }
}

impl Effect {
    fn object(&mut self, change: Change) {
        self.documents |= change == Change::Spec;
        self.statuses |= change != Change::Nothing;
    }
}
