//! Counts of the connections to one upstream: open, idle, taken again, not had.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dispatch::connect::ConnectError;
use crate::telemetry::Telemetry;
use crate::telemetry::occupancy::Occupancy;
use crate::telemetry::sources::Kind;

/// Why no connection came about, as a label.
const FAULTS: [&str; 4] = ["tcp", "timeout", "tls", "http"];

/// What is counted of all connections to one upstream.
#[derive(Debug, Default)]
pub struct ConnectionTally {
    pub open: Occupancy,
    opened: AtomicU64,
    failures: [AtomicU64; FAULTS.len()],
    shelves: Mutex<Shelves>,
}

/// The counts of all shelves. Those of one that goes are added to the rest in the moment in which they leave the list:
/// a counter never goes back.
#[derive(Debug, Default)]
struct Shelves {
    /// By shelves that are gone.
    reused: u64,
    counts: Vec<Arc<ShelfCounts>>,
}

/// What one thread writes and scrapes read: no thread waits for another.
#[derive(Debug, Default)]
struct ShelfCounts {
    idle: AtomicUsize,
    reused: AtomicU64,
}

/// The part of one shelf.
#[derive(Debug)]
pub struct ShelfTally {
    counts: Arc<ShelfCounts>,
    of: Arc<ConnectionTally>,
}

type Read = fn(&ConnectionTally) -> f64;

impl ConnectionTally {
    /// The part of a new shelf.
    pub fn shelf(self: &Arc<Self>) -> Arc<ShelfTally> {
        let counts = Arc::<ShelfCounts>::default();
        self.shelves().counts.push(Arc::clone(&counts));
        Arc::new(ShelfTally { counts, of: Arc::clone(self) })
    }

    pub fn connected<T>(&self, outcome: &Result<T, ConnectError>) {
        let Err(error) = outcome else {
            self.opened.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let place = match error {
            ConnectError::Tcp(_) | ConnectError::Loop(_) => 0,
            ConnectError::Timeout => 1,
            ConnectError::Tls(_) | ConnectError::Name(_) => 2,
            ConnectError::Http(_) => 3,
        };
        if let Some(count) = self.failures.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> u64 {
        self.shelves().counts.iter().map(|shelf| shelf.idle.load(Ordering::Relaxed) as u64).sum()
    }

    fn reused(&self) -> u64 {
        let shelves = self.shelves();
        shelves.reused + shelves.counts.iter().map(|shelf| shelf.reused.load(Ordering::Relaxed)).sum::<u64>()
    }

    /// Registers what is counted.
    #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
    pub fn measure(self: &Arc<Self>, upstream: &str, telemetry: &Telemetry) {
        let add = |kind,
                   name: &str,
                   help: &str,
                   label: Option<(&str, &str)>,
                   read: Box<dyn Fn(&Self) -> f64 + Send + Sync>| {
            let labels: Vec<_> = [("upstream", upstream)].into_iter().chain(label).collect();
            telemetry.sources().register_part(kind, name, help, &labels, self, read);
        };
        let gauges: [(&str, Read); 2] =
            [("open", |it| it.open.count() as f64), ("idle", |it| it.idle() as f64)];
        for (state, read) in gauges {
            let help = "Connections to an upstream, those of checks included; idle ones are open too.";
            add(Kind::Gauge, "foregate_upstream_connections", help, Some(("state", state)), Box::new(read));
        }
        let help = "Connections to an upstream that were opened.";
        let read: Read = |it| it.opened.load(Ordering::Relaxed) as f64;
        add(Kind::Counter, "foregate_upstream_connections_opened_total", help, None, Box::new(read));
        let help = "Times that a connection to an upstream was used again.";
        let read: Read = |it| it.reused() as f64;
        add(Kind::Counter, "foregate_upstream_connections_reused_total", help, None, Box::new(read));
        for (place, reason) in FAULTS.into_iter().enumerate() {
            let help = "Connections to an upstream that did not come about.";
            let read = move |it: &Self| {
                it.failures.get(place).map_or(f64::NAN, |count| count.load(Ordering::Relaxed) as f64)
            };
            let name = "foregate_upstream_connection_failures_total";
            add(Kind::Counter, name, help, Some(("reason", reason)), Box::new(read));
        }
    }
}

impl ShelfTally {
    /// So many lie there now.
    pub fn holds(&self, idle: usize) {
        self.counts.idle.store(idle, Ordering::Relaxed);
    }

    /// One was taken again. Only the thread of the shelf writes.
    pub fn taken(&self) {
        let reused = self.counts.reused.load(Ordering::Relaxed);
        self.counts.reused.store(reused + 1, Ordering::Relaxed);
    }
}

impl Drop for ShelfTally {
    fn drop(&mut self) {
        let mut shelves = self.of.shelves();
        if let Some(place) = shelves.counts.iter().rposition(|other| Arc::ptr_eq(other, &self.counts)) {
            shelves.counts.swap_remove(place);
        }
        shelves.reused += self.counts.reused.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectionTally;
    use std::sync::Arc;

    #[test]
    fn what_a_shelf_counted_outlives_it_and_what_it_held_does_not() {
        let tally = Arc::new(ConnectionTally::default());
        let (one, other) = (tally.shelf(), tally.shelf());
        one.holds(3);
        other.holds(1);
        one.taken();
        other.taken();
        other.taken();
        assert_eq!((tally.idle(), tally.reused()), (4, 3));
        drop(one);
        assert_eq!((tally.idle(), tally.reused()), (1, 3));
    }

    #[test]
    fn the_counter_never_goes_back_while_shelves_go() {
        let tally = Arc::new(ConnectionTally::default());
        let shelves: Vec<_> = (0..20_000).map(|_| tally.shelf()).collect();
        for shelf in &shelves {
            shelf.taken();
        }
        // From the last on, so that none has to be looked for.
        let gone = std::thread::spawn(move || shelves.into_iter().rev().for_each(drop));
        while !gone.is_finished() {
            assert_eq!(tally.reused(), 20_000);
        }
        gone.join().unwrap();
        assert_eq!((tally.idle(), tally.reused()), (0, 20_000));
    }
}
