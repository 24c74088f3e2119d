//! Histograms of plain numbers: observed without a lock, written by the registry.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// One series; clones count together.
#[derive(Clone, Debug)]
pub struct Values(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Ascending.
    bounds: Box<[f64]>,
    /// One more than bounds.
    buckets: Box<[AtomicU64]>,
    /// The bits of a number.
    sum: AtomicU64,
}

impl Values {
    pub fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        let bounds: Box<[f64]> = bounds.into_iter().collect();
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { bounds, buckets, sum: AtomicU64::new(0) }))
    }

    /// Counts a number; what is none has no bucket.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let place = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.0.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It fails where `add` gives nothing, which it never does.
        let _ = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl TypedMetric for Values {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Values {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = f64::from_bits(self.0.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::Values;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;
    use std::thread;

    #[test]
    fn what_many_threads_count_is_all_there() {
        let (values, mut registry) = (Values::new([0.25, 0.5, 1.0]), Registry::default());
        registry.register("scores", "Scores", values.clone());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for value in [0.25, 0.375, 2.0, f64::NAN, -1.0].repeat(250) {
                        values.observe(value);
                    }
                });
            }
        });
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        let lines = [
            "# TYPE scores histogram",
            "scores_sum 1625.0",
            "scores_count 4000",
            "scores_bucket{le=\"0.25\"} 2000",
            "scores_bucket{le=\"0.5\"} 3000",
            "scores_bucket{le=\"1.0\"} 3000",
            "scores_bucket{le=\"+Inf\"} 4000",
        ];
        assert!(lines.iter().all(|line| told.lines().any(|it| it == *line)), "{told}");
    }
}
