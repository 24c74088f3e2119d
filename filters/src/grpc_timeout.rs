//! The time that a caller of gRPC gives its call.

use std::time::Duration;

/// Reads the value of `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2).
pub fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn timeouts_have_a_unit_and_eight_digits_at_most() {
        for (text, time) in [
            ("1H", Some(Duration::from_hours(1))),
            ("99999999M", Some(Duration::from_mins(99_999_999))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("0u", Some(Duration::ZERO)),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789n", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1 S", None),
            ("1", None),
            ("é", None),
        ] {
            assert_eq!(parse(text), time, "{text}");
        }
    }
}
