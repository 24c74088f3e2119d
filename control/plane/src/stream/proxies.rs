//! Every proxy that was heard of: what it has, and what it said last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_policy::fleet::{Finding, Node};
use serde::Serialize;
use tokio::sync::Notify;

use crate::places::{Place, Places};
use crate::stream::acknowledged::Acknowledged;

/// Proxies that may say at once what they have, of one identity an eighth: each may have much to say.
const GREETINGS: usize = 64;
/// Findings of one refusal, and bytes of each text, that are kept.
const MAX_FINDINGS: usize = 16;
const MAX_TEXT: usize = 512;
/// Bounds of what a proxy says of itself.
const MAX_LABELS: usize = 64;
const MAX_WORD: usize = 253;

/// One proxy, as `foregate-control status` shows it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub id: String,
    pub identity: String,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub zone: String,
    pub connected: bool,
    /// Since the Unix epoch, in seconds.
    pub last_seen: u64,
    /// What it should have; empty where nothing is granted to it.
    pub wanted: String,
    /// Why nothing is granted to it, where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// What it has; empty where it refuses all of it.
    pub in_force: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalStatus>,
    pub requests: u64,
    pub refused: u64,
    pub failed: u64,
}

/// The last refusal, until a later revision is taken.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalStatus {
    pub revision: String,
    pub at: u64,
    pub findings: Vec<FindingStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FindingStatus {
    pub code: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub help: String,
}

/// One entry; a later stream of the same proxy takes it over.
#[derive(Debug)]
pub struct Proxy {
    /// Identity and name: what rollouts know it by.
    pub key: Arc<str>,
    pub status: Mutex<ProxyStatus>,
    /// Documents of Gateways that it is to have, and their versions in force there.
    gateways: Mutex<BTreeMap<Arc<str>, Option<Arc<str>>>>,
    /// Counts its streams: the last one counts.
    generation: AtomicU64,
    /// True where a grant is for its identity.
    granted: AtomicBool,
    /// Tells the stream before that there is a later one.
    replaced: Notify,
}

/// All proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    all: Mutex<HashMap<Arc<str>, Arc<Proxy>>>,
    bounds: Bounds,
    /// For those that say what they have, by identity.
    greetings: Greetings,
}

/// Most proxies that are known at once. Over that, the one that was gone longest is forgotten.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    all: usize,
    /// Of one identity, so that no workload has the place of all others; proxies choose their names themselves.
    of_one: usize,
    /// Of those that no grant is for.
    ungranted: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { all: 20_000, of_one: 4_096, ungranted: 1_024 }
    }
}

#[derive(Debug)]
struct Greetings(Places<Box<str>>);

impl Default for Greetings {
    fn default() -> Self {
        Self(Places::new(GREETINGS, GREETINGS / 8))
    }
}

/// The hold of one stream on its proxy; when it is dropped, the proxy is gone.
#[derive(Debug)]
pub struct Hold {
    pub proxy: Arc<Proxy>,
    generation: u64,
}

/// What is wrong with what a proxy says of itself.
pub fn fault(node: &Node) -> Option<&'static str> {
    let word = |text: &String| text.len() <= MAX_WORD && !text.chars().any(char::is_control);
    if node.id.is_empty() || !word(&node.id) {
        Some("the name of the proxy must have 1 to 253 bytes")
    } else if node.labels.len() > MAX_LABELS
        || !node.labels.iter().all(|(name, value)| word(name) && word(value))
    {
        Some("there are too many labels, or one is too long")
    } else if ![&node.version, &node.zone, &node.revision].into_iter().all(word) {
        Some("version, zone or revision is too long")
    } else {
        None
    }
}

impl Proxies {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Proxy>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a proxy of this identity may say what it has; as long as the place is held.
    pub async fn greeting(&self, identity: &str) -> Option<Place> {
        self.greetings.0.take(identity.into()).await
    }

