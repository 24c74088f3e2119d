//! What was carried out, in a store that gateways share.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::idempotency::answer::Answer;
use foregate_filters::idempotency::ledger::{Asked, Claim, Digest, Found, Later, Ledger, Unavailable};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::clock;
use crate::idempotency::codec::{self, Entry};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::telemetry::random;

/// Looks at a key that is claimed by nobody and not there: it ran out, or was freed, between two questions.
const LOOKS: u32 = 3;

/// Attempts to say what became of a run, and the pause after the first; it doubles.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// Pauses between two looks at a run of another process: the first, and the longest.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// A ledger in a store. A first request takes one round trip, a repeat two.
#[derive(Debug)]
pub struct Stored(Arc<Store>);

/// A key that is held: as long as what stands under it is of this run.
#[derive(Debug)]
struct Held {
    store: Arc<Store>,
    key: String,
    asked: Asked,
    entry: Vec<u8>,
    finished: bool,
}

impl Stored {
    pub const fn new(store: Arc<Store>) -> Self {
        Self(store)
    }

    async fn find(&self, asked: &Asked) -> Result<Found, Unavailable> {
        let mut key = name(&asked.key);
        let run = (u128::from(random::next()) << 64) | u128::from(random::next());
        let mut entry = codec::running(&asked.fingerprint, run);
        for _ in 0..LOOKS {
            // Before it is asked: where no answer comes, it may be held all the same, and is freed.
            let (store, asked) = (Arc::clone(&self.0), asked.clone());
            let held = Held { store, key, asked, entry, finished: false };
            if self
                .0
                .set_if_absent(&held.key, &held.entry, held.asked.lock)
                .await
                .map_err(|error| unavailable(&error))?
            {
                return Ok(Found::Free(Box::new(held)));
            }
            (key, entry) = held.forget();
            match self
                .0
                .get(&key)
                .await
                .map_err(|error| unavailable(&error))?
                .map(|entry| codec::read(&entry))
            {
                None => {}
                Some(Some(Entry::Running(fingerprint))) => return Ok(Found::Running(fingerprint)),
                Some(Some(Entry::Done(fingerprint, answer))) => return Ok(Found::Done(fingerprint, answer)),
                Some(None) => return Err(Unavailable("what stands under the key is no entry".into())),
            }
        }
        Err(Unavailable("the key comes and goes".into()))
    }

    async fn wait(&self, key: &Digest, until: Duration) -> bool {
        let (key, mut pause) = (name(key), FIRST_LOOK);
        loop {
            let left = until.saturating_sub(clock::monotonic());
            if left.is_zero() {
                return false;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
            // Whoever cannot be asked now is asked by the next claim, which tells why.
            let entry = self.0.get(&key).await.ok().flatten();
            if !matches!(entry.as_ref().and_then(codec::read), Some(Entry::Running(_))) {
                return true;
            }
        }
    }
}

fn unavailable(error: &StoreError) -> Unavailable {
    Unavailable(error.to_string().into())
}

/// The key of a value: nothing of what the client sent can be read off it.
fn name(key: &Digest) -> String {
    let mut name = String::with_capacity(5 + 64);
    name.push_str("once:");
    for byte in key {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

impl Ledger for Stored {
    fn claim<'a>(&'a self, asked: &'a Asked) -> Later<'a, Result<Found, Unavailable>> {
        Box::pin(self.find(asked))
    }

    fn ended<'a>(&'a self, key: &'a Digest, until: Duration) -> Later<'a, bool> {
        Box::pin(self.wait(key, until))
    }
}

impl Held {
    /// It was never held.
    fn forget(mut self) -> (String, Vec<u8>) {
        self.finished = true;
        (std::mem::take(&mut self.key), std::mem::take(&mut self.entry))
    }

    /// Puts another value in the place of ours, where it still stands; nothing where `value` is empty. Nobody waits for it.
    fn replace(&mut self, value: Vec<u8>, ttl: Duration) {
        self.finished = true;
        // Without a runtime the process is ending: the key is free once its lock runs out.
        let Ok(runtime) = Handle::try_current() else { return };
        let (store, key, ours) =
            (Arc::clone(&self.store), std::mem::take(&mut self.key), std::mem::take(&mut self.entry));
        runtime.spawn(async move {
            let mut pause = PAUSE;
            for _ in 0..ATTEMPTS {
                if store.replace(&key, &ours, &value, ttl).await.is_ok() {
                    return;
                }
                sleep(pause).await;
                pause *= 2;
            }
        });
    }
}

impl Claim for Held {
    fn finish(mut self: Box<Self>, answer: Option<Arc<Answer>>) {
        let (value, keep) = (codec::done(&self.asked.fingerprint, answer.as_deref()), self.asked.keep);
        self.replace(value, keep);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.finished {
            self.replace(Vec::new(), Duration::from_millis(1));
        }
    }
}
