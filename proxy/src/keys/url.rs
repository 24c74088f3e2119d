//! Keys from a URL: refreshed in the background, fetched once for all who wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use foregate_filters::jwt::key_set::KeySet;
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock;
use crate::keys::fetch::{Fetcher, Source};
use crate::keys::schedule::Schedule;
use crate::keys::{KeysStatus, Refetched, count};

/// The keys at a URL. Old keys stay while the issuer cannot be reached; [`KeysStatus::age`] tells.
#[derive(Debug)]
pub struct UrlKeys {
    shared: Arc<Shared>,
    refresh: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    fetcher: Fetcher,
    current: ArcSwapOption<KeySet>,
    state: Mutex<State>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    flight: Option<Flight>,
    fault: Option<String>,
}

/// A fetch under way; turns true where it gave keys, false where it did not. It is a task of its
/// own: a request that gives up waiting does not take the fetch from the others.
type Flight = watch::Receiver<Option<bool>>;

/// Who wants a fetch.
enum Cause {
    Refresh,
    Demand(Moment),
}

impl UrlKeys {
    /// Begins to fetch, and keeps the keys fresh until this is dropped.
    pub fn start(source: Source, fetcher: Fetcher) -> Self {
        let runtime = fetcher.runtime.clone();
        let shared = Arc::new(Shared {
            source,
            fetcher,
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let refresh = runtime.spawn(Arc::clone(&shared).refresh()).abort_handle();
        Self { shared, refresh }
    }

    #[cfg(test)]
    pub(super) fn refresh_task(&self) -> AbortHandle {
        self.refresh.clone()
    }

    pub fn status(&self, moment: Moment) -> KeysStatus {
        let state = self.shared.state();
        KeysStatus {
            source: "url",
            keys: count(&self.shared.current),
            succeeded: self.shared.succeeded.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            age: state.schedule.age(moment.monotonic),
            fault: state.fault.clone(),
        }
    }
}

impl Drop for UrlKeys {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

impl Keys for UrlKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.shared.current.load_full()
    }

    fn may_refetch(&self, kid: Option<&str>, moment: Moment) -> bool {
        let state = self.shared.state();
        let now = moment.monotonic;
        kid.is_none_or(|kid| state.schedule.may_look_for(kid, now))
            && (state.under_way().is_some() || state.schedule.allows_demand(now))
    }

    fn refetch<'a>(&'a self, kid: Option<&'a str>, moment: Moment) -> Refetched<'a> {
        Box::pin(self.shared.refetch(kid, moment))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches whenever the schedule says so, for ever.
    async fn refresh(self: Arc<Self>) {
        loop {
            let due = self.state().schedule.due_in(clock::now().monotonic);
            if !due.is_zero() {
                tokio::time::sleep(due).await;
            } else if let Some((flight, _)) = self.board(&Cause::Refresh) {
                landed(flight).await;
            }
        }
    }

    async fn refetch(self: &Arc<Self>, kid: Option<&str>, moment: Moment) -> Option<Arc<KeySet>> {
        // A fetch that was under way may have been answered before the kid was published: one more then.
        for _ in 0..2 {
            let Some((flight, started)) = self.board(&Cause::Demand(moment)) else { break };
            let fetched = landed(flight).await;
            let keys = self.current.load_full();
            let found = keys.as_ref().is_some_and(|keys| kid.is_none_or(|kid| keys.names(kid)));
            if found || !fetched {
                return keys;
            }
            if started {
                if let Some(kid) = kid {
                    self.state().schedule.missed(kid, moment.monotonic);
                }
                return keys;
            }
        }
        self.current.load_full()
    }

    /// Joins the fetch under way, or starts one where the schedule allows; tells whether it did.
    fn board(self: &Arc<Self>, cause: &Cause) -> Option<(Flight, bool)> {
        let mut state = self.state();
        if let Some(flight) = state.under_way() {
            return Some((flight, false));
        }
        if let Cause::Demand(moment) = cause {
            if !state.schedule.allows_demand(moment.monotonic) {
                return None;
            }
            state.schedule.demand(moment.monotonic);
        }
        state.schedule.begin(clock::now().monotonic);
        let (landing, flight) = watch::channel(None);
        state.flight = Some(flight.clone());
        drop(state);
        let shared = Arc::clone(self);
        self.fetcher.runtime.spawn(async move {
            let fetched = shared.fetch().await;
            landing.send_replace(Some(fetched));
        });
        Some((flight, true))
    }

    /// Fetches once and keeps what came of it; true where keys came.
    async fn fetch(&self) -> bool {
        let outcome = self.fetcher.fetch(&self.source).await;
        let now = clock::now().monotonic;
        match outcome {
            Ok(fetched) => {
                let before = self.current.swap(Some(Arc::new(fetched.keys)));
                let known = self.current.load();
                if before.as_ref().zip(known.as_ref()).is_some_and(|(before, known)| before.loses(known)) {
                    self.fetcher.withdrawn().notify_one();
                }
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                let mut state = self.state();
                state.schedule.succeed(now, fetched.max_age);
                state.fault = None;
                true
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut state = self.state();
                state.schedule.fail(now);
                state.fault = Some(error.to_string());
                false
            }
        }
    }
}

impl State {
    /// The fetch under way. One whose task is gone without a word is not.
    fn under_way(&self) -> Option<Flight> {
        let flight = self.flight.as_ref()?;
        let pending = flight.borrow().is_none() && flight.has_changed().is_ok();
        pending.then(|| flight.clone())
    }
}

/// Waits for the end of a fetch; true where it gave keys.
async fn landed(mut flight: Flight) -> bool {
    flight.wait_for(Option::is_some).await.is_ok_and(|outcome| *outcome == Some(true))
}
