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

/// A place, or some that were taken together, until it is dropped.
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
        self.try_take_many(of, 1)
    }

    /// So many places, where these are free.
    pub fn try_take_many(&self, of: K, count: u32) -> Option<Place> {
        let of_one = self.share(of).try_acquire_many_owned(count).ok()?;
        Some(Place { _of_one: of_one, _of_all: Arc::clone(&self.all).try_acquire_many_owned(count).ok()? })
    }

    /// Waits for a place.
    pub async fn take(&self, of: K) -> Option<Place> {
        self.take_many(of, 1).await
    }

    /// Waits for so many places, of which it has none before it has all: whoever took one after another would wait for others that
    /// wait for it. No more than a share can be had.
    pub async fn take_many(&self, of: K, count: u32) -> Option<Place> {
        let of_one = self.share(of).acquire_many_owned(count).await.ok()?;
        Some(Place { _of_one: of_one, _of_all: Arc::clone(&self.all).acquire_many_owned(count).await.ok()? })
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

    #[tokio::test]
    async fn some_are_taken_together_or_none_of_them() {
        let places = Places::new(4, 3);
        let first = places.try_take_many("one", 2).unwrap();
        assert!(places.try_take_many("one", 2).is_none(), "one of its share is left");
        let mut waiting = Box::pin(places.take_many("one", 2));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let other = places.try_take_many("other", 2).unwrap();
        drop(first);
        assert!(waiting.await.is_some());
        drop(other);
        assert!(places.try_take_many("third", 3).is_some(), "all that were taken are given back");
    }
}
