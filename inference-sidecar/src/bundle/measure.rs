//! Smoke-runs every batch size and measures what a model costs.

use std::time::Duration;

use super::Cost;
use super::error::BundleFault;
use crate::clock::Stopwatch;
use crate::model::Model;

/// Batch sizes that must run: one, two, an odd one, the largest.
const BATCHES: [usize; 4] = [1, 2, 7, 200];
/// Single calls that are measured.
const CALLS: usize = 100;
/// A model whose p99 is at most this runs on the thread that serves the request.
const INLINE_P99: Duration = Duration::from_micros(50);
/// Scores of a row alone and in a batch may differ by this much.
const BATCH_TOLERANCE: f32 = 1e-5;

/// Where single calls run, and the time one row of the largest batch takes. `rows` holds at least one row.
pub(super) fn measure(
    model: &dyn Model,
    rows: &[f32],
    width: usize,
) -> Result<(Cost, Duration), BundleFault> {
    let mut alone = Vec::new();
    for row in rows.chunks_exact(width) {
        model.run(row, 1, &mut alone).map_err(|error| batch(1, &error))?;
    }
    let mut per_row = Duration::ZERO;
    for size in BATCHES {
        let cells: Vec<f32> = rows.iter().copied().cycle().take(size * width).collect();
        let mut scores = Vec::with_capacity(size);
        let watch = Stopwatch::start();
        model.run(&cells, size, &mut scores).map_err(|error| batch(size, &error))?;
        per_row = watch.elapsed() / u32::try_from(size).unwrap_or(u32::MAX);
        let same = scores.len() == size * model.columns()
            && scores
                .iter()
                .zip(alone.iter().cycle())
                .all(|(a, b)| (a - b).abs() <= BATCH_TOLERANCE * b.abs().max(1.0));
        if !same {
            return Err(batch(size, &"the scores differ from those of single rows"));
        }
    }
    let row = rows.get(..width).unwrap_or_default();
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        alone.clear();
        let watch = Stopwatch::start();
        model.run(row, 1, &mut alone).map_err(|error| batch(1, &error))?;
        times.push(watch.elapsed());
    }
    times.sort_unstable();
    let p99 = times.get(CALLS * 99 / 100 - 1).copied().unwrap_or(Duration::MAX);
    Ok((if p99 <= INLINE_P99 { Cost::Inline } else { Cost::Threads }, per_row))
}

fn batch(rows: usize, what: &dyn std::fmt::Display) -> BundleFault {
    BundleFault::Batch { rows, what: what.to_string() }
}
