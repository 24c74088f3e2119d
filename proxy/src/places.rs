//! A bounded number of places in the process, taken and given back.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    most: usize,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub struct Place(&'static Places);

impl Places {
    pub const fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.most.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// `None` where all are taken.
    pub fn take(&'static self) -> Option<Place> {
        let add = |taken: usize| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok().then(|| Place(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn no_more_than_there_are_can_be_taken_and_one_given_back_is_free() {
        static PLACES: Places = Places::new(2);
        let (one, two) = (PLACES.take(), PLACES.take());
        assert!(one.is_some() && two.is_some() && PLACES.take().is_none());
        assert_eq!(PLACES.free(), 0);
        drop(one);
        assert_eq!(PLACES.free(), 1);
        assert!(PLACES.take().is_some());
    }
}
