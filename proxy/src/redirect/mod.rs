//! Redirection of a pod's connections to its sidecar, by rules of the kernel.

pub mod backend;
mod iptables;
mod nft;
pub mod ports;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::redirect::ports::Ports;

/// Which connections are redirected, and where to. Whatever is in here was parsed: nothing else gets into a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where connections to this host go.
    pub inbound_port: u16,
    /// Where connections from this host go.
    pub outbound_port: u16,
    /// The user that the sidecar runs as: what it opens itself is left alone.
    pub proxy_uid: u32,
    pub inbound: Inbound,
    /// Destination ports of connections from this host that are left alone.
    pub skip_outbound_ports: Ports,
    /// Destinations of connections from this host that are left alone: no two overlap, no bits beyond the prefix.
    pub skip_subnets: Vec<IpNet>,
}

/// Destination ports of connections to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// All but these are redirected.
    AllBut(Ports),
    /// These alone are.
    Only(Ports),
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The subnets of this family.
    fn of(self, subnets: &[IpNet]) -> impl Iterator<Item = &IpNet> {
        subnets.iter().filter(move |subnet| matches!(subnet, IpNet::V4(_)) == (self == Self::V4))
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

/// Subnets that are taken: each is looked at for every new connection.
const MOST_SUBNETS: usize = 256;

#[cfg(test)]
mod tests {
    use super::subnets;

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
