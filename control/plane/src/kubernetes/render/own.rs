//! Kinds of our own: checked for what an object may not say, and written out.

use foregate_policy::codes;
use foregate_policy::compile::backends::RESERVED;
use serde_json::Value;

use crate::kubernetes::kinds::{GATEWAY_GROUP, Resource};
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::render::{Rendering, list, path, text};
use crate::kubernetes::report::{PolicyReport, Report, Verdict};

/// An object of our own, and its spec as it is written out.
#[derive(Debug)]
pub struct Own<'a> {
    object: &'a Object,
    spec: Result<Value, Verdict>,
}

impl<'a> Rendering<'a> {
    /// Reads all of them. What rests on a refused policy is refused, too: it would be open without it.
    pub fn plan_own(&mut self) -> Vec<Own<'a>> {
        let mut plans = Vec::new();
        for resource in Resource::OURS {
            for object in self.world.of(resource) {
                let object: &'a Object = object;
                let spec = match self.excluded(&object.key) {
                    Some(why) => Err(why),
                    None => self.own_spec(object),
                };
                if let Err(why) = &spec {
                    self.refused.insert(object.key.clone(), why.clone());
                    self.refuse_targets(object, why);
                }
                plans.push(Own { object, spec });
            }
        }
        plans
    }

    pub fn own_spec(&mut self, object: &Object) -> Result<Value, Verdict> {
        if object.key.resource == Resource::Upstream && object.key.name.starts_with(RESERVED) {
            let message =
                format!("{}: names that begin with `{RESERVED}` are for Services", codes::NAME_RESERVED);
            return Err(Verdict::bad("Invalid", message));
        }
        self.anchored(object)
    }

    fn refuse_targets(&mut self, policy: &Object, why: &Verdict) {
        if policy.key.resource != Resource::Policy || text(&policy.spec, "mode") == Some("shadow") {
            return;
        }
        for target in list(&policy.spec, "targetRefs") {
            let Some(key) = target_key(&policy.key.namespace, target) else { continue };
            let message = format!(
                "{}: the {} that guards it is refused: {}",
                codes::OBJECT_REFUSED,
                policy.key,
                why.message
            );
            self.refused.entry(key).or_insert_with(|| Verdict::bad("PolicyRefused", message));
        }
    }

    /// Writes those that nothing is wrong with, and notes what became of all.
    pub fn write_own(&mut self, plans: Vec<Own<'a>>) {
        for Own { object, spec } in plans {
            let accepted = match &spec {
                Ok(_) => Verdict::good("Accepted"),
                Err(why) => why.clone(),
            };
            let report = if object.key.resource == Resource::Policy {
                self.policy(object, spec, &accepted)
            } else {
                if let Ok(spec) = spec {
                    self.write(object, &spec);
                }
                Report::Plain(accepted)
            };
            self.out.reports.insert(object.key.clone(), report);
        }
    }

    /// A policy is written with those of its targets that are served.
    fn policy(&mut self, object: &Object, spec: Result<Value, Verdict>, accepted: &Verdict) -> Report {
        let (mut ancestors, mut kept) = (Vec::new(), Vec::new());
        for target in list(&object.spec, "targetRefs") {
            let key = target_key(&object.key.namespace, target);
            let there = key.as_ref().is_some_and(|key| self.world.objects.contains_key(key));
            let served = key.as_ref().is_some_and(|key| self.out.files.contains_key(&*path(key)));
            // What no one reads is for the compiler to tell of.
            if served || key.is_none() {
                kept.push(target.clone());
            }
            let verdict = match accepted.ok {
                true if key.is_some() && !there => Verdict::bad("TargetNotFound", "there is no such object"),
                true if key.is_some() && !served => Verdict {
                    ok: true,
                    reason: "Accepted",
                    message: "the object is not served, and nothing is guarded".to_owned(),
                },
                _ => accepted.clone(),
            };
            ancestors.push((target.clone(), verdict));
        }
        ancestors.truncate(16);
        if let Ok(mut spec) = spec
            && !kept.is_empty()
        {
            if let Some(fields) = spec.as_object_mut() {
                fields.insert("targetRefs".to_owned(), kept.into());
            }
            self.write(object, &spec);
        }
        Report::Policy(PolicyReport { ancestors, resolved: Verdict::good("ResolvedRefs") })
    }
}

/// What a policy is about.
fn target_key(namespace: &str, target: &Value) -> Option<Key> {
    let resource = Resource::find(text(target, "kind")?)?;
    let guarded = resource == Resource::Gateway || resource.is_route();
    let ours = text(target, "group").unwrap_or_default() == GATEWAY_GROUP;
    (guarded && ours).then(|| Key::new(resource, namespace, text(target, "name").unwrap_or_default()))
}
