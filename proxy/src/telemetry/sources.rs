//! Numbers that other parts keep, read whenever metrics are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Counts, by metric, series that were wanted and not made; ours are told with those of others.
pub const REFUSED_SERIES: &str = "foregate_metric_series_refused_total";

/// Most series of one name; what comes later is left out while all of them have something to tell.
const MAX_SERIES: usize = 1_000;

/// Series of one name before those with nothing to tell make room for the first time.
const FEW_SERIES: usize = 32;

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows; its name ends in `_total`.
    Counter,
}

#[derive(Clone)]
struct Read {
    /// The address of the part whose number this is; zero where it is nobody's in particular.
    part: usize,
    /// Gives the number; NaN while there is none.
    read: Arc<dyn Fn() -> f64 + Send + Sync>,
}

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
    /// How often a series was left out because there were too many.
    refused: u64,
    /// How many series there are when those with nothing to tell make room.
    tidy_at: usize,
    /// Several counters of one name and labels are told as their sum.
    series: Vec<(Labels, Vec<Read>)>,
}

/// A count as metrics have it.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 2^53 is not reached")]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// The sum of what there is to tell; NaN where there is nothing.
fn total(reads: &[Read]) -> f64 {
    let numbers = reads.iter().map(|read| (read.read)()).filter(|number| !number.is_nan());
    numbers.reduce(|sum, number| sum + number).unwrap_or(f64::NAN)
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
    /// Adds a number. Of one name and labels, a gauge replaces the one before, and counters add up: parts of one
    /// name may be used side by side.
    ///
    /// The name is whole, with unit, and with `_total` for a counter. `read` is called at every scrape: it
    /// must be quick, and register nothing. While it gives NaN the series is left out, so a source may outlive
    /// what it reads; those make room whenever the series of a name have doubled, and at 1,000 of them.
    pub fn register(
        &self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.add(kind, name, help, labels, Read { part: 0, read: Arc::new(read) });
    }

    /// Adds a number of a part for as long as the part is used. A part that is registered again is told once.
    pub fn register_part<T: Send + Sync + 'static>(
        &self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        part: &Arc<T>,
        read: impl Fn(&T) -> f64 + Send + Sync + 'static,
    ) {
        // While it is held weakly no other part comes to lie there.
        let (weak, address) = (Arc::downgrade(part), Arc::as_ptr(part).addr());
        let read = move || weak.upgrade().map_or(f64::NAN, |part| read(&part));
        self.add(kind, name, help, labels, Read { part: address, read: Arc::new(read) });
    }

    /// Counts that a series of this metric was wanted and not made, where its part bounds them itself.
    pub fn refuse(&self, name: &str) {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get_mut(name) {
            family.refused = family.refused.saturating_add(1);
        }
    }

    fn add(&self, kind: Kind, name: &str, help: &str, labels: &[(&str, &str)], read: Read) {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // The encoder adds the suffix that the format demands of counters.
        let name = if kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name.to_owned()).or_insert_with(|| Sourced {
            kind,
            refused: 0,
            tidy_at: FEW_SERIES,
            help: help.to_owned(),
            series: Vec::new(),
        });
        if family.series.len() >= family.tidy_at {
            // Names change from one configuration to the next: what has nothing to read makes room.
            family.series.retain(|(_, reads)| !total(reads).is_nan());
            family.tidy_at = (2 * family.series.len()).clamp(FEW_SERIES, MAX_SERIES);
        }
        if let Some((_, reads)) = family.series.iter_mut().find(|(known, _)| *known == labels) {
            let other = |known: &Read| known.part == 0 || known.part != read.part;
            reads.retain(|known| kind == Kind::Counter && other(known) && !(known.read)().is_nan());
            reads.push(read);
        } else if family.series.len() < MAX_SERIES {
            family.series.push((labels, vec![read]));
        } else {
            family.refused = family.refused.saturating_add(1);
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
            for (labels, reads) in &family.series {
                let value = total(reads);
                if value.is_nan() {
                    continue;
                }
                if labels.is_empty() {
                    encode(&mut encoder, family.kind, value)?;
                } else {
                    encode(&mut encoder.encode_family(labels)?, family.kind, value)?;
                }
            }
            if REFUSED_SERIES.strip_suffix("_total") == Some(name) {
                // From 0 on: what is first seen above it has not grown, as alerts see it.
                for (name, other) in &families {
                    let suffix = if other.kind == Kind::Counter { "_total" } else { "" };
                    let labels = vec![("metric".to_owned(), format!("{name}{suffix}"))];
                    let value = number(other.refused);
                    encode(&mut encoder.encode_family(&labels)?, family.kind, value)?;
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
    use super::{FEW_SERIES, Kind, MAX_SERIES, REFUSED_SERIES, Sources, number, total};
    use crate::telemetry::exposition::Exposition;
    use crate::telemetry::metrics::Metrics;
    use std::sync::Arc;

    #[test]
    fn counts_beyond_32_bits_are_told_as_they_are() {
        let beyond = (1 << 32) + 1;
        assert_eq!((number(beyond), number(0)), (4_294_967_297.0, 0.0));
        let (metrics, sources) = (Metrics::default(), Arc::new(Sources::default()));
        sources.register(Kind::Counter, "a_total", "A.", &[], || 1.0);
        sources.families.lock().unwrap().get_mut("a").unwrap().refused = beyond;
        let line = format!("{REFUSED_SERIES}{{metric=\"a_total\"}} 4294967297.0\n");
        assert!(Exposition::new(&metrics, &sources, Vec::new()).encode(true).contains(&line));
    }

    #[test]
    fn counters_of_one_name_add_up_and_a_gauge_replaces_the_one_before() {
        let sources = Sources::default();
        for (kind, name) in [(Kind::Counter, "c_total"), (Kind::Gauge, "g")] {
            for value in [2.0, f64::NAN, 3.0] {
                sources.register(kind, name, "A.", &[("name", "x")], move || value);
            }
        }
        let families = sources.families.lock().unwrap();
        let told = |name: &str| total(&families[name].series[0].1);
        assert_eq!((told("c"), told("g")), (5.0, 3.0));
        assert_eq!(families["c"].series[0].1.len(), 2, "what has ended is let go of");
    }

    #[test]
    fn a_part_that_is_registered_again_is_told_once_and_one_beside_it_too() {
        let sources = Sources::default();
        let register = |part: &Arc<f64>| {
            sources.register_part(Kind::Counter, "c_total", "A.", &[("name", "x")], part, |part| *part);
        };
        let told = || {
            let families = sources.families.lock().unwrap();
            let reads = &families["c"].series[0].1;
            (total(reads), reads.len())
        };
        let (one, other) = (Arc::new(2.0), Arc::new(3.0));
        (0..3).for_each(|_| register(&one));
        assert_eq!(told(), (2.0, 1));
        register(&other);
        (0..3).for_each(|_| register(&one));
        assert_eq!(told(), (5.0, 2));
        drop(one);
        register(&other);
        assert_eq!(told(), (3.0, 1));
    }

    #[test]
    fn series_that_come_and_go_are_not_kept() {
        let sources = Sources::default();
        for number in 0..10 * FEW_SERIES {
            let (number, part) = (number.to_string(), Arc::new(1.0));
            sources.register_part(Kind::Gauge, "a", "A.", &[("name", &number)], &part, |part| *part);
        }
        assert!(sources.families.lock().unwrap()["a"].series.len() <= FEW_SERIES);
    }

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
        for number in 1..MAX_SERIES {
            register(&number.to_string(), 1.0);
        }
        register("dead", f64::NAN);
        assert!(known("dead"));
        register("fits", 1.0);
        assert!(known("fits") && !known("dead"));
        register("too many", 1.0);
        assert!(!known("too many") && known("1"));
        assert_eq!(sources.families.lock().unwrap()["a"].refused, 1);
    }

    #[test]
    fn what_was_refused_is_told_of_every_metric_from_0_on() {
        let (metrics, sources) = (Metrics::default(), Arc::new(Sources::default()));
        let exposition = Exposition::new(&metrics, &sources, Vec::new());
        let register = |number: usize| {
            sources.register(Kind::Counter, "a_total", "A.", &[("name", &number.to_string())], || 1.0);
        };
        let refused = |count: &str| {
            let line = format!("{REFUSED_SERIES}{{metric=\"a_total\"}} {count}\n");
            exposition.encode(true).contains(&line)
        };
        (0..MAX_SERIES).for_each(register);
        assert!(refused("0.0"));
        (MAX_SERIES..MAX_SERIES + 2).for_each(register);
        assert!(refused("2.0"));
    }
}
