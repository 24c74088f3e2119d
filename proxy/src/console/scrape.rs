//! The numbers of one scrape by route, read from the text of `/metrics`.

use std::collections::BTreeMap;

use serde::Serialize;

/// The families that are read, and the labels that are looked at.
mod names {
    /// One series a route, method and status.
    pub(super) const DURATION: &str = "http_server_request_duration_seconds";
    pub(super) const ROUTE: &str = "http_route";
    pub(super) const STATUS: &str = "http_response_status_code";
    /// There where something failed that the status does not tell of.
    pub(super) const FAULT: &str = "error_type";
    pub(super) const ADDED: &str = "foregate_added_duration_seconds";
    pub(super) const ADDED_ROUTE: &str = "route";
    pub(super) const REFUSALS: &str = "foregate_refusals_total";
    pub(super) const ACTIVE: &str = "http_server_active_requests";
}

/// The numbers of one moment, since the start of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrape {
    pub(super) routes: BTreeMap<String, Counts>,
    pub(super) refusals: BTreeMap<Refusal, u64>,
    pub(super) active: u64,
}

/// The numbers of one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// Answered with 5xx, broken off, or gRPC calls whose code says so.
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) duration: Buckets,
    pub(super) added: Buckets,
}

/// Who refused where.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Refusal {
    pub(super) route: String,
    pub(super) step: String,
    pub(super) reason: String,
    pub(super) rule: String,
}

/// Cumulative counts by upper bound in seconds, ascending; the last bound is infinite.
#[derive(Clone, Debug, Default)]
pub(super) struct Buckets(Vec<(f64, u64)>);

/// One line of a scrape.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl Scrape {
    /// Reads a scrape in the format of `OpenMetrics`.
    pub(super) fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(sample) = wanted(line).then(|| Sample::parse(line)).flatten() {
                scrape.take(&sample);
            }
        }
        scrape
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, below 2^53")]
    fn take(&mut self, sample: &Sample<'_>) {
        let count = sample.value as u64;
        match sample.name {
            names::ACTIVE => self.active = count,
            names::REFUSALS => {
                let label = |name| sample.label(name).unwrap_or_default().to_owned();
                let [route, step, reason, rule] = ["route", "step", "reason", "rule"].map(label);
                self.route(&route).refused += count;
                *self.refusals.entry(Refusal { route, step, reason, rule }).or_default() += count;
            }
            name => {
                if let Some(part) = name.strip_prefix(names::DURATION) {
                    let status = sample.label(names::STATUS).unwrap_or_default();
                    let failed = status.starts_with('5') || sample.label(names::FAULT).is_some();
                    let route = self.route(sample.label(names::ROUTE).unwrap_or_default());
                    match part {
                        "_count" => {
                            route.requests += count;
                            route.failed += if failed { count } else { 0 };
                        }
                        "_bucket" => route.duration.add(sample, count),
                        _ => {}
                    }
                } else if name.strip_prefix(names::ADDED) == Some("_bucket") {
                    self.route(sample.label(names::ADDED_ROUTE).unwrap_or_default()).added.add(sample, count);
                }
            }
        }
    }

    fn route(&mut self, name: &str) -> &mut Counts {
        if !self.routes.contains_key(name) {
            self.routes.insert(name.to_owned(), Counts::default());
        }
        self.routes.entry(name.to_owned()).or_default()
    }

    /// All routes together.
    pub(super) fn total(&self) -> Counts {
        let mut total = Counts::default();
        for route in self.routes.values() {
            total.requests += route.requests;
            total.failed += route.failed;
            total.refused += route.refused;
            total.duration.add_all(&route.duration);
            total.added.add_all(&route.added);
        }
        total
    }
}

/// True for lines of families that are read: the others are not taken apart.
fn wanted(line: &str) -> bool {
    [names::DURATION, names::ADDED, names::REFUSALS, names::ACTIVE].iter().any(|name| line.starts_with(name))
}

impl<'a> Sample<'a> {
    /// Takes a line apart; what follows the value is left aside.
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at_checked(end)?;
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
                let (value, after) = unquoted(after)?;
                labels.push((label, value));
                rest = after;
            }
            rest = rest.strip_prefix('}')?;
        }
        let value = rest.trim_start().split(' ').next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
    }
}

/// The value up to its closing quote, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

impl Buckets {
    fn add(&mut self, sample: &Sample<'_>, count: u64) {
        let bound = match sample.label("le") {
            Some("+Inf") => f64::INFINITY,
            Some(bound) => bound.parse().unwrap_or(f64::INFINITY),
            None => return,
        };
        self.add_at(bound, count);
    }

