//! The feature spec of a bundle, compiled: from JSON members to tensor columns.

pub mod encode;
pub mod extract;
mod frames;
pub mod spec;
mod trie;

use foregate_filters::score::ScoreFault;

use crate::features::encode::Encoder;
use crate::features::spec::{FeatureSpec, SpecError};
use crate::features::trie::{Node, Trie};

/// A compiled feature spec. Immutable; shared by all requests.
#[derive(Debug)]
pub struct Plan {
    object: Box<str>,
    width: usize,
    trie: Trie,
    features: Vec<Feature>,
}

#[derive(Debug)]
struct Feature {
    name: Box<str>,
    node: Node,
    encoder: Encoder,
}

/// Columns of a tensor at most: bounds the work for one record.
pub const MAX_WIDTH: usize = 4096;

impl Plan {
    /// Compiles a spec for records of this Salesforce object. Every pointer and transform is checked.
    pub fn compile(object: &str, specs: &[FeatureSpec]) -> Result<Self, SpecError> {
        let mut trie = Trie::new();
        let mut features: Vec<Feature> = Vec::with_capacity(specs.len());
        let mut width = 0;
        for spec in specs {
            if features.iter().any(|feature| *feature.name == *spec.name) {
                return Err(spec.error("the name is used twice"));
            }
            let encoder = Encoder::new(spec)?;
            width += encoder.width();
            if width > MAX_WIDTH {
                return Err(spec.error("over 4096 columns in all"));
            }
            let tokens = spec.tokens()?;
            if tokens
                .first()
                .is_some_and(|token| ["attributes", "records", "compositeRequest"].contains(&token.as_str()))
            {
                return Err(
                    spec.error("the pointer leads into the envelope of Salesforce, not into a record")
                );
            }
            let node = trie.insert(&tokens).ok_or_else(|| spec.error("too many distinct members"))?;
            features.push(Feature { name: spec.name.as_str().into(), node, encoder });
        }
        Ok(Self { object: object.into(), width, trie, features })
    }

    /// Columns that one record gives.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes the columns of one record; takes back what it wrote where a feature is at fault.
    fn encode(&self, slots: &[extract::Slot<'_>], out: &mut Vec<f32>) -> Result<(), ScoreFault> {
        let start = out.len();
        for feature in &self.features {
            let slot = slots.get(feature.node.index()).copied().unwrap_or_default();
            if let Err(what) = feature.encoder.encode(&slot, out) {
                out.truncate(start);
                return Err(ScoreFault::Feature(format!("{}: {what}", feature.name).into()));
            }
        }
        Ok(())
    }
}
