//! What each key has used of a quota in the windows of a calendar.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::calendar::Calendar;
use super::limiter::Decision;
use super::store::{Key, Slot, Store};
use crate::moment::Moment;

/// Keys a quota remembers where nobody asks for another bound: 1,000,000 take about 70 MiB.
pub const CAPACITY: usize = 1_000_000;

/// Windows begin at a whole minute: the clocks of all zones have been set by minutes since 1972.
const MINUTE: u64 = 60;

/// What was used in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Minutes from 1970 to its first second.
    pub start: u32,
    pub used: u32,
}

/// The two windows a key was last met in, the later one first.
///
/// Two, so that a clock that is put back over midnight and on again finds what was used on either side.
pub type Windows = [Window; 2];

/// What the keys of one quota have used.
///
/// Keys are remembered by a hash that is the same in every process with the same salt, so that it can be
/// written to a file that names nobody.
#[derive(Debug)]
pub struct WindowCounter {
    store: Store<Windows>,
    salt: [u8; 16],
    /// Something has changed since it was last asked.
    changed: AtomicBool,
}

/// One window of the clock: its first second and the first one after it, and the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) unix: Duration,
}

impl WindowCounter {
    /// Counters for at most `capacity` keys at a time, see [`CAPACITY`].
    pub fn new(salt: [u8; 16], capacity: usize) -> Self {
        Self { store: Store::new(capacity), salt, changed: AtomicBool::new(false) }
    }

    pub(super) fn key(&self, key: &str) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.salt);
        hasher.write(key.as_bytes());
        let hash = hasher.finish128();
        Key(hash.h1, hash.h2)
    }

    pub(super) fn hold(&self, key: Key) -> Slot<'_, Windows> {
        self.store.hold(key)
    }

    /// How a held key stands to a request, and its state once that is counted; `None` where nothing changes.
    pub(super) fn decide(
        slot: &Slot<'_, Windows>,
        key: Key,
        cost: u32,
        limit: u32,
        now: Now,
    ) -> (Decision, Option<Windows>) {
        let windows = slot.value().unwrap_or_default();
        let start = minutes(now.start);
        let known = windows.iter().find(|window| window.start == start);
        let used = known.map_or(0, |window| window.used);
        let rest = Duration::from_secs(now.end).saturating_sub(now.unix);
        let decision = |admitted, used: u32, retry_after| Decision {
            admitted,
            remaining: limit.saturating_sub(used).into(),
            retry_after,
            reset_after: rest,
            key: key.0,
        };
        match used.checked_add(cost).filter(|sum| *sum <= limit || cost == 0) {
            Some(sum) => {
                let wait = if sum < limit { Duration::ZERO } else { rest };
                let next = (cost > 0).then(|| with(windows, Window { start, used: sum }));
                (decision(true, sum, wait), next)
            }
            None => (decision(false, used, if cost > limit { Duration::MAX } else { rest }), None),
        }
    }

    pub(super) fn commit(&self, slot: &mut Slot<'_, Windows>, next: Windows) {
        slot.put(next);
        // Read first: the line stays shared among threads.
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Release);
        }
    }

    /// Counts a request that costs so much, if the window of its moment has as much left. One that costs nothing is
    /// always admitted. Takes 200 to 400 ns, and a lock on one of 64 shards meanwhile.
    pub fn take(&self, key: &str, cost: u32, limit: u32, calendar: &Calendar, moment: Moment) -> Decision {
        let (start, end) = calendar.window(moment.unix);
        let key = self.key(key);
        let mut slot = self.hold(key);
        let (decision, next) = Self::decide(&slot, key, cost, limit, Now { start, end, unix: moment.unix });
        if let Some(next) = next {
            self.commit(&mut slot, next);
        }
        decision
    }

    /// Takes back what was counted in the window that begins at `start`.
    pub(super) fn give_back(&self, key: Key, cost: u32, start: u64) {
        let mut slot = self.hold(key);
        let Some(mut windows) = slot.value() else { return };
        for window in windows.iter_mut().filter(|window| window.start == minutes(start)) {
            window.used = window.used.saturating_sub(cost);
        }
        self.commit(&mut slot, windows);
    }

    /// True once after every change.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Shows every key, by both halves of its hash.
    pub fn each(&self, mut see: impl FnMut([u64; 2], Windows)) {
        self.store.each(|key, windows| see([key.0, key.1], windows));
    }

    /// Forgets every key.
    pub fn forget(&self) {
        self.store.clear();
    }

    /// Adds what another process has written: where both know a window, the one with more is believed.
    pub fn merge(&self, [one, two]: [u64; 2], windows: Windows) {
        let mut slot = self.hold(Key(one, two));
        let mut merged = slot.value().unwrap_or_default();
        for window in windows.into_iter().filter(|window| window.used > 0) {
            let known = merged.iter().find(|known| known.start == window.start);
            if known.is_none_or(|known| known.used < window.used) {
                merged = with(merged, window);
            }
        }
        slot.put(merged);
    }

    /// Keys dropped to keep within the capacity; the callers behind them start anew.
    pub fn evictions(&self) -> u64 {
        self.store.evictions()
    }

    /// Keys held now.
    pub fn live_keys(&self) -> usize {
        self.store.len()
    }
}

fn minutes(seconds: u64) -> u32 {
    u32::try_from(seconds / MINUTE).unwrap_or(u32::MAX)
}

/// Puts a window in its place. The latest stays, also where a clock that ran ahead has left it behind: it will
/// be met again. What is neither that nor the new one is forgotten.
fn with([late, early]: Windows, new: Window) -> Windows {
    if new.start == late.start {
        [new, early]
    } else if new.start == early.start || new.start < late.start {
        [late, new]
    } else {
        [new, late]
    }
}