    /// A stream of this proxy begins. `None` where too many are connected: of all, of its identity, or, where no grant is
    /// for it, of such ones.
    pub fn enter(&self, identity: &str, granted: bool, node: &Node, now: Duration) -> Option<Hold> {
        let key: Arc<str> = format!("{identity} {}", node.id).into();
        let mut all = self.lock();
        if !all.contains_key(&key) {
            let own =
                |proxy: &Proxy| proxy.key.strip_prefix(identity).is_some_and(|rest| rest.starts_with(' '));
            make_room(&mut all, self.bounds.all, |_| true)?;
            make_room(&mut all, self.bounds.of_one, own)?;
            if !granted {
                make_room(&mut all, self.bounds.ungranted, |proxy| !proxy.granted.load(Ordering::Relaxed))?;
            }
        }
        let proxy = Arc::clone(all.entry(Arc::clone(&key)).or_insert_with(|| {
            Arc::new(Proxy {
                key,
                status: Mutex::default(),
                gateways: Mutex::default(),
                generation: AtomicU64::new(0),
                granted: AtomicBool::new(granted),
                replaced: Notify::new(),
            })
        }));
        drop(all);
        proxy.granted.store(granted, Ordering::Relaxed);
        let generation = proxy.generation.fetch_add(1, Ordering::AcqRel) + 1;
        proxy.replaced.notify_waiters();
        let mut status = proxy.status();
        status.id.clone_from(&node.id);
        identity.clone_into(&mut status.identity);
        status.labels = node.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        status.version.clone_from(&node.version);
        status.zone.clone_from(&node.zone);
        status.in_force.clone_from(&node.revision);
        status.connected = true;
        status.last_seen = now.as_secs();
        drop(status);
        Some(Hold { proxy, generation })
    }

    /// All of them as they are now, by identity and name.
    pub fn all(&self) -> Vec<ProxyStatus> {
        let mut all: Vec<_> = self.lock().values().map(|proxy| proxy.status().clone()).collect();
        all.sort_by(|a, b| (&a.identity, &a.id).cmp(&(&b.identity, &b.id)));
        all
    }

    /// What those that are connected have of each Gateway.
    pub fn gateways(&self) -> Acknowledged {
        let mut all = Acknowledged::new();
        for proxy in self.lock().values() {
            let (connected, refuses) = {
                let status = proxy.status();
                (status.connected, status.refusal.is_some())
            };
            if !connected {
                continue;
            }
            for (name, version) in &*proxy.gateways.lock().unwrap_or_else(PoisonError::into_inner) {
                let having = all.entry(Arc::clone(name)).or_default();
                having.proxies += 1;
                having.refusing += usize::from(refuses);
                having.versions.extend(version.clone());
            }
        }
        all
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.lock().values().filter(|proxy| proxy.status().connected).count()
    }
}

/// Has fewer than `most` of the proxies that are meant be left, by forgetting the one that was gone longest; `None` where
/// all of them are connected.
fn make_room(
    all: &mut HashMap<Arc<str>, Arc<Proxy>>,
    most: usize,
    meant: impl Fn(&Proxy) -> bool,
) -> Option<()> {
    // What is not reached by all is reached by none.
    if all.len() < most || all.values().filter(|proxy| meant(proxy)).count() < most {
        return Some(());
    }
    let gone = |proxy: &&Arc<Proxy>| meant(proxy) && !proxy.status().connected;
    let longest = all.values().filter(gone).min_by_key(|proxy| proxy.status().last_seen)?;
    let key = Arc::clone(&longest.key);
    all.remove(&key);
    Some(())
}

impl Proxy {
    pub fn status(&self) -> MutexGuard<'_, ProxyStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which Gateways it is to have, and what it has of them.
    pub fn has(&self, gateways: BTreeMap<Arc<str>, Option<Arc<str>>>) {
        *self.gateways.lock().unwrap_or_else(PoisonError::into_inner) = gateways;
    }

