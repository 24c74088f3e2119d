//! Finds the route of a connection whose bytes are passed on unread.

use std::sync::Arc;

use ahash::AHashMap;
use foregate_filters::chain::Chain;

use crate::description::Description;
use crate::routes::hosts::Hosts;
use crate::routes::{Door, Takes};

/// The rule of a `TCPRoute` or `TLSRoute`, as seen from one `Gateway`.
#[derive(Debug)]
pub struct StreamRoute {
    /// `<route>/<name of the rule, or 0>`; with the namespace in front where that is not `default`.
    pub name: Arc<str>,
    /// The same in two snapshots where nothing changed that decides about its connections.
    pub fingerprint: u64,
    /// Asked once for each connection; no filter in it needs a request.
    pub chain: Chain,
    /// At least one has a weight above 0.
    pub backends: Vec<StreamBackend>,
    /// Sum of all weights.
    pub total_weight: u32,
    /// Where all of this is written.
    pub description: Arc<Description>,
}

/// One of the upstreams of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBackend {
    /// Index into [`crate::snapshot::Snapshot::upstreams`].
    pub upstream: usize,
    /// Its share of `total_weight`; 0 never chooses it.
    pub weight: u32,
}

/// All routes of connections of a snapshot.
#[derive(Debug, Default)]
pub struct StreamTable {
    routes: Vec<Arc<StreamRoute>>,
    /// By where they came in: the listeners by name, and below each the routes by name.
    doors: AHashMap<Door, Hosts<Hosts<usize>>>,
}

impl StreamRoute {
    /// The backends in the order in which they are tried: the one that the uniformly random `number` chooses,
    /// then the others that may be chosen.
    pub fn in_turn(&self, number: u32) -> impl Iterator<Item = StreamBackend> {
        let mut left = number.checked_rem(self.total_weight).unwrap_or(0);
        let first = self.backends.iter().position(|backend| {
            let here = left < backend.weight;
            left = left.saturating_sub(backend.weight);
            here
        });
        let (before, from) = self.backends.split_at(first.unwrap_or(0).min(self.backends.len()));
        from.iter().chain(before).copied().filter(|backend| backend.weight > 0)
    }
}

impl StreamTable {
    /// The route for a connection that came in by `door`; `name` is what the client asked for in TLS, in lower
    /// case, and empty where it asked for nothing.
    pub fn find(&self, door: impl Into<Door>, name: &str) -> Option<&Arc<StreamRoute>> {
        let attached = door.into().of(|door| self.doors.get(&door))?.search(name, Some)?;
        attached.search(name, Some).and_then(|route| self.routes.get(*route))
    }

    /// Whether connections that came in by this door may find a route.
    pub fn takes(&self, door: Door) -> Takes {
        let some =
            |door: Door| self.doors.get(&door).is_some_and(|names| names.values().any(|it| !it.is_empty()));
        match door.meant {
            Some(_) if some(door) => Takes::Named,
            _ if some(Door::from(door.port)) => Takes::Any,
            _ => Takes::Nothing,
        }
    }

    /// Every port that a route names for redirected connections of the listener on `port`, and any.
    pub fn meant(&self, port: u16) -> impl Iterator<Item = Option<u16>> + '_ {
        self.doors.keys().filter(move |door| door.port == port).map(|door| door.meant)
    }

    /// Every route.
    pub fn all(&self) -> &[Arc<StreamRoute>] {
        &self.routes
    }

    /// Makes a listener known, so that its name is not served by another.
    pub fn listener(&mut self, door: impl Into<Door>, hostname: Option<&str>) {
        self.doors.entry(door.into()).or_default().entry(hostname, Hosts::default);
    }

    /// Adds a route; gives its place for [`Self::attach`].
    pub fn add(&mut self, route: StreamRoute) -> usize {
        self.routes.push(Arc::new(route));
        self.routes.len() - 1
    }

    /// Lets the connections for `host` of a listener take a route; gives the route that has them already.
    pub fn attach(
        &mut self,
        door: impl Into<Door>,
        listener: Option<&str>,
        host: Option<&str>,
        route: usize,
    ) -> Option<&Arc<StreamRoute>> {
        let attached = self.doors.entry(door.into()).or_default().entry(listener, Hosts::default);
        let taken = *attached.entry(host, || route);
        if taken == route { None } else { self.routes.get(taken) }
    }
}

#[cfg(test)]
mod tests {
    use super::{StreamBackend, StreamRoute, StreamTable};
    use foregate_filters::chain::Chain;
    use std::sync::Arc;

    use crate::description::{Description, Origin};

    fn route(name: &str, weights: &[u32]) -> StreamRoute {
        let description = Description {
            revision: "r".into(),
            route: Origin { file: "f".into(), line: 1 },
            links: Vec::new(),
            upstreams: Vec::new(),
            headers: Vec::new(),
        };
        StreamRoute {
            name: name.into(),
            fingerprint: 0,
            chain: Chain::default(),
            backends: weights
                .iter()
                .enumerate()
                .map(|(upstream, weight)| StreamBackend { upstream, weight: *weight })
                .collect(),
            total_weight: weights.iter().sum(),
            description: Arc::new(description),
        }
    }

    #[test]
    fn names_lead_to_the_route_of_their_own_listener() {
        let mut table = StreamTable::default();
        table.listener(443, Some("*.example.com"));
        table.listener(443, Some("db.example.com"));
        table.listener(5432, None);
        let wild = table.add(route("wild", &[1]));
        let db = table.add(route("db", &[1]));
        let tcp = table.add(route("tcp", &[1]));
        assert!(table.attach(443, Some("*.example.com"), Some("*.example.com"), wild).is_none());
        assert!(table.attach(443, Some("db.example.com"), Some("db.example.com"), db).is_none());
        assert!(table.attach(5432, None, None, tcp).is_none());
        let other = table.add(route("other", &[1]));
        assert_eq!(table.attach(5432, None, None, other).map(|taken| &*taken.name), Some("tcp"));
        let name = |port, name| table.find(port, name).map(|route| route.name.to_string());
        assert_eq!(name(443, "a.example.com").as_deref(), Some("wild"));
        assert_eq!(name(443, "db.example.com").as_deref(), Some("db"));
        assert_eq!(name(443, "example.com"), None);
        assert_eq!(name(443, ""), None);
        assert_eq!(name(5432, "").as_deref(), Some("tcp"));
        assert_eq!(name(5433, ""), None);
    }

    #[test]
    fn weights_choose_the_first_backend_and_the_others_stand_in() {
        let route = route("w", &[1, 0, 3]);
        let order = |number| route.in_turn(number).map(|backend| backend.upstream).collect::<Vec<_>>();
        assert_eq!(order(0), [0, 2]);
        for number in 1..4 {
            assert_eq!(order(number), [2, 0]);
        }
        assert_eq!(order(4), [0, 2]);
    }
}
