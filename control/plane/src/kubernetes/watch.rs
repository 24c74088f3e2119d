//! Watches kinds of objects, and tells of what changes.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Config, Event as Watched, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::Sender;

use crate::event::event;
use crate::kubernetes::health::Health;
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::{Labels, Object};
use crate::kubernetes::references::{Content, Holder, Reference};
use crate::kubernetes::services::{Place, Ports, Slice, place};

/// Longest pause before a failing watch is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// First pause.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a kind that the API server does not know is looked for again.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);

/// How long a watch that failed must say nothing to be up again: longer than a connection may take. That it stands is told
/// by nothing but the next event.
const CALM: Duration = Duration::from_secs(6);
/// How long a watch lasts before it is asked for again, in seconds: a connection that is dead without a word is found out
/// by then.
const LASTS: u32 = 120;
/// The same for the client, with a margin; and how long a connection may take.
pub const SILENT: Duration = Duration::from_secs(125);
pub const CONNECT: Duration = Duration::from_secs(5);

/// Something that changed, or a whole list.
#[derive(Debug)]
pub enum Event {
    Object(Object),
    ObjectGone(Object),
    Objects(Resource, Vec<Object>),
    Ports(Place, Option<Ports>),
    AllPorts(Vec<(Place, Ports)>),
    Slice(Place, Box<str>, Slice),
    SliceGone(Place, Box<str>),
    Slices(Vec<(Place, Box<str>, Slice)>),
    Labels(Box<str>, Option<Labels>),
    AllLabels(Vec<(Box<str>, Labels)>),
    Content(Reference, Content),
    /// A kind whose list cannot be had, and must not be taken for empty.
    Unserved(&'static str),
}

/// What is taken from objects of a kind.
trait Kept: Send + Sync + 'static {
    type From: DeserializeOwned + Clone + Debug + Send + 'static;
    type Kept: Send;

    fn keep(&self, object: Self::From) -> Option<Self::Kept>;
    fn changed(&self, kept: Self::Kept) -> Event;
    fn gone(&self, kept: Self::Kept) -> Event;
    fn all(&self, list: Vec<Self::Kept>) -> Event;

    /// The kind, where it may be one that is not installed.
    fn resource(&self) -> Option<Resource> {
        None
    }
}

struct OfResource(Resource);
struct OfServices;
struct OfSlices;
struct OfNamespaces;

