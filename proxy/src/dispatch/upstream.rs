//! A live upstream: its addresses now, its TLS, its place in the pools.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use foregate_policy::snapshot::{Endpoint, Protocol, Shown, Upstream};

use crate::admission::Admission;
use crate::dispatch::tls::UpstreamTrust;

use crate::oauth::credential::Credential;

/// One address of an upstream, and the host it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: Box<str>,
    pub address: SocketAddr,
}

/// The addresses known at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    pub fn new(addresses: Vec<Address>) -> Self {
        Self(addresses)
    }

    /// Every address once, starting with number `turn`.
    pub fn in_turn(&self, turn: usize) -> impl Iterator<Item = &Address> {
        let start = turn.checked_rem(self.0.len()).unwrap_or(0);
        let (before, from) = self.0.split_at(start);
        from.iter().chain(before)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|known| known.address == address)
    }
}

/// What lives on from snapshot to snapshot while the `Upstream` document stays the same.
#[derive(Debug)]
pub struct UpstreamState {
    /// Names this state in the pools of all threads; never used twice.
    pub id: u64,
    pub spec: Arc<Upstream>,
    /// Set where connections are TLS.
    pub tls: Option<UpstreamTrust>,
    /// Set once another state has taken its place: its connections serve no further request.
    pub retired: Arc<AtomicBool>,
    /// What it is shown; nothing where the document says nothing.
    pub credential: Option<Arc<Credential>>,
    /// What stands between requests and it.
    pub admission: Arc<Admission>,
    /// True where at least one endpoint is a DNS name.
    named: bool,
    addresses: ArcSwap<Addresses>,
    turn: AtomicUsize,
}

/// Counts upstream states, so that each has an id of its own.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl UpstreamState {
    /// Endpoints that are IP addresses can be used at once; names wait for their first resolution.
    pub fn new(spec: Arc<Upstream>, tls: Option<UpstreamTrust>) -> Self {
        let known: Vec<Address> = spec.endpoints.iter().filter_map(literal).collect();
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            named: known.len() < spec.endpoints.len(),
            addresses: ArcSwap::from_pointee(Addresses::new(known)),
            turn: AtomicUsize::new(0),
            admission: Arc::new(Admission::new(spec.concurrency)),
            spec,
            tls,
            retired: Arc::default(),
            credential: None,
        }
    }

    /// The same upstream with other TLS: its connections are of a pool of their own.
    #[must_use]
    pub fn renewed(&self, tls: UpstreamTrust) -> Self {
        let mut renewed = Self::new(Arc::clone(&self.spec), Some(tls));
        renewed.credential.clone_from(&self.credential);
        renewed.admission = Arc::clone(&self.admission);
        renewed.addresses.store(self.addresses.load_full());
        renewed
    }

    /// True where we show the identity of this workload.
    pub fn uses_identity(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| matches!(tls.shown, Shown::Workload { .. }))
    }

    pub fn endpoints(&self) -> arc_swap::Guard<Arc<Addresses>> {
        self.addresses.load()
    }

    /// Takes over what resolution found; an empty result leaves the last good one in place.
    pub fn resolved(&self, addresses: Addresses) {
        if !addresses.is_empty() && **self.addresses.load() != addresses {
            self.addresses.store(Arc::new(addresses));
        }
    }

    /// The next number for round robin.
    pub fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub fn is_http2(&self) -> bool {
        self.spec.protocol == Protocol::Http2
    }

    /// True where at least one endpoint is a DNS name.
    pub fn needs_resolution(&self) -> bool {
        self.named
    }

    /// True while the upstream still has this address: names may come to mean others.
    pub fn serves(&self, address: SocketAddr) -> bool {
        !self.named || self.endpoints().contains(address)
    }
}

/// The address of an endpoint written as one.
pub fn literal(endpoint: &Endpoint) -> Option<Address> {
    let ip: IpAddr = endpoint.host.parse().ok()?;
    Some(Address { host: endpoint.host.clone(), address: SocketAddr::new(ip, endpoint.port) })
}

#[cfg(test)]
mod tests {
    use super::{Address, Addresses};

    fn addresses(ports: &[u16]) -> Addresses {
        Addresses::new(
            ports
                .iter()
                .map(|port| Address { host: "a".into(), address: ([127, 0, 0, 1], *port).into() })
                .collect(),
        )
    }

    #[test]
    fn every_address_has_its_turn_and_all_are_tried_once() {
        let three = addresses(&[1, 2, 3]);
        let ports = |turn| three.in_turn(turn).map(|known| known.address.port()).collect::<Vec<_>>();
        assert_eq!(ports(0), [1, 2, 3]);
        assert_eq!(ports(4), [2, 3, 1]);
        assert_eq!(addresses(&[]).in_turn(7).count(), 0);
    }
}
