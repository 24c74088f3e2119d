//! What redirected connections of the application may mean.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use ahash::AHashMap;
use arc_swap::ArcSwapOption;
use foregate_policy::routes::destinations::{Destinations, Known};
use foregate_policy::routes::streams::StreamRoute;
use foregate_policy::snapshot::Speaks;

use crate::dispatch::upstream::{self, UpstreamState};
use crate::live::Live;

/// What was found for an address.
#[derive(Debug, Default)]
pub struct Meant<'a> {
    /// The route that takes connections to it.
    pub stream: Option<&'a Arc<StreamRoute>>,
    /// True where some route of requests leads to an upstream that has it.
    pub requests: bool,
}

/// Finds in one look what an address means. Made by the first connection that asks, and again by the first after upstreams
/// have other endpoints: one thread makes it for all, and meanwhile the others obey the one before, as if they had asked a
/// moment earlier.
#[derive(Debug, Default)]
pub struct Index {
    made: ArcSwapOption<Table>,
    making: Mutex<()>,
}

/// What every address means, as it is at one moment.
#[derive(Debug)]
struct Table {
    /// [`upstream::moves`] when it was begun.
    moves: u64,
    /// By port of the listener.
    listeners: AHashMap<u16, Listener>,
}

/// What addresses mean on one listener.
#[derive(Debug, Default)]
struct Listener {
    /// Addresses that upstreams have now.
    addresses: AHashMap<SocketAddr, Found>,
    /// What goes wherever a connection meant to go: by the ports that routes name, each with what all ports have.
    ports: AHashMap<u16, Found>,
    /// The same, of all other ports.
    any: Found,
}

/// What is found, apart from any snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Index into [`foregate_policy::routes::streams::StreamTable::all`]; the first of the documents.
    stream: Option<usize>,
    requests: bool,
}

impl Found {
    fn add(&mut self, known: Known) {
        match known.stream {
            None => self.requests = true,
            Some(route) => self.stream = self.stream.or(Some(route)),
        }
    }
}

