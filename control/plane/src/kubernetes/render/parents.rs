//! Which listeners a route attaches to.

use serde_json::{Value, json};

use crate::kubernetes::kinds::GATEWAY_GROUP;
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::render::listeners::{Listener, admits};
use crate::kubernetes::render::{Rendering, list, port, text};
use crate::kubernetes::report::{ParentReport, Verdict};

/// What the references of a route to Gateways come to.
#[derive(Debug, Default)]
pub struct Parents {
    /// Those that mean a Gateway of ours.
    pub reports: Vec<ParentReport>,
    /// As they are written out, each with its place in the list of the object.
    pub written: Vec<(usize, Value)>,
    pub gateways: Vec<Key>,
}

impl Rendering<'_> {
    pub fn parents(&mut self, route: &Object) -> Parents {
        let mut parents = Parents::default();
        for (index, said) in list(&route.spec, "parentRefs").iter().enumerate() {
            let group = text(said, "group").unwrap_or(GATEWAY_GROUP);
            if group != GATEWAY_GROUP || text(said, "kind").unwrap_or("Gateway") != "Gateway" {
                continue;
            }
            let namespace = text(said, "namespace").unwrap_or(&route.key.namespace);
            let name = text(said, "name").unwrap_or_default();
            let is = |plan: &super::Plan<'_>| {
                *plan.object.key.namespace == *namespace && *plan.object.key.name == *name
            };
            let Some(at) = self.plans.iter().position(is) else { continue };
            let excluded = self.excluded.parents.get(&(route.key.clone(), index));
            let verdict = match excluded.cloned().or_else(|| self.excluded(&route.key)) {
                Some(why) => Err(why),
                None => self.attach(route, said, at),
            };
            let accepted = match verdict {
                Ok(listeners) => {
                    let sections = self.sections(at, &listeners, route, said);
                    parents.written.extend(sections.into_iter().map(|section| (index, section)));
                    if let Some(plan) = self.plans.get_mut(at) {
                        parents.gateways.push(plan.object.key.clone());
                        for (at, listener) in plan.listeners.iter_mut().enumerate() {
                            listener.attached += usize::from(listeners.contains(&at));
                        }
                    }
                    Verdict::good("Accepted")
                }
                Err(why) => why,
            };
            parents.reports.push(ParentReport { reference: said.clone(), accepted });
        }
        parents
    }

    /// The listeners of a Gateway that a reference attaches the route to.
    fn attach(&self, route: &Object, said: &Value, at: usize) -> Result<Vec<usize>, Verdict> {
        let Some(plan) = self.plans.get(at) else { return Ok(Vec::new()) };
        let (section, on_port) = (text(said, "sectionName"), port(said, "port"));
        let all = plan.listeners.iter().enumerate();
        let named: Vec<_> = all
            .filter(|(_, listener)| section.is_none_or(|section| section == listener.name))
            .filter(|(_, listener)| listener.has_port(on_port))
            .collect();
        if named.is_empty() {
            return Err(Verdict::bad("NoMatchingParent", "the Gateway has no listener of this name or port"));
        }
        let word = route.key.resource.word();
        let fits: Vec<_> =
            named.into_iter().filter(|(_, listener)| listener.kinds.contains(&route.key.resource)).collect();
        if fits.is_empty() {
            let message = format!("no such listener takes routes of the kind {word}");
            return Err(Verdict::bad("NotAllowedByListeners", message));
        }
        let listeners = list(&plan.object.spec, "listeners");
        let open = |index: usize| {
            listeners.get(index).is_some_and(|said| {
                admits(said, &plan.object.key.namespace, &route.key.namespace, self.world)
            })
        };
        let admitted: Vec<_> = fits.into_iter().filter(|(_, listener)| open(listener.index)).collect();
        if admitted.is_empty() {
            let message =
                format!("allowedRoutes lets no route of the namespace `{}` attach", route.key.namespace);
            return Err(Verdict::bad("NotAllowedByListeners", message));
        }
        let hosts = list(&route.spec, "hostnames");
        let met: Vec<usize> =
            admitted.into_iter().filter(|(_, listener)| listener.meets(hosts)).map(|(at, _)| at).collect();
        if met.is_empty() {
            let message = "no such listener has a host name in common with the route";
            return Err(Verdict::bad("NoMatchingListenerHostname", message));
        }
        Ok(met)
    }

    /// References that mean these listeners and no others, as far as they are served.
    fn sections(&self, at: usize, listeners: &[usize], route: &Object, said: &Value) -> Vec<Value> {
        let Some(plan) = self.plans.get(at).filter(|plan| plan.is_served()) else { return Vec::new() };
        let home = &plan.object.key;
        let whole = |section: Option<&str>| match section {
            Some(section) => {
                json!({ "name": home.name, "namespace": home.namespace, "sectionName": section })
            }
            None => json!({ "name": home.name, "namespace": home.namespace }),
        };
        let served =
            |at: &&usize| plan.listeners.get(**at).is_some_and(|listener| listener.written.is_some());
        let served: Vec<usize> = listeners.iter().filter(served).copied().collect();
        let would = plan.listeners.iter().enumerate().filter(|(_, listener)| {
            listener.written.is_some() && listener.kinds.contains(&route.key.resource)
        });
        let all = said.get("sectionName").is_none() && said.get("port").is_none();
        if all && !served.is_empty() && would.map(|(at, _)| at).eq(served.iter().copied()) {
            return vec![whole(None)];
        }
        let names = served.iter().filter_map(|at| plan.listeners.get(*at));
        let reference = |listener: &Listener| {
            let mut reference = whole(Some(&listener.name));
            let meant = said.get("port").filter(|_| listener.is_captured());
            if let (Some(port), Some(fields)) = (meant, reference.as_object_mut()) {
                fields.insert("port".to_owned(), port.clone());
            }
            reference
        };
        names.map(reference).collect()
    }
}
