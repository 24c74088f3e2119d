//! Formats of strings and numbers that a policy may have checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::json::MAX_DEPTH;
use crate::validate::schema::pattern;

/// Longest pattern in bytes that a text may hold: shorter than those of schemas, for anybody may send it.
const LONGEST_PATTERN: usize = 1 << 10;
/// Work to compile one, and for each byte of it: a few bytes may name thousands of characters.
const WORK_FOR_PATTERN: u64 = 500;
const WORK_FOR_BYTE: u64 = 16;

/// A format of JSON Schema 2020-12 or of `OpenAPI` that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DateTime,
    Date,
    Time,
    Duration,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Uri,
    UriReference,
    Uuid,
    JsonPointer,
    Regex,
    Int32,
    Int64,
}

impl Format {
    /// Every format, in the order of the names that people write.
    pub const ALL: [(&'static str, Self); 15] = [
        ("date-time", Self::DateTime),
        ("date", Self::Date),
        ("time", Self::Time),
        ("duration", Self::Duration),
        ("email", Self::Email),
        ("hostname", Self::Hostname),
        ("ipv4", Self::Ipv4),
        ("ipv6", Self::Ipv6),
        ("uri", Self::Uri),
        ("uri-reference", Self::UriReference),
        ("uuid", Self::Uuid),
        ("json-pointer", Self::JsonPointer),
        ("regex", Self::Regex),
        ("int32", Self::Int32),
        ("int64", Self::Int64),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// The bounds of a format of numbers.
    pub const fn range(self) -> Option<(i64, i64)> {
        match self {
            Self::Int32 => Some((i32::MIN as i64, i32::MAX as i64)),
            Self::Int64 => Some((i64::MIN, i64::MAX)),
            _ => None,
        }
    }

    /// Work to check a string, beyond that in proportion to its length; see [`super::check`].
    pub const fn work(self, text: &str) -> u64 {
        match self {
            Self::Regex if text.len() <= LONGEST_PATTERN => {
                WORK_FOR_PATTERN + WORK_FOR_BYTE * text.len() as u64
            }
            _ => 0,
        }
    }

    /// True where a string is of the format; formats of numbers say nothing of strings.
    pub fn holds(self, text: &str) -> bool {
        match self {
            Self::DateTime => {
                text.split_once(['T', 't']).is_some_and(|(date, time)| is_date(date) && is_time(time))
            }
            Self::Date => is_date(text),
            Self::Time => is_time(text),
            Self::Duration => is_duration(text),
            Self::Email => is_email(text),
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Uri => is_uri(text) && has_scheme(text),
            Self::UriReference => is_uri(text),
            Self::Uuid => is_uuid(text),
            Self::JsonPointer => is_pointer(text),
            Self::Regex => text.len() <= LONGEST_PATTERN && pattern::compile(text).is_ok(),
            Self::Int32 | Self::Int64 => true,
        }
    }
}

/// A number of exactly so many digits within bounds.
fn number(text: Option<&str>, digits: usize, least: u32, most: u32) -> Option<u32> {
    let text = text.filter(|text| text.len() == digits && text.bytes().all(|it| it.is_ascii_digit()))?;
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

/// RFC 3339, section 5.6: full-date.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let year = number(parts.next(), 4, 0, 9999);
    let month = number(parts.next(), 2, 1, 12);
    let (Some(year), Some(month)) = (year, month) else { return false };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    number(parts.next(), 2, 1, days).is_some() && parts.next().is_none()
}

/// RFC 3339, section 5.6: full-time. A leap second ends a day in UTC.
fn is_time(text: &str) -> bool {
    let Some((clock, offset)) = with_offset(text) else { return false };
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, part)| (clock, Some(part)));
    if fraction.is_some_and(|part| part.is_empty() || !part.bytes().all(|it| it.is_ascii_digit())) {
        return false;
    }
    let mut parts = clock.split(':');
    let hour = number(parts.next(), 2, 0, 23);
    let minute = number(parts.next(), 2, 0, 59);
    let second = number(parts.next(), 2, 0, 60);
    let (Some(hour), Some(minute), Some(second), None) = (hour, minute, second, parts.next()) else {
        return false;
    };
    second < 60 || (i64::from(hour * 60 + minute) - offset).rem_euclid(1_440) == 1_439
}

