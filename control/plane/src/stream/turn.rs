//! What one proxy has and lacks: one change at a time, each answered.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::fleet::PolicyResponse;

use crate::revision::{Content, Endpoints, Resource};
use crate::stream::acknowledged::is_gateway;
use crate::stream::offer::Offer;

/// Largest part of a change, in bytes, as far as it is up to us: a proxy that takes nothing costs one of them.
const PART: usize = 256 << 10;
/// What stands for a file of endpoints that no source has any more.
const NO_ENDPOINTS: &[u8] = b"endpoints: []\n";

/// What a proxy has, and what it was sent and has not answered.
#[derive(Debug)]
pub struct Ledger {
    /// Versions by name.
    has: BTreeMap<Arc<str>, Arc<str>>,
    /// In force there; empty where nothing is.
    pub revision: Arc<str>,
    pending: Option<Pending>,
    /// Fingerprints of what it refused: they are not sent again.
    refused_policies: Option<u64>,
    refused_endpoints: Option<u64>,
    /// Why it was told that nothing is granted to it.
    withheld: Option<String>,
    changes: u64,
}

/// Sent and not yet answered.
#[derive(Debug)]
struct Pending {
    nonce: String,
    revision: Arc<str>,
    set: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<Arc<str>>,
    policies: Option<u64>,
    endpoints: u64,
    withheld: Option<String>,
}

/// A change that is sent, in parts.
#[derive(Debug)]
pub struct Change {
    nonce: String,
    revision: Arc<str>,
    changed: Vec<Arc<Resource>>,
    removed: Vec<String>,
    withheld: String,
}

/// What an answer was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub revision: Arc<str>,
    /// False where only endpoints were sent.
    pub policies: bool,
}

impl Ledger {
    /// A proxy that says what it has.
    pub fn new(known: HashMap<String, String>, revision: &str) -> Self {
        let has = known.into_iter().map(|(name, version)| (name.into(), version.into())).collect();
        Self {
            has,
            revision: revision.into(),
            pending: None,
            refused_policies: None,
            refused_endpoints: None,
            withheld: None,
            changes: 0,
        }
    }

    /// The Gateways of an offer, with the versions that are in force.
    pub fn gateways(&self, offer: &Offer) -> BTreeMap<Arc<str>, Option<Arc<str>>> {
        let names = offer.policies.keys().filter(|name| is_gateway(name));
        names.map(|name| (Arc::clone(name), self.has.get(name).cloned())).collect()
    }

    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The next change, where one is due.
    pub fn next(&mut self, offer: &Offer, endpoints: &Endpoints) -> Option<Change> {
        if self.pending.is_some() {
            return None;
        }
        if self.refused_policies == Some(offer.fingerprint) {
            return self.endpoints_alone(endpoints);
        }
        let wanted: Vec<Arc<Resource>> = offer.endpoints.iter().map(|way| found(endpoints, way)).collect();
        let of_endpoints = fingerprint(&wanted);
        let mut changed: Vec<Arc<Resource>> = Vec::new();
        let all = offer.policies.values().chain(&wanted);
        changed.extend(all.filter(|resource| !self.is_current(resource)).cloned());
        let stays = |name: &Arc<str>| offer.policies.contains_key(name) || offer.endpoints.contains(name);
        let removed: Vec<Arc<str>> = self.has.keys().filter(|name| !stays(name)).cloned().collect();
        let policies = !removed.is_empty()
            || changed.iter().any(|resource| offer.policies.contains_key(&resource.name))
            || self.revision != offer.revision;
        if changed.is_empty() && !policies {
            return None;
        }
        if !policies && self.refused_endpoints == Some(of_endpoints) {
            return None;
        }
        let revision = Arc::clone(&offer.revision);
        Some(self.send(revision, changed, removed, policies.then_some(offer.fingerprint), of_endpoints))
    }

    /// Nothing is granted, and the proxy does not know yet. What it has stays with it: it may be granted again.
    pub fn withhold(&mut self, why: &str) -> Option<Change> {
        if self.pending.is_some() || self.withheld.as_deref() == Some(why) {
            return None;
        }
        let mut change = self.send(Arc::from(""), Vec::new(), Vec::new(), None, 0);
        why.clone_into(&mut change.withheld);
        if let Some(pending) = &mut self.pending {
            pending.withheld = Some(why.to_owned());
        }
        Some(change)
    }

