//! The revisions in use, and what each proxy is to have of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::ObjectName;
use foregate_policy::files;
use log::Level;
use tokio::sync::watch;

use crate::event::event;
use crate::grants::Grants;
use crate::revision::merge::Merged;
use crate::revision::secrets::{Secrets, is_secret};
use crate::revision::{Content, Endpoints, Resource, Revision};
use crate::rollout::guard::{Evidence, Tally};
use crate::rollout::{Happened, Plan, Rollout, RolloutSpec};
use crate::stream::offer::{Offer, Offered};

/// Why the newest trees are not in force.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    pub at: Duration,
    pub id: String,
    /// Digest of what their secrets hold.
    pub secrets: String,
    pub diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Default)]
struct Inner {
    revisions: HashMap<Arc<str>, Arc<Revision>>,
    plan: Plan,
    evidence: Evidence,
    endpoints: Arc<Endpoints>,
    /// Of the newest trees that are in order, and the digest of what they hold.
    secrets: BTreeMap<Arc<str>, Arc<Resource>>,
    secrets_of: String,
    offers: HashMap<(Arc<str>, BTreeSet<ObjectName>), Arc<Offer>>,
    refused: Option<Refused>,
    /// Counts plans.
    plans: u64,
}

/// All that is offered. Everything in it changes under one lock that nobody waits on for long.
#[derive(Debug)]
pub struct Offering {
    inner: Mutex<Inner>,
    pub grants: Grants,
    pub spec: RolloutSpec,
    /// The plan is kept here.
    file: PathBuf,
    /// Which of the plans is: a later one never gives way to an earlier.
    kept: Mutex<u64>,
    changed: watch::Sender<u64>,
}

impl Offering {
    /// With the plan of before, where there is one.
    ///
    /// # Errors
    /// Where there is one that cannot be read: without it all proxies would get the newest revision at once, also one
    /// that was taken back.
    pub fn new(grants: Grants, spec: RolloutSpec, file: PathBuf) -> io::Result<Self> {
        let unreadable = |error: &dyn std::fmt::Display| {
            let help = "mend it; once it is removed, all proxies get the newest revision at once";
            io::Error::other(format!("{}: {error}; {help}", file.display()))
        };
        let plan = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| unreadable(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Plan::default(),
            Err(error) => return Err(unreadable(&error)),
        };
        let inner = Mutex::new(Inner { plan, ..Inner::default() });
        Ok(Self { inner, grants, spec, file, kept: Mutex::default(), changed: watch::channel(0).0 })
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

    /// The newest secrets: proxies have these, whatever revision they have, so that going back brings no key back that was
    /// replaced, and one that was renewed waits for no roll-out.
    pub fn set_secrets(&self, merged: &Merged) {
        let mut inner = self.lock();
        if inner.secrets_of == merged.secrets {
            return;
        }
        let all = merged.secrets().into_iter();
        inner.secrets = all
            .map(|(way, content)| {
                let resource = Arc::new(Resource::file(&way, content));
                (way, resource)
            })
            .collect();
        inner.secrets_of.clone_from(&merged.secrets);
        inner.offers.clear();
        drop(inner);
        self.tell();
    }

    /// True where these are the secrets that proxies have.
    pub fn has_secrets(&self, merged: &Merged) -> bool {
        self.lock().secrets_of == merged.secrets
    }

    /// A revision that is known, compiled with other secrets: none of it but these differs, so that it goes through no steps. True
    /// where these are known to differ: after a start they are those of before, as a rule.
    pub fn renew(&self, revision: Revision) -> bool {
        let id: Arc<str> = revision.label.id.as_str().into();
        let mut inner = self.lock();
        inner.refused = None;
        let mut renewed = !inner.secrets_of.is_empty();
        if let Some(known) = inner.revisions.get_mut(&id) {
            renewed |= !known.is_as(&revision);
            *known = Arc::new(revision);
        }
        drop(inner);
        if renewed {
            event(Level::Info, "secrets renewed", &[("revision", id.as_ref().into())]);
        }
        renewed
    }

    /// The secrets that a start needs: those of today, and of what revisions in use refer to besides, those they came with. `None`
    /// while those of today are not known.
    pub fn secrets_in_use(&self) -> Option<Secrets> {
        let inner = self.lock();
        if inner.secrets_of.is_empty() {
            return None;
        }
        let of_revisions = inner.revisions.values().flat_map(|revision| &revision.resources);
        let besides = of_revisions.filter(|(way, _)| is_secret(way) && !inner.secrets.contains_key(*way));
        let all = besides.chain(&inner.secrets).filter_map(|(way, resource)| match &resource.content {
            Content::File(content) => Some((Arc::clone(way), content.clone())),
            Content::Document { .. } => None,
        });
        Some(all.collect())
    }

    /// Counts what was decided about revisions.
    pub fn plans(&self) -> u64 {
        self.lock().plans
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
        inner.evidence.fade(now);
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
        inner.plans += 1;
        let (number, plan) = (inner.plans, inner.plan.clone());
        drop(inner);
        self.keep(number, &plan);
        self.tell();
    }

    /// Writes a plan down, unless a later one is already.
    fn keep(&self, number: u64, plan: &Plan) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if number < *kept {
            return;
        }
        let written = serde_json::to_vec_pretty(plan).map_err(io::Error::other);
        match written.and_then(|text| files::replace(&self.file, &text)) {
            Ok(()) => *kept = number,
            Err(error) => event(Level::Error, "rollout not kept", &[("error", error.to_string().into())]),
        }
    }

