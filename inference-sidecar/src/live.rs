//! What runs of a model cost lately, and where it should run for it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::bundle::Cost;

/// Runs that are judged together.
const WINDOW: usize = 256;
/// Windows in a row that must agree before a model moves.
const WINDOWS: u32 = 2;
/// A model on the threads of requests moves away when its p99 is over this.
const DEAR: Duration = Duration::from_micros(100);
/// A model on threads of its own moves back when its p99 is at most this.
///
/// A fourth of what makes it move away, so that one on the edge does not move to and fro.
const CHEAP: Duration = Duration::from_micros(25);
/// One in so many runs inline is timed: two looks at the clock are felt beside a model of a microsecond.
const SAMPLED: u64 = 8;
/// Weight of one run in the mean, as a power of two.
const SMOOTHING: u32 = 4;

/// Times of the last runs of one row, and where the model runs.
#[derive(Debug)]
pub(crate) struct Live {
    /// Nanoseconds; a ring.
    times: Box<[AtomicU32]>,
    /// Runs that were noted.
    runs: AtomicU64,
    /// Runs inline.
    calls: AtomicU64,
    inline: AtomicBool,
    /// Windows in a row that spoke for a move.
    moves: AtomicU32,
    /// False where a person said where it runs.
    free: bool,
    /// Mean time of one row, nanoseconds.
    per_row: AtomicU64,
}

impl Live {
    pub(crate) fn new(cost: Cost, per_row: Duration, free: bool) -> Self {
        Self {
            times: std::iter::repeat_with(AtomicU32::default).take(WINDOW).collect(),
            runs: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            inline: AtomicBool::new(cost == Cost::Inline),
            moves: AtomicU32::new(0),
            free,
            per_row: AtomicU64::new(nanos(per_row)),
        }
    }

    pub(crate) fn cost(&self) -> Cost {
        if self.inline.load(Ordering::Relaxed) { Cost::Inline } else { Cost::Threads }
    }

    /// Mean time of one row lately.
    pub(crate) fn per_row(&self) -> Duration {
        Duration::from_nanos(self.per_row.load(Ordering::Relaxed))
    }

    /// True for the runs inline that are to be timed.
    pub(crate) fn is_due(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// Notes a run of some rows. At the end of each window, decides where the model runs from now on.
    ///
    /// Counts of threads that meet here may be off by a run or two: it is the tail of hundreds that decides.
    pub(crate) fn note(&self, took: Duration, rows: usize) {
        let each = nanos(took) / u64::try_from(rows.max(1)).unwrap_or(u64::MAX);
        let mean = self.per_row.load(Ordering::Relaxed);
        let moved = (each >> SMOOTHING) + mean - (mean >> SMOOTHING);
        self.per_row.store(moved, Ordering::Relaxed);
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(run).unwrap_or_default() % WINDOW;
        if let Some(time) = self.times.get(place) {
            time.store(u32::try_from(each).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        if place == WINDOW - 1 && self.free {
            self.judge();
        }
    }

    /// The time that 99 of 100 of the last runs kept to.
    pub(crate) fn p99(&self) -> Duration {
        let times = self.sorted();
        Duration::from_nanos(times.get(WINDOW * 99 / 100 - 1).copied().map_or(0, u64::from))
    }

    /// The time that half of the last runs kept to.
    pub(crate) fn median(&self) -> Duration {
        let times = self.sorted();
        // Before the ring is full, places that no run has taken are zero.
        let taken = times.get(times.partition_point(|time| *time == 0)..).unwrap_or_default();
        Duration::from_nanos(taken.get(taken.len() / 2).copied().map_or(0, u64::from))
    }

    fn sorted(&self) -> Vec<u32> {
        let mut times: Vec<u32> = self.times.iter().map(|time| time.load(Ordering::Relaxed)).collect();
        times.sort_unstable();
        times
    }

    fn judge(&self) {
        let (p99, inline) = (self.p99(), self.inline.load(Ordering::Relaxed));
        let wants = if inline { p99 > DEAR } else { p99 <= CHEAP };
        if !wants {
            self.moves.store(0, Ordering::Relaxed);
        } else if self.moves.fetch_add(1, Ordering::Relaxed) + 1 >= WINDOWS {
            self.moves.store(0, Ordering::Relaxed);
            self.inline.store(!inline, Ordering::Relaxed);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Live, WINDOW};
    use crate::bundle::Cost;
    use std::time::Duration;

    fn window(live: &Live, micros: u64, slow: usize) {
        for run in 0..WINDOW {
            let micros = if run < slow { 1_000 } else { micros };
            live.note(Duration::from_micros(micros), 1);
        }
    }

    #[test]
    fn a_model_moves_when_its_tail_says_so_twice_and_not_before() {
        let live = Live::new(Cost::Inline, Duration::from_micros(10), true);
        window(&live, 10, 2);
        window(&live, 10, 2);
        assert_eq!(live.cost(), Cost::Inline, "two of 256 are no tail");
        window(&live, 101, 0);
        assert_eq!(live.cost(), Cost::Inline, "one window may be an accident");
        window(&live, 90, 0);
        window(&live, 101, 0);
        assert_eq!(live.cost(), Cost::Inline, "a good window between starts the count anew");
        window(&live, 10, 4);
        assert_eq!(live.cost(), Cost::Threads, "four of 256 are a tail");
        for micros in [100, 60, 26] {
            window(&live, micros, 0);
            window(&live, micros, 0);
            assert_eq!(live.cost(), Cost::Threads, "{micros} us are not cheap enough to move back");
        }
        window(&live, 25, 0);
        window(&live, 25, 0);
        assert_eq!(live.cost(), Cost::Inline);
        assert!((24..=26).contains(&live.per_row().as_micros()), "{:?}", live.per_row());
    }

    #[test]
    fn what_a_person_placed_stays_there() {
        let live = Live::new(Cost::Inline, Duration::ZERO, false);
        (0..4).for_each(|_| window(&live, 500, 0));
        assert_eq!(live.cost(), Cost::Inline);
        assert!(live.per_row() > Duration::from_micros(400));
    }

    #[test]
    fn rows_of_a_batch_share_its_time() {
        let live = Live::new(Cost::Threads, Duration::ZERO, true);
        (0..2 * WINDOW).for_each(|_| live.note(Duration::from_micros(400), 20));
        assert_eq!(live.cost(), Cost::Inline, "20 us a row");
    }
}
