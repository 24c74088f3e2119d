//! Feature entries of `model.yaml`, as written.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The JSON type that a feature reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FeatureType {
    Number,
    String,
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

/// One entry of `features`; may give several columns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureSpec {
    pub name: String,
    /// RFC 6901, into the record.
    pub pointer: String,
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// True: a value of the wrong type counts as absent.
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

    /// The member names of the pointer, escapes resolved (RFC 6901, section 4). Members of objects only.
    pub(super) fn tokens(&self) -> Result<Vec<String>, SpecError> {
        let path =
            self.pointer.strip_prefix('/').ok_or_else(|| self.error("the pointer must start with `/`"))?;
        path.split('/')
            .map(|token| {
                if token.replace("~0", "").replace("~1", "").contains('~') {
                    return Err(self.error("`~` in a pointer is written `~0`"));
                }
                if token == "-" || (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit())) {
                    return Err(self.error("a pointer cannot go into an array"));
                }
                Ok(token.replace("~1", "/").replace("~0", "~"))
            })
            .collect()
    }
}
