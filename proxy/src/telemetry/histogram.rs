//! Histograms of time: observed without a lock, read whole, written as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use crate::telemetry::record::DecisionId;
use crate::telemetry::series::Budget;

/// Bounds for requests, in nanoseconds: 50 us to 10 s.
pub const REQUEST_BOUNDS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Bounds for what the gateway does itself, in nanoseconds: 1 us to 100 ms.
pub const STEP_BOUNDS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
];

/// Names and values of labels, in the order in which they are written.
pub type Pairs<'a> = SmallVec<[(&'static str, &'a str); 8]>;

/// A set of labels.
pub trait Labels: Clone + Ord {
    fn pairs(&self) -> Pairs<'_>;

    /// Stands for all sets that found no room; there are few of them.
    #[must_use]
    fn rest(&self) -> Self;
}

/// No labels at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoLabels;

impl Labels for NoLabels {
    fn pairs(&self) -> Pairs<'_> {
        Pairs::new()
    }

    fn rest(&self) -> Self {
        *self
    }
}

/// Leads from a bucket to a decision, and to a trace where there is one.
#[derive(Clone, Copy, Debug)]
pub struct Exemplar {
    pub decision: DecisionId,
    pub trace: Option<u128>,
    /// When it ended, since the Unix epoch.
    pub unix: Duration,
}

/// One series.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than bounds.
    buckets: Box<[AtomicU64]>,
    /// Nanoseconds.
    sum: AtomicU64,
    /// The last of each bucket, with its time; only decisions that are kept take the lock.
    exemplars: Mutex<BTreeMap<usize, (Exemplar, u64)>>,
}

/// What a histogram holds at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub buckets: Vec<u64>,
    /// Nanoseconds.
    pub sum: u64,
}

/// All series of one name.
#[derive(Debug)]
pub struct Histograms<L> {
    pub name: &'static str,
    help: &'static str,
    pub bounds: &'static [u64],
    series: Mutex<BTreeMap<L, Arc<Histogram>>>,
    budget: Budget,
}

impl Histogram {
    pub fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0), exemplars: Mutex::default() }
    }

    pub fn observe(&self, time: Duration, exemplar: Option<Exemplar>) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < nanos);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(nanos, Ordering::Relaxed);
        if let Some(exemplar) = exemplar {
            let mut exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
            exemplars.insert(place, (exemplar, nanos));
        }
    }

    pub fn read(&self) -> Reading {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Reading { buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl Reading {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another series of the same bounds holds.
    pub fn add(&mut self, other: &Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        for (mine, its) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += its;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl<L: Labels> Histograms<L> {
    /// At most `limit` series; those beyond count as [`Labels::rest`].
    pub fn new(name: &'static str, help: &'static str, bounds: &'static [u64], limit: usize) -> Self {
        Self { name, help, bounds, series: Mutex::default(), budget: Budget::new(limit) }
    }

    /// The series of these labels; keep it where it is observed often.
    pub fn series(&self, labels: L) -> Arc<Histogram> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get(&labels) {
            return Arc::clone(known);
        }
        let labels = if self.budget.take() { labels } else { labels.rest() };
        let made = series.entry(labels).or_insert_with(|| Arc::new(Histogram::new(self.bounds)));
        Arc::clone(made)
    }

    /// How often a series could not be had.
    pub fn refused(&self) -> usize {
        self.budget.refused()
    }

    /// Every series as it is now.
    pub fn read(&self) -> Vec<(L, Arc<Histogram>)> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(labels, histogram)| (labels.clone(), Arc::clone(histogram))).collect()
    }

    /// The family in the `OpenMetrics` text format.
    pub fn write(&self, text: &mut String) {
        let _ = writeln!(text, "# HELP {} {}", self.name, self.help);
        let _ = writeln!(text, "# TYPE {} histogram\n# UNIT {} seconds", self.name, self.name);
        for (labels, histogram) in self.read() {
            let exemplars = histogram.exemplars.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let seconds = |nanos: u64| number(Duration::from_nanos(nanos).as_secs_f64());
            let series = Written { name: self.name, labels: &labels.pairs(), scale: &seconds };
            series.write(text, self.bounds, &histogram.read(), &exemplars);
        }
    }
}

/// How a histogram is written: its name, its labels, and nanoseconds as its unit has them.
pub struct Written<'a> {
    pub name: &'a str,
    pub labels: &'a [(&'static str, &'a str)],
    pub scale: &'a dyn Fn(u64) -> String,
}