/// Where events go, and who is told of faults.
#[derive(Clone)]
pub struct Watcher {
    pub client: Client,
    pub events: Sender<Event>,
    pub health: Arc<Health>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches a kind that is compiled, until nobody listens.
    pub async fn resource(self, resource: Resource) {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource.api());
        self.follow(api, resource.word(), OfResource(resource)).await;
    }

    pub async fn services(self) {
        let api: Api<CoreService> = Api::all(self.client.clone());
        self.follow(api, "Service", OfServices).await;
    }

    pub async fn slices(self) {
        let api: Api<EndpointSlice> = Api::all(self.client.clone());
        self.follow(api, "EndpointSlice", OfSlices).await;
    }

    pub async fn namespaces(self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        self.follow(api, "Namespace", OfNamespaces).await;
    }

    async fn follow<K>(self, api: Api<K::From>, kind: &'static str, kept: K)
    where
        K: Kept,
        K::From: kube::Resource + Clone,
    {
        let mut stream = Box::pin(watcher(api, Config::default().timeout(LASTS)));
        let (mut pause, mut list, mut failing, mut seen) = (FIRST_PAUSE, Vec::new(), false, false);
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = tokio::time::sleep(CALM), if failing => {
                    (failing, pause) = (false, FIRST_PAUSE);
                    self.health.alive(kind);
                    continue;
                }
            };
            let Some(next) = next else { return };
            let told = match next {
                Ok(Watched::Init) => {
                    list.clear();
                    None
                }
                Ok(Watched::InitApply(object)) => {
                    list.extend(kept.keep(object));
                    None
                }
                Ok(Watched::InitDone) => {
                    seen = true;
                    Some(kept.all(std::mem::take(&mut list)))
                }
                Ok(Watched::Apply(object)) => kept.keep(object).map(|object| kept.changed(object)),
                Ok(Watched::Delete(object)) => kept.keep(object).map(|object| kept.gone(object)),
                Err(error) => {
                    let unknown = is_unknown(&error);
                    let absent = unknown && self.is_absent(kept.resource(), seen).await;
                    failing = !absent;
                    self.report(kind, &error, unknown.then_some(absent));
                    // A kind that is not installed has no objects, and nothing waits for it.
                    let told = if absent { kept.all(Vec::new()) } else { Event::Unserved(kind) };
                    if unknown && self.events.send(told).await.is_err() {
                        return;
                    }
                    let wait = if absent { UNKNOWN_PAUSE } else { pause };
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.events.closed() => return,
                    }
                    continue;
                }
            };
            (failing, pause) = (false, FIRST_PAUSE);
            self.health.alive(kind);
            if let Some(told) = told
                && self.events.send(told).await.is_err()
            {
                return;
            }
        }
    }

    /// True where a kind that the API server does not know has no objects either. One that was seen, or that guards
    /// others, may be served in another version: what it guards must not pass for unguarded.
    async fn is_absent(&self, resource: Option<Resource>, seen: bool) -> bool {
        let Some(resource) = resource else { return false };
        if !seen && !matches!(resource, Resource::Policy | Resource::BackendTlsPolicy) {
            return true;
        }
        let Ok(all) = self.client.list_api_groups().await else { return false };
        let group = all.groups.into_iter().find(|group| group.name == resource.group());
        for version in group.into_iter().flat_map(|group| group.versions) {
            let there = match self.client.list_api_group_resources(&version.group_version).await {
                Ok(kinds) => kinds.resources.iter().any(|kind| kind.name == resource.plural()),
                Err(error) => !matches!(error, kube::Error::Api(status) if status.code == 404),
            };
            if there {
                return false;
            }
        }
        true
    }

    /// `absent` is told of a kind that the API server does not know: whether there is none of it.
    fn report(&self, kind: &'static str, error: &watcher::Error, absent: Option<bool>) {
        // That a list is too old to go on from is the ordinary course of things.
        if is_expired(error) {
            return;
        }
        let why = match absent {
            Some(true) => "the API server does not know this kind".to_owned(),
            Some(false) => {
                "the API server does not know this kind in the version that is read here, and may in others; nothing is \
                 taken for removed: install the definitions that `foregate-control crds` prints"
                    .to_owned()
            }
            None => error.to_string(),
        };
        if self.health.failed(kind, why.clone()) {
            event(
                log::Level::Warn,
                "kubernetes watch failed",
                &[("kind", kind.into()), ("error", json!(why))],
            );
        }
    }

    /// Watches one Secret or `ConfigMap`, until nobody listens.
    pub async fn content(self, reference: Reference) {
        match reference.holder {
            Holder::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &reference.namespace);
                self.one(api, reference, |secret: Secret| {
                    secret
                        .data
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(key, value)| (key, value.0.into()))
                        .collect()
                })
                .await;
            }
            Holder::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &reference.namespace);
                self.one(api, reference, |map: ConfigMap| {
                    let binary = map.binary_data.unwrap_or_default().into_iter();
                    let binary = binary.map(|(key, value)| (key, value.0.into()));
                    let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into()));
                    binary.chain(text).collect()
                })
                .await;
            }
        }
    }

    async fn one<K>(self, api: Api<K>, reference: Reference, keys: impl Fn(K) -> BTreeMap<String, Bytes>)
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    {
        let kind = reference.holder.word();
        // So that a role may allow this one alone.
        let only = Config::default().timeout(LASTS).fields(&format!("metadata.name={}", reference.name));
        let mut stream = Box::pin(watcher(api, only));
        let (mut pause, mut there, mut known) = (FIRST_PAUSE, None, false);
        while let Some(next) = stream.next().await {
            let content = match next {
                Ok(Watched::Init) => {
                    there = None;
                    continue;
                }
                Ok(Watched::InitApply(object)) => {
                    there = Some(object);
                    continue;
                }
                Ok(Watched::InitDone) => {
                    there.take().map_or(Content::Absent, |object| Content::Present(keys(object)))
                }
                Ok(Watched::Apply(object)) => Content::Present(keys(object)),
                Ok(Watched::Delete(_)) => Content::Absent,
                Err(error) => {
                    self.report(kind, &error, None);
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // What was seen last goes on; what was never seen holds up nobody.
                    let told = Event::Content(reference.clone(), Content::Withheld(error.to_string()));
                    if !known && self.events.send(told).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.events.closed() => return,
                    }
                    continue;
                }
            };
            (pause, known) = (FIRST_PAUSE, true);
            self.health.alive(kind);
            if self.events.send(Event::Content(reference.clone(), content)).await.is_err() {
                return;
            }
        }
    }
}