/// A time, and its distance from UTC in minutes.
fn with_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let (clock, offset) = text.split_at_checked(text.rfind(['+', '-'])?)?;
    let mut parts = offset.get(1..)?.split(':');
    let hours = number(parts.next(), 2, 0, 23)?;
    let minutes = i64::from(hours * 60 + number(parts.next(), 2, 0, 59)?);
    let whole = parts.next().is_none();
    whole.then_some((clock, if offset.starts_with('-') { -minutes } else { minutes }))
}

/// RFC 3339, appendix A.
fn is_duration(text: &str) -> bool {
    let Some(text) = text.strip_prefix('P') else { return false };
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let parts = |text: &str, units: &str| {
        let mut units = units.chars();
        let mut digits = 0;
        let all = text.chars().all(|char| {
            if char.is_ascii_digit() {
                digits += 1;
                return true;
            }
            std::mem::take(&mut digits) > 0 && units.any(|unit| unit == char)
        });
        all && digits == 0
    };
    // No unit may be left out between two others.
    let gapless = |text: &str, units: &str| {
        let used: String = text.chars().filter(|char| !char.is_ascii_digit()).collect();
        units.contains(&used)
    };
    if time.is_none() && date.ends_with('W') {
        return date.len() > 1 && parts(date, "W");
    }
    parts(date, "YMD")
        && gapless(date, "YMD")
        && time.is_none_or(|time| !time.is_empty() && parts(time, "HMS") && gapless(time, "HMS"))
        && (time.is_some() || !date.is_empty())
}

/// RFC 5321, section 4.1.2, without quoted local parts; the domain may be an address.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let atom = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(char);
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let domain = match literal {
        Some(address) => match address.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => address.parse::<Ipv4Addr>().is_ok(),
        },
        None => is_hostname(domain),
    };
    let quoted = local.len() > 1
        && local.starts_with('"')
        && local.ends_with('"')
        && local.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let dotted = local.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    domain && local.len() <= 64 && (dotted || quoted)
}

/// RFC 1123, section 2.1.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The characters of RFC 3986, with whole escapes, and brackets around addresses only.
fn is_uri(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |(at, byte): (usize, &u8)| match byte {
        b'%' => {
            let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
            digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
        }
        b'[' | b']' => true,
        _ => byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=".contains(byte),
    };
    if !bytes.iter().enumerate().all(plain) || text.matches('#').count() > 1 {
        return false;
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let brackets = text.matches(['[', ']']).count();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match address {
        Some((address, port)) => {
            brackets == 2
                && (address.parse::<Ipv6Addr>().is_ok() || address.starts_with('v'))
                && (port.is_empty() || port.starts_with(':'))
        }
        None => brackets == 0 && is_port(host),
    }
}

fn is_port(host: &str) -> bool {
    host.split_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|char: char| char.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// RFC 4122.
fn is_uuid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(
            |(at, byte)| {
                if dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
            },
        )
}

/// RFC 6901.
fn is_pointer(text: &str) -> bool {
    let escapes = || text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.is_empty()
        || (text.starts_with('/') && text.matches('/').count() <= MAX_DEPTH as usize * 64 && escapes())
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn formats_hold_for_what_their_standards_say() {
        for (format, good, bad) in [
            ("date-time", "2027-02-28T23:59:60Z", "2027-02-29T00:00:00Z"),
            ("date-time", "2028-02-29t08:30:06.28+02:00", "2027-01-01 00:00:00Z"),
            ("date", "2027-12-31", "2027-13-01"),
            ("time", "08:30:06Z", "08:30:06"),
            ("duration", "P4DT12H30M5S", "P1D2H"),
            ("duration", "P4W", "P1YT"),
            ("email", "maya@example.com", "maya@example..com"),
            ("email", "a@[127.0.0.1]", "maya"),
            ("hostname", "a-b.example", "-a.example"),
            ("ipv4", "192.0.2.1", "192.0.2.01"),
            ("ipv6", "2001:db8::1", "2001:db8::1%eth0"),
            ("uri", "https://[2001:db8::1]:8443/a?b#c", "//example.com/a"),
            ("uri", "mailto:a@example.com", "https://exa mple.com"),
            ("uri-reference", "/a/b?c=%20", "/a/%2"),
            ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380"),
            ("json-pointer", "/a~0b/c~1", "a/b"),
            ("regex", "^a+$", "(?=a)"),
        ] {
            let known = Format::named(format).unwrap();
            assert!(known.holds(good), "{format} {good}");
            assert!(!known.holds(bad), "{format} {bad}");
        }
        assert_eq!(Format::named("int32").and_then(Format::range), Some((-2_147_483_648, 2_147_483_647)));
        assert_eq!(Format::named("password"), None);
    }
}
