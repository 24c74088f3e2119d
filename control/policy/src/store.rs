//! The place of the snapshot in force.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// Holds what is in force. Readers never wait; whoever pinned a value keeps it while it lasts.
#[derive(Debug)]
pub struct Store<T>(ArcSwap<T>);

impl<T> Store<T> {
    pub fn new(first: T) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// What is in force now.
    pub fn pin(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts `next` in force; requests under way keep what they pinned.
    pub fn publish(&self, next: T) {
        self.0.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests {
    use super::Store;

    #[test]
    fn a_pinned_value_outlives_its_successor() {
        let store = Store::new(1);
        let pinned = store.pin();
        store.publish(2);
        assert_eq!((*pinned, *store.pin()), (1, 2));
    }
}
