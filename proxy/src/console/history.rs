//! The numbers of the last minutes, and what they are a second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::moment::Moment;
use serde::Serialize;

use crate::console::scrape::{Counts, Scrape};

/// Over what rates and quantiles of now are taken.
const WINDOW: Duration = Duration::from_secs(10);

/// Between two scrapes that are kept whole.
const SPACED: Duration = Duration::from_secs(2);

/// Between two points of the lines.
const STEP: Duration = Duration::from_secs(10);

/// Points that are kept: 15 minutes.
const POINTS: usize = 90;

/// Scrapes and points of the last minutes.
#[derive(Debug, Default)]
pub(super) struct History {
    latest: Option<Arc<Taken>>,
    /// Oldest first; those that the window may begin with.
    kept: VecDeque<Arc<Taken>>,
    /// What the last point ends with.
    point: Option<Arc<Taken>>,
    points: VecDeque<Point>,
    /// How long to leave the metrics alone, by what reading them cost.
    pub(super) rest: Duration,
}

/// A scrape and when it was taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) at: Moment,
    pub(super) scrape: Scrape,
}

/// How it went between two moments.
#[derive(Debug)]
struct Point {
    at: Duration,
    traffic: Traffic,
}

/// Counts since the start, and what the window made of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) refused: u64,
    /// By the gateway or by an upstream.
    pub(super) failed: u64,
    pub(super) requests_per_second: f64,
    pub(super) refusals_per_second: f64,
    #[serde(skip)]
    failures_per_second: f64,
    /// Share of requests that did not fail; null without requests, as the quantiles are.
    pub(super) success: Option<f64>,
    pub(super) added_p50_us: Option<f64>,
    pub(super) added_p99_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
}

/// The lines of the last minutes: one value a point.
#[derive(Debug, Default, Serialize)]
pub(super) struct Lines {
    /// Seconds since the Unix epoch.
    at: Vec<u64>,
    requests_per_second: Vec<f64>,
    refusals_per_second: Vec<f64>,
    failures_per_second: Vec<f64>,
    added_p50_us: Vec<Option<f64>>,
    added_p99_us: Vec<Option<f64>>,
}

/// The newest numbers beside those of the beginning of the window.
#[derive(Debug)]
pub(super) struct Window<'a> {
    pub(super) now: &'a Taken,
    before: &'a Taken,
}

impl History {
    /// Time since the newest scrape.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        self.latest.as_ref().map(|latest| now.saturating_sub(latest.at.monotonic))
    }

    pub(super) fn push(&mut self, at: Moment, scrape: Scrape) {
        let taken = Arc::new(Taken { at, scrape });
        let since = |earlier: &Arc<Taken>| at.monotonic.saturating_sub(earlier.at.monotonic);
        if self.kept.back().is_none_or(|last| since(last) >= SPACED) {
            self.kept.push_back(Arc::clone(&taken));
        }
        // The newest of those that are as old as the window stays.
        while self.kept.get(1).is_some_and(|second| since(second) >= WINDOW) {
            self.kept.pop_front();
        }
        match &self.point {
            Some(last) if since(last) < STEP => {}
            last => {
                if let Some(last) = last {
                    let window = Window { now: &taken, before: last };
                    self.points.push_back(Point { at: at.unix, traffic: window.total() });
                }
                if self.points.len() > POINTS {
                    self.points.pop_front();
                }
                self.point = Some(Arc::clone(&taken));
            }
        }
        self.latest = Some(taken);
    }

    /// The last seconds; `None` before the first scrape.
    pub(super) fn window(&self) -> Option<Window<'_>> {
        let now = self.latest.as_deref()?;
        Some(Window { now, before: self.kept.front().map_or(now, |first| first) })
    }

    pub(super) fn lines(&self) -> Lines {
        let mut lines = Lines::default();
        for Point { at, traffic } in &self.points {
            lines.at.push(at.as_secs());
            lines.requests_per_second.push(traffic.requests_per_second);
            lines.refusals_per_second.push(traffic.refusals_per_second);
            lines.failures_per_second.push(traffic.failures_per_second);
            lines.added_p50_us.push(traffic.added_p50_us);
            lines.added_p99_us.push(traffic.added_p99_us);
        }
        lines
    }
}

