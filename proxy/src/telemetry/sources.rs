//! Numbers that other parts keep, read whenever metrics are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Most series of one name; what comes later is left out while all of them have something to tell.
const MAX_SERIES: usize = 1_000;

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows; its name ends in `_total`.
    Counter,
}

/// Gives the number; NaN while there is none.
type Read = Arc<dyn Fn() -> f64 + Send + Sync>;

type Labels = Vec<(String, String)>;

/// Every registered number, by name.
#[derive(Debug, Default)]
pub struct Sources {
    families: Mutex<BTreeMap<String, Sourced>>,
}

#[derive(Clone)]
struct Sourced {
    kind: Kind,
    help: String,
    series: Vec<(Labels, Read)>,
}

impl fmt::Debug for Sourced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sourced")
            .field("kind", &self.kind)
            .field("series", &self.series.len())
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// Adds a number, or replaces the one with this name and these labels.
    ///
    /// The name is whole, with unit, and with `_total` for a counter. `read` is called at every scrape: it
    /// must be quick, and register nothing. While it gives NaN the series is left out, so a source may outlive
    /// what it reads; once a name has 1,000 series, those make room.
    pub fn register(
        &self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // The encoder adds the suffix that the format demands of counters.
        let name = if kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name.to_owned()).or_insert_with(|| Sourced {
            kind,
            help: help.to_owned(),
            series: Vec::new(),
        });
        if family.series.len() >= MAX_SERIES {
            // Names change from one configuration to the next: what has nothing to read makes room.
            family.series.retain(|(_, read)| !read().is_nan());
        }
        if let Some(known) = family.series.iter_mut().find(|(known, _)| *known == labels) {
            known.1 = Arc::new(read);
        } else if family.series.len() < MAX_SERIES {
            family.series.push((labels, Arc::new(read)));
        }
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // A scrape must not hold up whoever registers.
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, family) in &families {
            let kind = match family.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut encoder = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for (labels, read) in &family.series {
                let value = read();
                if value.is_nan() {
                    continue;
                }
                if labels.is_empty() {
                    encode(&mut encoder, family.kind, value)?;
                } else {
                    encode(&mut encoder.encode_family(labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Gauge => encoder.encode_gauge(&value),
        Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, MAX_SERIES, Sources};

    #[test]
    fn series_without_a_value_make_room_and_others_do_not() {
        let sources = Sources::default();
        let register = |label: &str, value: f64| {
            sources.register(Kind::Gauge, "a", "A.", &[("name", label)], move || value);
        };
        let known = |label: &str| {
            let families = sources.families.lock().unwrap();
            families["a"].series.iter().any(|(labels, _)| labels[0].1 == label)
        };
        register("dead", f64::NAN);
        for number in 1..MAX_SERIES {
            register(&number.to_string(), 1.0);
        }
        assert!(known("dead"));
        register("fits", 1.0);
        assert!(known("fits") && !known("dead"));
        register("too many", 1.0);
        assert!(!known("too many") && known("1"));
    }
}
