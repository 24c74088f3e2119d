//! The stores of a process, carried over from one configuration to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::moment::Moment;
use foregate_filters::rate_limit::shared::{Decisions, SharedCounters, Take, Taking, Unavailable};
use foregate_policy::redis_store::RedisStore;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::store::Store;
use crate::store::counters::{self, Counters};

/// For giving back what was taken in advance, when the process ends.
const CLOSE: Duration = Duration::from_secs(1);

/// Stores by name.
#[derive(Debug, Default)]
pub struct Stores(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Counts compilations; what the last good one did not ask for is let go.
    attempt: u64,
    all: Vec<One>,
}

#[derive(Debug)]
struct One {
    spec: Arc<RedisStore>,
    /// Absent where nobody is to be asked: when policies are only checked.
    store: Option<Arc<Store>>,
    attempt: u64,
}

/// Stands in where policies are only checked.
#[derive(Debug)]
struct Unasked;

impl Stores {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A compilation begins.
    pub fn begin(&self) {
        self.kept().attempt += 1;
    }

    /// Takes note of a store: the one that is there while its document stays the same. True where it was made.
    pub fn note(
        &self,
        spec: &Arc<RedisStore>,
        make: impl FnOnce() -> Option<Arc<Store>>,
    ) -> Option<Arc<Store>> {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        if let Some(one) = kept.all.iter_mut().find(|one| one.spec == *spec) {
            one.attempt = attempt;
            return None;
        }
        let store = make();
        kept.all.push(One { spec: Arc::clone(spec), store: store.clone(), attempt });
        store
    }

    /// The store of this name that the compilation has taken note of; none where nobody is to be asked.
    ///
    /// # Errors
    /// Where there is no such store.
    pub fn find(&self, name: &str, at: &Path) -> Result<Option<Arc<Store>>, Fault> {
        let kept = self.kept();
        let found = kept.all.iter().find(|one| *one.spec.name == *name && one.attempt == kept.attempt);
        found
            .map(|one| one.store.clone())
            .ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), format!("store `{name}` cannot be used")))
    }

    /// The counters in the store of this name.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn counters(&self, name: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        Ok(match self.find(name, at)? {
            Some(store) => Arc::new(Counters::new(store)),
            None => Arc::new(Unasked),
        })
    }

    /// The compilation was published: what it did not ask for is let go, and gives back what it took in advance.
    pub fn commit(&self) {
        let gone: Vec<One> = {
            let mut kept = self.kept();
            let attempt = kept.attempt;
            kept.all.extract_if(.., |one| one.attempt != attempt).collect()
        };
        for store in gone.into_iter().filter_map(|one| one.store) {
            let runtime = store.runtime.clone();
            runtime.spawn(counters::retire(store));
        }
    }

    /// Gives back what was taken in advance: the process ends. Whatever cannot be told in time is lost.
    pub async fn close(&self) {
        let all = self.all();
        let given = join_all(all.iter().map(counters::give_all));
        // It is over, whether or not all was told.
        let _ = timeout(CLOSE, given).await;
    }

    /// Those in use, by name.
    pub fn all(&self) -> Vec<Arc<Store>> {
        let mut by_name: HashMap<Arc<str>, (u64, Arc<Store>)> = HashMap::new();
        for one in &self.kept().all {
            let Some(store) = &one.store else { continue };
            let newest = by_name.get(&one.spec.name).is_none_or(|(attempt, _)| *attempt < one.attempt);
            if newest {
                by_name.insert(Arc::clone(&one.spec.name), (one.attempt, Arc::clone(store)));
            }
        }
        let mut all: Vec<_> = by_name.into_values().map(|(_, store)| store).collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }
}

impl SharedCounters for Unasked {
    fn take_at_once(&self, _: &[Take], _: Moment) -> Option<Decisions> {
        None
    }

    fn take<'a>(&'a self, _: &'a [Take], _: Moment) -> Taking<'a> {
        Box::pin(std::future::ready(Err(Unavailable("policies are only checked".into()))))
    }

    fn give_back(&self, _: &[Take], _: Moment) {}
}
