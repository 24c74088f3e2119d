//! Counts connections that were passed on unread, and their bytes, by route.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::Telemetry;
use crate::telemetry::record::{End, Record};
use crate::telemetry::sources::Kind;

/// Most routes with numbers of their own; the others count as one.
const MAX_ROUTES: usize = 100;

/// The name of the others.
const OTHER: &str = "other";

/// Count connections by how they ended, and their bytes by direction.
const CONNECTIONS: &str = "foregate_stream_connections_total";
const BYTES: &str = "foregate_stream_bytes_total";

/// What becomes of a connection, as a label.
const OUTCOMES: [&str; 7] =
    ["complete", "client_gone", "upstream_broke", "revoked", "idle", "refused", "drained"];

/// The numbers of one route.
#[derive(Debug, Default)]
struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// From clients, and to them.
    bytes: [AtomicU64; 2],
}

/// The numbers of all routes.
#[derive(Debug)]
pub struct StreamTally {
    telemetry: Arc<Telemetry>,
    routes: Mutex<HashMap<Arc<str>, Arc<Counts>>>,
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn number(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64
}

impl StreamTally {
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, routes: Mutex::default() }
    }

    /// Counts a connection that has ended.
    pub fn observe(&self, record: &Record) {
        let counts = self.of(&record.route);
        let outcome = match record.end {
            End::Revoked => 3,
            _ if record.refusal.is_some() => 5,
            End::Complete => 0,
            End::ClientGone => 1,
            End::UpstreamBroke => 2,
            End::Idle | End::Late => 4,
            End::Drained => 6,
        };
        let add = |counter: Option<&AtomicU64>, more: u64| {
            if let Some(counter) = counter {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(counts.outcomes.get(outcome), 1);
        add(counts.bytes.first(), record.bytes_received);
        add(counts.bytes.last(), record.bytes_sent);
    }

    /// The numbers of a route, made where there are none.
    fn of(&self, route: &Arc<str>) -> Arc<Counts> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = routes.get(route) {
            return Arc::clone(counts);
        }
        let fits = routes.len() < MAX_ROUTES;
        if !fits {
            for name in [CONNECTIONS, BYTES] {
                self.telemetry.sources().refuse(name);
            }
        }
        let name = if fits { Arc::clone(route) } else { Arc::from(OTHER) };
        let counts = routes.entry(Arc::clone(&name)).or_insert_with(|| self.registered(&name));
        Arc::clone(counts)
    }

    fn registered(&self, route: &str) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        for (place, outcome) in OUTCOMES.iter().enumerate() {
            let counts = Arc::clone(&counts);
            self.telemetry.register_source(
                Kind::Counter,
                CONNECTIONS,
                "Connections that were passed on unread and have ended.",
                &[("route", route), ("end", outcome)],
                move || counts.outcomes.get(place).map_or(f64::NAN, number),
            );
        }
        for (place, direction) in ["received", "sent"].iter().enumerate() {
            let counts = Arc::clone(&counts);
            self.telemetry.register_source(
                Kind::Counter,
                BYTES,
                "Bytes of connections that were passed on unread, from and to clients.",
                &[("route", route), ("direction", direction)],
                move || counts.bytes.get(place).map_or(f64::NAN, number),
            );
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, CONNECTIONS, MAX_ROUTES, StreamTally};
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::sources::REFUSED_SERIES;
    use crate::telemetry::testing::record;
    use crate::telemetry::{Telemetry, TelemetryOptions};
    use std::sync::Arc;

    #[test]
    fn routes_beyond_the_bound_count_as_one_and_as_refused() {
        let options = TelemetryOptions { access_log: AccessLog::Off, ..Default::default() };
        let telemetry = Telemetry::new(options).unwrap();
        let tally = StreamTally::new(Arc::clone(&telemetry));
        let observe = |number: usize| {
            let mut record = record();
            record.route = format!("route-{number}").into();
            tally.observe(&record);
        };
        let told = |line: String| telemetry.exposition(true).lines().any(|it| it == line);
        let refused =
            |name: &str, count: &str| told(format!("{REFUSED_SERIES}{{metric=\"{name}\"}} {count}"));
        (0..MAX_ROUTES).for_each(observe);
        assert!(refused(CONNECTIONS, "0.0") && refused(BYTES, "0.0"));
        (0..MAX_ROUTES + 2).for_each(observe);
        assert!(told(format!("{CONNECTIONS}{{route=\"route-7\",end=\"complete\"}} 2.0")));
        assert!(told(format!("{CONNECTIONS}{{route=\"other\",end=\"complete\"}} 2.0")));
        assert!(told(format!("{BYTES}{{route=\"other\",direction=\"received\"}} 2048.0")));
        assert!(refused(CONNECTIONS, "2.0") && refused(BYTES, "2.0"));
    }
}
