//! The label sets of the metrics, and what fills them.

use std::sync::Arc;

use foregate_filters::score::ScoreFault;
use http::Method;
use prometheus_client::encoding::EncodeLabelSet;

use crate::telemetry::histogram::{Labels, Pairs};

/// Stands for every name that found no room in a bounded label.
pub const OTHER: &str = "other";

/// The labels that callers and services choose, of lists that are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exchange {
    pub method: &'static str,
    pub status: &'static str,
    /// How a gRPC call ended; empty of what is none.
    pub code: &'static str,
    /// What failed, where the status does not tell; else empty.
    pub fault: &'static str,
}

/// Requests of clients; the names are those of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerLabels {
    pub exchange: Exchange,
    pub route: Arc<str>,
}

/// Requests to upstreams; no status where there was no response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientLabels {
    pub server: ServerLabels,
    pub upstream: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteLabels {
    pub route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepLabels {
    pub step: &'static str,
}

impl Exchange {
    /// True where method and status say all.
    pub const fn is_plain(&self) -> bool {
        self.code.is_empty() && self.fault.is_empty()
    }

    /// True where it failed, or brought no response.
    pub fn failed(&self) -> bool {
        self.status.is_empty() || self.status.starts_with('5') || !self.fault.is_empty()
    }

    /// What it counts as where neither methods nor codes are told apart; that it failed is not forgotten.
    #[must_use]
    pub fn of_class(self, status: u16) -> Self {
        let fault = if self.fault.is_empty() { "" } else { OTHER_FAULT };
        Self { method: OTHER_METHOD, status: class(status), code: "", fault }
    }
}

impl Labels for ServerLabels {
    fn pairs(&self) -> Pairs<'_> {
        let Exchange { method, status, code, fault } = self.exchange;
        let mut pairs = Pairs::from_iter([
            ("http_request_method", method),
            ("http_response_status_code", status),
            ("http_route", &*self.route),
        ]);
        let more = [("rpc_response_status_code", code), ("error_type", fault)];
        pairs.extend(more.into_iter().filter(|(_, value)| !value.is_empty()));
        pairs
    }

    fn rest(&self) -> Self {
        Self { route: OTHER.into(), ..self.clone() }
    }
}

impl Labels for ClientLabels {
    fn pairs(&self) -> Pairs<'_> {
        let mut pairs = self.server.pairs();
        pairs.push(("foregate_upstream", &*self.upstream));
        pairs
    }

    fn rest(&self) -> Self {
        Self { server: self.server.rest(), upstream: OTHER.into() }
    }
}

impl Labels for RouteLabels {
    fn pairs(&self) -> Pairs<'_> {
        Pairs::from_iter([("route", &*self.route)])
    }

    fn rest(&self) -> Self {
        Self { route: OTHER.into() }
    }
}

impl Labels for StepLabels {
    fn pairs(&self) -> Pairs<'_> {
        Pairs::from_iter([("step", self.step)])
    }

    fn rest(&self) -> Self {
        self.clone()
    }
}

