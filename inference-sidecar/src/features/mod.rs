//! The feature spec of a bundle, compiled: from JSON members to tensor columns.

mod date;
mod draft;
pub mod encode;
pub mod extract;
mod frames;
mod letters;
pub mod spec;
mod stored;
mod strings;
pub mod text;
mod trie;

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::score::ScoreFault;
use smallvec::SmallVec;

use crate::features::date::UtcTime;
use crate::features::encode::{Encoder, Values};
use crate::features::spec::{FeatureSpec, SpecError};
use crate::features::stored::StorePlan;
use crate::features::trie::{Node, Trie};
use crate::store::FeatureStore;
use crate::table::Tables;

/// A compiled feature spec. Immutable; shared by all requests.
#[derive(Debug)]
pub struct Plan {
    object: Box<str>,
    width: usize,
    trie: Trie,
    features: Vec<Feature>,
    stored: Option<Box<StorePlan>>,
}

/// One feature: what it reads, and what it is for people.
#[derive(Debug)]
pub struct Feature {
    pub name: Arc<str>,
    pub label: Arc<str>,
    /// True where the value must not be told.
    pub pii: bool,
    /// Columns that it gives.
    pub width: usize,
    nodes: SmallVec<[Node; 2]>,
    encoder: Encoder,
}

/// How a body is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The moment of the request, since the Unix epoch.
    pub now: Duration,
    /// True where the values themselves are wanted too, for explanations.
    pub values: bool,
}

/// Columns of a tensor at most: bounds the work for one record.
pub const MAX_WIDTH: usize = 4096;
/// Members that one text reads at most.
const MAX_MEMBERS: usize = 16;

impl Plan {
    /// Compiles a spec for records of this Salesforce object. Every pointer and transform is checked.
    pub fn compile(object: &str, specs: &[FeatureSpec], tables: &Tables) -> Result<Self, SpecError> {
        let mut trie = Trie::new();
        let mut stored = StorePlan::default();
        let mut features: Vec<Feature> = Vec::with_capacity(specs.len());
        let mut width = 0;
        for spec in specs {
            if features.iter().any(|feature| *feature.name == *spec.name) {
                return Err(spec.error("the name is used twice"));
            }
            let encoder = Encoder::new(spec, tables)?;
            width += encoder.width();
            if width > MAX_WIDTH {
                return Err(spec.error("over 4096 columns in all"));
            }
            let feature = feature(spec, encoder, &mut trie)?;
            stored.add(spec, feature.nodes.first().copied());
            features.push(feature);
        }
        let stored = stored.into_needed();
        Ok(Self { object: object.into(), width, trie, features, stored })
    }

    /// True where some feature is looked up in a store.
    pub fn looks_up(&self) -> bool {
        self.stored.is_some()
    }

    /// Says where features are looked up; until then all of them are absent.
    pub fn attach(&mut self, store: &Arc<FeatureStore>) -> Result<(), SpecError> {
        self.stored.as_mut().map_or(Ok(()), |stored| stored.attach(store))
    }

    /// Columns that one record gives.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features in the order of their columns.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Writes the columns of one record; takes back what it wrote where a feature is at fault.
    fn encode(
        &self,
        slots: &[draft::Slot<'_>],
        now: Duration,
        counted: bool,
        out: &mut Vec<f32>,
    ) -> Result<(), ScoreFault> {
        let start = out.len();
        let looked_up = self.stored.as_ref().map(|stored| {
            let found = stored.look_up(slots, now);
            if counted {
                stored.note(&found);
            }
            found
        });
        let now = UtcTime::from_unix(now);
        for (place, feature) in self.features.iter().enumerate() {
            let stored = looked_up.as_ref().and_then(|found| found.value(place));
            let values = Values { slots, nodes: &feature.nodes, now, stored };
            if let Err(what) = feature.encoder.encode(values, out) {
                out.truncate(start);
                return Err(ScoreFault::Feature(format!("{}: {what}", feature.name).into()));
            }
        }
        Ok(())
    }

    /// Writes one value a feature: of several members the first, none of those that are personal. Of what is looked up,
    /// what was found, never the key.
    fn tell(&self, slots: &[draft::Slot<'_>], now: Duration, out: &mut Vec<Option<Box<str>>>) {
        let looked_up = self.stored.as_ref().map(|stored| stored.look_up(slots, now));
        out.extend(self.features.iter().enumerate().map(|(place, feature)| {
            let node = feature.nodes.first().filter(|_| !feature.pii)?;
            if self.stored.as_ref().is_some_and(|stored| stored.has(place)) {
                let found = looked_up.as_ref().and_then(|found| found.value(place));
                return found.map(|found| found.to_string().into());
            }
            slots.get(node.index())?.told()
        }));
    }
}

fn feature(spec: &FeatureSpec, encoder: Encoder, trie: &mut Trie) -> Result<Feature, SpecError> {
    let end = [&spec.since, &spec.until].into_iter().flatten().find(|end| *end != "now");
    let mut nodes = SmallVec::new();
    let mut last = None;
    for pointer in std::iter::once(&spec.pointer).chain(&spec.also).chain(end) {
        let tokens = spec.tokens(pointer)?;
        nodes.push(trie.insert(&tokens).ok_or_else(|| spec.error("too many distinct members"))?);
        last = last.or(tokens.into_iter().next_back());
    }
    if nodes.len() > MAX_MEMBERS {
        return Err(spec.error("over 16 members of one text"));
    }
    let label = spec.label.clone().or(last).unwrap_or_default();
    Ok(Feature {
        name: spec.name.as_str().into(),
        label: label.into(),
        pii: spec.pii,
        width: encoder.width(),
        nodes,
        encoder,
    })
}
