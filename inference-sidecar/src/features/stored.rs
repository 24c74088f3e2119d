//! Features that are looked up in a store by a key of the record.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::json::Kind;
use smallvec::SmallVec;

use super::draft::Slot;
use super::spec::{FeatureSpec, SpecError};
use super::trie::Node;
use crate::store::{FeatureStore, Lookup, Row, Snapshot};

/// Which features are looked up, and by which members of the record.
#[derive(Debug, Default)]
pub(super) struct StorePlan {
    /// Members that hold a key, each once: features of one key cost one lookup.
    keys: Vec<Node>,
    /// One a feature of the spec; `None` for those that are read from the record.
    features: Vec<Option<Column>>,
    store: Option<Arc<FeatureStore>>,
}

#[derive(Debug)]
struct Column {
    spec: FeatureSpec,
    /// Place of its key among the keys.
    key: usize,
    /// Place in the store, once there is one.
    place: usize,
    /// In microseconds.
    max_age: i64,
}

/// What was found for one record.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// One a feature of the spec.
    values: SmallVec<[Option<f32>; 16]>,
    /// One a key.
    lookups: SmallVec<[Lookup; 2]>,
}

impl Found {
    pub(super) fn value(&self, feature: usize) -> Option<f32> {
        self.values.get(feature).copied().flatten()
    }
}

impl StorePlan {
    /// Notes the next feature of the spec, and the member that its pointer names.
    pub(super) fn add(&mut self, spec: &FeatureSpec, node: Option<Node>) {
        let column = spec.store.as_ref().zip(node).map(|(stored, node)| {
            let known = self.keys.iter().position(|key| *key == node);
            let key = known.unwrap_or_else(|| {
                self.keys.push(node);
                self.keys.len() - 1
            });
            let max_age = stored.max_age.and_then(|age| i64::try_from(age.0.as_micros()).ok());
            Column { spec: spec.clone(), key, place: usize::MAX, max_age: max_age.unwrap_or(i64::MAX) }
        });
        self.features.push(column);
    }

    /// `None` where nothing is looked up.
    pub(super) fn into_needed(self) -> Option<Box<Self>> {
        (!self.keys.is_empty()).then(|| Box::new(self))
    }

    pub(super) fn has(&self, feature: usize) -> bool {
        self.features.get(feature).is_some_and(Option::is_some)
    }

    /// Finds every column in the store.
    pub(super) fn attach(&mut self, store: &Arc<FeatureStore>) -> Result<(), SpecError> {
        let snapshot = store.pin();
        for column in self.features.iter_mut().flatten() {
            let named = column.spec.store.as_ref().and_then(|stored| snapshot.column(&stored.column));
            column.place = named.ok_or_else(|| column.spec.error("the feature store has no such column"))?;
        }
        self.store = Some(Arc::clone(store));
        Ok(())
    }

    /// Looks every key of the record up once.
    pub(super) fn look_up(&self, slots: &[Slot<'_>], now: Duration) -> Found {
        let Some(store) = &self.store else { return Found::default() };
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let snapshot = store.pin();
        let rows: SmallVec<[Option<Row<'_>>; 2]> =
            self.keys.iter().map(|node| row(&snapshot, slots, *node)).collect();
        let mut fresh: SmallVec<[bool; 2]> = SmallVec::from_elem(false, rows.len());
        let found = self.features.iter().map(|column| {
            let column = column.as_ref()?;
            let row = rows.get(column.key).copied().flatten()?;
            if now.saturating_sub(row.at) > column.max_age {
                return None;
            }
            if let Some(fresh) = fresh.get_mut(column.key) {
                *fresh = true;
            }
            row.cells.get(column.place).copied().filter(|cell| !cell.is_nan())
        });
        let values = found.collect();
        let lookup = |(row, fresh): (&Option<Row<'_>>, bool)| match (row, fresh) {
            (None, _) => Lookup::Absent,
            (Some(_), true) => Lookup::Found,
            (Some(_), false) => Lookup::Stale,
        };
        Found { values, lookups: rows.iter().zip(fresh).map(lookup).collect() }
    }

    /// Counts what was found for a record.
    pub(super) fn note(&self, found: &Found) {
        if let Some(store) = &self.store {
            found.lookups.iter().for_each(|lookup| store.note(*lookup));
        }
    }
}

/// The row of a key: a string, or a number as it is written.
fn row<'s>(snapshot: &'s Snapshot, slots: &[Slot<'_>], node: Node) -> Option<Row<'s>> {
    let Slot::Scalar(scalar) = slots.get(node.index())? else { return None };
    match scalar.kind {
        Kind::String => snapshot.find(&scalar.unescape()),
        Kind::Number => snapshot.find(scalar.raw),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::features::{Plan, Reading};
    use crate::store::{FeatureStore, StoreKey};
    use crate::table::Tables;

    #[test]
    fn a_body_that_is_read_again_is_not_counted_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.redb");
        let key = || StoreKey::parse(&[b'0'; 64]).unwrap();
        FeatureStore::create(&path, &key(), &["visits".to_owned()]).unwrap();
        let store = Arc::new(FeatureStore::open(&path, key()).unwrap());
        let feature = r#"[{"name":"visits","pointer":"/AccountId","type":"number","store":{"column":"visits"},"default":0}]"#;
        let mut plan =
            Plan::compile("Lead", &serde_json::from_str::<Vec<_>>(feature).unwrap(), &Tables::new()).unwrap();
        plan.attach(&store).unwrap();
        let (body, reading) = (br#"{"AccountId":"001"}"#, Reading::default());
        let first = plan.extract(body, &[], reading).unwrap();
        assert_eq!(store.counts().absent(), 1);
        assert_eq!(plan.extract_again(body, &[], reading).unwrap(), first);
        assert_eq!(store.counts().absent(), 1);
    }
}
