//! Bounds of JSON text, as a policy writes them and as they are obeyed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault, Path};
use crate::json::MAX_DEPTH;
use crate::units::ByteSize;

/// What a JSON body may be made of. Every bound is in force as soon as `validate` stands in a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ValidateLimits")]
pub struct Spec {
    /// How deep objects and arrays may nest, 1 to 64; 32 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub depth: Option<u32>,
    /// Members of one object, at most 100,000; 256 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub keys: Option<u32>,
    /// Elements of one array, at most 1,000,000; 1,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub items: Option<u32>,
    /// Length of one string, member names included, in bytes as written; 16KiB where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<ByteSize>,
    /// Length of one number in bytes as written, at most 1,024; 32 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub number: Option<u32>,
    /// Values and member names of the whole body, at most 1,000,000; 100,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub values: Option<u32>,
}

/// The bounds that are obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub depth: u32,
    /// Members of one object.
    pub keys: u32,
    /// Elements of one array.
    pub items: u32,
    /// Bytes of one string as written, without its quotes.
    pub string: usize,
    /// Bytes of one number as written.
    pub number: usize,
    /// Values and member names of the whole text.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 32, keys: 256, items: 1_000, string: 16 << 10, number: 32, values: 100_000 }
    }
}

impl Limits {
    /// As large as any policy may say.
    pub const LARGEST: Self = Self {
        depth: MAX_DEPTH,
        keys: 100_000,
        items: 1_000_000,
        string: 16 << 20,
        number: 1_024,
        values: 1_000_000,
    };

    /// What `spec` says, and what is safe where it says nothing.
    pub fn build(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) -> Self {
        let (safe, most) = (Self::default(), Self::LARGEST);
        let mut number = |field: &str, said: Option<u64>, safe: u64, most: u64| {
            let value = said.unwrap_or(safe);
            if !(1..=most).contains(&value) {
                let message = format!("{field} must be from 1 to {most}");
                faults.push(Fault::new(Code::VALUE, at.key(field), message));
            }
            value
        };
        let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let of = |value: usize| value as u64;
        Self {
            depth: narrow(number("depth", spec.depth.map(u64::from), safe.depth.into(), most.depth.into())),
            keys: narrow(number("keys", spec.keys.map(u64::from), safe.keys.into(), most.keys.into())),
            items: narrow(number("items", spec.items.map(u64::from), safe.items.into(), most.items.into())),
            string: whole(number("string", spec.string.map(|it| it.0), of(safe.string), of(most.string))),
            number: whole(number("number", spec.number.map(u64::from), of(safe.number), of(most.number))),
            values: whole(number("values", spec.values.map(u64::from), of(safe.values), of(most.values))),
        }
    }
}
