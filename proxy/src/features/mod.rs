//! Keeps a feature store current: dropped files, streams, and what other processes write.

pub mod stream;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foregate_filters::secret::Secret;
use foregate_filters::timestamp::Timestamp;
use foregate_inference::store::error::{StoreError, StoreFault};
use foregate_inference::store::inbox::{Dropped, Swept, sweep};
use foregate_inference::store::{FeatureStore, KeyError, StoreKey};
use foregate_policy::model::Features;
use log::Level;
use tokio::runtime::Handle;

use crate::clock;
use crate::features::stream::Tally;
use crate::secrets::LiveSecret;
use crate::store::Store;
use crate::telemetry::event::event;

/// Between two looks at the folder and the file.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever writes a store lets others open it within a few hundred milliseconds.
const TRIES: u32 = 20;
const SHORT: Duration = Duration::from_millis(100);

/// A store that models look up in, and what keeps it current once it is in force.
#[derive(Debug)]
pub struct LiveFeatures {
    pub store: Arc<FeatureStore>,
    pub said: Features,
    /// One of them is what it is sealed with.
    secrets: Vec<Arc<LiveSecret>>,
    /// Whose stream is read; absent where there is none.
    redis: ArcSwapOption<Store>,
    pub tally: Tally,
    kept: AtomicBool,
}

/// Opens a store with one of these keys; waits a little where another process has it. Blocks for as long as that
/// and the disk take.
pub fn open(path: &Path, keys: &[StoreKey]) -> Result<FeatureStore, StoreFault> {
    in_turn(|| FeatureStore::open_with(path, keys.to_vec()))
}

/// Does what another process may be in the way of: again and again, until that one has let go of the store.
pub fn in_turn<T>(mut act: impl FnMut() -> Result<T, StoreFault>) -> Result<T, StoreFault> {
    for _ in 0..TRIES {
        match act() {
            Err(StoreFault { fault: StoreError::Busy, .. }) => thread::sleep(SHORT),
            done => return done,
        }
    }
    act()
}

/// What an operator does about a store that cannot be opened.
pub fn help(fault: &StoreError) -> &'static str {
    match fault {
        StoreError::Busy => "wait until whoever writes it has ended, then start or reload again",
        StoreError::Key => "while its key changes, name the other one as nextKey",
        _ => "foregate features show tells what a store holds, and import makes one",
    }
}

impl LiveFeatures {
    /// Nothing keeps it until [`Self::keep`] is called. The secrets are those that it was opened with.
    pub fn new(store: FeatureStore, said: Features, secrets: Vec<Arc<LiveSecret>>) -> Self {
        let (redis, tally, kept) = Default::default();
        Self { store: Arc::new(store), said, secrets, redis, tally, kept }
    }

    /// It is in force: from now on it is kept current, until nobody has it any more. `redis` has the stream that is named
    /// now. True where that is new.
    pub fn keep(self: &Arc<Self>, redis: Option<Arc<Store>>, runtime: Option<&Handle>) -> bool {
        self.redis.store(redis);
        if self.kept.swap(true, Ordering::AcqRel) {
            return false;
        }
        let weak = Arc::downgrade(self);
        let mut keeper = Keeper { told: String::new(), secrets: self.current() };
        let run = move || {
            while let Some(live) = weak.upgrade() {
                keeper.turn(&live);
                drop(live);
                thread::sleep(PAUSE);
            }
        };
        if let Err(error) = thread::Builder::new().name("features".to_owned()).spawn(run) {
            self.tell(&error.to_string());
        }
        if let (Some(runtime), Some(_)) = (runtime, &self.said.stream) {
            runtime.spawn(stream::keep(Arc::downgrade(self)));
        }
        true
    }

    fn current(&self) -> Vec<Arc<Secret>> {
        self.secrets.iter().map(|secret| secret.current()).collect()
    }

    fn tell(&self, fault: &str) {
        event(Level::Error, "feature store not kept", &[("store", self.path()), ("error", fault.into())]);
    }

    fn path(&self) -> serde_json::Value {
        self.store.path().display().to_string().into()
    }
}

/// The keys that such secrets are.
pub fn keys<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<StoreKey>, KeyError> {
    secrets.into_iter().map(StoreKey::parse).collect()
}

/// What one thread remembers between two looks.
struct Keeper {
    /// What stays wrong is told once.
    told: String,
    /// Those that the store has.
    secrets: Vec<Arc<Secret>>,
}

impl Keeper {
    fn turn(&mut self, live: &LiveFeatures) {
        let fault = self.look(live).err().unwrap_or_default();
        if !fault.is_empty() && fault != self.told {
            live.tell(&fault);
        }
        self.told = fault;
    }

    fn look(&mut self, live: &LiveFeatures) -> Result<(), String> {
        let now = live.current();
        let same = now.iter().zip(&self.secrets).all(|(now, before)| Arc::ptr_eq(now, before));
        if !same {
            let keys = keys(now.iter().map(|secret| secret.expose())).map_err(|error| error.to_string())?;
            live.store.set_keys(keys);
            self.secrets = now;
        }
        let store = &*live.store;
        match store.refresh() {
            // Whoever writes it is done before the next look.
            Ok(_) | Err(StoreFault { fault: StoreError::Busy, .. }) => {}
            Err(fault) => return Err(format!("{fault}: {}", help(&fault.fault))),
        }
        let Some(inbox) = &live.said.inbox else { return Ok(()) };
        let now = Timestamp::from_unix(clock::now().unix);
        let told = |error: &dyn Display| format!("{}: {error}", inbox.display());
        let Swept { dropped, waiting } = sweep(store, inbox, now).map_err(|error| told(&error))?;
        for Dropped { name, outcome } in dropped {
            let (level, what, field) = match outcome {
                Ok(applied) => (Level::Info, "features taken up", ("rows", applied.applied.into())),
                Err(why) => (Level::Warn, "features rejected", ("error", why.into())),
            };
            event(level, what, &[("store", live.path()), ("file", name.into()), field]);
        }
        waiting.map_or(Ok(()), |waiting| Err(told(&waiting)))
    }
}
