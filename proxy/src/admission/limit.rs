//! The concurrency limit of one upstream, found out by its response times.
//!
//! A gradient as in the adaptive concurrency filter of Envoy and Netflix's concurrency-limits: the median time
//! of a window is held against the median of an upstream that nobody waits for. Where it is over twice that,
//! requests queue up in the upstream, and the limit goes down in proportion; where it is not, the limit goes up
//! again by its square root. What an idle upstream takes is measured anew whenever few requests are under way and
//! nobody is held up, and under lasting load by giving it few for a moment. Only requests that met few others
//! count for that: an answer that comes when the others have gone may have waited behind all of them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foregate_policy::snapshot::Concurrency;

/// Shortest window. One is as long as requests take, so that it shows what the one before has led to...
const WINDOW: Duration = Duration::from_millis(100);
/// ...but no longer than this.
const LONGEST: Duration = Duration::from_millis(250);
/// Fewest response times in a window that say something, where so many may be under way.
const FEWEST: u32 = 20;
/// How much longer than in an idle upstream requests may take before the limit goes down.
const TOLERANCE: f64 = 2.0;
/// Most that one window takes off.
const STEEPEST: f64 = 0.5;
/// Share of failures in a window from which the limit goes down whatever the times.
const FAILING: f64 = 0.1;
/// What failures take off.
const BACKOFF: f64 = 0.9;
/// How long a measured idle time holds while the limit is reached.
const STALE: Duration = Duration::from_secs(10);
/// Fewest requests that are let through to measure; an eighth of the limit where that is more, but never more than the
/// least limit.
const FEW: u32 = 8;
/// Longest time for that, or three medians where they are more: one until those are answered who came before.
const PROBE: Duration = Duration::from_millis(500);
/// The share of a new idle time in the one that is remembered.
const SMOOTHING: f64 = 0.25;

/// Buckets of response times: four to every power of two, from 16 us to over four minutes.
const BUCKETS: usize = 96;
/// Times below are as good as none.
const LEAST_MICROS: u64 = 16;

/// A limit that follows response times. Counting one takes no lock; closing a window takes one, once in
/// [`WINDOW`] at most.
#[derive(Debug)]
pub struct Limit {
    bounds: Concurrency,
    now: AtomicU32,
    /// Monotonic microseconds.
    window_ends: AtomicU64,
    closing: AtomicBool,
    /// Most requests under way in this window, or when one was sent that was answered in it.
    peak: AtomicU32,
    failed: AtomicU32,
    times: [AtomicU32; BUCKETS],
    /// The time of an idle upstream in microseconds; 0 until it is known.
    idle: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When `idle` was last measured.
    measured: Duration,
    probe: Option<Probe>,
    /// Probes that measured nothing, one after the other: as many may be under way that take long, and let no other
    /// through. Each has the next let through twice as many.
    fruitless: u32,
}

/// Few requests are let through to learn how long they take.
#[derive(Debug)]
struct Probe {
    /// The limit to go back to.
    back: u32,
    ends: Duration,
}

/// One window, closed.
#[derive(Clone, Copy, Debug)]
struct Window {
    median: f64,
    peak: u32,
    /// Share of failures.
    failed: f64,
}

