//! How far a population has moved from the one a model was trained on.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bundle::reference::Reference;

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
        let moved = populations
            .iter()
            .zip(&window.counts)
            .map(|(population, counts)| index(&population.counts, counts));
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

/// The population stability index: the sum of (a - b) ln(a / b) over the shares of all bins; less what chance alone gives.
/// That is (B - 1)(1/n + 1/m) of B bins, n records before and m now (Yurdakul and Naranjo, 2020).
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
pub fn index(reference: &[u64], counts: &[u32]) -> f64 {
    let before: f64 = reference.iter().map(|count| *count as f64).sum();
    let now: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let smoothed = SMOOTHING * reference.len() as f64;
    let bins = || reference.iter().zip(counts);
    let moved = bins().map(|(was, is)| {
        let was = (*was as f64 + SMOOTHING) / (before + smoothed);
        let is = (f64::from(*is) + SMOOTHING) / (now + smoothed);
        (is - was) * (is / was).ln()
    });
    // A bin that nothing falls into has no part in chance.
    let used = bins().filter(|(was, is)| **was > 0 || **is > 0).count();
    let chance = used.saturating_sub(1) as f64 * (before.recip() + now.recip());
    (moved.sum::<f64>() - chance).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::index;

    /// Draws so many records evenly over 65 bins, by a linear congruence (Knuth's MMIX).
    fn drawn(seed: &mut u64, records: usize) -> Vec<u32> {
        let mut counts = vec![0; 65];
        for _ in 0..records {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            counts[usize::try_from((*seed >> 33) % 65).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn a_population_of_many_bins_that_did_not_move_has_not_moved() {
        let mut seed = 1;
        let reference: Vec<u64> = drawn(&mut seed, 5_000).into_iter().map(u64::from).collect();
        for window in 0..500 {
            let moved = index(&reference, &drawn(&mut seed, 200));
            assert!((0.0..0.25).contains(&moved), "window {window}: {moved}");
        }
    }

    #[test]
    fn one_that_moved_has_moved() {
        let mut seed = 1;
        let reference: Vec<u64> = drawn(&mut seed, 5_000).into_iter().map(u64::from).collect();
        let mut counts = drawn(&mut seed, 120);
        counts[3] += 80;
        assert!(index(&reference, &counts) > 0.5);
    }
}
