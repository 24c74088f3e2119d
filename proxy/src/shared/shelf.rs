//! Parts by name, kept while what compiles asks for them.

use std::collections::HashMap;
use std::hash::Hash;

/// Parts by name, each with the attempt that last asked for it.
#[derive(Debug)]
pub(super) struct Shelf<K, V>(pub(super) HashMap<K, (V, u64)>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Clone> Shelf<K, V> {
    /// The part of this name; made where there is none. True where it was made now.
    pub(super) fn take<E>(
        &mut self,
        key: K,
        attempt: u64,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<(V, bool), E> {
        if let Some((part, used)) = self.0.get_mut(&key) {
            *used = attempt;
            return Ok((part.clone(), false));
        }
        let part = make()?;
        self.0.insert(key, (part.clone(), attempt));
        Ok((part, true))
    }

    pub(super) fn keep_only(&mut self, attempt: u64) {
        self.0.retain(|_, (_, used)| *used == attempt);
    }
}

impl<K, V: Clone> Shelf<K, V> {
    /// All parts that are kept now.
    pub(super) fn all(&self) -> Vec<V> {
        self.0.values().map(|(part, _)| part.clone()).collect()
    }
}
