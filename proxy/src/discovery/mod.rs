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
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinSet;
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

/// Looks under way at once: names beyond wait for one of these to end, which takes no longer than [`LIMIT`].
const MAX_LOOKS: usize = 256;

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

    /// True where a look costs next to nothing, so that it may be had whenever something may be new.
    fn is_local(&self) -> bool {
        false
    }
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
    fn new(source: Box<dyn Source>) -> Self {
        Self { source, found: Vec::new(), due: Duration::ZERO, good: Duration::ZERO }
    }

    /// Looks: true where what it tells has changed.
    async fn look(&mut self, upstream: &str) -> bool {
        let looked = timeout(LIMIT, self.source.look()).await;
        let now = clock::monotonic();
        let failure = match looked {
            Ok(Ok(Found::Endpoints(found, lasts))) => {
                (self.due, self.good) = (now.saturating_add(lasts), now.saturating_add(lasts));
                let changed = self.found != found;
                self.found = found;
                return changed;
            }
            Ok(Ok(Found::Same(lasts))) => {
                (self.due, self.good) = (now.saturating_add(lasts), now.saturating_add(lasts));
                return false;
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
        lost
    }
}

/// What a source told last.
#[derive(Clone, Debug, Default)]
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
    /// Each is held while it is looked at, apart from the others: a slow one holds up nobody.
    watched: Box<[Arc<Mutex<Watched>>]>,
    /// What each told last, in the same order, and until when that was good: nobody has to wait for a look.
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
        let memory = |source: &dyn Source| Memory { name: source.name(), ..Memory::default() };
        Self {
            are_fixed: sources.is_empty(),
            version: AtomicU64::new(0),
            memory: StdMutex::new(sources.iter().map(|source| memory(&**source)).collect()),
            watched: sources.into_iter().map(|source| Arc::new(Mutex::new(Watched::new(source)))).collect(),
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
        for (index, watched) in self.watched.iter().enumerate() {
            // Nobody looks at sources that are new.
            let Ok(mut watched) = watched.try_lock() else { continue };
            let name = watched.source.name();
            if let Some(known) = theirs.iter().find(|known| known.name == name) {
                watched.found.clone_from(&known.found);
                watched.good = known.good;
            }
            self.remember(index, &watched);
        }
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    fn remember(&self, index: usize, watched: &Watched) {
        if let Some(memory) = self.memory().get_mut(index) {
            memory.found.clone_from(&watched.found);
            memory.good = watched.good;
        }
    }

    /// A number that grows with everything found anew.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The sources that are due, and at which nobody looks now; with `local`, also those that are cheap to look at.
    fn due(&self, local: bool) -> Vec<(usize, OwnedMutexGuard<Watched>)> {
        let now = clock::monotonic();
        let free = self.watched.iter().enumerate().filter_map(|(index, watched)| {
            let watched = Arc::clone(watched).try_lock_owned().ok()?;
            (watched.due <= now || (local && watched.source.is_local())).then_some((index, watched))
        });
        free.collect()
    }
}

/// Looks at one source, and takes over what it tells.
async fn look(upstream: Arc<UpstreamState>, index: usize, mut watched: OwnedMutexGuard<Watched>) {
    let sources = &upstream.sources;
    let changed = watched.look(&upstream.spec.name).await;
    sources.remember(index, &watched);
    if changed {
        sources.version.fetch_add(1, Ordering::AcqRel);
        upstream.catch_up(clock::monotonic());
    }
}

/// Looks at every source of these upstreams that is due, all at the same time, and waits for all of them.
pub async fn resolve(upstreams: &[Arc<UpstreamState>]) {
    let looks = upstreams.iter().flat_map(|upstream| {
        let due = upstream.sources.due(false).into_iter();
        due.map(|(index, watched)| look(Arc::clone(upstream), index, watched))
    });
    join_all(looks).await;
}

/// Looks under way. What they found counts as soon as each has ended, and all end when this is dropped.
#[derive(Debug, Default)]
pub struct Looks(JoinSet<()>);

impl Looks {
    /// Begins to look at every source of these upstreams that is due, and waits for none; with `local`, at files too
    /// that are not.
    pub fn begin(&mut self, upstreams: &[Arc<UpstreamState>], local: bool) {
        while self.0.try_join_next().is_some() {}
        let now = clock::monotonic();
        for upstream in upstreams.iter().filter(|upstream| !upstream.sources.are_fixed()) {
            // Another state of the same upstream may have looked.
            upstream.catch_up(now);
            for (index, watched) in upstream.sources.due(local) {
                if self.0.len() >= MAX_LOOKS {
                    return;
                }
                self.0.spawn(look(Arc::clone(upstream), index, watched));
            }
        }
    }
}