    /// What a proxy is to have now.
    pub fn offer(&self, node: &str, id: &SpiffeId, labels: &HashMap<String, String>) -> Offered {
        if self.grants.withdrawn(id) {
            return Offered::Withheld(self.grants.why_nothing(id, labels));
        }
        let mut inner = self.lock();
        let revision = inner.plan.revision(node).and_then(|wanted| inner.revisions.get(wanted));
        let Some(revision) = revision.map(Arc::clone) else { return Offered::Nothing };
        let gateways = self.grants.of(id, labels, revision.objects.gateways());
        if gateways.is_empty() {
            inner.leave_out(node, &revision, |of| {
                !self.grants.of(id, labels, of.objects.gateways()).is_empty()
            });
            return Offered::Withheld(self.grants.why_nothing(id, labels));
        }
        let key = (Arc::from(revision.label.id.as_str()), gateways);
        if let Some(offer) = inner.offers.get(&key) {
            return Offered::Policies(Arc::clone(offer));
        }
        let offer = Arc::new(Offer::new(&revision, &inner.secrets, &key.1));
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
        inner.evidence.left_out.remove(&node);
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

    /// A proxy has no Gateway in this revision. Where it `has` one in what all others have, it would refuse everything
    /// because of the revision that is rolled out.
    fn leave_out(&mut self, node: &str, revision: &Revision, has: impl Fn(&Revision) -> bool) {
        let current = self.plan.current.as_ref().and_then(|id| self.revisions.get(id));
        if current.is_some_and(|current| current.label.id != revision.label.id && has(current)) {
            let node: Arc<str> = node.into();
            self.evidence.took.remove(&node);
            self.evidence.left_out.insert(node);
        }
    }
}

/// A diagnostic on one line, with how to mend it.
pub fn one_line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { code, file, line, column, message, help, .. } = diagnostic;
    let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{code} {file}:{line}:{column}: {message}{help}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use foregate_filters::peer::SpiffeId;
    use foregate_policy::document::ObjectName;

    use super::{Offering, Plan};
    use crate::grants::{GrantSpec, Grants};
    use crate::revision::merge::{Merged, merge};
    use crate::revision::shelf::Shelf;
    use crate::revision::{Content, Resource};
    use crate::rollout::RolloutSpec;
    use crate::sources::Tree;
    use crate::sources::board::{Place, SourceState};
    use crate::stream::offer::{Offer, Offered};

    const POLICIES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners: [{ name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: edge }] } }]
";

    const UPSTREAM: &str = "apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: crm }
