//! Finds the route of a request, with the precedence of Gateway API v1.6.

pub mod destinations;
pub mod hosts;
pub mod matcher;
pub mod paths;
pub mod rpcs;
pub mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use http::request;

use crate::route::Route;
use crate::routes::hosts::Hosts;
use crate::routes::matcher::PathMatcher;
use crate::routes::paths::{Candidate, Order, Paths, Shadow};

/// All routes of a snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    /// By where it came in, and whether TLS is spoken there.
    sockets: AHashMap<(Door, bool), Hosts<Attached>>,
}

/// Where a request or connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Door {
    /// Port of the listener.
    pub port: u16,
    /// The port that it meant, where the kernel redirected it; `None` for every such port, and for other listeners.
    pub meant: Option<u16>,
}

impl From<u16> for Door {
    fn from(port: u16) -> Self {
        Self { port, meant: None }
    }
}

impl Door {
    /// The value for this door; where there is none, that for every port that may be meant.
    fn of<T>(self, find: impl Fn(Self) -> Option<T>) -> Option<T> {
        find(self).or_else(|| self.meant.and_then(|_| find(Self::from(self.port))))
    }
}

/// How well a table of routes knows a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// No route is attached there.
    Nothing,
    /// Routes for every port that may be meant.
    Any,
    /// Routes for the port that was meant, and for no other.
    Named,
}

/// The routes attached to one listener.
#[derive(Debug)]
struct Attached {
    listener: usize,
    hosts: Hosts<Paths>,
}

/// Why no route was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMiss {
    /// No listener on this port serves the host.
    Host,
    /// No rule matches the request.
    Rule,
}

/// Gathers routes and matches, then makes the table.
#[derive(Debug, Default)]
pub struct TableBuilder {
    table: RouteTable,
    listeners: usize,
}

/// A place where matches are put.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub door: Door,
    pub tls: bool,
    /// Host name of the listener, `None` for every name.
    pub listener: Option<&'a str>,
    /// Host name of the route, `None` for every name of the listener.
    pub host: Option<&'a str>,
}

impl RouteTable {
    /// The route for a request that came in by `door`, over TLS or not.
    ///
    /// `host` is in lower case, without port. The path of `head.uri` is canonical. Allocates nothing,
    /// unless a match reads a query parameter with escapes or a header sent in several lines.
    pub fn find(
        &self,
        door: impl Into<Door>,
        tls: bool,
        host: &str,
        head: &request::Parts,
    ) -> Result<&Arc<Route>, RouteMiss> {
        let attached = self.attached(door.into(), tls, host).ok_or(RouteMiss::Host)?;
        let path = head.uri.path();
        let route = attached.hosts.search(host, |paths| paths.find(path, head));
        route.and_then(|route| self.routes.get(route)).ok_or(RouteMiss::Rule)
    }

    /// Which listener serves `host` on this port. Equal answers mean the same listener: compare the one
    /// of the TLS server name with the one of the `Host` to see a misdirected request.
    pub fn listener(&self, door: impl Into<Door>, tls: bool, host: &str) -> Option<usize> {
        self.attached(door.into(), tls, host).map(|attached| attached.listener)
    }

    /// Whether requests that came in by this door may find a route.
    pub fn takes(&self, door: Door, tls: bool) -> Takes {
        let some = |door: Door| {
            self.sockets.get(&(door, tls)).is_some_and(|names| names.values().any(|it| !it.hosts.is_empty()))
        };
        match door.meant {
            Some(_) if some(door) => Takes::Named,
            _ if some(Door::from(door.port)) => Takes::Any,
            _ => Takes::Nothing,
        }
    }

    /// The listener with exactly this host name on this port, `None` for that of every name.
    pub fn named(&self, door: impl Into<Door>, tls: bool, hostname: Option<&str>) -> Option<usize> {
        let names = door.into().of(|door| self.sockets.get(&(door, tls)))?;
        names.named(hostname).map(|attached| attached.listener)
    }

    /// Every route, by [`Route::id`].
    pub fn all(&self) -> &[Arc<Route>] {
        &self.routes
    }

    fn attached(&self, door: Door, tls: bool, host: &str) -> Option<&Attached> {
        door.of(|door| self.sockets.get(&(door, tls))).and_then(|names| names.search(host, Some))
    }
}

impl TableBuilder {
    /// Makes a listener known, so that its hosts are served even if no route attaches.
    pub fn listener(&mut self, door: impl Into<Door>, tls: bool, hostname: Option<&str>) {
        let listener = self.listeners;
        self.listeners += 1;
        let names = self.table.sockets.entry((door.into(), tls)).or_default();
        names.entry(hostname, || Attached { listener, hosts: Hosts::default() });
    }

    /// The index the next route gets.
    pub fn next(&self) -> usize {
        self.table.routes.len()
    }

    pub fn route(&mut self, route: Route) {
        self.table.routes.push(Arc::new(route));
    }

    /// Lets a match lead to a route.
    pub fn insert(&mut self, place: Place<'_>, path: PathMatcher, candidate: Candidate) {
        let names = self.table.sockets.entry((place.door, place.tls)).or_default();
        let listener = self.listeners;
        let attached = names.entry(place.listener, || Attached { listener, hosts: Hosts::default() });
        attached.hosts.entry(place.host, Paths::default).insert(path, candidate);
    }

    /// The table, and every match that no request can reach with what takes its requests.
    pub fn build(mut self) -> (RouteTable, Vec<(Order, Shadow)>) {
        let mut shadows: BTreeMap<Order, Option<Shadow>> = BTreeMap::new();
        for attached in self.table.sockets.values_mut().flat_map(Hosts::values_mut) {
            for paths in attached.hosts.values_mut() {
                paths.sort();
                for (order, by) in paths.shadows() {
                    // Reachable in one place is reachable.
                    let reached = by.is_none();
                    let seen = shadows.entry(order.clone()).or_insert(by);
                    if reached {
                        *seen = None;
                    }
                }
            }
        }
        let shadows = shadows.into_iter().filter_map(|(order, by)| by.map(|by| (order, by))).collect();
        (self.table, shadows)
    }
}
