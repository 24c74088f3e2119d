//! Whether one version of a model can stand in for another.

use std::collections::BTreeSet;

use foregate_filters::score::{Offer, Scorer};

use crate::bundle::manifest::{Manifest, Task};
use crate::scorer::ModelScorer;

/// Why a version cannot stand in for the one in production.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("it scores records of {theirs}, the version in production those of {ours}")]
    Object { ours: String, theirs: String },
    #[error("it does another task ({theirs:?}) than the version in production ({ours:?})")]
    Task { ours: Task, theirs: Task },
    #[error("the version in production tells reasons, and it tells none")]
    Reasons,
    #[error("it tells {theirs} items, the version in production {ours}")]
    Items { ours: usize, theirs: usize },
    #[error("its classes are not those of the version in production: {0}")]
    Classes(String),
}

/// Refuses a version whose answers cannot be read as those of production.
pub fn check(production: &ModelScorer, version: &ModelScorer) -> Result<(), Misfit> {
    manifests(production.manifest(), version.manifest())?;
    offers(production.offer().unwrap_or_default(), version.offer().unwrap_or_default())
}

/// What policies ask for is checked against production alone: whatever it tells, the other must tell too. Classes are
/// told by manifests.
fn offers(production: Offer, version: Offer) -> Result<(), Misfit> {
    if version.items < production.items {
        return Err(Misfit::Items { ours: production.items, theirs: version.items });
    }
    if production.reasons && !version.reasons { Err(Misfit::Reasons) } else { Ok(()) }
}

/// The same as far as manifests tell.
fn manifests(production: &Manifest, version: &Manifest) -> Result<(), Misfit> {
    if production.object != version.object {
        return Err(Misfit::Object { ours: production.object.clone(), theirs: version.object.clone() });
    }
    if production.task != version.task {
        return Err(Misfit::Task { ours: production.task, theirs: version.task });
    }
    let ours: BTreeSet<&str> = production.output.labels.iter().map(String::as_str).collect();
    let theirs: BTreeSet<&str> = version.output.labels.iter().map(String::as_str).collect();
    let odd: Vec<&str> = ours.symmetric_difference(&theirs).copied().collect();
    if odd.is_empty() { Ok(()) } else { Err(Misfit::Classes(odd.join(", "))) }
}