spec: { endpoints: ['127.0.0.1:1'] }
";

    /// A certificate, its key, and the policies that refer to them.
    fn merged(chain: &str, key: &str) -> Merged {
        merged_of(&[("edge.yaml", POLICIES), ("secrets/edge/tls.crt", chain), ("secrets/edge/tls.key", key)])
    }

    fn merged_of(files: &[(&str, &str)]) -> Merged {
        let files =
            files.iter().map(|(way, text)| (Arc::from(*way), Bytes::copy_from_slice(text.as_bytes())));
        let tree = Arc::new(Tree { files: files.collect(), ..Tree::default() });
        let state =
            SourceState { place: Place::default(), tree: Some(tree), seen: Duration::ZERO, fault: None };
        merge(&[state]).unwrap()
    }

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        (chain.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn going_back_brings_no_key_back_that_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let (leaked, replaced) = (pair(), pair());
        let old = shelf.make(&merged(&leaked.0, &leaked.1)).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let file = folder.path().join("rollout.json");
        let offering = Offering::new(Grants::default(), RolloutSpec::default(), file).unwrap();
        let gateways = BTreeSet::from([ObjectName::new(None, "edge")]);
        let offered = || Offer::new(&old, &offering.lock().secrets, &gateways);
        let key = |offer: &Offer| -> Arc<Resource> { Arc::clone(&offer.policies["secrets/edge/tls.key"]) };
        let before = offered();
        assert_eq!(key(&before).content, Content::File(Bytes::from(leaked.1)));
        offering.set_secrets(&merged(&replaced.0, &replaced.1));
        let after = offered();
        assert_eq!(key(&after).content, Content::File(Bytes::from(replaced.1)));
        assert_eq!(after.policies.len(), before.policies.len());
        assert_ne!(after.fingerprint, before.fingerprint, "it is sent, whatever was refused");
    }

    #[test]
    fn a_renewed_key_goes_through_no_steps_and_what_revisions_in_use_need_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let spec = RolloutSpec { steps: vec![50.0], ..RolloutSpec::default() };
        let offering = Offering::new(Grants::default(), spec, folder.path().join("rollout.json")).unwrap();
        assert!(offering.secrets_in_use().is_none(), "nothing is known of today");
        let ((old_chain, old_key), (chain, key)) = (pair(), pair());
        let before = merged(&old_chain, &old_key);
        offering.set_secrets(&before);
        offering.adopt(shelf.make(&before).unwrap_or_else(|faults| panic!("{faults:#?}")), Duration::ZERO);
        let plan = offering.plan();
        let after = merged(&chain, &key);
        assert!(!offering.has_secrets(&after));
        assert!(offering.renew(shelf.again(&after).unwrap_or_else(|faults| panic!("{faults:#?}"))));
        offering.set_secrets(&after);
        assert_eq!(offering.plan(), plan, "no roll-out begins");
        assert_eq!(offering.secrets_in_use().unwrap(), after.secrets());
        let revision = offering.revision(&after.id).unwrap();
        let held = &revision.resources["secrets/edge/tls.key"].content;
        assert_eq!(*held, Content::File(Bytes::from(key)), "nor is the old key in memory");
        // The newest trees have it no more, and the revision in use still needs it.
        let mut gone = merged(&chain, "");
        gone.files.clear();
        gone.secrets = "none".to_owned();
        offering.set_secrets(&gone);
        assert_eq!(offering.secrets_in_use().unwrap(), after.secrets());
    }

    #[test]
    fn a_start_renews_nothing_but_what_was_renewed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let (old, new) = (pair(), pair());
        let (before, after) = (merged(&old.0, &old.1), merged(&new.0, &new.1));
        shelf.make(&before).unwrap_or_else(|faults| panic!("{faults:#?}"));
        shelf.keep_secrets(|| Some(before.secrets())).unwrap();
        let renewed = |now: &Merged| {
            let file = folder.path().join("rollout.json");
            let offering = Offering::new(Grants::default(), RolloutSpec::default(), file).unwrap();
            offering.restore(shelf.read(&before.id).unwrap_or_else(|faults| panic!("{faults:#?}")));
            offering.renew(shelf.again(now).unwrap_or_else(|faults| panic!("{faults:#?}")))
        };
        assert!(!renewed(&before), "they are those of before");
        assert!(renewed(&after));
    }

    #[test]
    fn who_loses_its_gateway_by_what_is_rolled_out_counts_against_it() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let (chain, key) = pair();
        let (all, none) = (merged(&chain, &key), merged_of(&[("crm.yaml", UPSTREAM)]));
        let make = |merged| shelf.make(merged).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let grants = Grants::new(&[GrantSpec {
            identities: vec!["spiffe://a/*".to_owned()],
            gateways: vec!["*/*".to_owned()],
            labels: BTreeMap::new(),
        }]);
        let steps = RolloutSpec { steps: vec![99.9999], ..RolloutSpec::default() };
        let file = folder.path().join("rollout.json");
        let offering = Offering::new(grants.unwrap(), steps, file).unwrap();
        let now = Duration::from_secs(1);
        offering.adopt(make(&all), now);
        let offer = |id: &str| offering.offer("node", &SpiffeId::parse(id).unwrap(), &HashMap::new());
        let [mine, others] = ["spiffe://a/ns/a/sa/edge", "spiffe://b/ns/a/sa/edge"];
        assert!(matches!(offer(mine), Offered::Policies(_)));
        offering.adopt(make(&none), now);
        // Who had nothing before has lost nothing.
        assert!(matches!(offer(others), Offered::Withheld(_)));
        offering.tick(now);
        assert!(offering.plan().rollout.is_some());
        assert!(matches!(offer(mine), Offered::Withheld(_)));
        offering.tick(now);
        let plan = offering.plan();
        let why = plan.reverted.unwrap().reason;
        assert!(why.contains("1 of 1 proxies have no Gateway in it"), "{why}");
        assert!(matches!(offer(mine), Offered::Policies(_)));
    }

    #[test]
    fn a_plan_is_kept_in_order_and_one_that_cannot_be_read_is_no_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rollout.json");
        let open = || Offering::new(Grants::default(), RolloutSpec::default(), file.clone());
        let plan = |id: &str| Plan { current: Some(id.into()), ..Plan::default() };
        let offering = open().unwrap();
        offering.keep(2, &plan("second"));
        // Whoever was first and writes last changes nothing.
        offering.keep(1, &plan("first"));
        assert_eq!(open().unwrap().plan().current.as_deref(), Some("second"));
        for damaged in ["", "{ \"current\": 1 }"] {
            std::fs::write(&file, damaged).unwrap();
            let refused = open().unwrap_err().to_string();
            assert!(
                refused.contains("rollout.json") && refused.contains("newest revision at once"),
                "{refused}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(open().unwrap().plan(), Plan::default());
    }
}