    /// The policies that are offered were refused: what the proxy goes on with still needs its endpoints.
    fn endpoints_alone(&mut self, endpoints: &Endpoints) -> Option<Change> {
        if self.revision.is_empty() {
            // It goes on with nothing.
            return None;
        }
        let current: Vec<Arc<Resource>> =
            self.has.keys().filter_map(|name| endpoints.get(name)).cloned().collect();
        let of_endpoints = fingerprint(&current);
        let changed: Vec<_> = current.into_iter().filter(|resource| !self.is_current(resource)).collect();
        if changed.is_empty() || self.refused_endpoints == Some(of_endpoints) {
            return None;
        }
        let revision = Arc::clone(&self.revision);
        Some(self.send(revision, changed, Vec::new(), None, of_endpoints))
    }

    fn is_current(&self, resource: &Resource) -> bool {
        self.has.get(&resource.name) == Some(&resource.version)
    }

    fn send(
        &mut self,
        revision: Arc<str>,
        changed: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
        policies: Option<u64>,
        endpoints: u64,
    ) -> Change {
        self.changes += 1;
        let nonce = self.changes.to_string();
        let names = removed.iter().map(ToString::to_string).collect();
        let set = changed.iter().map(|resource| (Arc::clone(&resource.name), Arc::clone(&resource.version)));
        self.pending = Some(Pending {
            nonce: nonce.clone(),
            revision: Arc::clone(&revision),
            set: set.collect(),
            removed,
            policies,
            endpoints,
            withheld: None,
        });
        Change { nonce, revision, changed, removed: names, withheld: String::new() }
    }

    /// Takes an answer; `None` for one to something that is not waited for.
    pub fn answer(&mut self, nonce: &str, took: bool) -> Option<Answered> {
        let pending = self.pending.take_if(|pending| pending.nonce == nonce)?;
        let answered =
            Answered { revision: Arc::clone(&pending.revision), policies: pending.policies.is_some() };
        self.withheld = pending.withheld;
        if self.withheld.is_some() {
            // What it has is in force nowhere: the next offer is sent in any case, also one that it has refused before.
            self.revision = Arc::from("");
            (self.refused_policies, self.refused_endpoints) = (None, None);
        } else if took {
            for name in &pending.removed {
                self.has.remove(name);
            }
            self.has.extend(pending.set);
            self.revision = pending.revision;
            if pending.policies.is_some() {
                self.refused_policies = None;
            }
            self.refused_endpoints = None;
        } else if pending.policies.is_some() {
            self.refused_policies = pending.policies;
        } else {
            self.refused_endpoints = Some(pending.endpoints);
        }
        Some(answered)
    }
}

fn found(endpoints: &Endpoints, way: &Arc<str>) -> Arc<Resource> {
    let none = || Arc::new(Resource::file(way, Bytes::from_static(NO_ENDPOINTS)));
    endpoints.get(way).cloned().unwrap_or_else(none)
}

