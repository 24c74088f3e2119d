//! How late the event loop of a worker is, and what it sheds.
//!
//! A ticker on each worker measures how much later it runs than it asked to. While that stays over [`TARGET`], a
//! growing part of the requests is refused at once, before anything is done for them; it shrinks again when the
//! loop keeps up (controlled delay as in `CoDel`, RFC 8289, with a probability in the place of drops).

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::clock;
use crate::telemetry::occupancy::Occupancy;
use crate::telemetry::random;

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);

/// How late a loop may be for long: a tenth of what people notice, and more than a busy machine does to it.
const TARGET: Duration = Duration::from_millis(100);

/// Looks in a row that are late before anything is shed.
const LATE: u32 = 3;

/// With fewer requests under way it is not requests that make the loop late.
const FEWEST: i64 = 256;

/// What a late look adds to the part that is shed, and what one in time takes off, in parts of 256.
const MORE: u32 = 16;
const LESS: u32 = 4;

/// Most that is shed, in parts of 256: some requests must pass, or nobody would see that the load has gone.
const MOST: u32 = 230;

/// How this process keeps up, over all its workers.
#[derive(Debug, Default)]
pub struct Load {
    /// The longest delay in the last look of any worker that was late, in microseconds; falls by half a look.
    delay: AtomicU64,
    shed: AtomicU64,
}

/// What one worker sheds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pressure {
    /// Late looks in a row.
    late: u32,
    /// Part of the requests that is shed, of 256.
    part: u32,
}

impl Pressure {
    /// The state after a look that came so much too late.
    fn after(self, delay: Duration, under_way: i64) -> Self {
        if delay < TARGET || under_way < FEWEST {
            return Self { late: 0, part: self.part.saturating_sub(LESS) };
        }
        let late = self.late.saturating_add(1);
        let part = if late >= LATE { (self.part + MORE).min(MOST) } else { self.part };
        Self { late, part }
    }
}

thread_local! {
    /// Of this worker.
    static PART: Cell<u32> = const { Cell::new(0) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

impl Load {
    /// Has this worker watched from now on; it is watched once, however often this is called.
    pub fn watch(self: &Arc<Self>, under_way: &Occupancy) {
        if !WATCHED.replace(true) {
            tokio::spawn(Arc::clone(self).look(under_way.clone()));
        }
    }

    async fn look(self: Arc<Self>, under_way: Occupancy) {
        let mut pressure = Pressure::default();
        let mut before = clock::monotonic();
        loop {
            sleep(TICK).await;
            let now = clock::monotonic();
            let delay = now.saturating_sub(before).saturating_sub(TICK);
            before = now;
            pressure = pressure.after(delay, under_way.count());
            PART.set(pressure.part);
            let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
            let known = self.delay.load(Ordering::Relaxed);
            self.delay.store(micros.max(known / 2), Ordering::Relaxed);
        }
    }

    /// True where this request is to be refused, because this worker does not keep up.
    pub fn sheds(&self) -> bool {
        let part = PART.get();
        if part == 0 {
            return false;
        }
        let shed = random::next() & 0xff < u64::from(part);
        self.shed.fetch_add(u64::from(shed), Ordering::Relaxed);
        shed
    }

    /// How late the event loops are.
    pub fn delay(&self) -> Duration {
        Duration::from_micros(self.delay.load(Ordering::Relaxed))
    }

    /// Requests that were shed, until now.
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{FEWEST, Load, MOST, PART, Pressure, TARGET};
    use crate::telemetry::occupancy::Occupancy;

    const LATE: Duration = Duration::from_millis(150);

    #[test]
    fn what_is_shed_grows_while_the_loop_is_late_and_shrinks_after() {
        let mut pressure = Pressure::default();
        for _ in 0..2 {
            pressure = pressure.after(LATE, FEWEST);
            assert_eq!(pressure.part, 0, "one late look is none");
        }
        let mut before = 0;
        for _ in 0..10 {
            pressure = pressure.after(LATE, FEWEST);
            assert!(pressure.part > before);
            before = pressure.part;
        }
        for _ in 0..100 {
            pressure = pressure.after(LATE, FEWEST);
        }
        assert_eq!(pressure.part, MOST);
        let mut looks = 0;
        while pressure.part > 0 {
            pressure = pressure.after(TARGET / 2, FEWEST);
            looks += 1;
        }
        assert!((40..80).contains(&looks), "{looks}");
    }

    #[test]
    fn a_loop_that_is_late_without_requests_sheds_nothing() {
        let mut pressure = Pressure::default();
        for _ in 0..100 {
            pressure = pressure.after(LATE, FEWEST - 1);
        }
        assert_eq!(pressure, Pressure::default());
    }

    #[tokio::test]
    async fn a_worker_that_is_kept_from_its_loop_sheds_and_recovers() {
        let (load, under_way) = (Arc::new(Load::default()), Occupancy::default());
        let many: Vec<_> = (0..FEWEST).map(|_| under_way.enter()).collect();
        load.watch(&under_way);
        load.watch(&under_way);
        let shed = |load: &Load| (0..200).filter(|_| load.sheds()).count();
        assert_eq!(shed(&load), 0);
        let mut rounds = 0;
        while PART.get() < 64 {
            // The loop is kept from turning, as too many requests would.
            std::thread::sleep(LATE);
            tokio::task::yield_now().await;
            rounds += 1;
            assert!(rounds < 200, "{:?}", load.delay());
        }
        assert!(load.delay() >= TARGET / 2, "{:?}", load.delay());
        assert!(shed(&load) > 0 && load.shed() > 0);
        drop(many);
        while PART.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(shed(&load), 0);
    }
}
