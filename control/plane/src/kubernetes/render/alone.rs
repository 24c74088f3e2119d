//! One object as a document, whatever else there is: for checks before it is stored.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::kinds::{FOREGATE_GROUP, Resource};
use crate::kubernetes::objects::{Object, World};
use crate::kubernetes::references::References;
use crate::kubernetes::render::{Exclusions, Rendering, document, list, path, render, text};
use crate::kubernetes::report::Verdict;
use crate::kubernetes::yaml;

/// The text of its document; `None` where it is not for this controller. What it refers to is taken for given.
///
/// # Errors
/// Where it says what an object may not say.
pub fn alone(object: &Arc<Object>, world: &World) -> Result<Option<String>, Verdict> {
    let resource = object.key.resource;
    if resource.is_ours() {
        let (references, excluded) = (References::new(), Exclusions::default());
        let empty = World::default();
        let spec = Rendering::new(&empty, &references, &excluded).own_spec(object)?;
        return Ok(Some(yaml::write(&document(object, &spec))));
    }
    if resource == Resource::BackendTlsPolicy {
        return Ok(transport(object));
    }
    // Gateways and routes are written as they would be among our classes and Gateways.
    let mut small = World { namespaces: world.namespaces.clone(), ..World::default() };
    for kind in [Resource::GatewayClass, Resource::Gateway] {
        if kind != resource {
            small.objects.extend(world.of(kind).map(|object| (object.key.clone(), Arc::clone(object))));
        }
    }
    small.objects.insert(object.key.clone(), Arc::clone(object));
    if resource == Resource::Gateway {
        small
            .objects
            .extend(world.of(Resource::GatewayClass).map(|class| (class.key.clone(), Arc::clone(class))));
    }
    let mut rendered = render(&small, &References::new(), &Exclusions::default());
    Ok(rendered.files.remove(&*path(&object.key)).map(|file| file.text.to_string()))
}

/// A policy whose targets are upstreams that stand for them; `None` where none is for this controller.
fn transport(object: &Object) -> Option<String> {
    let known = |said: &&Value| {
        matches!(
            (text(said, "group").unwrap_or_default(), text(said, "kind").unwrap_or_default()),
            ("", "Service") | (FOREGATE_GROUP, "Upstream")
        )
    };
    let targets = list(&object.spec, "targetRefs").iter().filter(known);
    let mut names: Vec<&str> = targets.filter_map(|said| text(said, "name")).collect();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let mut spec = object.spec.clone();
    let upstreams: Vec<Value> = names
        .iter()
        .map(|name| json!({ "group": FOREGATE_GROUP, "kind": "Upstream", "name": name }))
        .collect();
    spec.as_object_mut()?.insert("targetRefs".to_owned(), upstreams.into());
    Some(yaml::write(&document(object, &spec)))
}
