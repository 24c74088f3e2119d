//! What a version costs on this machine, and whether it reads what another one reads.

use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{ScoreCall, ScoreFault};

use crate::clock::Stopwatch;
use crate::scorer::ModelScorer;

/// Part of the calls that are run before those that count.
const WARM_UP: usize = 10;

/// Times of single records: reading, features, model and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub calls: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    /// Of all calls together.
    pub total: Duration,
}

/// Golden records, and the moment that dates in them are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub now: Duration,
    pub bodies: Vec<Bytes>,
}

fn call(body: &Bytes, now: Duration) -> ScoreCall {
    ScoreCall {
        body: body.clone(),
        reserved: std::iter::empty().collect(),
        budget: Duration::MAX,
        now,
        explain: false,
    }
}

/// The first of these records that the version has no score for, counted from 0, and why.
pub fn unread(scorer: &ModelScorer, records: &Records) -> Option<(usize, ScoreFault)> {
    let fault = |body: &Bytes| match scorer.run_here(&call(body, records.now)) {
        Ok(found) => found.into_iter().find_map(|record| record.score.err()),
        Err(fault) => Some(fault),
    };
    records.bodies.iter().enumerate().find_map(|(place, body)| Some((place, fault(body)?)))
}

/// Scores records one by one, over and over, on this thread. `None` where there are none.
pub fn time(scorer: &ModelScorer, records: &Records, calls: usize) -> Option<Timing> {
    let calls_of: Vec<ScoreCall> = records.bodies.iter().map(|body| call(body, records.now)).collect();
    let mut times = Vec::with_capacity(calls);
    let mut around = calls_of.iter().cycle();
    for _ in 0..calls.div_ceil(WARM_UP) {
        drop(scorer.run_here(around.next()?));
    }
    let whole = Stopwatch::start();
    for _ in 0..calls {
        let one = around.next()?;
        let watch = Stopwatch::start();
        let ran = scorer.run_here(one);
        times.push(watch.elapsed());
        drop(ran);
    }
    let total = whole.elapsed();
    times.sort_unstable();
    let at = |hundredth: usize| times.get((calls * hundredth / 100).saturating_sub(1)).copied();
    Some(Timing { calls, p50: at(50)?, p99: at(99)?, max: at(100)?, total })
}
