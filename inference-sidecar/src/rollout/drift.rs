//! How far a population has moved from the one a model was trained on.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bundle::reference::{Population, Reference};

/// Added to every count, so that an empty bin is not infinitely far away.
const SMOOTHING: f64 = 0.5;

/// Counts the records that a version scores, and judges them together.
#[derive(Debug)]
pub(super) struct Watch {
    reference: Arc<Reference>,
    /// Records that are judged together.
    records: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    seen: u32,
    /// One list for each population.
    counts: Vec<Vec<u32>>,
    /// What the last full window gave: the index of each population.
    last: Option<Vec<f64>>,
}

impl Watch {
    pub(super) fn new(reference: Arc<Reference>, records: u32) -> Self {
        let window = Mutex::new(Window { seen: 0, counts: empty(&reference), last: None });
        Self { reference, records, window }
    }

    /// Notes one record. At the end of a window, gives the population that moved most, and how far.
    pub(super) fn note(&self, row: &[f32], score: f32) -> Option<(Arc<str>, f64)> {
        let populations = &self.reference.populations;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for (population, counts) in populations.iter().zip(&mut window.counts) {
            if let Some(count) = counts.get_mut(population.bin(row, score)) {
                *count += 1;
            }
        }
        window.seen += 1;
        if window.seen < self.records {
            return None;
        }
        let moved =
            populations.iter().zip(&window.counts).map(|(population, counts)| index(population, counts));
        let moved: Vec<f64> = moved.collect();
        window.seen = 0;
        window.counts = empty(&self.reference);
        let most = populations.iter().zip(&moved).max_by(|a, b| a.1.total_cmp(b.1));
        let most = most.map(|(population, moved)| (Arc::clone(&population.name), *moved));
        window.last = Some(moved);
        most
    }

    /// Forgets the records of the window that is open.
    pub(super) fn restart(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.seen = 0;
        window.counts = empty(&self.reference);
    }

    /// The names of the populations.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.reference.populations.iter().map(|population| &population.name)
    }

    /// How far each population had moved when it was judged last.
    pub(super) fn last(&self) -> Option<Vec<f64>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

fn empty(reference: &Reference) -> Vec<Vec<u32>> {
    reference.populations.iter().map(|population| vec![0; population.counts.len()]).collect()
}

/// The population stability index: the sum of (a - b) ln(a / b) over the shares of all bins.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn index(population: &Population, counts: &[u32]) -> f64 {
    let whole = |total: f64| total + SMOOTHING * population.counts.len() as f64;
    let before = whole(population.counts.iter().map(|count| *count as f64).sum());
    let now = whole(counts.iter().map(|count| f64::from(*count)).sum());
    let bins = population.counts.iter().zip(counts);
    let moved = bins.map(|(was, is)| {
        let (was, is) = ((*was as f64 + SMOOTHING) / before, (f64::from(*is) + SMOOTHING) / now);
        (is - was) * (is / was).ln()
    });
    moved.sum()
}
