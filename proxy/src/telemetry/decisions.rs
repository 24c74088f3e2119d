//! Recent decisions, kept in bounded memory for the operator.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use foregate_policy::description::Description;

use crate::telemetry::record::{DecisionId, Record};

/// Most memory that kept records may take, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// Most memory that descriptions of routes may take, in bytes. Those in force are held anyway; kept decisions
/// hold on to those before.
const MAX_DESCRIBED: usize = 32 << 20;

/// One in this many decisions that neither refuse nor audit is kept where nothing else is said.
pub const SAMPLE: u32 = 16;

/// The newest refusals and audits, and a sample of the rest.
#[derive(Debug)]
pub struct Decisions {
    /// Most records kept; 0 keeps none.
    limit: usize,
    /// One in this many of the rest is kept; a power of two.
    sample: u32,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, each with its weight in bytes.
    records: VecDeque<(usize, Arc<Record>)>,
    bytes: usize,
    /// By address: how many records hold on to a description, and its weight in bytes.
    described: HashMap<usize, (usize, usize)>,
    described_bytes: usize,
}

impl Decisions {
    /// Keeps at most `limit`; of decisions that tell nothing special one in `sample`, rounded up to a power of two.
    pub fn new(limit: usize, sample: u32) -> Self {
        let sample = sample.checked_next_power_of_two().unwrap_or(1 << 31);
        Self { limit, sample, kept: Mutex::default() }
    }

