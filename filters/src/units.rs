//! Values with units as people write them: time spans and byte sizes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A time span such as `3ms`, `10s`, `1h30m` (Gateway API GEP-2257, and `us` besides).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(pub Duration);

/// A number of bytes such as `512B`, `64KiB`, `1MiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// A value whose unit or number cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must look like {example}")]
pub struct UnitError {
    what: &'static str,
    example: &'static str,
}

const TIME_SPAN: &str = r"^([0-9]{1,9}(h|m|s|ms|us)){1,5}$";
const BYTE_SIZE: &str = r"^[0-9]{1,15}(B|KiB|MiB|GiB|kB|MB|GB)$";

/// Splits `12ms3us` into its leading number, the unit behind it, and the rest.
fn leading(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number.parse().ok()?, unit, rest))
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = UnitError { what: "a time span", example: "3ms, 10s or 1h30m" };
        let mut total = Duration::ZERO;
        let mut rest = text;
        loop {
            let (number, unit, tail) = leading(rest).ok_or_else(|| error.clone())?;
            let part = match unit {
                "h" => Duration::from_secs(number.checked_mul(3600).ok_or_else(|| error.clone())?),
                "m" => Duration::from_secs(number.checked_mul(60).ok_or_else(|| error.clone())?),
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                "us" => Duration::from_micros(number),
                _ => return Err(error),
            };
            total = total.checked_add(part).ok_or_else(|| error.clone())?;
            if tail.is_empty() {
                return Ok(Self(total));
            }
            rest = tail;
        }
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros.is_multiple_of(1_000_000) {
            write!(f, "{}s", micros / 1_000_000)
        } else if micros.is_multiple_of(1_000) {
            write!(f, "{}ms", micros / 1_000)
        } else {
            write!(f, "{micros}us")
        }
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": TIME_SPAN,
            "description": "A time span: numbers with units h, m, s, ms, us, such as 3ms, 10s, 1h30m."
        })
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = UnitError { what: "a size", example: "512B, 64KiB or 1MiB" };
        let (number, unit, rest) = leading(text).ok_or_else(|| error.clone())?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(error),
        };
        if !rest.is_empty() {
            return Err(error);
        }
        number.checked_mul(factor).map(Self).ok_or(error)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": BYTE_SIZE,
            "description": "A size: a number with a unit B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteSize, TimeSpan};
    use std::time::Duration;

    #[test]
    fn time_spans_are_read_and_written_with_units() {
        assert_eq!("1h30m".parse(), Ok(TimeSpan(Duration::from_mins(90))));
        assert_eq!("3ms250us".parse(), Ok(TimeSpan(Duration::from_micros(3250))));
        assert_eq!("3ms".parse::<TimeSpan>().unwrap().to_string(), "3ms");
        for bad in ["", "3", "ms", "3 ms", "-1s", "1.5s", "9d", "99999999999999999999s"] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_with_units() {
        assert_eq!("64KiB".parse(), Ok(ByteSize(65536)));
        assert_eq!("10MB".parse(), Ok(ByteSize(10_000_000)));
        assert_eq!(ByteSize(1 << 20).to_string(), "1MiB");
        for bad in ["", "64", "KiB", "64 KiB", "1KiB2", "999999999999999GiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
