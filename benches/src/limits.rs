//! Limits with a million live keys, and several of one request together.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use foregate_filters::moment::Moment;
use foregate_filters::rate_limit::calendar::{Calendar, Period};
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::windows::WindowCounter;

use crate::measure::Table;
use crate::memory::resident;

/// When requests come, in Unix seconds.
const NOW: u64 = 1_800_000_000;
/// Keys of a large counter.
const KEYS: usize = 1_000_000;
/// Length of a key in bytes: that of a Salesforce id.
const KEY: usize = 18;
/// Twice the keys and a little, so that none falls out of the generation it is in.
const CAPACITY: usize = KEYS * 11 / 5;

/// Measures both kinds of counters.
pub fn run<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    let keys = Keys::new()?;
    let rate = Rate { limit: 1_000_000, per: Duration::from_millis(1), burst: 1 };
    let name = "limit check, 1,000,000 live keys";
    if table.wants(name) {
        let limiter = Limiter::new(rate, CAPACITY);
        keys.fill(table, "memory of 1,000,000 keys, MiB", |key, moment| limiter.check(key, moment).admitted)?;
        ensure!(limiter.live_keys() == KEYS, "{} keys are live", limiter.live_keys());
        keys.row(table, name, |key, moment| limiter.check(key, moment).admitted)?;
    }
    let name = "quota check, 1,000,000 live keys";
    if table.wants(name) {
        let Some(calendar) = Calendar::new(Period::Day, "Europe/Berlin") else { return Ok(()) };
        let counter = WindowCounter::new([7; 16], CAPACITY);
        let take = |key: &str, moment| counter.take(key, 1, 1_000_000_000, &calendar, moment).admitted;
        keys.fill(table, "memory of 1,000,000 keys of a quota, MiB", take)?;
        ensure!(counter.live_keys() == KEYS, "{} keys are live", counter.live_keys());
        keys.row(table, name, take)?;
    }
    Ok(())
}

/// A million keys, one behind the other.
struct Keys(String);

impl Keys {
    fn new() -> Result<Self> {
        let mut keys = String::with_capacity(KEYS * KEY);
        for number in 0..KEYS {
            write!(keys, "00D5g{number:013}")?;
        }
        Ok(Self(keys))
    }

    fn at(&self, number: usize) -> &str {
        self.0.get(number * KEY..(number + 1) * KEY).unwrap_or_default()
    }

    fn fill<W: Write>(
        &self,
        table: &mut Table<'_, W>,
        what: &str,
        mut take: impl FnMut(&str, Moment) -> bool,
    ) -> Result<()> {
        let before = resident();
        for number in 0..KEYS {
            ensure!(take(self.at(number), moment(5_000_000)), "key {number} is refused");
        }
        if let (Some(before), Some(after)) = (before, resident()) {
            table.note(what, &(after.saturating_sub(before) >> 10).to_string())?;
        }
        Ok(())
    }

    fn row<W: Write>(
        &self,
        table: &mut Table<'_, W>,
        name: &str,
        mut take: impl FnMut(&str, Moment) -> bool,
    ) -> Result<()> {
        let (mut number, mut time) = (0, 5_000_000);
        table.row(name, || {
            // A stride that visits every key, far from the one before; time passes.
            number = (number + 618_033) % KEYS;
            time += 1;
            take(self.at(number), moment(time))
        })?;
        Ok(())
    }
}

fn moment(micros: u64) -> Moment {
    Moment { unix: Duration::from_secs(NOW), monotonic: Duration::from_micros(micros) }
}
