//! A model as the proxy obeys it: versions in order, and the part each plays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::Path;
use foregate_filters::secret::SecretRef;

use crate::documents::model::{Gate, Placement};

/// A model that a policy may ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub name: Arc<str>,
    /// One at least; in document order.
    pub versions: Vec<Version>,
    /// `None` where the document gives one bundle and nothing else.
    pub rollout: Option<Rollout>,
    pub placement: Placement,
    /// Files of public keys, one of which must have signed every bundle; where there is none, nobody need have.
    pub signed_by: Vec<PathBuf>,
    pub features: Option<Features>,
}

/// Where a model looks features up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    pub path: PathBuf,
    /// `None` where secrets are not looked for, so that the store is not opened.
    pub key: Option<SecretRef>,
    /// Tried where the other one does not open it.
    pub next_key: Option<SecretRef>,
    pub inbox: Option<PathBuf>,
    pub stream: Option<Stream>,
}

/// A stream of updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Whole name of the store.
    pub store: Box<str>,
    pub name: Box<str>,
}

/// One bundle of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `None` where the document gives one bundle: its own version is the name then.
    pub name: Option<Arc<str>>,
    /// Folder of the bundle.
    pub bundle: PathBuf,
}

/// The part that each version plays; numbers are places in [`Model::versions`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub production: usize,
    /// With the part of the bodies that it decides about, in hundredths of a per cent.
    pub canary: Option<(usize, u32)>,
    pub shadow: Option<usize>,
    pub guardrails: Guardrails,
    /// The version that was production before.
    pub previous: Option<usize>,
    /// What a version must fulfil to become production.
    pub gate: Gate,
}

/// Bounds that a version on trial must keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Guardrails {
    pub p99: Option<Duration>,
    pub error_share: Option<f64>,
    pub disagreement: Option<f64>,
    /// Difference of two scores that is no disagreement yet.
    pub tolerance: f64,
    pub drift: Option<f64>,
    /// `None` for good.
    pub hold_off: Option<Duration>,
    pub min_records: u32,
}

impl Model {
    /// Where the bundle of a version is named, below the `spec` of the document.
    pub fn bundle_at(&self, place: usize, spec: &Path) -> Path {
        let named = self.versions.get(place).is_some_and(|version| version.name.is_some());
        let at = if named { spec.key("versions").index(place) } else { spec.clone() };
        at.key("bundle").key("path")
    }
}
