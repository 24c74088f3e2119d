//! Points in time as people write them (RFC 3339), and their parts in a zone.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, between the years 1 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

/// A text that is no point in time, or no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    #[error("a point in time must look like 2027-01-31T12:00:00Z")]
    Form,
    #[error("an offset must be UTC or look like +02:00")]
    Offset,
}

/// The parts of a point in time in one zone, as calendars count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    /// 0 is Sunday.
    pub weekday: i64,
}

/// The distance of a zone from UTC, in seconds; within 18 hours (RFC 3339 allows less than 24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset(i64);

impl Timestamp {
    /// The moment that a wall clock shows as this time since the Unix epoch.
    pub fn from_unix(unix: Duration) -> Self {
        Self(i64::try_from(unix.as_micros()).unwrap_or(i64::MAX))
    }

    /// So many seconds after the Unix epoch; `None` outside the years 1 to 9999.
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        (-62_135_596_800..=253_402_300_799).contains(&seconds).then_some(Self(seconds.saturating_mul(MICROS)))
    }

    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(MICROS)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// True where this moment has come.
    pub fn is_past(self, unix: Duration) -> bool {
        self <= Self::from_unix(unix)
    }

    /// The parts in a zone.
    pub fn civil(self, offset: Offset) -> Civil {
        let seconds = self.0.div_euclid(MICROS).saturating_add(offset.0);
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Days to a date: Howard Hinnant, "chrono-compatible low-level date algorithms".
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            weekday: (days + 4).rem_euclid(7),
        }
    }
}

/// Days from the Unix epoch to a date; the inverse of [`Timestamp::civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A number of exactly so many digits, and what stands behind it.
fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| number.parse().ok()).flatten().map(|number| (number, rest))
}

fn parse(text: &str) -> Option<i64> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = digits(rest.strip_prefix(['T', 't'])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (micros, rest) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = digits(fraction, count.clamp(1, 6))?;
            let scale = 10_i64.pow(6 - u32::try_from(count.clamp(1, 6)).ok()?);
            (number * scale, rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => (0, rest),
    };
    let offset = if rest.eq_ignore_ascii_case("z") { 0 } else { rest.parse::<Offset>().ok()?.0 };
    let days = days(year, month, day);
    let seconds = days * DAY + hour * 3_600 + minute * 60 + second;
    let found = Timestamp(seconds * MICROS).civil(Offset::default());
    let real = (found.year, found.month, found.day, found.hour, found.minute, found.second);
    // A date that does not come back, such as February 30, is none.
    (year >= 1 && real == (year, month, day, hour, minute, second))
        .then_some((seconds - offset) * MICROS + micros)
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text).map(Self).ok_or(TimestampError::Form)
    }
}

impl FromStr for Offset {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        if text == "UTC" {
            return Ok(Self(0));
        }
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(TimestampError::Offset),
        };
        let offset = || {
            let (hours, rest) = digits(rest, 2)?;
            let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
            (rest.is_empty() && hours <= 18 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
        };
        offset().map(Self).ok_or(TimestampError::Offset)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, .. } = self.civil(Offset::default());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match self.0.rem_euclid(MICROS) {
            0 => f.write_str("Z"),
            micros => write!(f, ".{micros:06}Z"),
        }
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Offset, Timestamp};
    use std::time::Duration;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn points_in_time_are_read_and_written() {
        for (text, micros, written) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
            ("2026-09-21T14:13:20.000001Z", 1_790_000_000_000_001, "2026-09-21T14:13:20.000001Z"),
            ("2026-09-21T16:13:20+02:00", 1_790_000_000_000_000, "2026-09-21T14:13:20Z"),
            ("2024-02-29t23:59:59.5z", 1_709_251_199_500_000, "2024-02-29T23:59:59.500000Z"),
            ("1969-12-31T23:59:59.123456789-00:30", 1_799_123_456, "1970-01-01T00:29:59.123456Z"),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000, "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!((time(text).micros(), time(text).to_string().as_str()), (micros, written), "{text}");
        }
        for bad in [
            "",
            "2026-09-21",
            "2026-09-21 14:13:20Z",
            "2026-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+2:00",
            "2026-01-01T00:00:00Zx",
            "+026-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_those_of_the_zone() {
        let offset = |text: &str| text.parse::<Offset>().unwrap();
        let sunday = time("2026-11-22T23:30:00Z");
        let utc = sunday.civil(offset("UTC"));
        assert_eq!((utc.weekday, utc.hour, utc.minute), (0, 23, 30));
        let east = sunday.civil(offset("+01:00"));
        assert_eq!((east.weekday, east.day, east.hour), (1, 23, 0));
        let west = time("1969-01-01T00:15:00Z").civil(offset("-05:30"));
        assert_eq!((west.year, west.month, west.day, west.hour, west.minute), (1968, 12, 31, 18, 45));
        for bad in ["", "utc", "02:00", "+2:00", "+02:60", "+19:00", "+02:00x", "Europe/Berlin"] {
            assert!(bad.parse::<Offset>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_is_past_once_it_has_come() {
        let noon = time("2026-11-22T12:00:00Z");
        let unix = Duration::from_micros(noon.micros().cast_unsigned());
        assert!(noon.is_past(unix) && !noon.is_past(unix.checked_sub(Duration::from_micros(1)).unwrap()));
        assert_eq!(Timestamp::from_unix(unix), noon);
    }
}