    fn add_at(&mut self, bound: f64, count: u64) {
        match self.0.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(place) => {
                if let Some((_, known)) = self.0.get_mut(place) {
                    *known += count;
                }
            }
            Err(place) => self.0.insert(place, (bound, count)),
        }
    }

    fn add_all(&mut self, other: &Self) {
        for (bound, count) in &other.0 {
            self.add_at(*bound, *count);
        }
    }

    /// What came since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let found = before.0.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
            found.map_or(0, |(_, count)| *count)
        };
        Self(self.0.iter().map(|(bound, count)| (*bound, count.saturating_sub(earlier(*bound)))).collect())
    }

    /// The value under which this share of all lies, in seconds: within a bucket as if it were filled evenly, as
    /// `histogram_quantile` has it; `None` of nothing.
    #[expect(clippy::cast_precision_loss, reason = "counts, below 2^53")]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let rank = share * all as f64;
        let (mut low, mut below) = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count as f64 >= rank && *count > below {
                let within = (rank - below as f64) / (count - below) as f64;
                return Some(if bound.is_finite() { low + (bound - low) * within } else { low });
            }
            (low, below) = (*bound, *count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, Refusal, Sample, Scrape};

    const TEXT: &str = r#"# HELP http_server_active_requests x
http_server_active_requests 3
http_server_request_duration_seconds_bucket{le="0.001",http_request_method="GET",http_response_status_code="200",http_route="leads"} 6 # {decision_id="1"} 0.1 1.5
http_server_request_duration_seconds_bucket{le="0.01",http_request_method="GET",http_response_status_code="200",http_route="leads"} 10
http_server_request_duration_seconds_bucket{le="+Inf",http_request_method="GET",http_response_status_code="200",http_route="leads"} 10
http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",http_route="leads"} 10
http_server_request_duration_seconds_sum{http_request_method="GET",http_response_status_code="200",http_route="leads"} 0.02
http_server_request_duration_seconds_bucket{le="0.001",http_request_method="POST",http_response_status_code="502",http_route="leads"} 0
http_server_request_duration_seconds_bucket{le="0.01",http_request_method="POST",http_response_status_code="502",http_route="leads"} 0
http_server_request_duration_seconds_bucket{le="+Inf",http_request_method="POST",http_response_status_code="502",http_route="leads"} 2
http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="502",http_route="leads"} 2
http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="calls",rpc_response_status_code="OK"} 4
http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="calls",rpc_response_status_code="UNAVAILABLE",error_type="UpstreamUnreachable"} 3
foregate_added_duration_seconds_bucket{le="0.0001",route="leads"} 12
foregate_added_duration_seconds_bucket{le="+Inf",route="leads"} 12
foregate_refusals_total{route="",step="route",reason="RouteNotFound",rule=""} 4
foregate_refusals_total{route="leads",step="admit",reason="RateLimited",rule="a \"b\\c\n,}"} 5
foregate_scores_total{model="m",outcome="scored"} 7
"#;

    #[test]
    fn a_scrape_is_added_up_by_route() {
        let scrape = Scrape::parse(TEXT);
        let leads = &scrape.routes["leads"];
        assert_eq!((leads.requests, leads.failed, leads.refused), (12, 2, 5));
        assert_eq!((scrape.routes["calls"].requests, scrape.routes["calls"].failed), (7, 3));
        assert_eq!(leads.duration.0, [(0.001, 6), (0.01, 10), (f64::INFINITY, 12)]);
        assert_eq!(leads.added.0, [(0.0001, 12), (f64::INFINITY, 12)]);
        assert_eq!((scrape.routes[""].requests, scrape.routes[""].refused), (0, 4));
        let rule = Refusal {
            route: "leads".to_owned(),
            step: "admit".to_owned(),
            reason: "RateLimited".to_owned(),
            rule: "a \"b\\c\n,}".to_owned(),
        };
        assert_eq!(scrape.refusals[&rule], 5);
        assert_eq!(scrape.active, 3);
        let total = scrape.total();
        assert_eq!((total.requests, total.failed, total.refused), (19, 5, 9));
    }

    #[test]
    fn what_is_no_sample_is_left_aside() {
        for line in [
            "",
            "name",
            "name{",
            "name{a=\"",
            "name{a=\"b\"",
            "name{a=\"b\"} ",
            "name{a=\"b\"} x",
            "name{a} 1",
        ] {
            assert!(Sample::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let buckets = Buckets(vec![(0.001, 50), (0.01, 99), (0.1, 99), (f64::INFINITY, 100)]);
        assert_eq!(buckets.quantile(0.5), Some(0.001));
        assert!((buckets.quantile(0.25).unwrap() - 0.0005).abs() < 1e-12);
        assert!((buckets.quantile(0.99).unwrap() - 0.01).abs() < 1e-12);
        assert_eq!(buckets.quantile(1.0), Some(0.1), "what is over the last bound is at least that");
        let since = buckets.since(&Buckets(vec![(0.001, 50), (0.01, 50), (0.1, 50), (f64::INFINITY, 50)]));
        assert_eq!(since.0, [(0.001, 0), (0.01, 49), (0.1, 49), (f64::INFINITY, 50)]);
        assert!(since.quantile(0.5).unwrap() > 0.001);
        assert_eq!(Buckets::default().quantile(0.5), None);
        assert_eq!(buckets.since(&buckets).quantile(0.5), None);
    }
}