fn fingerprint(resources: &[Arc<Resource>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for resource in resources {
        (&resource.name, &resource.version).hash(&mut hasher);
    }
    hasher.finish()
}

impl Change {
    /// The parts, each made when it is asked for; the last one says so.
    pub fn parts(self) -> impl Iterator<Item = PolicyResponse> {
        let Self { nonce, revision, changed, removed, withheld } = self;
        let mut open = Some(removed);
        let (mut index, mut offset) = (0, 0);
        std::iter::from_fn(move || {
            let removed = open.take()?;
            let mut part = PolicyResponse {
                nonce: nonce.clone(),
                revision: revision.to_string(),
                changed: Vec::new(),
                removed,
                last: false,
                withheld: withheld.clone(),
            };
            let mut room = PART;
            while let Some(resource) = changed.get(index) {
                let left = match &resource.content {
                    Content::File(bytes) => bytes.len().saturating_sub(offset),
                    Content::Document { .. } => resource.size(),
                };
                let is_file = matches!(resource.content, Content::File(_));
                if !part.changed.is_empty() && left.min(PART) > room {
                    break;
                }
                part.changed.push(resource.message(offset, PART));
                room = room.saturating_sub(left.min(PART) + 128);
                if is_file && left > PART {
                    offset += PART;
                    break;
                }
                (index, offset) = (index + 1, 0);
            }
            part.last = index >= changed.len();
            if !part.last {
                open = Some(Vec::new());
            }
            Some(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{Answered, Ledger};
    use crate::revision::{Endpoints, Resource};
    use crate::stream::offer::Offer;

    fn file(name: &str, content: &'static str) -> Arc<Resource> {
        Arc::new(Resource::file(name, Bytes::from_static(content.as_bytes())))
    }

    fn offer(revision: &str, files: &[(&str, &'static str)], endpoints: &[&str]) -> Offer {
        let policies = files.iter().map(|(name, content)| (Arc::from(*name), file(name, content)));
        Offer {
            revision: revision.into(),
            policies: policies.collect(),
            endpoints: endpoints.iter().map(|way| Arc::from(*way)).collect(),
            fingerprint: revision.bytes().map(u64::from).sum(),
        }
    }

    /// Names that are changed and removed.
    fn next(
        ledger: &mut Ledger,
        offer: &Offer,
        endpoints: &Endpoints,
    ) -> Option<(Vec<String>, Vec<String>, String)> {
        let parts: Vec<_> = ledger.next(offer, endpoints)?.parts().collect();
        let [part] = parts.as_slice() else { panic!("{} parts", parts.len()) };
        assert!(part.last);
        let changed = part.changed.iter().map(|resource| resource.name.clone()).collect();
        Some((changed, part.removed.clone(), part.nonce.clone()))
    }

    #[test]
    fn only_what_differs_is_sent_and_one_change_at_a_time() {
        let mut ledger = Ledger::new(HashMap::new(), "");
        let nothing = Endpoints::new();
        let first = offer("1", &[("a", "1"), ("b", "1")], &[]);
        let (changed, removed, nonce) = next(&mut ledger, &first, &nothing).unwrap();
        assert_eq!((changed.len(), removed.len()), (2, 0));
        let second = offer("2", &[("a", "2"), ("c", "1")], &[]);
        assert!(ledger.next(&second, &nothing).is_none(), "the first is not answered");
        assert_eq!(ledger.answer("nonsense", true), None);
        assert_eq!(ledger.answer(&nonce, true), Some(Answered { revision: "1".into(), policies: true }));
        let (changed, removed, nonce) = next(&mut ledger, &second, &nothing).unwrap();
        assert_eq!((changed, removed), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
        ledger.answer(&nonce, true);
        assert!(ledger.next(&second, &nothing).is_none());
        let same = offer("3", &[("a", "2"), ("c", "1")], &[]);
        let (changed, removed, _) = next(&mut ledger, &same, &nothing).unwrap();
        assert!(changed.is_empty() && removed.is_empty(), "only the name of the revision is another");
    }

    #[test]
    fn a_proxy_that_comes_back_gets_what_it_lacks() {
        let now = offer("2", &[("a", "2"), ("b", "1")], &[]);
        let known = |name: &str| (name.to_owned(), now.policies[name].version.to_string());
        let mut ledger = Ledger::new(HashMap::from([known("b"), ("a".to_owned(), "old".to_owned())]), "1");
        let (changed, removed, _) = next(&mut ledger, &now, &Endpoints::new()).unwrap();
        assert_eq!((changed, removed.len()), (vec!["a".to_owned()], 0));
        let mut ledger = Ledger::new(HashMap::from([known("a"), known("b")]), "2");
        assert!(ledger.next(&now, &Endpoints::new()).is_none());
    }

    #[test]
    fn what_was_refused_is_not_sent_again_and_endpoints_still_are() {
        let endpoints = |content| Endpoints::from([("x.endpoints".into(), file("x.endpoints", content))]);
        let mut ledger = Ledger::new(HashMap::new(), "");
        let good = offer("1", &[("a", "1")], &["x.endpoints"]);
        let (.., nonce) = next(&mut ledger, &good, &endpoints("1")).unwrap();
        ledger.answer(&nonce, true);
        let bad = offer("2", &[("a", "bad")], &["x.endpoints"]);
        let (.., nonce) = next(&mut ledger, &bad, &endpoints("1")).unwrap();
        ledger.answer(&nonce, false);
        assert!(ledger.next(&bad, &endpoints("1")).is_none());
        let (changed, _, nonce) = next(&mut ledger, &bad, &endpoints("2")).unwrap();
        assert_eq!(changed, ["x.endpoints"]);
        assert_eq!(ledger.answer(&nonce, true), Some(Answered { revision: "1".into(), policies: false }));
        assert!(ledger.next(&bad, &endpoints("2")).is_none());
        let mended = offer("3", &[("a", "2")], &["x.endpoints"]);
        assert_eq!(next(&mut ledger, &mended, &endpoints("2")).unwrap().0, ["a"]);
    }

    #[test]
    fn what_is_withheld_is_told_once_and_granted_again_in_any_case() {
        let mut ledger = Ledger::new(HashMap::new(), "");
        let now = offer("1", &[("a", "1")], &[]);
        let (.., nonce) = next(&mut ledger, &now, &Endpoints::new()).unwrap();
        assert!(ledger.withhold("why").is_none(), "one change at a time");
        ledger.answer(&nonce, true);
        let part = ledger.withhold("why").unwrap().parts().next().unwrap();
        assert_eq!((part.withheld.as_str(), part.last, part.changed.len()), ("why", true, 0));
        let answered = Answered { revision: "".into(), policies: false };
        assert_eq!(ledger.answer(&part.nonce, true), Some(answered));
        assert!(ledger.withhold("why").is_none(), "it knows");
        let (changed, removed, _) = next(&mut ledger, &now, &Endpoints::new()).unwrap();
        assert!(changed.is_empty() && removed.is_empty(), "it has all of it");
    }

    #[test]
    fn what_was_refused_before_the_grant_was_lost_is_sent_with_the_next_one() {
        let endpoints = |content| Endpoints::from([("x.endpoints".into(), file("x.endpoints", content))]);
        let mut ledger = Ledger::new(HashMap::new(), "");
        let (.., nonce) =
            next(&mut ledger, &offer("1", &[("a", "1")], &["x.endpoints"]), &endpoints("1")).unwrap();
        ledger.answer(&nonce, true);
        let now = offer("2", &[("a", "2")], &["x.endpoints"]);
        let (.., nonce) = next(&mut ledger, &now, &endpoints("1")).unwrap();
        ledger.answer(&nonce, false);
        assert!(ledger.next(&now, &endpoints("1")).is_none());
        let part = ledger.withhold("why").unwrap().parts().next().unwrap();
        ledger.answer(&part.nonce, true);
        let (changed, _, nonce) = next(&mut ledger, &now, &endpoints("1")).unwrap();
        assert_eq!(changed, ["a"]);
        // Refused again, it goes on with nothing: endpoints alone would put in force what nobody offers.
        ledger.answer(&nonce, false);
        assert!(ledger.next(&now, &endpoints("2")).is_none());
        let mended = offer("3", &[("a", "3")], &["x.endpoints"]);
        assert_eq!(next(&mut ledger, &mended, &endpoints("2")).unwrap().0, ["a", "x.endpoints"]);
    }

    #[test]
    fn a_large_file_comes_in_pieces_that_make_up_the_whole() {
        let content: Bytes = (0..700_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let large = Arc::new(Resource::file("model.onnx", content.clone()));
        let mut offer = offer("1", &[("a", "1")], &[]);
        offer.policies.insert("model.onnx".into(), large);
        let mut ledger = Ledger::new(HashMap::new(), "");
        let parts: Vec<_> = ledger.next(&offer, &Endpoints::new()).unwrap().parts().collect();
        assert_eq!(parts.iter().map(|part| part.last).collect::<Vec<_>>(), [false, false, false, true]);
        assert!(parts.iter().all(|part| prost::Message::encoded_len(part) < 1 << 20));
        let mut whole = Vec::new();
        for resource in parts.iter().flat_map(|part| &part.changed).filter(|one| one.name == "model.onnx") {
            assert_eq!((resource.offset, resource.size), (whole.len() as u64, 700_000));
            let Some(foregate_policy::fleet::Content::File(piece)) = &resource.content else { panic!() };
            whole.extend_from_slice(piece);
        }
        assert_eq!(whole, content);
    }

    #[test]
    fn endpoints_that_no_source_has_are_none() {
        let mut ledger = Ledger::new(HashMap::new(), "");
        let change = ledger.next(&offer("1", &[], &["x.endpoints"]), &Endpoints::new()).unwrap();
        let part = change.parts().next().unwrap();
        let content = part.changed[0].content.clone().unwrap();
        assert_eq!(content, foregate_policy::fleet::Content::File(Bytes::from_static(b"endpoints: []\n")));
    }
}
