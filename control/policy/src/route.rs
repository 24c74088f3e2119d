//! A route: what is required of its requests, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::chain::Chain;
use foregate_filters::edits::HeaderEdit;
use http::{HeaderValue, StatusCode};

use crate::balancing::Session;
use crate::description::Description;

/// One rule of an `HTTPRoute` or `GRPCRoute`, as seen from one `Gateway`.
#[derive(Debug)]
pub struct Route {
    /// Dense, from 0: an index for tables of metrics. Changes from snapshot to snapshot.
    pub id: usize,
    /// `<route>/<name of the rule, or its index>`; with the namespace in front where that is not `default`.
    pub name: Arc<str>,
    /// The same in two snapshots where nothing changed that decides about its requests.
    pub fingerprint: u64,
    pub chain: Chain,
    /// Largest request body in bytes that is collected for filters.
    pub body_limit: usize,
    pub action: Action,
    /// Applied to the request after the edits of the filters.
    pub request_headers: Vec<HeaderEdit>,
    /// Applied to the response after the edits of the filters.
    pub response_headers: Vec<HeaderEdit>,
    pub timeouts: Timeouts,
    /// Connections that fail or break off are tried once more where absent.
    pub retry: Option<Retry>,
    /// What keeps requests together, over all backends; where absent, each upstream says so itself.
    pub session: Option<Box<Session>>,
    /// Where all of this is written.
    pub description: Arc<Description>,
}

/// Deadlines of a route; `None` leaves it to the gateway's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the whole request head to the end of the response; zero switches it off (GEP-1742).
    pub request: Option<Duration>,
    /// For one attempt at a backend; zero switches it off.
    pub backend_request: Option<Duration>,
}

/// What is tried again on another endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Statuses, beside connections that fail, break off or are late.
    pub codes: Box<[u16]>,
    /// Attempts after the first.
    pub attempts: u8,
    /// Least time before the first retry; doubled with each.
    pub backoff: Duration,
}

/// What becomes of a request that nothing refused.
#[derive(Debug)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
}

/// Sends the request on.
#[derive(Debug)]
pub struct Forward {
    /// At least one has a weight above 0.
    pub backends: Vec<WeightedBackend>,
    /// Sum of all weights.
    pub total_weight: u32,
    pub rewrite: Rewrite,
    /// Who gets copies of requests besides.
    pub mirrors: Vec<Mirror>,
}

/// An upstream that gets copies of requests; its answers are ignored.
#[derive(Debug)]
pub struct Mirror {
    /// As a backend: no choice leads to it.
    pub backend: WeightedBackend,
    /// How many requests are copied.
    pub share: Share,
}

/// So many of so many, `numerator` at most `denominator`, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub numerator: u32,
    pub denominator: u32,
}

/// One of the upstreams of a route.
#[derive(Debug)]
pub struct WeightedBackend {
    /// Index into [`crate::snapshot::Snapshot::upstreams`].
    pub upstream: usize,
    /// Its share of `total_weight`; 0 never chooses it.
    pub weight: u32,
    /// Applied after those of the route.
    pub request_headers: Vec<HeaderEdit>,
    /// Applied after those of the route.
    pub response_headers: Vec<HeaderEdit>,
}

/// What changes in the target of a forwarded request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The `Host` the upstream sees.
    pub host: Option<HeaderValue>,
    pub path: Option<PathRewrite>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path.
    Full(Box<str>),
    /// The matched prefix, element by element.
    Prefix { matched: Box<str>, with: Box<str> },
}

/// Sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    pub status: StatusCode,
}

/// What a redirect keeps of the request where it says nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Without port.
    pub host: &'a str,
    /// Port of the listener.
    pub port: u16,
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

impl Forward {
    /// The backend that a rule chose, by its index.
    pub fn chosen(&self, index: Option<u16>) -> Option<&WeightedBackend> {
        self.backends.get(usize::from(index?))
    }

    /// The backend for a uniformly random `number`; `None` only where every weight is 0.
    pub fn choose(&self, number: u32) -> Option<&WeightedBackend> {
        let mut left = number.checked_rem(self.total_weight)?;
        self.backends.iter().find(|backend| {
            let here = left < backend.weight;
            left = left.saturating_sub(backend.weight);
            here
        })
    }
}

impl Share {
    /// Whether a uniformly random `number` falls into the share.
    pub fn takes(self, number: u32) -> bool {
        number.checked_rem(self.denominator).is_some_and(|rest| rest < self.numerator)
    }
}

impl PathRewrite {
    /// The new path for `path`, which the route's match has accepted.
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(with) => with.to_string(),
            Self::Prefix { matched, with } => {
                let rest = path.strip_prefix(&**matched).unwrap_or(path);
                let rest = rest.strip_prefix('/').unwrap_or(rest);
                let with = with.strip_suffix('/').unwrap_or(with);
                // Gateway API: `/foo` with prefix `/foo` replaced by `/bar` is `/bar`, `/foo/` is `/bar/`.
                if rest.is_empty() && !path.ends_with('/') && !with.is_empty() {
                    with.to_owned()
                } else {
                    format!("{with}/{rest}")
                }
            }
        }
    }
}

impl Redirect {
    /// The `Location` (RFC 9110, section 10.2.2) for a request to `from`.
    ///
    /// The port follows Gateway API: the one named; else the well-known one of the scheme named; else
    /// the listener's. The well-known port of the resulting scheme is left out.
    pub fn location(&self, from: Target<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(from.scheme);
        let host = self.host.as_deref().unwrap_or(from.host);
        let well_known = if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or(if self.scheme.is_some() { well_known } else { from.port });
        let path = self.path.as_ref().map_or_else(|| from.path.to_owned(), |path| path.apply(from.path));
        let port = if port == well_known { String::new() } else { format!(":{port}") };
        let query = from.query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}