/// A request to an upstream that brought no response, or only a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    pub upstream: Arc<str>,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    pub route: Arc<str>,
    pub step: &'static str,
    pub reason: &'static str,
    pub rule: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuditLabels {
    pub route: Arc<str>,
    pub rule: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShadowLabels {
    pub policy: Arc<str>,
    pub verdict: &'static str,
    pub real: &'static str,
    pub rule: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RevocationLabels {
    pub route: Arc<str>,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ScoreLabels {
    pub model: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabels {
    pub model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabels {
    pub store: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    pub rule: Arc<str>,
    pub admitted: &'static str,
}

/// A shared limit whose store could not be asked, and what was done instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnavailableLabels {
    pub rule: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabels {
    pub listener: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MirrorLabels {
    pub upstream: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InjectionLabels {
    pub rule: Arc<str>,
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RevisionLabels {
    pub revision: Arc<str>,
}

/// What became of one body that a rule wanted scored.
pub const OUTCOMES: [&str; 6] = ["scored", "body", "feature", "late", "busy", "model"];

/// The place in [`OUTCOMES`] of a rule's outcome.
pub const fn outcome(fault: Option<&ScoreFault>) -> usize {
    match fault {
        None => 0,
        Some(ScoreFault::Body { .. }) => 1,
        Some(ScoreFault::Feature(_)) => 2,
        Some(ScoreFault::Late) => 3,
        Some(ScoreFault::Busy) => 4,
        Some(ScoreFault::Model(_)) => 5,
    }
}

/// Stands for methods without a series of their own.
pub const OTHER_METHOD: &str = "_OTHER";

/// Methods that have a series of their own; the rest share the last place, as OpenTelemetry has it.
const KNOWN_METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", OTHER_METHOD];

/// Stands for what failed in no way that has a name, or that is told apart.
pub const OTHER_FAULT: &str = "_OTHER";

/// How many values the label of methods may have.
pub const METHODS: usize = KNOWN_METHODS.len();

/// The place of a method among [`METHODS`], and its label.
pub fn method(method: &Method) -> (usize, &'static str) {
    let place = match *method {
        Method::CONNECT => 0,
        Method::DELETE => 1,
        Method::GET => 2,
        Method::HEAD => 3,
        Method::OPTIONS => 4,
        Method::PATCH => 5,
        Method::POST => 6,
        Method::PUT => 7,
        Method::TRACE => 8,
        _ => METHODS - 1,
    };
    (place, KNOWN_METHODS.get(place).copied().unwrap_or(OTHER_METHOD))
}

/// Status codes that have a series of their own, ascending.
const CODES: [(u16, &str); 36] = [
    (100, "100"),
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (412, "412"),
    (413, "413"),
    (415, "415"),
    (417, "417"),
    (421, "421"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

/// The rest share a series a class.
const CLASSES: [&str; 6] = [OTHER, "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How many values the label of statuses may have, the empty one included.
pub const STATUSES: usize = CODES.len() + CLASSES.len() + 1;

/// The place of a status code among [`STATUSES`], and its label; 0 stands for no response.
pub fn status(code: u16) -> (usize, &'static str) {
    if code == 0 {
        return (STATUSES - 1, "");
    }
    let found = CODES.binary_search_by_key(&code, |(known, _)| *known);
    if let Some((place, (_, label))) = found.ok().and_then(|place| CODES.get(place).map(|it| (place, it))) {
        return (place, label);
    }
    let class = usize::from(code / 100);
    CLASSES.get(class).map_or((CODES.len(), OTHER), |label| (CODES.len() + class, label))
}

/// The label of a status code where codes are not told apart.
pub fn class(code: u16) -> &'static str {
    if code == 0 { "" } else { CLASSES.get(usize::from(code / 100)).copied().unwrap_or(OTHER) }
}

#[cfg(test)]
mod tests {
    use super::{METHODS, STATUSES, class, method, status};
    use http::Method;
    use std::collections::HashMap;

    #[test]
    fn every_code_has_a_place_and_a_place_one_label() {
        let mut labels = HashMap::new();
        for code in 0..=u16::MAX {
            let (place, label) = status(code);
            assert!(place < STATUSES, "{code}");
            assert_eq!(*labels.entry(place).or_insert(label), label, "{code}");
        }
        assert_eq!(labels.len(), STATUSES);
    }

    #[test]
    fn methods_are_a_closed_list_each_at_its_own_place() {
        let names = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
        for (place, name) in names.into_iter().enumerate() {
            assert_eq!(method(&Method::from_bytes(name.as_bytes()).unwrap()), (place, name));
        }
        for strange in ["PROPFIND", "get", "X", "QUERY"] {
            let strange = Method::from_bytes(strange.as_bytes()).unwrap();
            assert_eq!(method(&strange), (METHODS - 1, "_OTHER"));
        }
    }

    #[test]
    fn usual_codes_are_told_apart_and_strange_ones_share_a_class() {
        for (code, label) in
            [(200, "200"), (429, "429"), (418, "4xx"), (599, "5xx"), (99, "other"), (600, "other"), (0, "")]
        {
            assert_eq!(status(code).1, label);
        }
        for (code, label) in
            [(200, "2xx"), (429, "4xx"), (599, "5xx"), (99, "other"), (600, "other"), (0, "")]
        {
            assert_eq!(class(code), label);
        }
    }
}
