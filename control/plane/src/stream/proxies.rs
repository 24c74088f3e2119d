//! Every proxy that was heard of: what it has, and what it said last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_policy::fleet::{Finding, Node};
use serde::Serialize;
use tokio::sync::Notify;

use crate::stream::acknowledged::Acknowledged;

/// Most proxies that are remembered.
const MAX_PROXIES: usize = 20_000;
/// How long one is remembered that is gone.
const MEMORY: Duration = Duration::from_hours(24);
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
    /// Tells the stream before that there is a later one.
    replaced: Notify,
}

/// All proxies.
#[derive(Debug, Default)]
pub struct Proxies(Mutex<HashMap<Arc<str>, Arc<Proxy>>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of this proxy begins. `None` where too many are known.
    pub fn enter(&self, identity: &str, node: &Node, now: Duration) -> Option<Hold> {
        let key: Arc<str> = format!("{identity} {}", node.id).into();
        let mut all = self.lock();
        if !all.contains_key(&key) && all.len() >= MAX_PROXIES {
            let old = now.saturating_sub(MEMORY).as_secs();
            all.retain(|_, proxy| {
                let status = proxy.status();
                status.connected || status.last_seen > old
            });
            if all.len() >= MAX_PROXIES {
                return None;
            }
        }
        let proxy = Arc::clone(all.entry(Arc::clone(&key)).or_insert_with(|| {
            Arc::new(Proxy {
                key,
                status: Mutex::default(),
                gateways: Mutex::default(),
                generation: AtomicU64::new(0),
                replaced: Notify::new(),
            })
        }));
        drop(all);
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
