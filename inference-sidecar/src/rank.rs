//! The items nearest to a query: exact, by all dot products.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Items that are multiplied side by side: the compiler makes vector instructions of it.
const LANES: usize = 16;

/// Embeddings of items, in blocks of 16 so that each number of a query meets 16 items at once.
#[derive(Clone, Debug)]
pub struct Index {
    width: usize,
    count: usize,
    /// Block after block; inside a block, number after number, each for all items of the block.
    blocks: Vec<[f32; LANES]>,
}

/// An item and its dot product. The larger one is the worse: the heap drops it first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    score: f32,
    place: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Index {
    /// Takes row-major embeddings of `width` numbers each.
    pub fn new(rows: &[f32], width: usize) -> Self {
        let mut blocks = Vec::with_capacity(rows.len().div_ceil(LANES));
        for block in rows.chunks(LANES * width.max(1)) {
            for place in 0..width {
                let mut lanes = [0.0; LANES];
                for (lane, cell) in lanes.iter_mut().zip(block.iter().skip(place).step_by(width)) {
                    *lane = *cell;
                }
                blocks.push(lanes);
            }
        }
        Self { width, count: rows.len().checked_div(width).unwrap_or(0), blocks }
    }

    /// Numbers of one embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The `k` items with the largest dot products, best first, the earlier one among equals.
    ///
    /// Dot products in f32, summed in the order of the columns. `None` where the query has another width.
    pub fn top(&self, query: &[f32], k: usize) -> Option<Vec<(usize, f32)>> {
        if query.len() != self.width || self.width == 0 {
            return None;
        }
        let mut best: BinaryHeap<Candidate> = BinaryHeap::with_capacity(k + 1);
        let mut least = f32::NEG_INFINITY;
        for (number, block) in self.blocks.chunks_exact(self.width).enumerate() {
            let mut sums = [0.0_f32; LANES];
            for (lanes, value) in block.iter().zip(query) {
                for (sum, lane) in sums.iter_mut().zip(lanes) {
                    *sum += lane * value;
                }
            }
            // Most blocks hold nothing that is better than what was found before.
            if best.len() == k && sums.iter().all(|sum| *sum <= least) {
                continue;
            }
            let first = number * LANES;
            for (place, score) in (first..self.count).zip(sums) {
                if best.len() < k {
                    best.push(Candidate { score, place });
                } else if score > least {
                    best.push(Candidate { score, place });
                    best.pop();
                }
                if best.len() == k {
                    least = best.peek().map_or(f32::INFINITY, |worst| worst.score);
                }
            }
        }
        Some(best.into_sorted_vec().into_iter().map(|found| (found.place, found.score)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Index;

    #[test]
    fn the_best_are_those_of_a_full_sort_and_the_earlier_one_among_equals() {
        let mut state = 1_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(i8::try_from(state >> 29).unwrap()) - 3.0
        };
        for (count, width, k) in
            [(1, 1, 1), (15, 3, 4), (16, 3, 16), (17, 4, 5), (500, 2, 20), (100, 7, 100), (5, 2, 9)]
        {
            let rows: Vec<f32> = (0..count * width).map(|_| number()).collect();
            let query: Vec<f32> = (0..width).map(|_| number()).collect();
            let mut wanted: Vec<(usize, f32)> = rows
                .chunks_exact(width)
                .map(|row| row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>())
                .enumerate()
                .collect();
            wanted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            wanted.truncate(k);
            assert_eq!(Index::new(&rows, width).top(&query, k).unwrap(), wanted, "{count} x {width}");
        }
        assert_eq!(Index::new(&[1.0, 2.0], 2).top(&[1.0], 1), None);
        assert_eq!(Index::new(&[], 2).top(&[1.0, 1.0], 3), Some(Vec::new()));
        assert_eq!(Index::new(&[1.0, 2.0], 2).top(&[1.0, 1.0], 0), Some(Vec::new()));
    }
}
