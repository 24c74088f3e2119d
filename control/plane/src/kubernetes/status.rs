//! Statuses: reports as they are written, with the times at which conditions changed.

use serde_json::{Value, json};

use crate::kubernetes::kinds::{CONTROLLER_NAME, Resource};
use crate::kubernetes::objects::Object;
use crate::kubernetes::report::{GatewayReport, ListenerReport, PolicyReport, Report, RouteReport, Verdict};

/// Entries of other controllers that are kept beside ours, at most: no more are allowed in all.
const MAX_ENTRIES: usize = 32;

/// The status that an object should have. `now` is for conditions that change. The addresses are those under which
/// all Gateways are reached.
pub fn wanted(object: &Object, report: &Report, addresses: &[Value], now: &str) -> Value {
    let writer = Writer { object, now };
    match report {
        Report::Class(verdict) | Report::Plain(verdict) => {
            json!({ "conditions": [writer.top("Accepted", verdict)] })
        }
        Report::Gateway(gateway) => writer.gateway(gateway, addresses),
        Report::Route(route) => json!({ "parents": writer.parents(route) }),
        Report::Policy(policy) => json!({ "ancestors": writer.ancestors(policy) }),
    }
}

/// The status of an object that no report is about any more: without entries of ours. `None` where it has none.
pub fn cleared(object: &Object) -> Option<Value> {
    let list = if object.key.resource.is_route() {
        "parents"
    } else if matches!(object.key.resource, Resource::BackendTlsPolicy | Resource::Policy) {
        "ancestors"
    } else {
        return None;
    };
    let all = object.status.get(list)?.as_array()?;
    let others: Vec<&Value> = all.iter().filter(|entry| !is_ours(entry)).collect();
    (others.len() < all.len()).then(|| json!({ list: others }))
}

/// True where all that is wanted stands in the status already.
pub fn is_met(object: &Object, wanted: &Value) -> bool {
    let Some(fields) = wanted.as_object() else { return true };
    fields.iter().all(|(field, value)| {
        let there = object.status.get(field).unwrap_or(&Value::Null);
        let none = value.as_array().is_some_and(Vec::is_empty);
        (none && there.is_null()) || same(field, there, value)
    })
}

/// Conditions and listeners are told apart by type and name; the rest stands in order.
fn same(field: &str, there: &Value, wanted: &Value) -> bool {
    let by = match field {
        "conditions" => "type",
        "listeners" => "name",
        _ => return there == wanted,
    };
    let (Some(there), Some(wanted)) = (there.as_array(), wanted.as_array()) else { return there == wanted };
    let find = |entry: &Value| there.iter().find(|other| other.get(by) == entry.get(by));
    let met = wanted.iter().all(|entry| match (find(entry), entry.as_object()) {
        (Some(other), Some(fields)) => {
            fields.iter().all(|(field, value)| same(field, other.get(field).unwrap_or(&Value::Null), value))
        }
        _ => false,
    });
    met && (field == "conditions" || there.len() == wanted.len())
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").is_some_and(|name| name == CONTROLLER_NAME)
}

#[derive(Clone, Copy, Debug)]
struct Writer<'a> {
    object: &'a Object,
    now: &'a str,
}

