//! Where endpoints come from: documents, DNS, files; looked at again as each says.

pub mod dns;
pub mod file;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use foregate_policy::snapshot::Upstream;
use futures_util::future::join_all;
use log::Level;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock;
use crate::discovery::dns::{Hosts, Resolver, Services};
use crate::discovery::file::EndpointsFile;
use crate::dispatch::endpoint::Address;
use crate::dispatch::upstream::UpstreamState;
use crate::telemetry::event::event;

/// Between two looks at which sources are due.
pub const TICK: Duration = Duration::from_secs(1);

/// Time for one look.
const LIMIT: Duration = Duration::from_secs(5);

/// What a source found.
#[derive(Debug)]
pub enum Found {
    /// These, for so long.
    Endpoints(Vec<Address>, Duration),
    /// What was found before still holds, for so long.
    Same(Duration),
}

/// Something that tells of endpoints.
#[async_trait]
pub trait Source: fmt::Debug + Send {
    /// What it looks at; the same in every document that says the same.
    fn name(&self) -> String;

    /// Looks once.
    ///
    /// # Errors
    /// Why nothing was found, for the operator.
    async fn look(&mut self) -> Result<Found, String>;

    /// How long what was found last is used while looks fail, and the pause between these looks. `None`: for ever.
    fn patience(&self) -> (Option<Duration>, Duration);
}

/// A source, and what it told last.
#[derive(Debug)]
struct Watched {
    source: Box<dyn Source>,
    found: Vec<Address>,
    /// When to look next; monotonic.
    due: Duration,
    /// Until when what it told was good.
    good: Duration,
}

impl Watched {
    /// Looks, where it is time to: true where what it tells has changed.
    async fn look(&mut self, upstream: &str) -> Option<bool> {
        if clock::monotonic() < self.due {
            return None;
        }
        let looked = timeout(LIMIT, self.source.look()).await;
        let now = clock::monotonic();
        let failure = match looked {
            Ok(Ok(Found::Endpoints(found, lasts))) => {
                (self.due, self.good) = (now.saturating_add(lasts), now.saturating_add(lasts));
                let changed = self.found != found;
                self.found = found;
                return Some(changed);
            }
            Ok(Ok(Found::Same(lasts))) => {
                (self.due, self.good) = (now.saturating_add(lasts), now.saturating_add(lasts));
                return Some(false);
            }
            Ok(Err(failure)) => failure,
            Err(_) => "no answer in time".to_owned(),
        };
        let (stale, pause) = self.source.patience();
        self.due = now.saturating_add(pause);
        let over = stale.is_some_and(|stale| now > self.good.saturating_add(stale));
        let lost = over && !self.found.is_empty();
        if lost {
            self.found.clear();
        }
        let fields = [
            ("upstream", upstream.into()),
            ("source", self.source.name().into()),
            ("error", failure.into()),
            ("endpoints", self.found.len().into()),
        ];
        event(Level::Warn, "resolution failed", &fields);
        Some(lost)
    }
}

/// What a source told last.
#[derive(Clone, Debug)]
struct Memory {
    name: String,
    found: Vec<Address>,
    good: Duration,
}

/// All that tells of the endpoints of one upstream.
#[derive(Debug)]
pub struct Sources {
    /// Those that the document has as addresses.
    fixed: Vec<Address>,
    /// Held while sources are looked at.
    watched: Mutex<Vec<Watched>>,
    /// What each told last, by name, and until when that was good: nobody has to wait for a look.
    memory: StdMutex<Vec<Memory>>,
    are_fixed: bool,
    /// Counts what was found anew.
    version: AtomicU64,
}

impl Sources {
    pub fn new(spec: &Upstream) -> Self {
        let fixed: Vec<Address> = spec.endpoints.iter().filter_map(Address::literal).collect();
        let dns = spec.balancing.dns;
        let resolver = Arc::new(Resolver::new(dns));
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for endpoint in spec.endpoints.iter().filter(|endpoint| Address::literal(endpoint).is_none()) {
            sources.push(Box::new(Hosts::new(endpoint.clone(), Arc::clone(&resolver))));
        }
        for service in &spec.services {
            sources.push(Box::new(Services::new(service.clone(), Arc::clone(&resolver))));
        }
        if let Some(file) = &spec.endpoints_file {
            sources.push(Box::new(EndpointsFile::new(file.clone())));
        }
        let watched: Vec<Watched> = sources
            .into_iter()
            .map(|source| Watched { source, found: Vec::new(), due: Duration::ZERO, good: Duration::ZERO })
            .collect();
        Self {
            memory: StdMutex::default(),
            are_fixed: watched.is_empty(),
            version: AtomicU64::new(0),
            watched: Mutex::new(watched),
            fixed,
        }
    }

    /// True where the document has them all.
    pub fn are_fixed(&self) -> bool {
        self.are_fixed
    }

    /// What is known now.
    pub fn known(&self) -> Vec<Address> {
        let memory = self.memory();
        self.fixed.iter().chain(memory.iter().flat_map(|memory| &memory.found)).cloned().collect()
    }

    fn memory(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what another one knows by the same sources: a new document need not ask again to begin with.
    pub fn inherit(&self, other: &Self) {
        let theirs = other.memory().clone();
        // Nobody looks at sources that are new.
        let Ok(mut mine) = self.watched.try_lock() else { return };
        for watched in mine.iter_mut() {
            let name = watched.source.name();
            if let Some(known) = theirs.iter().find(|known| known.name == name) {
                watched.found.clone_from(&known.found);
                watched.good = known.good;
            }
        }
        self.remember(&mine);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    fn remember(&self, watched: &[Watched]) {
        let memory = watched.iter().map(|watched| Memory {
            name: watched.source.name(),
            found: watched.found.clone(),
            good: watched.good,
        });
        *self.memory() = memory.collect();
    }

    /// A number that grows with everything found anew.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Looks at every source that is due.
    async fn look(&self, upstream: &str) {
        let mut watched = self.watched.lock().await;
        let looked = join_all(watched.iter_mut().map(|watched| watched.look(upstream))).await;
        if looked.iter().any(Option::is_some) {
            self.remember(&watched);
        }
        if looked.contains(&Some(true)) {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Looks at every source of these upstreams that is due, all at the same time.
pub async fn resolve(upstreams: &[Arc<UpstreamState>]) {
    join_all(upstreams.iter().filter(|upstream| !upstream.sources.are_fixed()).map(resolve_one)).await;
}

async fn resolve_one(upstream: &Arc<UpstreamState>) {
    upstream.sources.look(&upstream.spec.name).await;
    upstream.catch_up(clock::monotonic());
}
