//! Moments as records write them (RFC 3339), and the time between two.

use std::time::Duration;

const DAY: i64 = 86_400;

/// Seconds since 1970-01-01T00:00:00Z without leap seconds, and nanoseconds in 0..10^9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UtcTime {
    seconds: i64,
    nanos: i64,
}

impl UtcTime {
    pub(super) fn from_unix(unix: Duration) -> Self {
        Self {
            seconds: i64::try_from(unix.as_secs()).unwrap_or(i64::MAX),
            nanos: i64::from(unix.subsec_nanos()),
        }
    }

    /// Time since `other` in units of so many seconds; may be negative.
    #[expect(clippy::cast_precision_loss, reason = "ten thousand years in seconds fit into 53 bits")]
    pub(super) fn since(self, other: Self, unit: f64) -> f64 {
        let seconds = self.seconds.saturating_sub(other.seconds) as f64;
        (seconds + (self.nanos - other.nanos) as f64 / 1e9) / unit
    }
}

/// A date alone is its midnight in UTC; `None` where the text is no date.
pub(super) fn parse(text: &str) -> Option<UtcTime> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    byte(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    byte(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    let midnight = days_since_epoch(year, month, day) * DAY;
    if rest.is_empty() {
        return Some(UtcTime { seconds: midnight, nanos: 0 });
    }
    byte(&mut rest, b"Tt")?;
    let hour = digits(&mut rest, 2)?;
    byte(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    byte(&mut rest, b":")?;
    let second = digits(&mut rest, 2)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanos = fraction(&mut rest)?;
    let offset = zone(&mut rest)?;
    rest.is_empty()
        .then_some(UtcTime { seconds: midnight + hour * 3_600 + minute * 60 + second - offset, nanos })
}

/// Takes so many ASCII digits.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (taken, tail) = rest.split_at_checked(count)?;
    let value = taken
        .iter()
        .try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))?;
    *rest = tail;
    Some(value)
}

/// Takes one of these bytes.
fn byte(rest: &mut &[u8], of: &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    of.contains(first).then_some(*first)
}

/// Takes a point and 1 to 9 digits, where there is a point.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    if rest.first() != Some(&b'.') {
        return Some(0);
    }
    byte(rest, b".")?;
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let value = digits(rest, count)?;
    Some(value * 10_i64.pow(9 - u32::try_from(count).ok()?))
}

/// Takes the zone: `Z`, or hours and minutes with or without a colon. Gives seconds east of UTC.
fn zone(rest: &mut &[u8]) -> Option<i64> {
    let sign = match byte(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hours = digits(rest, 2)?;
    if rest.first() == Some(&b':') {
        byte(rest, b":")?;
    }
    let minutes = digits(rest, 2)?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`; for years from 1.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn dates_of_rfc_3339_are_read_and_nothing_else() {
        let cases = [
            ("1970-01-01", 0),
            ("2026-01-15T12:00:00Z", 1_768_478_400),
            ("2026-01-15t12:00:00.000z", 1_768_478_400),
            ("2026-01-15T13:30:00+01:30", 1_768_478_400),
            ("2026-01-15T10:30:00-0130", 1_768_478_400),
            ("0001-01-01", -62_135_596_800),
            ("9999-12-31T23:59:60Z", 253_402_300_800),
            ("2024-02-29", 1_709_164_800),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text).map(|time| time.seconds), Some(seconds), "{text}");
        }
        assert_eq!(parse("1969-12-31T23:59:59.5Z").map(|time| time.nanos), Some(500_000_000));
        for text in [
            "",
            "2026-1-1",
            "2023-02-29",
            "1900-02-29",
            "2026-13-01",
            "0000-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01Z",
            "2026-01-01\n",
            "２026-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
