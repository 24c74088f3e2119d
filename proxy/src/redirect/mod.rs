//! Redirection of a pod's connections to its sidecar, by rules of the kernel.

pub mod backend;
mod iptables;
mod nft;

use foregate_policy::redirect::Ports;
use ipnet::IpNet;

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
