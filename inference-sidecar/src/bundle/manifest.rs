//! `model.yaml`, as written.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::error::{BundleError, BundleFault};
use crate::features::spec::FeatureSpec;

/// Name of the manifest inside the folder.
pub const MANIFEST: &str = "model.yaml";

/// What the model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// A probability in 0..=1, or one for each of several classes.
    Classification,
    Regression,
    /// A query vector, against which the items of a table are held.
    Ranking,
    /// A vector.
    Embedding,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Relative to the folder, inside it.
    pub path: String,
    /// Hexadecimal.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    pub model: FileRef,
    pub golden: FileRef,
    /// The population of the training records, for drift.
    pub reference: Option<FileRef>,
    /// Rows of numbers by a key, for `lookup` and for `items`.
    #[serde(default)]
    pub tables: BTreeMap<String, FileRef>,
}

/// The float32 tensor that the model takes: one row a record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub name: String,
    pub width: usize,
}

/// Which output is read. Of a class or number: `index`, or a label for each column. Else all columns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub name: String,
    pub index: Option<usize>,
    #[serde(default)]
    pub labels: Vec<String>,
}

/// What a ranking chooses from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    pub table: String,
    /// Column of the embeddings, as wide as the output.
    pub column: String,
    /// Items that are told, 1 to 1000.
    pub k: usize,
}

/// What reasons are held against.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    pub baseline: Baseline,
}

/// The rows of the golden vectors, or one row.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Baseline {
    Named(Golden),
    Row(Vec<f32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Golden {
    Golden,
}

/// Where the model comes from; for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    pub dataset: String,
    pub licence: String,
    pub seed: u64,
    pub split: String,
}

/// The manifest of a bundle. Unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub version: String,
    /// Salesforce object type of the records.
    pub object: String,
    pub task: Task,
    pub files: Files,
    pub input: Input,
    pub output: Output,
    pub items: Option<Items>,
    pub explain: Option<Explain>,
    /// How well the model did on rows it never saw; for people. Names in lowerCamelCase.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    pub trained_on: TrainedOn,
    pub features: Vec<FeatureSpec>,
}

impl FileRef {
    /// True where the path stays inside the folder.
    pub fn is_inside(&self) -> bool {
        let plain = Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)));
        plain && !self.path.is_empty()
    }
}

impl Manifest {
    /// Reads the manifest; every fault has its line and column.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: 20_000, max_aliases: 0, max_anchors: 0, max_depth: 16, max_documents: 1 },
            with_snippet: false,
        };
        let manifest: Self = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error
                .location()
                .and_then(|at| Some((usize::try_from(at.line()).ok()?, usize::try_from(at.column()).ok()?)));
            let what = error.to_string();
            let what = what.lines().next().unwrap_or_default().to_owned();
            BundleError { place, ..BundleError::new(MANIFEST, BundleFault::Syntax(what)) }
        })?;
        manifest.check().map_err(|(key, what)| {
            BundleError::new(MANIFEST, BundleFault::Value(what.to_owned())).locate(text, key)
        })?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let name = self.name.as_str();
        let edges = name.starts_with('-') || name.ends_with('-') || name.is_empty() || name.len() > 63;
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
        };
        if self.api_version != "foregate.dev/v1alpha1" {
            return Err(("apiVersion", "the API version must be foregate.dev/v1alpha1"));
        }
        if self.kind != "ModelBundle" {
            return Err(("kind", "the kind must be ModelBundle"));
        }
        if edges || !name.bytes().all(label) {
            return Err(("name", "the name must be a DNS-1123 label"));
        }
        if !word(&self.version) {
            return Err(("version", "the version must be 1 to 64 letters, digits, `.`, `-`, `+`, `_`"));
        }
        if !word(&self.object) {
            return Err(("object", "the object must be the API name of a Salesforce object"));
        }
        if self.features.is_empty() {
            return Err(("features", "there must be at least one feature"));
        }
        let camel = |name: &String| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        };
        if !self.metrics.iter().all(|(name, value)| camel(name) && value.is_finite()) {
            return Err(("metrics", "metrics are names in lowerCamelCase with finite numbers"));
        }
        self.check_output()
    }

    /// The task says what there must be beside the name of the output.
    fn check_output(&self) -> Result<(), (&'static str, &'static str)> {
        let Output { index, labels, .. } = &self.output;
        let distinct: std::collections::BTreeSet<&String> = labels.iter().collect();
        match (self.task, index.is_some(), labels.len()) {
            (Task::Classification | Task::Regression, true, 0)
            | (Task::Ranking | Task::Embedding, false, 0) => {}
            (Task::Classification, false, 2..=1024)
                if distinct.len() == labels.len()
                    && labels.iter().all(|label| (1..=256).contains(&label.len())) => {}
            (Task::Classification, ..) => {
                return Err(("output", "a classification needs `index`, or 2 to 1024 distinct `labels`"));
            }
            (Task::Regression, ..) => return Err(("output", "a regression needs `index` and no `labels`")),
            _ => return Err(("output", "this task reads all columns: no `index`, no `labels`")),
        }
        match (self.task, &self.items) {
            (Task::Ranking, None) => Err(("task", "a ranking needs `items`")),
            (Task::Ranking, Some(_)) | (_, None) => Ok(()),
            _ => Err(("items", "only a ranking has `items`")),
        }
    }
}
