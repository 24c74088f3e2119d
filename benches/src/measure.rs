//! Times a closure: rounds of many calls, and their median.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

/// Rounds whose median counts.
const ROUNDS: usize = 15;
/// Time of one round: long enough that reading the clock does not show.
const ROUND: Duration = Duration::from_millis(40);

/// Prints one line a measurement, of those whose name holds a word.
#[derive(Debug)]
pub struct Table<'a, W> {
    out: &'a mut W,
    only: &'a str,
}

impl<'a, W: Write> Table<'a, W> {
    pub fn new(out: &'a mut W, only: &'a str) -> io::Result<Self> {
        writeln!(out, "{:<58} {:>10} {:>10} {:>10}", "ns an operation", "median", "least", "most")?;
        Ok(Self { out, only })
    }

    /// True where `name` is asked for.
    pub fn wants(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// Measures `operation` and prints what one call takes.
    pub fn row<T>(&mut self, name: &str, mut operation: impl FnMut() -> T) -> io::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let mut calls = 1;
        // Warms caches and branch predictors, and finds how many calls fill a round.
        while time(calls, &mut operation) < ROUND {
            calls *= 2;
        }
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| each(time(calls, &mut operation), calls)).collect();
        rounds.sort_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or_default();
        let (median, least, most) = (at(ROUNDS / 2), at(0), at(ROUNDS - 1));
        writeln!(self.out, "{name:<58} {median:>10.1} {least:>10.1} {most:>10.1}")?;
        self.out.flush()
    }

    /// Prints something that is not a time.
    pub fn note(&mut self, name: &str, value: &str) -> io::Result<()> {
        writeln!(self.out, "{name:<58} {value:>10}")
    }
}

/// Reads the clock: a bench measures time.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens are good from now on")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time<T>(calls: u32, operation: &mut impl FnMut() -> T) -> Duration {
    let start = now();
    for _ in 0..calls {
        black_box(operation());
    }
    start.elapsed()
}

fn each(round: Duration, calls: u32) -> f64 {
    round.as_secs_f64() * 1e9 / f64::from(calls)
}
