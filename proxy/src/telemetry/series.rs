//! Metric handles found by name: made on first use, bounded in number.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use arc_swap::ArcSwap;

/// How many more series a metric may have.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
    refused: AtomicUsize,
}

/// Handles by key. Finding one takes no lock, nor does finding none where no more may be made; making one copies the map,
/// which happens once a key.
#[derive(Debug)]
pub struct Series<K, V> {
    known: ArcSwap<AHashMap<K, V>>,
    making: Mutex<()>,
}

impl Budget {
    pub const fn new(limit: usize) -> Self {
        Self { left: AtomicUsize::new(limit), refused: AtomicUsize::new(0) }
    }

    /// True where one more series may be made.
    pub fn take(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if !taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// True where the budget is used up; then this counts as a series that was refused.
    fn refuses(&self) -> bool {
        let refuses = self.left.load(Ordering::Relaxed) == 0;
        if refuses {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        refuses
    }

    /// How often a series was asked for that could not be had.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl<K, V> Default for Series<K, V> {
    fn default() -> Self {
        Self { known: ArcSwap::default(), making: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Series<K, V> {
    /// The handle of this key, made where there is none yet; `None` where the budget is used up.
    pub fn find_or_make<Q>(&self, key: &Q, budget: &Budget, make: impl FnOnce() -> (K, V)) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(found) = self.known.load().get(key) {
            return Some(found.clone());
        }
        // Nobody waits for what cannot be had.
        if budget.refuses() {
            return None;
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if let Some(found) = known.get(key) {
            return Some(found.clone());
        }
        if !budget.take() {
            return None;
        }
        let (key, value) = make();
        let mut more = AHashMap::clone(&known);
        more.insert(key, value.clone());
        self.known.store(more.into());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Series};

    #[test]
    fn the_budget_holds_and_what_is_known_stays_known() {
        let budget = Budget::new(2);
        let series = Series::<Box<str>, u32>::default();
        let find = |key: &str, value| series.find_or_make(key, &budget, || (key.into(), value));
        assert_eq!(find("a", 1), Some(1));
        assert_eq!(find("b", 2), Some(2));
        assert_eq!(find("c", 3), None);
        assert_eq!(find("a", 9), Some(1), "the first handle stays");
        assert_eq!(budget.refused(), 1);
    }
}
