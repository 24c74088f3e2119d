//! The roots of the control plane, written to every namespace whose pods get sidecars.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;

use crate::event::event;
use crate::kubernetes::kinds::FIELD_MANAGER;
use crate::kubernetes::objects::World;

/// The label that has pods of a namespace injected, and its value.
pub const LABEL: (&str, &str) = ("foregate.dev/inject", "enabled");
/// How long a write may take, and the pause before what failed is tried again.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(5);

/// What is written where, and who writes.
#[derive(Debug)]
pub struct Roots {
    /// Name of the `ConfigMaps`.
    pub name: String,
    /// Certificates in PEM; nothing while there are none.
    pub roots: watch::Receiver<Option<String>>,
    pub world: watch::Receiver<Arc<World>>,
    pub leading: watch::Receiver<bool>,
}

/// What a `ConfigMap` holds.
#[derive(Debug)]
struct Held {
    namespace: Box<str>,
    /// `None` where it is gone, or empty.
    pem: Option<String>,
}

impl Roots {
    /// Writes whatever is missing or changed, until nobody tells of changes any more.
    pub async fn keep(mut self, client: Client) {
        let mut written: Option<String> = None;
        let mut done: BTreeSet<Box<str>> = BTreeSet::new();
        let mut seen = Box::pin(self.watch(&client));
        loop {
            let (roots, leads) = (self.roots.borrow_and_update().clone(), *self.leading.borrow_and_update());
            let wanted = labelled(&self.world.borrow_and_update());
            if written != roots || !leads {
                done.clear();
                written.clone_from(&roots);
            }
            done.retain(|namespace| wanted.contains(namespace));
            let mut failed = false;
            if let Some(pem) = roots.filter(|_| leads) {
                for namespace in wanted.difference(&done.clone()) {
                    if self.write(&client, namespace, &pem).await {
                        done.insert(namespace.clone());
                    } else {
                        failed = true;
                    }
                }
            }
            let changed = tokio::select! {
                Some(other) = seen.next() => {
                    // Somebody has changed or removed it: it is written again.
                    if written.as_ref() != other.pem.as_ref() {
                        done.remove(&other.namespace);
                    }
                    Ok(())
                }
                changed = self.roots.changed() => changed,
                changed = self.world.changed() => changed,
                changed = self.leading.changed() => changed,
                () = tokio::time::sleep(PAUSE), if failed => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// What the `ConfigMaps` of this name hold, whenever they change. Where they may not be watched, nothing is told.
    fn watch(&self, client: &Client) -> impl Stream<Item = Held> + Send + use<> {
        let api: Api<ConfigMap> = Api::all(client.clone());
        let only = Config::default().fields(&format!("metadata.name={}", self.name));
        let told = |event: watcher::Result<Event<ConfigMap>>| async move {
            let (map, there) = match event {
                Ok(Event::Apply(map) | Event::InitApply(map)) => (map, true),
                Ok(Event::Delete(map)) => (map, false),
                Ok(Event::Init | Event::InitDone) | Err(_) => return None,
            };
            let pem = map.data.and_then(|mut data| data.remove("ca.crt")).filter(|_| there);
            Some(Held { namespace: map.metadata.namespace.unwrap_or_default().into(), pem })
        };
        watcher(api, only).backoff(DefaultBackoff::default()).filter_map(told)
    }

    async fn write(&self, client: &Client, namespace: &str, pem: &str) -> bool {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.name, "namespace": namespace },
            "data": { "ca.crt": pem },
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(map);
        let outcome = tokio::time::timeout(LIMIT, api.patch(&self.name, &params, &patch)).await;
        let why = match outcome {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server did not answer in time".to_owned(),
        };
        event(
            log::Level::Warn,
            "roots not written",
            &[("namespace", namespace.into()), ("error", why.into())],
        );
        false
    }
}

fn labelled(world: &World) -> BTreeSet<Box<str>> {
    let with = world
        .namespaces
        .iter()
        .filter(|(_, labels)| labels.get(LABEL.0).is_some_and(|value| value == LABEL.1));
    with.map(|(name, _)| name.clone()).collect()
}
