//! `BackendTLSPolicies`: about which upstreams, trusting whom.

use std::collections::{BTreeMap, BTreeSet};

use foregate_policy::compile::backends::upstream_name;
use serde_json::{Value, json};

use crate::kubernetes::kinds::{FOREGATE_GROUP, Resource};
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::references::{Holder, Reference};
use crate::kubernetes::render::{Rendering, list, text};
use crate::kubernetes::report::{PolicyReport, Report, Verdict};

/// What a policy may be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub namespace: Box<str>,
    /// An Upstream, where it is no Service.
    pub is_upstream: bool,
    pub name: Box<str>,
    /// Name of a port of a Service; all of them where absent.
    pub section: Option<Box<str>>,
}

/// A policy, and what it holds for.
#[derive(Debug)]
pub struct Transport<'a> {
    object: &'a Object,
    /// With the reference that names each.
    targets: Vec<(Target, Value, Verdict)>,
    /// Authorities as they are written out.
    authorities: Vec<Value>,
    resolved: Verdict,
}

impl Target {
    pub fn upstream(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), is_upstream: true, name: name.into(), section: None }
    }

    pub fn service(namespace: &str, name: &str, section: Option<&str>) -> Self {
        let section = section.map(Into::into);
        Self { namespace: namespace.into(), is_upstream: false, name: name.into(), section }
    }

    fn read(namespace: &str, said: &Value) -> Option<Self> {
        let name = text(said, "name").unwrap_or_default();
        match (text(said, "group").unwrap_or_default(), text(said, "kind").unwrap_or_default()) {
            ("", "Service") => Some(Self::service(namespace, name, text(said, "sectionName"))),
            (FOREGATE_GROUP, "Upstream") => Some(Self::upstream(namespace, name)),
            _ => None,
        }
    }
}