impl Writer<'_> {
    fn top(&self, kind: &str, verdict: &Verdict) -> Value {
        self.condition(kind, verdict, self.object.status.get("conditions"))
    }

    /// A condition; the time is that of the old one where it says the same.
    fn condition(&self, kind: &str, verdict: &Verdict, old: Option<&Value>) -> Value {
        let status = if verdict.ok { "True" } else { "False" };
        let mut old = old.and_then(Value::as_array).into_iter().flatten();
        let old = old.find(|condition| condition.get("type").is_some_and(|name| name == kind));
        let since = old.filter(|old| old.get("status").is_some_and(|old| old == status));
        let since = since.and_then(|old| old.get("lastTransitionTime")).and_then(Value::as_str);
        json!({
            "type": kind,
            "status": status,
            "reason": verdict.reason,
            "message": verdict.bounded(),
            "observedGeneration": self.object.generation,
            "lastTransitionTime": since.unwrap_or(self.now),
        })
    }

    fn gateway(&self, gateway: &GatewayReport, addresses: &[Value]) -> Value {
        let listeners: Vec<Value> =
            gateway.listeners.iter().map(|listener| self.listener(listener)).collect();
        json!({
            "addresses": addresses,
            "conditions": [self.top("Accepted", &gateway.accepted), self.top("Programmed", &gateway.programmed)],
            "listeners": listeners,
        })
    }

    fn listener(&self, listener: &ListenerReport) -> Value {
        let old = self.object.status.get("listeners").and_then(Value::as_array).into_iter().flatten();
        let old = { old }.find(|old| old.get("name").is_some_and(|name| name == &*listener.name));
        let old = old.and_then(|old| old.get("conditions"));
        let kinds: Vec<Value> =
            listener.kinds.iter().map(|kind| json!({ "group": kind.group(), "kind": kind.word() })).collect();
        json!({
            "name": listener.name,
            "supportedKinds": kinds,
            "attachedRoutes": listener.attached,
            "conditions": [
                self.condition("Accepted", &listener.accepted, old),
                self.condition("Programmed", &listener.programmed, old),
                self.condition("ResolvedRefs", &listener.resolved, old),
                self.condition("Conflicted", &listener.conflicted, old),
            ],
        })
    }

    fn parents(&self, route: &RouteReport) -> Vec<Value> {
        let old = self.object.status.get("parents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut entries: Vec<Value> = old.iter().filter(|entry| !is_ours(entry)).cloned().collect();
        for parent in &route.parents {
            let before =
                old.iter().find(|entry| is_ours(entry) && entry.get("parentRef") == Some(&parent.reference));
            let before = before.and_then(|entry| entry.get("conditions"));
            entries.push(json!({
                "parentRef": parent.reference,
                "controllerName": CONTROLLER_NAME,
                "conditions": [
                    self.condition("Accepted", &parent.accepted, before),
                    self.condition("ResolvedRefs", &route.resolved, before),
                ],
            }));
        }
        entries.truncate(MAX_ENTRIES);
        entries
    }

    fn ancestors(&self, policy: &PolicyReport) -> Vec<Value> {
        let old =
            self.object.status.get("ancestors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut entries: Vec<Value> = old.iter().filter(|entry| !is_ours(entry)).cloned().collect();
        for (reference, accepted) in &policy.ancestors {
            let before =
                old.iter().find(|entry| is_ours(entry) && entry.get("ancestorRef") == Some(reference));
            let before = before.and_then(|entry| entry.get("conditions"));
            entries.push(json!({
                "ancestorRef": reference,
                "controllerName": CONTROLLER_NAME,
                "conditions": [
                    self.condition("Accepted", accepted, before),
                    self.condition("ResolvedRefs", &policy.resolved, before),
                ],
            }));
        }
        entries.truncate(MAX_ENTRIES / 2);
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::{cleared, is_met, wanted};
    use crate::kubernetes::kinds::Resource;
    use crate::kubernetes::objects::{Key, Object};
    use crate::kubernetes::report::{ParentReport, Report, RouteReport, Verdict};
    use serde_json::{Value, json};

    fn route(status: Value) -> Object {
        Object {
            key: Key::new(Resource::HttpRoute, "crm", "leads"),
            generation: 3,
            resource_version: "7".to_owned(),
            created: String::new(),
            labels: [].into(),
            spec: json!({}),
            status,
        }
    }

    fn report(accepted: Verdict) -> Report {
        let reference = json!({ "name": "edge" });
        let parents = vec![ParentReport { reference, accepted }];
        Report::Route(RouteReport { parents, resolved: Verdict::good("ResolvedRefs") })
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes_and_entries_of_others_stay() {
        let other =
            json!({ "parentRef": { "name": "x" }, "controllerName": "example.com/other", "conditions": [] });
        let mut object = route(json!({ "parents": [other] }));
        let first = wanted(&object, &report(Verdict::good("Accepted")), &[], "2026-01-01T00:00:00Z");
        assert!(!is_met(&object, &first));
        assert_eq!(first["parents"][0], other);
        assert_eq!(first["parents"][1]["conditions"][0]["observedGeneration"], 3);
        object.status = first.clone();
        let again = wanted(&object, &report(Verdict::good("Accepted")), &[], "2026-01-02T00:00:00Z");
        assert_eq!(again, first);
        assert!(is_met(&object, &again));
        let bad = Verdict::bad("UnsupportedValue", "FG0304: no");
        let changed = wanted(&object, &report(bad), &[], "2026-01-03T00:00:00Z");
        let conditions = &changed["parents"][1]["conditions"];
        assert_eq!(conditions[0]["lastTransitionTime"], "2026-01-03T00:00:00Z");
        assert_eq!(conditions[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(cleared(&object), Some(json!({ "parents": [other] })));
        assert_eq!(cleared(&route(json!({ "parents": [other] }))), None);
    }

    #[test]
    fn conditions_of_others_do_not_matter() {
        let mut object = route(json!({}));
        object.key.resource = Resource::Upstream;
        let plain = wanted(&object, &Report::Plain(Verdict::good("Accepted")), &[], "t");
        let mut conditions = plain["conditions"].as_array().unwrap().clone();
        conditions.insert(0, json!({ "type": "Seen", "status": "True" }));
        object.status = json!({ "conditions": conditions, "extra": 1 });
        assert!(is_met(&object, &plain));
    }
}
