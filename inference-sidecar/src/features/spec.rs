//! Feature entries of `model.yaml`, as written.

use std::collections::BTreeMap;

use foregate_filters::units::TimeSpan;
use serde::Deserialize;

/// The JSON type that a feature reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FeatureType {
    Number,
    /// A moment (RFC 3339), which becomes the time to or from another.
    Date,
    String,
    /// Words, which become counts of hashed n-grams.
    Text,
    Boolean,
}

/// A value that stands in for an absent one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Default {
    Boolean(bool),
    Number(f64),
    String(String),
}

/// What an absent number becomes besides `default` and `impute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Missing {
    /// Not a number; trees know a branch for it.
    Nan,
}

/// `(x - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    pub mean: f64,
    pub std: f64,
}

/// One-hot of the interval a number falls into; interval i counts the edges at or below it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    pub edges: Vec<f64>,
}

/// One column a known value, and one for all others where `other` is set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneHot {
    pub values: Vec<String>,
    #[serde(default)]
    pub other: bool,
}

/// One column a bucket, chosen by FNV-1a 64 over the UTF-8 bytes; the empty string sets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    pub buckets: u32,
}

/// What one of a time is, in the number that a date becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// 86,400 seconds.
    #[default]
    Days,
    Hours,
    Minutes,
    Seconds,
}

/// The cells of a row of a table of the bundle.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    pub table: String,
    pub column: String,
    pub width: usize,
    /// Stands in every column where no row has the key.
    #[serde(default)]
    pub default: f64,
}

/// A column of the feature store of the `Model`; the pointer is that of the key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored {
    pub column: String,
    /// A row that was known longer ago than this counts as absent; never where it is absent.
    pub max_age: Option<TimeSpan>,
}

/// What is done to a text before it is cut, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    #[serde(default)]
    pub lower: bool,
    /// Only together with `lower`.
    #[serde(default)]
    pub unaccent: bool,
    /// One ASCII letter or digit, which replaces every ASCII digit.
    pub digits: Option<char>,
}

/// How often an n-gram occurs, as its column tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Frequency {
    #[default]
    Raw,
    /// `1 + ln` of the count.
    Log,
    /// 1, however often.
    Binary,
}

/// What the columns of one text are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Norm {
    #[default]
    None,
    /// The root of the sum of their squares.
    L2,
}

/// Runs of words and of code points, each counted in the bucket of its hash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NgramSpec {
    /// Shortest and longest run of words, 1 to 8.
    pub words: Option<[usize; 2]>,
    /// Shortest and longest run of code points inside a word, 1 to 8.
    pub chars: Option<[usize; 2]>,
    pub buckets: u32,
    #[serde(default)]
    pub tf: Frequency,
    #[serde(default)]
    pub norm: Norm,
}

/// One entry of `features`; may give several columns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureSpec {
    pub name: String,
    /// For people, in explanations; the last step of the pointer where it is absent.
    pub label: Option<String>,
    /// RFC 6901, into the record.
    pub pointer: String,
    /// More members of a text.
    #[serde(default)]
    pub also: Vec<String>,
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// True: a value of the wrong type counts as absent, and a string that holds a number is that number.
    #[serde(default)]
    pub lenient: bool,
    pub default: Option<Default>,
    /// As `default`, learnt from the training data.
    pub impute: Option<f64>,
    pub missing: Option<Missing>,
    /// `ln(1 + x)`, x clamped at 0 from below.
    #[serde(default)]
    pub log: bool,
    pub scale: Option<Scale>,
    pub bucket: Option<Bucket>,
    pub one_hot: Option<OneHot>,
    pub ordinal: Option<BTreeMap<String, f64>>,
    /// What `ordinal` gives for a value that it does not list.
    pub otherwise: Option<f64>,
    pub hash: Option<Hash>,
    pub lookup: Option<Lookup>,
    /// The number is not in the record but looked up: the pointer is that of the key.
    pub store: Option<Stored>,
    /// The date becomes the time since this moment: a pointer, or `now`.
    pub since: Option<String>,
    /// The date becomes the time until this moment: a pointer, or `now`.
    pub until: Option<String>,
    pub unit: Option<Unit>,
    pub normalize: Option<Normalize>,
    pub ngrams: Option<NgramSpec>,
    /// True: the value never appears in logs, traces or explanations.
    #[serde(default)]
    pub pii: bool,
}

impl Unit {
    pub(super) fn seconds(self) -> f64 {
        match self {
            Self::Days => 86_400.0,
            Self::Hours => 3_600.0,
            Self::Minutes => 60.0,
            Self::Seconds => 1.0,
        }
    }
}

/// A feature entry that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("feature `{feature}`: {what}")]
pub struct SpecError {
    pub feature: String,
    pub what: &'static str,
}

impl FeatureSpec {
    pub(super) fn error(&self, what: &'static str) -> SpecError {
        SpecError { feature: self.name.clone(), what }
    }

    /// The member names of a pointer, escapes resolved (RFC 6901, section 4). Members of objects only.
    pub(crate) fn tokens(&self, pointer: &str) -> Result<Vec<String>, SpecError> {
        let path = pointer.strip_prefix('/').ok_or_else(|| self.error("the pointer must start with `/`"))?;
        let tokens = path
            .split('/')
            .map(|token| {
                if token.replace("~0", "").replace("~1", "").contains('~') {
                    return Err(self.error("`~` in a pointer is written `~0`"));
                }
                if token == "-" || (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit())) {
                    return Err(self.error("a pointer cannot go into an array"));
                }
                Ok(token.replace("~1", "/").replace("~0", "~"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let first = tokens.first().map_or("", String::as_str);
        if ["attributes", "records", "compositeRequest"].contains(&first) {
            return Err(self.error("the pointer leads into the envelope of Salesforce, not into a record"));
        }
        Ok(tokens)
    }
}
