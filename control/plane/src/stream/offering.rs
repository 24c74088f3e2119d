//! The revisions in use, and what each proxy is to have of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::ObjectName;
use log::Level;
use tokio::sync::watch;

use crate::event::event;
use crate::files;
use crate::grants::Grants;
use crate::revision::merge::ENDPOINTS;
use crate::revision::{Endpoints, Resource, Revision};
use crate::rollout::guard::{Evidence, Tally};
use crate::rollout::{Happened, Plan, Rollout, RolloutSpec};

/// What one set of gateways needs of one revision; shared by all proxies that have both.
#[derive(Debug)]
pub struct Offer {
    pub revision: Arc<str>,
    /// Documents and files, but for endpoints.
    pub policies: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Ways of the files of endpoints that they refer to.
    pub endpoints: Vec<Arc<str>>,
    /// Tells one set of policies from another.
    pub fingerprint: u64,
}

/// What a proxy is to have.
#[derive(Clone, Debug)]
pub enum Offered {
    /// There is no revision for it yet: it keeps what it has.
    Nothing,
    /// Nothing of what there is, and why.
    Withheld(String),
    Policies(Arc<Offer>),
}

/// Why the newest trees are not in force.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    pub at: Duration,
    pub id: String,
    pub diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Default)]
struct Inner {
    revisions: HashMap<Arc<str>, Arc<Revision>>,
    plan: Plan,
    evidence: Evidence,
    endpoints: Arc<Endpoints>,
    offers: HashMap<(Arc<str>, BTreeSet<ObjectName>), Arc<Offer>>,
    refused: Option<Refused>,
}

/// All that is offered. Everything in it changes under one lock that nobody waits on for long.
#[derive(Debug)]
pub struct Offering {
    inner: Mutex<Inner>,
    pub grants: Grants,
    pub spec: RolloutSpec,
    /// The plan is kept here.
    file: PathBuf,
    changed: watch::Sender<u64>,
}

impl Offering {
    /// With the plan of before, where there is one.
    pub fn new(grants: Grants, spec: RolloutSpec, file: PathBuf) -> Self {
        let plan = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let inner = Inner { plan: plan.unwrap_or_default(), ..Inner::default() };
        Self { inner: Mutex::new(inner), grants, spec, file, changed: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of everything that may change what a proxy is to have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub fn plan(&self) -> Plan {
        self.lock().plan.clone()
    }

    pub fn refused(&self) -> Option<Refused> {
        self.lock().refused.clone()
    }

    pub fn evidence(&self) -> Evidence {
        self.lock().evidence.clone()
    }

    pub fn revision(&self, id: &str) -> Option<Arc<Revision>> {
        self.lock().revisions.get(id).cloned()
    }

    /// Takes a revision that is kept on disk; nothing changes for proxies yet.
    pub fn restore(&self, revision: Revision) {
        let id: Arc<str> = revision.label.id.as_str().into();
        self.lock().revisions.insert(id, Arc::new(revision));
        self.tell();
    }

    /// The plan names a revision that cannot be had: it is forgotten.
    pub fn forget(&self, id: &str) {
        let mut inner = self.lock();
        if inner.plan.current.as_deref() == Some(id) {
            inner.plan.current = None;
        }
        if inner.plan.rollout.as_ref().is_some_and(|rollout| &*rollout.revision == id) {
            inner.plan.rollout = None;
        }
        // Whatever the sources give is looked at again.
        inner.plan.newest = None;
    }

    /// A revision made of the newest trees begins to reach proxies, in steps where the configuration has any.
    pub fn adopt(&self, revision: Revision, now: Duration) {
        let id: Arc<str> = revision.label.id.as_str().into();
        let mut inner = self.lock();
        inner.refused = None;
        inner.revisions.insert(Arc::clone(&id), Arc::new(revision));
        inner.plan.newest = Some(Arc::clone(&id));
        let under_way = inner.plan.rollout.as_ref().is_some_and(|rollout| rollout.revision == id);
        if !under_way {
            let (steps, interval) = self.spec.course(&self.spec.steps, self.spec.interval.0);
            inner.begin(&id, &steps, interval, now);
        }
        self.settle(inner);
        event(Level::Info, "revision adopted", &[("revision", id.as_ref().into())]);
    }

    /// The newest trees are no revision: what is in force stays.
    pub fn refuse(&self, refused: Refused) {
        let lines: Vec<String> = refused.diagnostics.iter().map(one_line).collect();
        let fields = [("revision", refused.id.as_str().into()), ("diagnostics", lines.into())];
        self.lock().refused = Some(refused);
        event(Level::Error, "revision refused", &fields);
    }

    /// The newest trees are what is in force: nothing is wrong with them.
    pub fn found_same(&self) {
        self.lock().refused = None;
    }

    pub fn set_endpoints(&self, endpoints: Endpoints) {
        let mut inner = self.lock();
        if *inner.endpoints == endpoints {
            return;
        }
        inner.endpoints = Arc::new(endpoints);
        drop(inner);
        self.tell();
    }

    /// Rolls out a revision that is loaded, in these steps.
    pub fn begin(&self, revision: Arc<Revision>, steps: &[f64], interval: Duration, now: Duration) {
        let id: Arc<str> = revision.label.id.as_str().into();
        let mut inner = self.lock();
        inner.revisions.insert(Arc::clone(&id), revision);
        let (steps, interval) = self.spec.course(steps, interval);
        inner.begin(&id, &steps, interval, now);
        self.settle(inner);
    }

    /// Gives all proxies this revision at once.
    pub fn set(&self, revision: Arc<Revision>, reason: &str, now: Duration) {
        let id: Arc<str> = revision.label.id.as_str().into();
        let mut inner = self.lock();
        inner.revisions.insert(Arc::clone(&id), revision);
        inner.plan.set(&id, reason, now);
        self.settle(inner);
    }

    /// Gives up what is rolled out; false where nothing is.
    pub fn abort(&self, reason: &str, now: Duration) -> bool {
        let mut inner = self.lock();
        let Some(current) = inner.plan.current.clone().filter(|_| inner.plan.rollout.is_some()) else {
            return false;
        };
        inner.plan.set(&current, reason, now);
        self.settle(inner);
        true
    }

    /// Pauses or resumes what is rolled out; false where nothing is.
    pub fn pause(&self, paused: bool, now: Duration) -> bool {
        let mut inner = self.lock();
        let Some(rollout) = &mut inner.plan.rollout else { return false };
        rollout.paused = paused;
        rollout.since = now;
        self.settle(inner);
        true
    }

    /// Goes on by time.
    pub fn tick(&self, now: Duration) {
        let mut inner = self.lock();
        inner.evidence.fade();
        let Inner { plan, evidence, .. } = &mut *inner;
        let Some(happened) = plan.tick(&self.spec.guardrails, evidence, now) else { return };
        let (name, fields) = match &happened {
            Happened::Stepped => {
                let percent = plan.rollout.as_ref().map(Rollout::percent);
                ("rollout went on", vec![("percent", percent.into())])
            }
            Happened::Completed => ("rollout completed", vec![("revision", plan.current.as_deref().into())]),
            Happened::Reverted(reverted) => (
                "revision reverted",
                vec![
                    ("revision", reverted.revision.as_ref().into()),
                    ("to", reverted.to.as_ref().into()),
                    ("reason", reverted.reason.as_str().into()),
                ],
            ),
        };
        let level = if matches!(happened, Happened::Reverted(_)) { Level::Error } else { Level::Info };
        self.settle(inner);
        event(level, name, &fields);
    }

    /// Keeps the plan, lets go of what it does not use, and tells everybody.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>) {
        let used = inner.plan.used();
        inner.revisions.retain(|id, _| used.contains(id));
        inner.offers.retain(|(id, _), _| used.contains(id));
        let text = serde_json::to_vec_pretty(&inner.plan).unwrap_or_default();
        drop(inner);
        if let Err(error) = files::replace(&self.file, &text) {
            event(Level::Error, "rollout not kept", &[("error", error.to_string().into())]);
        }
        self.tell();
    }

    /// What a proxy is to have now.
    pub fn offer(&self, node: &str, id: &SpiffeId, labels: &HashMap<String, String>) -> Offered {
        let mut inner = self.lock();
        let revision = inner.plan.revision(node).and_then(|wanted| inner.revisions.get(wanted));
        let Some(revision) = revision.map(Arc::clone) else { return Offered::Nothing };
        let gateways = self.grants.of(id, labels, revision.objects.gateways());
        if gateways.is_empty() {
            return Offered::Withheld(self.grants.why_nothing(id, labels));
        }
        let key = (Arc::from(revision.label.id.as_str()), gateways);
        if let Some(offer) = inner.offers.get(&key) {
            return Offered::Policies(Arc::clone(offer));
        }
        let offer = Arc::new(Offer::new(&revision, &key.1));
        inner.offers.insert(key, Arc::clone(&offer));
        Offered::Policies(offer)
    }

    /// The endpoints that all proxies are to have now.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        Arc::clone(&self.lock().endpoints)
    }

