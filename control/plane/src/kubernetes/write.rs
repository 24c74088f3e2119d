//! Writes statuses by server-side apply.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::event::event;
use crate::kubernetes::health::Health;
use crate::kubernetes::kinds::FIELD_MANAGER;
use crate::kubernetes::objects::Object;

/// Statuses that are written at once.
const AT_ONCE: usize = 8;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// The status that an object should have and has not.
#[derive(Clone, Debug)]
pub struct Write {
    pub object: Arc<Object>,
    pub status: Value,
}

/// Takes over the latest list whenever it is done with the one before.
pub struct StatusWriter {
    pub client: Client,
    pub wanted: watch::Receiver<Arc<Vec<Write>>>,
    pub health: Arc<Health>,
    /// Told where something failed, so that the list is made anew.
    pub again: mpsc::Sender<()>,
}

impl fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusWriter").finish_non_exhaustive()
    }
}

impl StatusWriter {
    /// Runs until nobody wants anything any more.
    pub async fn run(mut self) {
        while self.wanted.changed().await.is_ok() {
            let list = Arc::clone(&self.wanted.borrow_and_update());
            let this = &self;
            let outcomes: Vec<bool> = futures_util::stream::iter(list.iter().cloned())
                .map(|write| async move { this.write(&write).await })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            if outcomes.contains(&false) {
                tokio::time::sleep(PAUSE).await;
                if self.again.send(()).await.is_err() {
                    return;
                }
            }
        }
    }

    /// False where it has to be tried again.
    async fn write(&self, write: &Write) -> bool {
        let object = &write.object;
        let key = &object.key;
        let api: Api<DynamicObject> = if key.resource.is_namespaced() {
            Api::namespaced_with(self.client.clone(), &key.namespace, &key.resource.api())
        } else {
            Api::all_with(self.client.clone(), &key.resource.api())
        };
        let mut metadata = json!({ "name": key.name, "resourceVersion": object.resource_version });
        if let Some(fields) = metadata.as_object_mut().filter(|_| key.resource.is_namespaced()) {
            fields.insert("namespace".to_owned(), json!(key.namespace));
        }
        let patch = json!({
            "apiVersion": key.resource.api_version(),
            "kind": key.resource.word(),
            // Of an object that has changed meanwhile, the new state is judged first.
            "metadata": metadata,
            "status": write.status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(patch);
        let outcome = tokio::time::timeout(LIMIT, api.patch_status(&key.name, &params, &patch)).await;
        let (outcome, why) = match outcome {
            Ok(Ok(_)) => ("written", None),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => ("outdated", None),
            Ok(Err(error)) => ("failed", Some(error.to_string())),
            Err(_) => ("failed", Some("the API server did not answer in time".to_owned())),
        };
        self.health.writes.get_or_create(&vec![("outcome", outcome)]).inc();
        if let Some(why) = &why {
            let fields = [("object", key.to_string().into()), ("error", why.clone().into())];
            event(log::Level::Warn, "kubernetes status not written", &fields);
        }
        why.is_none()
    }
}