impl Written<'_> {
    pub fn write(
        &self,
        text: &mut String,
        bounds: &[u64],
        reading: &Reading,
        exemplars: &BTreeMap<usize, (Exemplar, u64)>,
    ) {
        let labels = braced(self.labels, None);
        let _ = writeln!(text, "{}_sum{labels} {}", self.name, (self.scale)(reading.sum));
        let _ = writeln!(text, "{}_count{labels} {}", self.name, reading.count());
        let mut count = 0;
        for (place, bucket) in reading.buckets.iter().enumerate() {
            count += bucket;
            let bound = bounds.get(place).map_or_else(|| "+Inf".to_owned(), |nanos| (self.scale)(*nanos));
            let _ = write!(text, "{}_bucket{} {count}", self.name, braced(self.labels, Some(&bound)));
            if let Some((exemplar, nanos)) = exemplars.get(&place) {
                let _ = write!(text, " # {{decision_id=\"{}\"", exemplar.decision);
                if let Some(trace) = exemplar.trace {
                    let _ = write!(text, ",trace_id=\"{trace:032x}\"");
                }
                let unix = exemplar.unix.as_micros();
                let (seconds, micros) = (unix / 1_000_000, unix % 1_000_000);
                let _ = write!(text, "}} {} {seconds}.{micros:06}", (self.scale)(*nanos));
            }
            text.push('\n');
        }
    }
}

/// Labels in braces, the bound of a bucket first; nothing where there are none.
pub fn braced(labels: &[(&'static str, &str)], bound: Option<&str>) -> String {
    let all = bound.map(|bound| ("le", bound)).into_iter().chain(labels.iter().copied());
    let mut text = String::new();
    for (name, value) in all {
        text.push(if text.is_empty() { '{' } else { ',' });
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// A number as `OpenMetrics` writes it: with a point.
pub fn number(value: f64) -> String {
    let text = value.to_string();
    if text.contains(['.', 'e', 'N', 'i']) { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::{Exemplar, Histogram, Histograms, Labels, Pairs, REQUEST_BOUNDS, braced};
    use crate::telemetry::record::DecisionId;
    use crate::telemetry::testing::MOMENT;
    use std::sync::Arc;
    use std::time::Duration;

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Route(&'static str);

    impl Labels for Route {
        fn pairs(&self) -> Pairs<'_> {
            Pairs::from_iter([("route", self.0)])
        }

        fn rest(&self) -> Self {
            Self("other")
        }
    }

    #[test]
    fn a_time_on_a_bound_belongs_below_it_and_the_longest_above_all() {
        let histogram = Histogram::new(REQUEST_BOUNDS);
        for micros in [0, 50, 51, 100, 20_000_000] {
            histogram.observe(Duration::from_micros(micros), None);
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets[..3], [2, 2, 0]);
        assert_eq!((reading.buckets.last(), reading.count()), (Some(&1), 5));
        assert_eq!(reading.sum, 20_000_201_000);
        histogram.observe(Duration::MAX, None);
        assert_eq!(histogram.read().count(), 6);
    }

    #[test]
    fn text_has_cumulated_buckets_and_the_last_exemplar_of_each() {
        let family = Histograms::new("h_seconds", "Help.", REQUEST_BOUNDS, 9);
        let id = DecisionId::new(MOMENT);
        let exemplar = Exemplar { decision: id, trace: Some(0xab), unix: MOMENT.unix };
        family.series(Route("a\"\\\n")).observe(Duration::from_micros(1_234), Some(exemplar));
        family.series(Route("a\"\\\n")).observe(Duration::from_secs(1), None);
        let mut text = String::new();
        family.write(&mut text);
        for line in [
            "# HELP h_seconds Help.",
            "# TYPE h_seconds histogram",
            "# UNIT h_seconds seconds",
            r#"h_seconds_sum{route="a\"\\\n"} 1.001234"#,
            r#"h_seconds_count{route="a\"\\\n"} 2"#,
            r#"h_seconds_bucket{le="0.00005",route="a\"\\\n"} 0"#,
            r#"h_seconds_bucket{le="1.0",route="a\"\\\n"} 2"#,
            r#"h_seconds_bucket{le="+Inf",route="a\"\\\n"} 2"#,
            &format!(
                r#"h_seconds_bucket{{le="0.0025",route="a\"\\\n"}} 1 # {{decision_id="{id}",trace_id="000000000000000000000000000000ab"}} 0.001234 1790000000.000001"#
            ),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn series_beyond_the_bound_count_as_one_and_are_counted() {
        let family = Histograms::new("h_seconds", "Help.", REQUEST_BOUNDS, 2);
        let (one, two) = (family.series(Route("1")), family.series(Route("2")));
        let (three, four) = (family.series(Route("3")), family.series(Route("4")));
        assert!(!Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&three, &four));
        assert!(Arc::ptr_eq(&one, &family.series(Route("1"))));
        assert_eq!((family.refused(), family.read().len()), (2, 3));
    }

    #[test]
    fn no_labels_make_no_braces() {
        assert_eq!(braced(&[], None), "");
        assert_eq!(braced(&[], Some("1.0")), "{le=\"1.0\"}");
    }
}
