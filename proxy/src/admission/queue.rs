//! Who waits for a saturated upstream, and who is next.
//!
//! Tenants take turns by start-time fair queueing (Goyal, Vin, Cheng 1996), so that each gets its share and what
//! one leaves unused goes to the others. Within a tenant the first comes first; once the queue has stood for a
//! while, the last does (adaptive LIFO: Maurer, "Fail at Scale", 2015): who has waited long is about to give up.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashMap;
use foregate_filters::fairness::{DEFAULT_WEIGHT, Tenant};
use tokio::sync::oneshot::Sender;

/// A queue that has not been empty for so long is one that stands.
const STANDING: Duration = Duration::from_millis(100);

/// Virtual time that one request of weight 1 takes.
const TURN: u64 = 1 << 20;

/// Most tenants whose last turn is remembered once they have nobody waiting.
const MAX_REMEMBERED: usize = 1_024;

/// Of requests that no policy gives a tenant.
const NOBODY: Tenant = Tenant { key: 0, weight: DEFAULT_WEIGHT };

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Queue {
    lines: AHashMap<u64, Line>,
    /// When the last turn of a tenant without a line is over, where that is later than `clock`.
    remembered: AHashMap<u64, u64>,
    /// When the turn of whoever was served last began, in virtual time.
    clock: u64,
    waiting: usize,
    /// Since when it has not been empty.
    since: Option<Duration>,
}

/// Those of one tenant who wait, the first to come in front.
#[derive(Debug)]
struct Line {
    waiters: VecDeque<Sender<()>>,
    weight: u32,
    /// When its next turn begins.
    start: u64,
}

impl Queue {
    /// How many wait; those who have given up meanwhile count until they are met.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Adds whoever waits behind `waiter`; at the bound, whoever has waited longest of the tenant that has most
    /// for its share gives way, and its sender is dropped.
    pub fn push(&mut self, tenant: Option<&Tenant>, waiter: Sender<()>, bound: usize, now: Duration) {
        let tenant = tenant.unwrap_or(&NOBODY);
        let (clock, remembered) = (self.clock, &mut self.remembered);
        let line = self.lines.entry(tenant.key).or_insert_with(|| {
            let start = remembered.remove(&tenant.key).unwrap_or(clock).max(clock);
            Line { waiters: VecDeque::new(), weight: tenant.weight.max(1), start }
        });
        line.weight = tenant.weight.max(1);
        while line.waiters.front().is_some_and(Sender::is_closed) {
            line.waiters.pop_front();
            self.waiting -= 1;
        }
        line.waiters.push_back(waiter);
        self.waiting += 1;
        self.since = self.since.or(Some(now));
        while self.waiting > bound && self.drop_one() {}
    }

    fn drop_one(&mut self) -> bool {
        let share = |line: &Line| line.waiters.len() as u64 * TURN / u64::from(line.weight);
        let largest = self.lines.iter().max_by_key(|(_, line)| share(line)).map(|(key, _)| *key);
        let Some(key) = largest else { return false };
        if let Some(line) = self.lines.get_mut(&key) {
            line.waiters.pop_front();
            self.waiting -= 1;
        }
        self.forget_if_empty(key);
        true
    }

