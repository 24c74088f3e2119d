//! Why a bundle is refused, and where.

use std::fmt;

use crate::features::spec::SpecError;
use crate::model::LoadError;
use crate::output::OutputError;
use crate::table::TableError;

/// A refused bundle: the file inside the folder, the place in it where known, and the fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct BundleError {
    /// Path inside the bundle.
    pub file: String,
    /// Line and column, counted from 1.
    pub place: Option<(usize, usize)>,
    #[source]
    pub fault: BundleFault,
}

/// What is wrong with a bundle.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BundleFault {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("looks features up in a store, and there is none here: let a gateway score with it")]
    NoStore,
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("is over {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("`{0}` is not a file inside the bundle")]
    Outside(String),
    #[error("{0}")]
    Syntax(String),
    #[error("{0}")]
    Value(String),
    #[error("the file's sha256 is {found}, the manifest says {claimed}")]
    Digest { claimed: String, found: String },
    #[error("none of the keys named has signed the manifest as it is now")]
    Signature,
    #[error(transparent)]
    Feature(#[from] SpecError),
    #[error("the features give {computed} columns, `input.width` says {declared}")]
    Width { declared: usize, computed: usize },
    #[error(transparent)]
    Model(#[from] LoadError),
    #[error("the baseline must be `golden`, or one finite number for each of the {0} columns")]
    Baseline(usize),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("there must be 20 to 200 golden vectors, the file has {0}")]
    GoldenCount(usize),
    #[error("golden vector {vector}: {what}")]
    GoldenRecord { vector: usize, what: String },
    #[error("golden vector {vector}, column {column}: computed {computed}, the bundle says {claimed}")]
    GoldenFeature { vector: usize, column: usize, claimed: f32, computed: f32 },
    #[error("golden vector {vector}: score {computed}, the bundle says {claimed} (off by {off:e})")]
    GoldenScore { vector: usize, claimed: f32, computed: f32, off: f32 },
    #[error("a batch of {rows} rows: {what}")]
    Batch { rows: usize, what: String },
}

impl BundleError {
    pub fn new(file: &str, fault: BundleFault) -> Self {
        Self { file: file.to_owned(), place: None, fault }
    }

    /// Points at the line that starts with this key.
    pub(crate) fn locate(mut self, text: &str, key: &str) -> Self {
        let line =
            text.lines().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
        self.place = line.map(|line| (line + 1, 1));
        self
    }
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.fault)
    }
}