impl Index {
    /// The table of the endpoints of now; the one before while somebody else makes it.
    fn table(&self, destinations: &Destinations, upstreams: &[Arc<UpstreamState>]) -> Arc<Table> {
        let before = match self.made.load_full() {
            Some(table) if table.is_current() => return table,
            before => before,
        };
        let _making = match (self.making.try_lock(), before) {
            (Ok(making), _) => making,
            (Err(TryLockError::Poisoned(poisoned)), _) => poisoned.into_inner(),
            // Routes are of the same snapshot in both: what it finds is a route that was right a moment ago.
            (Err(TryLockError::WouldBlock), Some(before)) => return before,
            (Err(TryLockError::WouldBlock), None) => {
                self.making.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        // Somebody else may have made it meanwhile.
        self.made.load_full().filter(|table| table.is_current()).unwrap_or_else(|| {
            let table = Arc::new(Table::new(destinations, upstreams));
            self.made.store(Some(Arc::clone(&table)));
            table
        })
    }
}

impl Table {
    fn new(destinations: &Destinations, upstreams: &[Arc<UpstreamState>]) -> Self {
        // Asked first: what changes while the table is made makes it one of before.
        let moves = upstream::moves();
        let of = |all: &[Known]| {
            let mut listener = Listener::default();
            let upstream = |known: &Known| upstreams.get(known.upstream);
            for (known, upstream) in all.iter().filter_map(|known| Some((*known, upstream(known)?))) {
                for address in upstream.meant_by() {
                    if known.port.is_none_or(|port| port == address.port()) {
                        listener.addresses.entry(address).or_default().add(known);
                    }
                }
            }
            let anywhere = all.iter().copied();
            let anywhere =
                anywhere.filter(|known| upstream(known).is_some_and(|it| it.spec.captured.is_some()));
            let anywhere: Vec<Known> = anywhere.collect();
            for port in anywhere.iter().filter_map(|known| known.port) {
                let mut found = Found::default();
                let here = anywhere.iter().filter(|known| known.port.is_none_or(|named| named == port));
                here.for_each(|known| found.add(*known));
                listener.ports.insert(port, found);
            }
            anywhere.iter().filter(|known| known.port.is_none()).for_each(|known| listener.any.add(*known));
            listener
        };
        let listeners = destinations.listeners().map(|(port, all)| (port, of(all)));
        Self { moves, listeners: listeners.collect() }
    }

    fn is_current(&self) -> bool {
        self.moves == upstream::moves()
    }

    /// Upstreams that have the address now, and where there are none, those that go wherever a connection meant to go.
    fn find(&self, listener: u16, meant: SocketAddr) -> Found {
        let Some(listener) = self.listeners.get(&listener) else { return Found::default() };
        let found = listener.addresses.get(&meant).or_else(|| listener.ports.get(&meant.port()));
        found.copied().unwrap_or(listener.any)
    }
}

/// What connections to an address mean that came in on this port of a listener.
pub fn find(live: &Live, listener: u16, meant: SocketAddr) -> Meant<'_> {
    let Found { stream, requests } =
        live.meant.table(&live.snapshot.destinations, &live.upstreams).find(listener, meant);
    Meant { stream: stream.and_then(|route| live.snapshot.streams.all().get(route)), requests }
}

/// The route that takes connections to an address.
pub fn stream_route(live: &Live, listener: u16, meant: SocketAddr) -> Option<&Arc<StreamRoute>> {
    find(live, listener, meant).stream
}

/// True where connections are passed on whose destination nobody knows.
pub fn passes_unknown(live: &Live, port: u16) -> bool {
    live.snapshot.listeners.iter().any(|listener| {
        listener.port == port
            && listener.speaks == Speaks::Outbound
            && listener.capture.as_ref().is_some_and(|capture| capture.passes_unknown)
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use foregate_policy::routes::destinations::{Destinations, Known};
    use foregate_policy::snapshot::{Captured, Endpoint, Upstream};

    use super::{Found, Index};
    use crate::dispatch::endpoint::Address;
    use crate::dispatch::roster::Roster;
    use crate::dispatch::tests::plain;
    use crate::dispatch::upstream::UpstreamState;

    const LISTENER: u16 = 15_001;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn upstream(
        name: &str,
        endpoints: &[&str],
        also: &[&str],
        captured: Option<Captured>,
    ) -> Arc<UpstreamState> {
        let written = |text: &&str| {
            let at = address(text);
            Endpoint { host: at.ip().to_string().into(), port: at.port(), weight: 1, zone: None, priority: 0 }
        };
        let virtual_addresses = also.iter().map(|text| address(text)).collect();
        let spec = plain(name, endpoints.iter().map(written).collect());
        let spec = Upstream { virtual_addresses, captured, ..spec };
        Arc::new(UpstreamState::new(Arc::new(spec), None, Roster::new(name.into(), None), None))
    }

    fn known(upstream: usize, port: Option<u16>, stream: Option<usize>) -> Known {
        Known { upstream, port, stream }
    }

    const NOTHING: Found = Found { stream: None, requests: false };
    const REQUESTS: Found = Found { stream: None, requests: true };

    fn stream(route: usize) -> Found {
        Found { stream: Some(route), requests: false }
    }

    #[test]
    fn an_address_means_what_upstreams_have_it_and_else_what_goes_anywhere() {
        let anywhere = Some(Captured::Address);
        let upstreams = [
            upstream("crm", &["10.0.0.1:80", "10.0.0.2:80"], &["10.96.0.1:80"], None),
            upstream("db", &["10.0.0.1:80", "10.0.1.1:5432"], &[], None),
            upstream("there", &[], &[], anywhere),
        ];
        let mut destinations = Destinations::default();
        for (listener, known) in [
            (LISTENER, known(0, Some(80), None)),
            (LISTENER, known(1, None, Some(3))),
            (LISTENER, known(1, None, None)),
            (LISTENER, known(2, Some(443), Some(5))),
            (LISTENER, known(2, None, None)),
            (15_002, known(0, Some(81), None)),
        ] {
            assert_eq!(destinations.add(listener, known), None);
        }
        let index = Index::default();
        let find = |listener, at: &str| index.table(&destinations, &upstreams).find(listener, address(at));
        let both = Found { stream: Some(3), requests: true };
        for (at, found) in [
            ("10.0.0.1:80", both),
            ("10.0.0.2:80", REQUESTS),
            ("10.96.0.1:80", REQUESTS),
            ("10.0.1.1:5432", both),
            ("10.0.9.9:80", REQUESTS),
            ("10.0.9.9:443", Found { stream: Some(5), requests: true }),
        ] {
            assert_eq!(find(LISTENER, at), found, "{at}");
        }
        assert_eq!(find(15_002, "10.0.0.1:80"), NOTHING, "its route names another port");
        assert_eq!(find(15_003, "10.0.0.1:80"), NOTHING);
    }

    fn resolve(upstream: &UpstreamState, all: &[&str]) {
        let at = |text: &&str| Address {
            host: "crm.test".into(),
            address: address(text),
            weight: 1,
            zone: None,
            priority: 0,
        };
        upstream.resolved(all.iter().map(at).collect(), Duration::ZERO);
    }

    #[test]
    fn nobody_waits_for_a_table_while_there_is_one() {
        let upstreams = [upstream("crm", &["10.0.0.1:80"], &[], None)];
        let mut destinations = Destinations::default();
        destinations.add(LISTENER, known(0, None, None));
        let index = Index::default();
        let find = |at: &str| index.table(&destinations, &upstreams).find(LISTENER, address(at));
        assert_eq!(find("10.0.0.1:80"), REQUESTS);
        let making = index.making.lock().unwrap();
        resolve(&upstreams[0], &["10.0.0.2:80"]);
        assert_eq!((find("10.0.0.1:80"), find("10.0.0.2:80")), (REQUESTS, NOTHING), "the one before");
        drop(making);
        assert_eq!((find("10.0.0.1:80"), find("10.0.0.2:80")), (NOTHING, REQUESTS));
    }

    #[test]
    fn endpoints_that_discovery_finds_are_known_at_once_and_those_that_left_no_more() {
        let upstreams = [upstream("crm", &[], &[], None), upstream("db", &["10.0.1.1:5432"], &[], None)];
        let mut destinations = Destinations::default();
        destinations.add(LISTENER, known(0, None, None));
        destinations.add(LISTENER, known(1, None, Some(3)));
        let index = Index::default();
        let find = |at: &str| index.table(&destinations, &upstreams).find(LISTENER, address(at));
        let found = |all: &[&str]| resolve(&upstreams[0], all);
        assert_eq!((find("10.0.0.1:80"), find("10.0.1.1:5432")), (NOTHING, stream(3)));
        found(&["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!((find("10.0.0.1:80"), find("10.0.0.2:80")), (REQUESTS, REQUESTS));
        found(&["10.0.0.2:80", "10.0.1.1:5432"]);
        assert_eq!((find("10.0.0.1:80"), find("10.0.0.2:80")), (NOTHING, REQUESTS));
        assert_eq!(find("10.0.1.1:5432"), Found { stream: Some(3), requests: true });
        found(&[]);
        assert_eq!((find("10.0.0.2:80"), find("10.0.1.1:5432")), (NOTHING, stream(3)));
    }
}