impl<'a> Rendering<'a> {
    /// Reads every policy, the oldest first, and notes what must not be reached without what they ask for.
    pub fn plan_transport(&mut self) -> Vec<Transport<'a>> {
        let mut policies: Vec<&'a Object> =
            self.world.of(Resource::BackendTlsPolicy).map(AsRef::as_ref).collect();
        policies.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
        let mut taken: BTreeMap<Target, &'a Key> = BTreeMap::new();
        let mut plans = Vec::new();
        for object in policies {
            let (authorities, resolved) = self.trusted(object);
            let refused = self.excluded(&object.key);
            let mut targets = Vec::new();
            for said in list(&object.spec, "targetRefs") {
                let Some(target) = Target::read(&object.key.namespace, said) else {
                    let why = Verdict::bad("Invalid", "a BackendTLSPolicy is about a Service or an Upstream");
                    let nothing = Target::upstream(&object.key.namespace, "");
                    targets.push((nothing, said.clone(), why));
                    continue;
                };
                let verdict = if let Some(other) = taken.get(&target) {
                    Verdict::bad("Conflicted", format!("the {other} is about it already"))
                } else if !self.exists(&target) {
                    Verdict::bad("TargetNotFound", "there is no such object or port")
                } else {
                    taken.insert(target.clone(), &object.key);
                    match &refused {
                        Some(why) => why.clone(),
                        None if !resolved.ok => {
                            Verdict::bad("NoValidCACertificate", resolved.message.clone())
                        }
                        None => Verdict::good("Accepted"),
                    }
                };
                if taken.get(&target) == Some(&&object.key) && !verdict.ok {
                    self.unsafe_targets.insert(target.clone(), verdict.clone());
                }
                targets.push((target, said.clone(), verdict));
            }
            plans.push(Transport { object, targets, authorities, resolved });
        }
        plans
    }

    fn exists(&self, target: &Target) -> bool {
        if target.is_upstream {
            return self.world.find(Resource::Upstream, &target.namespace, &target.name).is_some();
        }
        let service = self.world.services.find(&target.namespace, &target.name);
        service.is_some_and(|service| {
            let section = target.section.as_ref();
            section.is_none_or(|section| service.ports.iter().any(|port| port.name == *section))
        })
    }

    /// The authorities that a policy trusts; the first that cannot be had is told.
    fn trusted(&mut self, object: &Object) -> (Vec<Value>, Verdict) {
        let (mut written, mut resolved) = (Vec::new(), Verdict::good("ResolvedRefs"));
        let validation = object.spec.get("validation").unwrap_or(&Value::Null);
        for said in list(validation, "caCertificateRefs") {
            let (group, kind) =
                (text(said, "group").unwrap_or_default(), text(said, "kind").unwrap_or_default());
            let Some(holder) = Holder::find(kind).filter(|_| group.is_empty()) else {
                resolved = Verdict::bad("InvalidKind", format!("`{group}/{kind}` holds no authorities"));
                continue;
            };
            let name = text(said, "name").unwrap_or_default();
            let reference = Reference::new(holder, &object.key.namespace, name);
            if let Some(why) = self.need_authority(&reference) {
                resolved = Verdict::bad("InvalidCACertificateRef", why);
            }
            written.push(json!({ "group": "", "kind": kind, "name": reference.folder() }));
        }
        (written, resolved)
    }

    /// Writes the policies as ones about upstreams, and notes what became of all.
    pub fn write_transport(&mut self, plans: Vec<Transport<'a>>) {
        let sections: BTreeSet<Target> =
            plans.iter().flat_map(|plan| &plan.targets).map(|(target, ..)| target.clone()).collect();
        for plan in plans {
            let accepted = plan.targets.iter().filter(|(.., verdict)| verdict.ok);
            let upstreams: Vec<Value> = accepted
                .flat_map(|(target, ..)| self.upstreams_of(target, &sections))
                .map(|name| json!({ "group": FOREGATE_GROUP, "kind": "Upstream", "name": name }))
                .collect();
            if !upstreams.is_empty() && self.excluded(&plan.object.key).is_none() {
                let mut spec = plan.object.spec.clone();
                if let Some(fields) = spec.as_object_mut() {
                    fields.insert("targetRefs".to_owned(), upstreams.into());
                }
                let list = spec.pointer_mut("/validation/caCertificateRefs");
                if let Some(list) = list.filter(|_| !plan.authorities.is_empty()) {
                    *list = plan.authorities.clone().into();
                }
                self.write(plan.object, &spec);
            }
            let report = self.transport_report(&plan);
            self.out.reports.insert(plan.object.key.clone(), Report::Policy(report));
        }
    }

    /// Names of the upstreams that stand for a target. What is said of a port counts before what is said of all.
    fn upstreams_of(&self, target: &Target, sections: &BTreeSet<Target>) -> Vec<String> {
        if target.is_upstream {
            return vec![target.name.to_string()];
        }
        let mut names = Vec::new();
        for (((namespace, name), number), speeches) in &self.services {
            if (namespace, name) != (&target.namespace, &target.name) {
                continue;
            }
            let service = self.world.services.find(namespace, name);
            let Some(port) = service.and_then(|service| service.find(*number)) else { continue };
            let precise = Target { section: Some(port.name.clone()), ..target.clone() };
            let meant = match &target.section {
                Some(section) => *section == port.name,
                None => !sections.contains(&precise),
            };
            if meant {
                names.extend(speeches.iter().map(|speech| upstream_name(name, *number, *speech)));
            }
        }
        names
    }

    /// By Gateway where something is reached through one, else by what the policy is about.
    fn transport_report(&self, plan: &Transport<'_>) -> PolicyReport {
        let mut ancestors: Vec<(Value, Verdict)> = Vec::new();
        for (target, said, verdict) in &plan.targets {
            let gateways = self.reached.get(target).into_iter().flatten();
            let mut references: Vec<Value> = gateways.map(gateway_reference).collect();
            if references.is_empty() {
                references.push(said.clone());
            }
            for reference in references {
                match ancestors.iter_mut().find(|(other, _)| *other == reference) {
                    Some((_, other)) if other.ok => *other = verdict.clone(),
                    Some(_) => {}
                    None => ancestors.push((reference, verdict.clone())),
                }
            }
        }
        // The API takes no more.
        ancestors.truncate(16);
        PolicyReport { ancestors, resolved: plan.resolved.clone() }
    }
}

fn gateway_reference(gateway: &Key) -> Value {
    json!({ "group": gateway.resource.group(), "kind": "Gateway", "namespace": gateway.namespace, "name": gateway.name })
}