impl Window {
    fn median(&self) -> Duration {
        Duration::from_micros(whole(self.median))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The bucket of a time.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(LEAST_MICROS);
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    let index = u64::from(octave - LEAST_MICROS.ilog2()) * 4 + quarter;
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
fn begin(bucket: usize) -> f64 {
    let (octave, quarter) = (u32::try_from(bucket / 4).unwrap_or_default(), bucket % 4);
    let quarter = f64::from(u32::try_from(quarter).unwrap_or_default());
    f64::from(2_u32).powi(octave.cast_signed() + 4) * (1.0 + quarter / 4.0)
}

impl Limit {
    pub fn new(bounds: Concurrency) -> Self {
        Self {
            bounds,
            now: AtomicU32::new(bounds.max),
            window_ends: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            peak: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            times: [const { AtomicU32::new(0) }; BUCKETS],
            idle: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// How many may be under way at once.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// What a request takes where nobody waits; zero until that is known.
    pub fn idle(&self) -> Duration {
        Duration::from_micros(self.idle.load(Ordering::Relaxed))
    }

    /// Counts a response that took `took`, with `under_way` requests at once when it was sent or when it came,
    /// itself included. True where the limit may have gone up. `now` is the monotonic time.
    pub fn observe(&self, took: Duration, failed: bool, under_way: u32, now: Duration) -> bool {
        if !self.bounds.adaptive {
            return false;
        }
        // A failure comes as quick as it comes: its time says nothing.
        let counted = if failed { Some(&self.failed) } else { self.times.get(bucket(micros(took))) };
        if let Some(counted) = counted {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        // Read first: almost every time there is nothing to write, and no line to take from other threads.
        if under_way > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(under_way, Ordering::Relaxed);
        }
        self.look(now)
    }

    /// Looks whether it is time for another limit: whoever is refused asks, for it may be that nothing is answered.
    /// True where the limit may have gone up.
    pub fn look(&self, now: Duration) -> bool {
        self.bounds.adaptive && micros(now) >= self.window_ends.load(Ordering::Relaxed) && self.close(now)
    }

    fn close(&self, now: Duration) -> bool {
        if self.closing.swap(true, Ordering::Acquire) {
            return false;
        }
        if micros(now) < self.window_ends.load(Ordering::Relaxed) {
            // Another thread was first.
            self.closing.store(false, Ordering::Release);
            return false;
        }
        let first = self.window_ends.swap(micros(now + WINDOW), Ordering::Relaxed) == 0;
        let before = self.now();
        let enough = !first && self.count() >= FEWEST.min(before.max(FEW));
        if enough {
            let window = self.take();
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let next = self.next(&mut state, window, now);
            self.now.store(next, Ordering::Relaxed);
            if state.probe.is_none() {
                let longer = window.median().clamp(WINDOW, LONGEST);
                self.window_ends.store(micros(now + longer), Ordering::Relaxed);
            }
        } else {
            self.give_up_probe(now);
        }
        self.closing.store(false, Ordering::Release);
        self.now() > before
    }

    fn count(&self) -> u32 {
        let times = self.times.iter().chain([&self.failed]);
        times.map(|times| times.load(Ordering::Relaxed)).fold(0, u32::saturating_add)
    }

    /// Empties the window, and says what was in it.
    fn take(&self) -> Window {
        let counts = self.times.each_ref().map(|times| times.swap(0, Ordering::Relaxed));
        let total = counts.iter().copied().fold(0, u32::saturating_add);
        let half = f64::from(total) / 2.0;
        let mut below = 0.0;
        let mut median = 0.0;
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let here = f64::from(*count);
            if below + here >= half {
                median = begin(index) + (begin(index + 1) - begin(index)) * (half - below) / here;
                break;
            }
            below += here;
        }
        let failed = f64::from(self.failed.swap(0, Ordering::Relaxed));
        let failed = failed / (failed + f64::from(total)).max(1.0);
        Window { median, peak: self.peak.swap(0, Ordering::Relaxed), failed }
    }

    /// A probe that nobody answers ends by itself.
    fn give_up_probe(&self, now: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = state.probe.take_if(|probe| now >= probe.ends) {
            state.measured = now;
            state.fruitless = state.fruitless.saturating_add(1);
            self.now.store(probe.back, Ordering::Relaxed);
        }
    }

    /// The limit after a window.
    fn next(&self, state: &mut State, window: Window, now: Duration) -> u32 {
        let (limit, Concurrency { min, max, .. }) = (self.now(), self.bounds);
        let reached = f64::from(window.peak) >= f64::from(limit) * 0.9;
        let few = window.peak <= min && !reached;
        let age = now.saturating_sub(state.measured);
        let probed = if state.probe.is_some() { window.peak <= limit } else { self.idle().is_zero() };
        if (few || probed) && window.median > 0.0 {
            self.measured(state, window, now);
        }
        if let Some(probe) = state.probe.take_if(|probe| probed || now >= probe.ends) {
            state.measured = now;
            state.fruitless = if probed { 0 } else { state.fruitless.saturating_add(1) };
            return probe.back;
        }
        if state.probe.is_some() {
            return limit;
        }
        if few && window.failed < FAILING {
            // Nobody was held up: back to where it began.
            return limit.saturating_add((max / 16).max(1)).min(max);
        }
        let probe = PROBE.max(window.median() * 3);
        if reached && age > STALE.max(probe * 3) {
            state.probe = Some(Probe { back: limit, ends: now + probe });
            let few = (limit / 8).max(FEW);
            return few.saturating_mul(1 << state.fruitless.min(16)).min(min);
        }
        self.gradient(limit, window, reached).clamp(min, max)
    }

    fn measured(&self, state: &mut State, window: Window, now: Duration) {
        let before = self.idle.load(Ordering::Relaxed);
        let alone = state.probe.is_some() || before == 0;
        #[expect(clippy::cast_precision_loss, reason = "microseconds of response times fit")]
        let before = before as f64;
        let share = if alone { 1.0 } else { SMOOTHING };
        self.idle.store(whole(before + (window.median - before) * share).max(1), Ordering::Relaxed);
        state.measured = now;
    }

    fn gradient(&self, limit: u32, window: Window, reached: bool) -> u32 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of response times fit")]
        let idle = self.idle.load(Ordering::Relaxed) as f64;
        let mut gradient = (TOLERANCE * idle / window.median.max(1.0)).clamp(STEEPEST, 1.0);
        if window.failed >= FAILING {
            gradient = gradient.min(BACKOFF);
        }
        let base = f64::from(limit.min(window.peak));
        let room = f64::from(limit).sqrt().min(base.sqrt()).max(1.0);
        if gradient < 1.0 {
            let target = base * gradient + room;
            // Halfway: one bad moment is not a trend.
            let next = f64::midpoint(f64::from(limit), target).min(f64::from(limit));
            return u32::try_from(whole(next)).unwrap_or(limit);
        }
        let room = if reached { room } else { f64::from(limit) / 8.0 };
        limit.saturating_add(u32::try_from(whole(room)).unwrap_or_default().max(1))
    }
}

/// To the nearest number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, not negative, and what is too large is the largest"
)]
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use foregate_policy::snapshot::Concurrency;

    use super::{BUCKETS, Limit, begin, bucket};

    /// A server that works on `servers` requests at once, each for `service`; all others wait there.
    struct Backend {
        servers: u32,
        service: Duration,
    }

    impl Backend {
        /// Lets as many requests in as the limit allows, up to `offered`, for a time.
        fn run(&self, limit: &Limit, offered: u32, now: &mut Duration, time: Duration) {
            let end = *now + time;
            while *now < end {
                let under_way = offered.min(limit.now());
                // Little's law: so long is the queue, so long it takes.
                let took = self.service.mul_f64((f64::from(under_way) / f64::from(self.servers)).max(1.0));
                let each = took / under_way.max(1);
                *now += each;
                limit.observe(took, false, under_way, *now);
            }
        }
    }

    /// A server that works on `places` requests at once, each for `service`; what came first is done first.
    /// Requests come at their times, whether or not those before were answered.
    struct Line {
        service: Duration,
        now: Duration,
        /// When each place is free.
        free: VecDeque<Duration>,
        /// Requests that are under way all the time and ask nothing of it.
        open: u32,
        /// Of each other request under way: when it came, with how many others, and when it is done.
        under_way: VecDeque<(Duration, u32, Duration)>,
        /// Of this run: answered in time, and the longest time.
        good: u32,
        longest: Duration,
        answered: Duration,
        /// Longest time without an answer.
        silent: Duration,
    }

    impl Line {
        fn new(places: usize, service: Duration) -> Self {
            let now = Duration::from_secs(1);
            let (free, under_way) = (VecDeque::from(vec![now; places]), VecDeque::new());
            let (longest, silent) = (Duration::ZERO, Duration::ZERO);
            Self { service, now, free, open: 0, under_way, good: 0, longest, answered: now, silent }
        }

        /// Lets requests in as the limit allows, `rate` times what it can work on, for a time. Gives the share of what
        /// it could have answered that came within `patience`.
        fn run(&mut self, limit: &Limit, rate: f64, time: Duration, patience: Duration) -> f64 {
            let capacity = f64::from(count(self.free.len())) / self.service.as_secs_f64();
            let end = self.now + time;
            (self.good, self.longest, self.silent) = (0, Duration::ZERO, Duration::ZERO);
            while self.now < end {
                self.answer(limit, patience);
                let ahead = count(self.under_way.len()) + self.open;
                if ahead >= limit.now() {
                    limit.look(self.now);
                } else {
                    let start = self.free.pop_front().unwrap().max(self.now);
                    self.free.push_back(start + self.service);
                    self.under_way.push_back((self.now, ahead + 1, start + self.service));
                }
                self.now += Duration::from_secs_f64(1.0 / (rate * capacity));
            }
            f64::from(self.good) / (capacity * time.as_secs_f64())
        }

        /// What is done by now.
        fn answer(&mut self, limit: &Limit, patience: Duration) {
            let now = self.now;
            while let Some((came, ahead, done)) = self.under_way.pop_front_if(|(.., done)| *done <= now) {
                let took = done.saturating_sub(came);
                self.good += u32::from(took <= patience);
                self.longest = self.longest.max(took);
                self.silent = self.silent.max(done.saturating_sub(self.answered));
                self.answered = done;
                let under_way = count(self.under_way.len()) + self.open + 1;
                limit.observe(took, false, under_way.max(ahead), done);
            }
        }
    }

    fn count(length: usize) -> u32 {
        u32::try_from(length).unwrap()
    }

    fn bounds(min: u32, max: u32) -> Concurrency {
        Concurrency { min, max, ..Concurrency::default() }
    }

    #[test]
    fn buckets_rise_and_hold_what_falls_into_them() {
        for micros in [0_u64, 16, 17, 20, 31, 32, 1_000, 123_456, 60_000_000] {
            let found = bucket(micros);
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let time = micros.max(16) as f64;
            assert!(begin(found) <= time && time < begin(found + 1), "{micros}: {found}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_overloaded_upstream_is_given_about_what_it_can_work_on() {
        let limit = Limit::new(bounds(10, 10_000));
        let backend = Backend { servers: 100, service: Duration::from_millis(20) };
        let mut now = Duration::from_secs(1);
        backend.run(&limit, 8, &mut now, Duration::from_secs(2));
        assert_eq!(limit.now(), 10_000, "an idle upstream is not held up");
        backend.run(&limit, 5_000, &mut now, Duration::from_secs(20));
        // Twice the servers is where requests take twice as long.
        assert!((120..=280).contains(&limit.now()), "{}", limit.now());
        // The load goes, and so does the limit.
        backend.run(&limit, 5, &mut now, Duration::from_secs(10));
        assert_eq!(limit.now(), 10_000);
    }

    #[test]
    fn what_is_asked_beyond_the_capacity_of_an_upstream_takes_little_of_it() {
        let (warm, patience) = (Duration::from_secs(10), Duration::from_secs(1));
        for (places, service, min) in [(8, 20, 64), (8, 20, 10), (1, 5, 64), (100, 50, 64), (8, 100, 16)] {
            let limit = Limit::new(bounds(min, 10_000));
            let mut line = Line::new(places, Duration::from_millis(service));
            for rate in [0.8, 1.0, 1.2, 2.0, 4.0] {
                line.run(&limit, rate, warm, patience);
                let good = line.run(&limit, rate, Duration::from_secs(40), patience);
                let longest = line.longest;
                assert!(
                    good > rate.min(0.96) - 0.01 && longest < patience,
                    "{places} of {service} ms at {rate}: {good:.3}, {longest:?}"
                );
            }
        }
    }

    #[test]
    fn requests_that_take_for_ever_keep_no_others_out() {
        let patience = Duration::from_secs(1);
        for (open, min) in [(4, 64), (12, 64), (30, 64), (60, 64), (12, 16)] {
            let limit = Limit::new(bounds(min, 10_000));
            let mut line = Line::new(8, Duration::from_millis(20));
            line.open = open;
            for rate in [0.8, 1.2, 2.0, 4.0] {
                line.run(&limit, rate, Duration::from_secs(10), patience);
                let good = line.run(&limit, rate, Duration::from_mins(2), patience);
                let silent = line.silent;
                assert!(
                    good > rate.min(0.9) - 0.01 && silent < Duration::from_secs(1),
                    "{open} open, at {rate}: {good:.3}, {silent:?}"
                );
            }
        }
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        let limit = Limit::new(bounds(64, 500));
        let backend = Backend { servers: 2, service: Duration::from_millis(10) };
        let mut now = Duration::from_secs(1);
        backend.run(&limit, 1, &mut now, Duration::from_secs(1));
        backend.run(&limit, 400, &mut now, Duration::from_mins(1));
        assert!((64..=160).contains(&limit.now()), "{}", limit.now());
        let fixed = Limit::new(Concurrency { adaptive: false, ..bounds(500, 500) });
        backend.run(&fixed, 400, &mut now, Duration::from_secs(10));
        assert_eq!(fixed.now(), 500);
    }

    #[test]
    fn requests_that_have_become_slower_for_good_are_not_taken_for_overload() {
        let limit = Limit::new(bounds(10, 1_000));
        let mut now = Duration::from_secs(1);
        let quick = Backend { servers: 1_000, service: Duration::from_millis(2) };
        quick.run(&limit, 5, &mut now, Duration::from_secs(5));
        // All at once the requests are others, and there are many of them; the upstream has room for all.
        let slow = Backend { servers: 1_000, service: Duration::from_millis(40) };
        slow.run(&limit, 300, &mut now, Duration::from_mins(1));
        assert!(limit.now() >= 300, "{}", limit.now());
        assert!(limit.idle() > Duration::from_millis(10), "{:?}", limit.idle());
    }

    #[test]
    fn an_upstream_that_takes_seconds_is_measured_as_it_is() {
        let limit = Limit::new(bounds(10, 1_000));
        let mut now = Duration::from_secs(1);
        let quick = Backend { servers: 1_000, service: Duration::from_millis(2) };
        quick.run(&limit, 5, &mut now, Duration::from_secs(5));
        let slow = Backend { servers: 1_000, service: Duration::from_secs(3) };
        slow.run(&limit, 200, &mut now, Duration::from_mins(4));
        assert!(limit.now() >= 200, "{}", limit.now());
    }

    #[test]
    fn failures_take_the_limit_down_however_quick_they_are() {
        let limit = Limit::new(bounds(10, 1_000));
        let mut now = Duration::from_secs(1);
        for _ in 0..20_000 {
            now += Duration::from_micros(200);
            let under_way = limit.now().min(400);
            limit.observe(Duration::from_millis(2), true, under_way, now);
        }
        assert!(limit.now() < 100, "{}", limit.now());
    }
}
