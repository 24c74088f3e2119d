//! Ports and subnets of redirection, as the init container and injection read them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Ranges that are taken: each is looked at for every new connection.
const MOST: usize = 64;

/// Subnets that are taken: each is looked at for every new connection.
const MOST_SUBNETS: usize = 256;

/// A set of ports: ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

/// Why a text is no set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortsError {
    Malformed(String),
    Backwards(String),
    TooMany,
}

impl fmt::Display for PortsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(part) => {
                write!(f, "`{part}` is no port from 1 to 65535 and no range such as 8000-8100")
            }
            Self::Backwards(part) => write!(f, "the range `{part}` ends before it begins"),
            Self::TooMany => write!(f, "more than {MOST} ranges of ports"),
        }
    }
}

impl std::error::Error for PortsError {}

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

/// Reads a list of subnets such as `10.0.0.0/8,fd00::/8`; an address stands for itself.
///
/// # Errors
/// Names the first that is none.
pub fn subnets(text: &str) -> Result<Vec<IpNet>, String> {
    let mut read = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let subnet = match part.parse::<IpNet>() {
            Ok(subnet) => subnet,
            Err(_) => part
                .parse::<IpAddr>()
                .map(IpNet::from)
                .map_err(|_| format!("`{part}` is no subnet such as 10.0.0.0/8 or fd00::/8"))?,
        };
        if subnet != subnet.trunc() {
            return Err(format!("`{part}` has bits beyond its prefix: write {}", subnet.trunc()));
        }
        read.push(subnet);
    }
    if read.len() > MOST_SUBNETS {
        return Err(format!("more than {MOST_SUBNETS} subnets"));
    }
    Ok(IpNet::aggregate(&read))
}

#[cfg(test)]
mod tests {
    use super::{Ports, PortsError, subnets};

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

    #[test]
    fn subnets_are_read_strictly_and_put_together() {
        let read = |text: &str| {
            subnets(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read("").as_deref(), Ok(""));
        assert_eq!(read("10.1.0.0/16, 10.0.0.0/8,192.0.2.7").as_deref(), Ok("10.0.0.0/8 192.0.2.7/32"));
        assert_eq!(read("fd00::/8,::1").as_deref(), Ok("::1/128 fd00::/8"));
        for (text, part) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("10.0.0.0/33", "no subnet"),
            ("example.com", "no subnet"),
            ("10.0.0.0/8; flush ruleset", "no subnet"),
            ("10.0.0.0/8\nflush ruleset", "no subnet"),
            ("fe80::1%eth0", "no subnet"),
        ] {
            assert!(subnets(text).unwrap_err().contains(part), "{text}");
        }
        let many: Vec<String> = (0..300).map(|n| format!("10.{}.{}.0/32", n / 200, n % 200)).collect();
        assert!(subnets(&many.join(",")).unwrap_err().contains("more than 256"));
    }
}
