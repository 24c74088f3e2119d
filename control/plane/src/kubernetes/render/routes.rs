//! Routes: attached to Gateways, their references resolved, written out.

use serde_json::{Map, Value};

use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::render::Rendering;
use crate::kubernetes::report::{Report, RouteReport, Verdict};

impl Rendering<'_> {
    /// Writes a route that attaches to a Gateway of ours, and notes what became of it.
    pub fn route(&mut self, route: &Object) {
        let parents = self.parents(route);
        if parents.reports.is_empty() {
            return;
        }
        let mut resolved = Verdict::good("ResolvedRefs");
        let mut spec = Map::new();
        for (field, value) in route.spec.as_object().into_iter().flatten() {
            let value = match field.as_str() {
                "parentRefs" => parents.written.iter().map(|(_, said)| said.clone()).collect(),
                "rules" => self.rules(route, value, &parents.gateways, &mut resolved),
                _ => value.clone(),
            };
            spec.insert(field.clone(), value);
        }
        if !parents.written.is_empty() {
            let places = parents.written.iter().map(|(index, _)| *index).collect();
            self.out.places.insert(route.key.clone(), places);
            self.write(route, &Value::Object(spec));
        }
        let report = RouteReport { parents: parents.reports, resolved };
        self.out.reports.insert(route.key.clone(), Report::Route(report));
    }

    fn rules(&mut self, route: &Object, rules: &Value, gateways: &[Key], resolved: &mut Verdict) -> Value {
        let mut rules = rules.clone();
        for rule in rules.as_array_mut().into_iter().flatten() {
            let redirects = rule.get("filters").and_then(Value::as_array).is_some_and(|filters| {
                filters.iter().any(|filter| filter.get("requestRedirect").is_some_and(|said| !said.is_null()))
            });
            let mut references: Vec<&mut Value> = Vec::new();
            let mut leads = false;
            for (field, value) in rule.as_object_mut().into_iter().flatten() {
                match (field.as_str(), value) {
                    ("backendRefs", Value::Array(backends)) => {
                        leads = !backends.is_empty();
                        references.extend(backends);
                    }
                    ("filters", Value::Array(filters)) => {
                        references.extend(
                            filters
                                .iter_mut()
                                .filter_map(|filter| filter.pointer_mut("/requestMirror/backendRef")),
                        );
                    }
                    _ => {}
                }
            }
            for reference in references {
                let (written, wrong) = self.backend(route, reference, gateways);
                *reference = written;
                if let Some(wrong) = wrong {
                    worse(resolved, wrong);
                }
            }
            // A rule that leads nowhere refuses what it takes (Gateway API), and does not leave it to others.
            if !leads && !redirects {
                let (nowhere, _) = self.backend(route, &Value::Null, gateways);
                if let Some(fields) = rule.as_object_mut() {
                    fields.insert("backendRefs".to_owned(), Value::Array(vec![nowhere]));
                }
            }
        }
        rules
    }
}

/// Adds to what is wrong; the first reason stays.
fn worse(all: &mut Verdict, wrong: Verdict) {
    if all.ok {
        *all = wrong;
    } else if !all.message.contains(&wrong.message) {
        all.message.push_str("; ");
        all.message.push_str(&wrong.message);
    }
}