    /// True where the decision of this id is kept whatever becomes of it; its random bits say so.
    pub fn samples(&self, id: DecisionId) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the random bits are the lowest")]
        let bits = id.bits() as u32;
        self.limit > 0 && bits & (self.sample - 1) == 0
    }

    /// True where this record is to be kept: it refuses, audits or failed, or is one of the sample.
    pub fn wants(&self, record: &Record) -> bool {
        (self.limit > 0 && record.is_telling()) || self.samples(record.id)
    }

    /// Keeps this record, and lets go of the oldest until count and memory are within their bounds.
    pub fn push(&self, record: Arc<Record>) {
        let weight = record.weight();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take(weight, record);
        while kept.records.len() > self.limit
            || kept.bytes > MAX_BYTES
            || kept.described_bytes > MAX_DESCRIBED
        {
            if !kept.let_go() {
                break;
            }
        }
    }

    /// The newest records that fit, newest first.
    pub fn recent(&self, limit: usize, fits: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let records = kept.records.iter().rev().map(|(_, record)| record);
        records.filter(|record| fits(record)).take(limit).cloned().collect()
    }

    /// One in so many decisions that tell nothing special is kept.
    pub const fn sample(&self) -> u32 {
        self.sample
    }

    /// The record of this decision, while it is kept.
    pub fn find(&self, id: DecisionId) -> Option<Arc<Record>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.records.iter().rev().find(|(_, record)| record.id == id).map(|(_, record)| record.clone())
    }

    /// Memory that the kept records take, in bytes.
    pub fn bytes(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl Kept {
    fn take(&mut self, weight: usize, record: Arc<Record>) {
        if let Some(description) = description(&record) {
            let (holders, weight) =
                self.described.entry(address(description)).or_insert_with(|| (0, description.weight()));
            if *holders == 0 {
                self.described_bytes += *weight;
            }
            *holders += 1;
        }
        self.bytes += weight;
        self.records.push_back((weight, record));
    }

    /// Lets go of the oldest; false where there is none.
    fn let_go(&mut self) -> bool {
        let Some((weight, record)) = self.records.pop_front() else { return false };
        self.bytes -= weight;
        if let Some(description) = description(&record)
            && let Entry::Occupied(mut held) = self.described.entry(address(description))
        {
            held.get_mut().0 -= 1;
            if held.get().0 == 0 {
                self.described_bytes -= held.remove().1;
            }
        }
        true
    }
}

fn description(record: &Record) -> Option<&Arc<Description>> {
    record.explanation.as_ref()?.description.as_ref()
}

/// Nobody else has this address as long as a record holds on to it.
fn address(description: &Arc<Description>) -> usize {
    Arc::as_ptr(description).addr()
}

#[cfg(test)]
mod tests {
    use super::{Decisions, MAX_BYTES, MAX_DESCRIBED, SAMPLE};
    use crate::telemetry::record::DecisionId;
    use crate::telemetry::testing::{MOMENT, explained_record, failed_records, full_record, record};
    use std::sync::Arc;

    #[test]
    fn the_newest_are_kept_and_found() {
        let decisions = Decisions::new(3, SAMPLE);
        let records: Vec<_> = (0..5).map(|_| Arc::new(record())).collect();
        for record in &records {
            decisions.push(record.clone());
        }
        let ids =
            |limit| decisions.recent(limit, |_| true).iter().map(|record| record.id).collect::<Vec<_>>();
        assert_eq!(ids(500), [records[4].id, records[3].id, records[2].id]);
        assert_eq!(ids(1), [records[4].id]);
        assert_eq!(decisions.find(records[2].id).unwrap().id, records[2].id);
        assert!(decisions.find(records[1].id).is_none());
        assert!(decisions.find(DecisionId::new(MOMENT)).is_none());
    }

    #[test]
    fn memory_is_bounded_whatever_the_records_hold() {
        let decisions = Decisions::new(1_000_000, SAMPLE);
        for _ in 0..20_000 {
            let mut long = record();
            long.path = "p".repeat(4_000).into();
            long.bound();
            decisions.push(Arc::new(long));
            assert!(decisions.bytes() <= MAX_BYTES);
        }
        assert!(decisions.bytes() > MAX_BYTES / 2);
        let held: usize = decisions.recent(usize::MAX, |_| true).iter().map(|record| record.weight()).sum();
        assert_eq!(decisions.bytes(), held, "the sum follows what leaves");
    }

    #[test]
    fn descriptions_of_configurations_long_gone_are_bounded_too() {
        let decisions = Decisions::new(1_000, SAMPLE);
        let huge = || {
            let mut explained = explained_record();
            let description = explained.explanation.as_mut().unwrap().description.as_mut().unwrap();
            Arc::get_mut(description).unwrap().links[0].rules[0].rule.source = "s".repeat(1 << 20).into();
            explained
        };
        let watched = huge();
        let held = Arc::downgrade(watched.explanation.as_ref().unwrap().description.as_ref().unwrap());
        decisions.push(Arc::new(watched));
        for _ in 0..100 {
            decisions.push(Arc::new(huge()));
        }
        let kept = decisions.recent(usize::MAX, |_| true).len();
        assert!((20..40).contains(&kept) && kept < MAX_DESCRIBED >> 20, "{kept}");
        assert!(held.upgrade().is_none());
        // One that many records share counts once.
        let description = huge().explanation.unwrap().description;
        for _ in 0..500 {
            let mut sharing = explained_record();
            sharing.explanation.as_mut().unwrap().description.clone_from(&description);
            decisions.push(Arc::new(sharing));
        }
        assert!(decisions.recent(usize::MAX, |_| true).len() >= 500);
    }

    #[test]
    fn refusals_audits_and_failures_are_always_wanted_and_others_sampled() {
        let decisions = Decisions::new(8, SAMPLE);
        for _ in 0..100 {
            let mut audited = record();
            audited.audits = full_record().audits;
            assert!(decisions.wants(&full_record()) && decisions.wants(&audited));
            assert!(failed_records().iter().all(|failed| decisions.wants(failed)));
        }
        let sampled = (0..16_000).filter(|_| decisions.wants(&record())).count();
        assert!((800..1_200).contains(&sampled), "{sampled}");
        assert!(!Decisions::new(0, 1).wants(&full_record()));
        let all = Decisions::new(8, 1);
        assert!((0..100).all(|_| all.wants(&record())), "one in one is every one");
    }
}
