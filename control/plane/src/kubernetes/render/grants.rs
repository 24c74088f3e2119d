//! `ReferenceGrants`: asked here for what only the controller follows, written out for the rest.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::kinds::{FOREGATE_GROUP, GATEWAY_GROUP, Resource};
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::render::{Rendering, list, text};
use crate::kubernetes::report::Verdict;

impl Rendering<'_> {
    /// True where a grant in `namespace` lets objects like `from` refer to this group, kind and name there.
    pub fn grants(&self, from: &Key, namespace: &str, (group, kind, name): (&str, &str, &str)) -> bool {
        let here =
            |grant: &&Arc<Object>| *grant.key.namespace == *namespace && self.excluded(&grant.key).is_none();
        self.world.of(Resource::ReferenceGrant).filter(here).any(|grant| {
            let mut froms = list(&grant.spec, "from").iter();
            let mut tos = list(&grant.spec, "to").iter();
            froms.any(|said| {
                text(said, "group").unwrap_or_default() == from.resource.group()
                    && text(said, "kind") == Some(from.resource.word())
                    && text(said, "namespace") == Some(&from.namespace)
            }) && tos.any(|said| {
                text(said, "group").unwrap_or_default() == group
                    && text(said, "kind") == Some(kind)
                    && text(said, "name").is_none_or(|said| said.is_empty() || said == name)
            })
        })
    }

    /// Writes what grants say of routes, Upstreams and Services; the rest was asked already.
    pub fn write_grants(&mut self) {
        for grant in self.world.of(Resource::ReferenceGrant) {
            if self.excluded(&grant.key).is_some() {
                continue;
            }
            let from = list(&grant.spec, "from").iter().filter(|said| {
                let kind = Resource::find(text(said, "kind").unwrap_or_default());
                text(said, "group") == Some(GATEWAY_GROUP) && kind.is_some_and(Resource::is_route)
            });
            let to = list(&grant.spec, "to").iter().filter(|said| {
                let (group, kind) =
                    (text(said, "group").unwrap_or_default(), text(said, "kind").unwrap_or_default());
                (group, kind) == ("", "Service") || (group, kind) == (FOREGATE_GROUP, "Upstream")
            });
            let (from, to): (Vec<&Value>, Vec<&Value>) = (from.collect(), to.collect());
            if !from.is_empty() && !to.is_empty() {
                self.write(grant, &json!({ "from": from, "to": to }));
            }
        }
    }
}

/// What is told of a reference that no grant allows.
pub fn not_granted(from: &Key, namespace: &str, kind: &str, name: &str) -> Verdict {
    let message = format!(
        "no ReferenceGrant in the namespace `{namespace}` lets a {} of `{}` refer to the {kind} `{name}`",
        from.resource.word(),
        from.namespace
    );
    Verdict::bad("RefNotPermitted", message)
}