    /// Notes a refusal.
    pub fn refused(&self, revision: &str, findings: Vec<Finding>, now: Duration) {
        let short =
            |text: String| text.chars().filter(|letter| !letter.is_control()).take(MAX_TEXT).collect();
        let findings = findings.into_iter().take(MAX_FINDINGS).map(|finding| FindingStatus {
            code: short(finding.code),
            file: short(finding.file),
            line: finding.line,
            column: finding.column,
            message: short(finding.message),
            help: short(finding.help),
        });
        let (revision, at) = (revision.to_owned(), now.as_secs());
        self.status().refusal = Some(RefusalStatus { revision, at, findings: findings.collect() });
    }
}

impl Hold {
    /// Waits until a later stream of the same proxy begins.
    pub async fn replaced(&self) {
        loop {
            let told = self.proxy.replaced.notified();
            if self.proxy.generation.load(Ordering::Acquire) != self.generation {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.proxy.generation.load(Ordering::Acquire) == self.generation {
            self.proxy.status().connected = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foregate_policy::fleet::Node;

    use super::{Bounds, GREETINGS, Hold, Proxies};

    const BOUNDS: Bounds = Bounds { all: 200, of_one: 40, ungranted: 20 };

    fn proxies() -> Proxies {
        Proxies { bounds: BOUNDS, ..Proxies::default() }
    }

    fn enter(proxies: &Proxies, identity: &str, name: usize, granted: bool, now: u64) -> Option<Hold> {
        let node = Node { id: name.to_string(), ..Node::default() };
        proxies.enter(identity, granted, &node, Duration::from_secs(now))
    }

    #[test]
    fn names_that_one_identity_makes_up_shut_nobody_out() {
        let proxies = proxies();
        let held = enter(&proxies, "spiffe://a/ns/a/sa/thief", 0, true, 0).unwrap();
        for name in 1..BOUNDS.all {
            drop(enter(&proxies, "spiffe://a/ns/a/sa/thief", name, true, 1).unwrap());
        }
        assert_eq!(proxies.all().len(), BOUNDS.of_one);
        assert!(proxies.all().iter().any(|proxy| proxy.id == "0"), "who is connected stays");
        drop(held);
        // Without any bad will: pods come and go, each with a name of its own.
        for name in 0..BOUNDS.all {
            let identity = format!("spiffe://a/ns/a/sa/{}", name % 16);
            drop(enter(&proxies, &identity, name, true, 2).unwrap());
        }
        assert_eq!(proxies.all().len(), BOUNDS.all);
        let late = enter(&proxies, "spiffe://a/ns/b/sa/late", 1, true, 3);
        assert!(late.is_some() && proxies.all().len() == BOUNDS.all);
        assert!(proxies.all().iter().filter(|proxy| proxy.last_seen == 1).count() < BOUNDS.of_one);
    }

    #[test]
    fn those_that_no_grant_is_for_have_few_places_and_take_none_of_others() {
        let proxies = proxies();
        let open: Vec<Hold> = (0..BOUNDS.ungranted)
            .map(|name| enter(&proxies, &format!("spiffe://a/ns/x/sa/{name}"), name, false, 1).unwrap())
            .collect();
        assert!(enter(&proxies, "spiffe://a/ns/x/sa/more", 0, false, 1).is_none());
        assert!(enter(&proxies, "spiffe://a/ns/a/sa/edge", 0, true, 1).is_some());
        drop(open);
        assert!(enter(&proxies, "spiffe://a/ns/x/sa/more", 0, false, 1).is_some());
    }

    #[tokio::test]
    async fn what_proxies_of_one_identity_say_at_once_is_bounded() {
        let proxies = proxies();
        let mut places = Vec::new();
        for _ in 0..GREETINGS / 8 {
            places.push(proxies.greeting("thief").await.unwrap());
        }
        let mut waiting = Box::pin(proxies.greeting("thief"));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(proxies.greeting("other").await.is_some(), "others wait for nobody");
        places.pop();
        assert!(waiting.await.is_some());
    }
}