fn status_of(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(_)) && status_of(error) == Some(404)
}

fn is_expired(error: &watcher::Error) -> bool {
    status_of(error) == Some(410)
}

impl Kept for OfResource {
    type From = DynamicObject;
    type Kept = Object;

    fn keep(&self, object: DynamicObject) -> Option<Object> {
        Some(Object::read(self.0, object))
    }

    fn changed(&self, kept: Object) -> Event {
        Event::Object(kept)
    }

    fn gone(&self, kept: Object) -> Event {
        Event::ObjectGone(kept)
    }

    fn all(&self, list: Vec<Object>) -> Event {
        Event::Objects(self.0, list)
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.0)
    }
}

impl Kept for OfServices {
    type From = CoreService;
    type Kept = (Place, Ports);

    fn keep(&self, object: CoreService) -> Option<(Place, Ports)> {
        let namespace = object.namespace().unwrap_or_default();
        Some((place(&namespace, &object.name_any()), Ports::read(&object)))
    }

    fn changed(&self, (at, ports): (Place, Ports)) -> Event {
        Event::Ports(at, Some(ports))
    }

    fn gone(&self, (at, _): (Place, Ports)) -> Event {
        Event::Ports(at, None)
    }

    fn all(&self, list: Vec<(Place, Ports)>) -> Event {
        Event::AllPorts(list)
    }
}

impl Kept for OfSlices {
    type From = EndpointSlice;
    type Kept = (Place, Box<str>, Slice);

    fn keep(&self, object: EndpointSlice) -> Option<Self::Kept> {
        Slice::read(object)
    }

    fn changed(&self, (at, name, slice): Self::Kept) -> Event {
        Event::Slice(at, name, slice)
    }

    fn gone(&self, (at, name, _): Self::Kept) -> Event {
        Event::SliceGone(at, name)
    }

    fn all(&self, list: Vec<Self::Kept>) -> Event {
        Event::Slices(list)
    }
}

impl Kept for OfNamespaces {
    type From = Namespace;
    type Kept = (Box<str>, Labels);

    fn keep(&self, object: Namespace) -> Option<(Box<str>, Labels)> {
        let name = object.name_any();
        Some((name.into(), object.metadata.labels.unwrap_or_default()))
    }

    fn changed(&self, (name, labels): (Box<str>, Labels)) -> Event {
        Event::Labels(name, Some(labels))
    }

    fn gone(&self, (name, _): (Box<str>, Labels)) -> Event {
        Event::Labels(name, None)
    }

    fn all(&self, list: Vec<(Box<str>, Labels)>) -> Event {
        Event::AllLabels(list)
    }
}