impl Window<'_> {
    pub(super) fn seconds(&self) -> f64 {
        self.now.at.monotonic.saturating_sub(self.before.at.monotonic).as_secs_f64()
    }

    pub(super) fn total(&self) -> Traffic {
        self.traffic(&self.now.scrape.total(), &self.before.scrape.total())
    }

    pub(super) fn route(&self, name: &str, now: &Counts) -> Traffic {
        let before = self.before.scrape.routes.get(name);
        self.traffic(now, before.unwrap_or(&Counts::default()))
    }

    /// A count since the start, and how many a second.
    #[expect(clippy::cast_precision_loss, reason = "counts, below 2^53")]
    fn rate(&self, now: u64, before: u64) -> f64 {
        let seconds = self.seconds();
        let more = now.saturating_sub(before) as f64;
        if seconds > 0.0 { rounded(more / seconds, 1e3) } else { 0.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts, below 2^53")]
    fn traffic(&self, now: &Counts, before: &Counts) -> Traffic {
        let requests = now.requests.saturating_sub(before.requests);
        let failed = now.failed.saturating_sub(before.failed);
        let added = now.added.since(&before.added);
        let micros = |seconds: f64| rounded(seconds * 1e6, 10.0);
        Traffic {
            requests: now.requests,
            refused: now.refused,
            failed: now.failed,
            requests_per_second: self.rate(now.requests, before.requests),
            refusals_per_second: self.rate(now.refused, before.refused),
            failures_per_second: self.rate(now.failed, before.failed),
            success: (requests > 0).then(|| 1.0 - failed as f64 / requests as f64),
            added_p50_us: added.quantile(0.5).map(micros),
            added_p99_us: added.quantile(0.99).map(micros),
            p99_us: now.duration.since(&before.duration).quantile(0.99).map(micros),
        }
    }
}

/// With no more digits than it is worth: `parts` to the one.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::{History, POINTS};
    use crate::console::scrape::{Counts, Scrape};
    use foregate_filters::moment::Moment;
    use std::time::Duration;

    fn scrape(requests: u64, failed: u64) -> Scrape {
        let leads = Counts { requests, failed, ..Counts::default() };
        Scrape { routes: [("leads".to_owned(), leads)].into(), ..Scrape::default() }
    }

    fn at(seconds: u64) -> Moment {
        Moment { unix: Duration::from_secs(1_790_000_000 + seconds), monotonic: Duration::from_secs(seconds) }
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut history = History::default();
        assert!(history.window().is_none());
        history.push(at(0), scrape(100, 0));
        let first = history.window().unwrap().total();
        assert_eq!((first.requests, first.requests_per_second, first.success), (100, 0.0, None));
        for second in 1..=30 {
            history.push(at(second), scrape(100 + 7 * second, 0));
        }
        history.push(at(31), scrape(100 + 7 * 31 + 4, 4));
        let window = history.window().unwrap();
        assert!((10.0..13.0).contains(&window.seconds()), "{}", window.seconds());
        let total = window.total();
        assert_eq!((total.requests, total.failed), (321, 4));
        assert!((7.0..8.0).contains(&total.requests_per_second), "{total:?}");
        assert!((0.94..0.97).contains(&total.success.unwrap()), "{total:?}");
        assert_eq!(window.route("leads", &window.now.scrape.routes["leads"]), total);
        // What was not there before came in the window.
        let new = window.route("new", &window.now.scrape.routes["leads"]);
        assert!((26.0..33.0).contains(&new.requests_per_second), "{new:?}");
        assert!(history.kept.len() <= 7, "{}", history.kept.len());
    }

    #[test]
    fn lines_have_a_point_every_ten_seconds_and_go_back_a_quarter_of_an_hour() {
        let mut history = History::default();
        for second in 0..2_000 {
            history.push(at(second), scrape(3 * second, second));
        }
        let lines = history.lines();
        assert_eq!((lines.at.len(), lines.at.last()), (POINTS, Some(&1_790_001_990)));
        assert!(lines.at.windows(2).all(|pair| pair[1] - pair[0] == 10));
        assert!(lines.requests_per_second.iter().all(|rate| (rate - 3.0).abs() < 1e-9));
        assert!(lines.failures_per_second.iter().all(|rate| (rate - 1.0).abs() < 1e-9));
        assert!(lines.added_p50_us.iter().all(Option::is_none));
    }
}
