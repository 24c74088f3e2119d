//! Recent decisions, kept in bounded memory for the operator.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::record::{DecisionId, Record};

/// Most memory that kept records may take, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// One in this many records that neither refuse nor audit is kept. A power of two.
const SAMPLE: u128 = 16;

/// The newest refusals and audits, and a sample of the rest.
#[derive(Debug)]
pub struct Decisions {
    /// Most records kept; 0 keeps none.
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, each with its weight in bytes.
    records: VecDeque<(usize, Arc<Record>)>,
    bytes: usize,
}

impl Decisions {
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// True where this record is to be kept: it refuses, audits or failed, or is one of the sample.
    pub fn wants(&self, record: &Record) -> bool {
        let telling = record.refusal.is_some() || !record.audits.is_empty() || record.status >= 500;
        self.limit > 0 && (telling || record.id.bits().is_multiple_of(SAMPLE))
    }

    /// Keeps this record, and lets go of the oldest until count and memory are within their bounds.
    pub fn push(&self, record: Arc<Record>) {
        let weight = record.weight();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += weight;
        kept.records.push_back((weight, record));
        while kept.records.len() > self.limit || kept.bytes > MAX_BYTES {
            let Some((weight, _)) = kept.records.pop_front() else { break };
            kept.bytes -= weight;
        }
    }

    /// The newest records, newest first.
    pub fn recent(&self, limit: usize) -> Vec<Arc<Record>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.records.iter().rev().take(limit).map(|(_, record)| record.clone()).collect()
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