    /// Takes the next to be served out of the queue.
    pub fn pop(&mut self, now: Duration) -> Option<Sender<()>> {
        let standing = self.since.is_some_and(|since| now.saturating_sub(since) > STANDING);
        while let Some(key) = self.lines.iter().min_by_key(|(_, line)| line.start).map(|(key, _)| *key) {
            let found = self.lines.get_mut(&key).and_then(|line| {
                let before = line.waiters.len();
                let next = if standing { line.waiters.pop_back() } else { line.waiters.pop_front() };
                self.waiting -= before - line.waiters.len();
                let next = next.filter(|waiter| !waiter.is_closed())?;
                self.clock = line.start;
                line.start += TURN / u64::from(line.weight);
                Some(next)
            });
            self.forget_if_empty(key);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn forget_if_empty(&mut self, key: u64) {
        if self.lines.get(&key).is_some_and(|line| line.waiters.is_empty())
            && let Some(line) = self.lines.remove(&key)
            && line.start > self.clock
        {
            self.remembered.insert(key, line.start);
        }
        if self.remembered.len() > MAX_REMEMBERED {
            let clock = self.clock;
            self.remembered.retain(|_, start| *start > clock);
        }
        if self.remembered.len() > MAX_REMEMBERED {
            // So many tenants that none of them has more than a turn too many.
            self.remembered.clear();
        }
        if self.waiting == 0 {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foregate_filters::fairness::Tenant;
    use tokio::sync::oneshot::{Receiver, channel};

    use super::{MAX_REMEMBERED, Queue};

    const NOW: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(2);

    fn push(queue: &mut Queue, key: u64, weight: u32, bound: usize) -> Receiver<()> {
        let (sender, receiver) = channel();
        queue.push(Some(&Tenant { key, weight }), sender, bound, NOW);
        receiver
    }

    /// Serves one, and tells which of the waiters it was.
    fn serve(queue: &mut Queue, now: Duration, waiters: &mut [Receiver<()>]) -> Option<usize> {
        queue.pop(now)?.send(()).unwrap();
        waiters.iter_mut().position(|waiter| waiter.try_recv().is_ok())
    }

    #[test]
    fn the_first_is_served_first_until_the_queue_stands() {
        let mut queue = Queue::default();
        let mut waiters: Vec<_> = (0..4).map(|_| push(&mut queue, 1, 1, 10)).collect();
        assert_eq!(serve(&mut queue, NOW, &mut waiters), Some(0));
        assert_eq!(serve(&mut queue, LATER, &mut waiters), Some(3));
        drop(waiters.remove(2));
        assert_eq!(serve(&mut queue, LATER, &mut waiters), Some(1), "who has gone is passed over");
        assert!(queue.pop(LATER).is_none());
        assert_eq!(queue.len(), 0);
        let mut waiters = vec![push(&mut queue, 1, 1, 10), push(&mut queue, 1, 1, 10)];
        assert_eq!(serve(&mut queue, NOW, &mut waiters), Some(0), "an empty queue does not stand");
    }

    #[test]
    fn tenants_share_by_weight_whoever_waits_in_number() {
        let mut queue = Queue::default();
        let mut served = [0_u32; 3];
        let mut waiting: Vec<(usize, Receiver<()>)> = Vec::new();
        for _ in 0..300 {
            // One always has ten waiting, one two, one never more than one; their weights are 1, 2 and 1.
            for (tenant, (weight, most)) in [(1, 10), (2, 2), (1, 1)].into_iter().enumerate() {
                while waiting.iter().filter(|(who, _)| *who == tenant).count() < most {
                    waiting.push((tenant, push(&mut queue, tenant as u64, weight, 100)));
                }
            }
            queue.pop(LATER).unwrap().send(()).unwrap();
            let place = waiting.iter_mut().position(|(_, waiter)| waiter.try_recv().is_ok()).unwrap();
            served[waiting.remove(place).0] += 1;
        }
        for (served, share) in served.iter().zip([75_u32, 150, 75]) {
            assert!(served.abs_diff(share) <= 2, "{served} of {share}");
        }
    }

    #[test]
    fn what_one_leaves_goes_to_the_others_and_is_not_saved_up() {
        let mut queue = Queue::default();
        let mut alone: Vec<_> = (0..50).map(|_| push(&mut queue, 1, 1, 100)).collect();
        for _ in 0..40 {
            assert!(serve(&mut queue, NOW, &mut alone).is_some());
        }
        // Whoever was away has no claim to forty turns now: they alternate.
        let mut other: Vec<_> = (0..10).map(|_| push(&mut queue, 2, 1, 100)).collect();
        let mut turns = 0;
        for _ in 0..10 {
            queue.pop(NOW).unwrap().send(()).unwrap();
            turns += usize::from(other.iter_mut().any(|waiter| waiter.try_recv().is_ok()));
        }
        assert!((4..=6).contains(&turns), "{turns}");
    }

    #[test]
    fn at_the_bound_whoever_has_most_for_its_share_gives_way() {
        let mut queue = Queue::default();
        let mut many: Vec<_> = (0..8).map(|_| push(&mut queue, 1, 1, 8)).collect();
        let mut few = push(&mut queue, 2, 1, 8);
        assert_eq!(queue.len(), 8);
        assert!(
            many[0].try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Closed)
        );
        assert!(few.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
        assert!(
            many[1].try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty)
        );
    }

    #[test]
    fn no_number_of_tenants_makes_the_table_grow() {
        let mut queue = Queue::default();
        for tenant in 0..10_000 {
            let mut waiter = push(&mut queue, tenant, 1, 10);
            let _ = serve(&mut queue, NOW, std::slice::from_mut(&mut waiter));
            assert!(queue.lines.is_empty() && queue.remembered.len() <= MAX_REMEMBERED + 1);
        }
    }
}
