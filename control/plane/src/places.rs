//! Places that many ask for, and of which one asker has a share.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of places, by who asks: an address, an identity.
pub struct Places<K> {
    all: Arc<Semaphore>,
    share: usize,
    /// Of those that have places, or wait for some.
    shares: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl<K: Eq + Hash> Places<K> {
    /// `most` places, of which nobody has more than `share`.
    pub fn new(most: usize, share: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), share, shares: Mutex::default() }
    }

    fn share(&self, of: K) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        Arc::clone(shares.entry(of).or_insert_with(|| Arc::new(Semaphore::new(self.share))))
    }

    /// A place, where one is free.
    pub fn try_take(&self, of: K) -> Option<Place> {
        let of_one = self.share(of).try_acquire_owned().ok()?;
        Some(Place { _of_one: of_one, _of_all: Arc::clone(&self.all).try_acquire_owned().ok()? })
    }

    /// Waits for a place.
    pub async fn take(&self, of: K) -> Option<Place> {
        let of_one = self.share(of).acquire_owned().await.ok()?;
        Some(Place { _of_one: of_one, _of_all: Arc::clone(&self.all).acquire_owned().await.ok()? })
    }
}

impl<K> fmt::Debug for Places<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("free", &self.all.available_permits()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[tokio::test]
    async fn nobody_has_more_than_a_share_and_all_no_more_than_there_are() {
        let places = Places::new(3, 2);
        let first = places.try_take("one").unwrap();
        let _second = places.try_take("one").unwrap();
        assert!(places.try_take("one").is_none(), "its share is used up");
        let other = places.try_take("other").unwrap();
        assert!(places.try_take("third").is_none(), "all are used up");
        let mut waiting = Box::pin(places.take("one"));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(other);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "its share is still used up");
        drop(first);
        assert!(waiting.await.is_some());
        assert!(places.try_take("third").is_some());
        assert!(places.shares.lock().unwrap().len() < 3, "who has none is forgotten");
    }
}
