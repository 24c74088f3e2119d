//! Keeps the authority in the configurations of the webhooks current.

use std::fmt::Debug;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::DefaultBackoff};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::event::event;
use crate::kubernetes::kinds::FIELD_MANAGER;

/// How long a write may take, and the pause before what failed is tried again.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(2);

/// Follows the configuration of this name, of either kind, and writes the authority where it is another. Ends when the
/// authority is nobody's any more.
pub async fn keep(client: Client, name: String, authority: watch::Receiver<Option<String>>) {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    tokio::join!(
        follow(mutating, &name, "MutatingWebhookConfiguration", authority.clone()),
        follow(validating, &name, "ValidatingWebhookConfiguration", authority),
    );
}

async fn follow<K>(
    api: Api<K>,
    name: &str,
    kind: &'static str,
    mut authority: watch::Receiver<Option<String>>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let only = Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api.clone(), only).backoff(DefaultBackoff::default());
    let mut stream = Box::pin(stream);
    let (mut seen, mut failed): (Option<K>, bool) = (None, false);
    loop {
        tokio::select! {
            next = stream.next() => match next {
                Some(Ok(Event::Apply(object) | Event::InitApply(object))) => seen = Some(object),
                Some(Ok(Event::Delete(_) | Event::Init)) => seen = None,
                Some(Ok(Event::InitDone) | Err(_)) => {}
                None => return,
            },
            changed = authority.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PAUSE), if failed => {}
        }
        failed = false;
        let current = authority.borrow().clone();
        let (Some(object), Some(pem)) = (&seen, current) else { continue };
        let Ok(object) = serde_json::to_value(object) else { continue };
        let Some(patch) = patch(&object, kind, &STANDARD.encode(pem)) else { continue };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(patch);
        let outcome = tokio::time::timeout(LIMIT, api.patch(name, &params, &patch)).await;
        if !matches!(outcome, Ok(Ok(_))) {
            failed = true;
            let why = outcome.map_or_else(
                |_| "late".to_owned(),
                |outcome| outcome.err().map_or_else(String::new, |error| error.to_string()),
            );
            event(
                log::Level::Warn,
                "webhook configuration not written",
                &[("kind", kind.into()), ("error", why.into())],
            );
        }
    }
}

/// What has to be applied; `None` where every webhook has the authority.
fn patch(object: &Value, kind: &str, bundle: &str) -> Option<Value> {
    let hooks = object.get("webhooks")?.as_array()?;
    let other =
        |hook: &&Value| hook.pointer("/clientConfig/caBundle").and_then(Value::as_str) != Some(bundle);
    if !hooks.iter().any(|hook| other(&hook)) {
        return None;
    }
    let hooks: Vec<Value> = hooks
        .iter()
        .map(|hook| json!({ "name": hook.get("name"), "clientConfig": { "caBundle": bundle } }))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": object.pointer("/metadata/name") },
        "webhooks": hooks,
    }))
}
