//! Sets of ports, read strictly.

use std::fmt;
use std::str::FromStr;

/// Ranges that are taken: each is looked at for every new connection.
const MOST: usize = 64;

/// A set of ports: ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

/// Why a text is no set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    #[error("`{0}` is no port from 1 to 65535 and no range such as 8000-8100")]
    Malformed(String),
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
    #[error("more than {MOST} ranges of ports")]
    TooMany,
}

impl Ports {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// First and last port of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }
}

/// Digits alone: `+80` and ` 80` are no ports.
fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok().filter(|port| *port != 0) } else { None }
}

impl FromStr for Ports {
    type Err = PortsError;

    /// Reads `80,443,8000-8100`; nothing for no text.
    fn from_str(text: &str) -> Result<Self, PortsError> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let read = port(first).zip(port(last));
            let (first, last) = read.ok_or_else(|| PortsError::Malformed(part.to_owned()))?;
            if first > last {
                return Err(PortsError::Backwards(part.to_owned()));
            }
            ranges.push((first, last));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        if merged.len() > MOST { Err(PortsError::TooMany) } else { Ok(Self(merged)) }
    }
}

impl fmt::Display for Ports {
    /// As nftables writes the members of a set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}") } else { write!(f, "{comma}{first}-{last}") }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Ports, PortsError};

    #[test]
    fn ports_are_read_strictly_and_put_together() {
        for (text, written) in [
            ("", ""),
            ("80", "80"),
            ("443,80", "80, 443"),
            ("8000-8100, 8050-8200,8201,9", "9, 8000-8201"),
            ("1-65535", "1-65535"),
            ("65535,65534", "65534-65535"),
        ] {
            assert_eq!(
                text.parse::<Ports>().map(|ports| ports.to_string()).as_deref(),
                Ok(written),
                "{text}"
            );
        }
        for text in
            ["0", "65536", "+80", "80-", "-80", "80-90-100", "http", "80 90", "80;", "8０", "80\n} flush"]
        {
            assert!(matches!(text.parse::<Ports>(), Err(PortsError::Malformed(_))), "{text}");
        }
        assert_eq!("90-80".parse::<Ports>(), Err(PortsError::Backwards("90-80".to_owned())));
        let many: Vec<String> = (0..65).map(|n| (1_000 + 2 * n).to_string()).collect();
        assert_eq!(many.join(",").parse::<Ports>(), Err(PortsError::TooMany));
        let some: Ports = "80,8000-8100".parse().unwrap();
        assert!(some.contains(8_050) && some.contains(80) && !some.contains(81) && !some.is_empty());
    }
}