    /// A proxy took a revision, or refused it.
    pub fn answered(&self, node: &str, revision: &str, took: bool) {
        let mut inner = self.lock();
        if inner.plan.rollout.as_ref().is_none_or(|rollout| &*rollout.revision != revision) {
            return;
        }
        let node: Arc<str> = node.into();
        if took {
            inner.evidence.refused.remove(&node);
            inner.evidence.took.insert(node);
        } else {
            inner.evidence.took.remove(&node);
            inner.evidence.refused.insert(node);
        }
    }

    /// What a proxy saw happen under a revision.
    pub fn reported(&self, revision: &str, tally: Tally) {
        let mut inner = self.lock();
        if let Some(id) = inner.plan.used().into_iter().find(|id| **id == *revision) {
            inner.evidence.add(&id, tally);
        }
    }
}

impl Inner {
    fn begin(&mut self, id: &Arc<str>, steps: &[f64], interval: Duration, now: Duration) {
        self.plan.begin(id, steps, interval, now);
        self.evidence.begin(self.plan.current.as_ref());
    }
}

impl Offer {
    fn new(revision: &Revision, gateways: &BTreeSet<ObjectName>) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let closure = revision.objects.closure(gateways);
        let (endpoints, files): (Vec<_>, Vec<_>) =
            closure.files.into_iter().partition(|way| way.ends_with(ENDPOINTS));
        let names = closure.documents.into_iter().chain(files);
        let policies: BTreeMap<_, _> = names
            .filter_map(|name| {
                let resource = revision.resources.get(&name)?;
                Some((name, Arc::clone(resource)))
            })
            .collect();
        let mut hasher = DefaultHasher::new();
        revision.label.id.hash(&mut hasher);
        for (name, resource) in &policies {
            (name, &resource.version).hash(&mut hasher);
        }
        endpoints.hash(&mut hasher);
        let fingerprint = hasher.finish();
        Self { revision: revision.label.id.as_str().into(), policies, endpoints, fingerprint }
    }
}

/// A diagnostic on one line, with how to mend it.
pub fn one_line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { code, file, line, column, message, help, .. } = diagnostic;
    let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{code} {file}:{line}:{column}: {message}{help}")
}
