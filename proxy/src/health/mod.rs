//! Asks endpoints again and again whether they are fit.

mod ask;
pub mod grpc;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use foregate_policy::balancing::Check;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::upstream::UpstreamState;
use crate::telemetry::random;

/// Endpoints of one upstream that are asked at the same time.
const AT_ONCE: usize = 64;

/// Between two looks at whether an upstream without endpoints has some, or is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Answers of one endpoint in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    good: u32,
    bad: u32,
    /// It has answered, or not, at least once.
    known: bool,
}

impl Streak {
    /// What to think of the endpoint after one more answer; `None` where that is not sure yet.
    fn add(&mut self, good: bool, check: &Check) -> Option<bool> {
        (self.good, self.bad) = if good { (self.good + 1, 0) } else { (0, self.bad + 1) };
        let first = !std::mem::replace(&mut self.known, true);
        // Said again and again: another watcher of the same endpoint may have said otherwise meanwhile.
        if good && (first || self.good >= check.healthy_threshold) {
            return Some(true);
        }
        (!good && self.bad >= check.unhealthy_threshold).then_some(false)
    }
}

/// Keeps asking the endpoints of an upstream until nothing uses it any more.
pub fn watch(upstream: &Arc<UpstreamState>, runtime: &Handle) {
    if let Some(check) = upstream.spec.balancing.check.clone() {
        runtime.spawn(keep_asking(Arc::downgrade(upstream), check));
    }
}

async fn keep_asking(upstream: Weak<UpstreamState>, check: Check) {
    let mut streaks: HashMap<SocketAddr, Streak> = HashMap::new();
    loop {
        let Some(current) = upstream.upgrade().filter(|state| !state.retired.load(Ordering::Relaxed)) else {
            return;
        };
        let endpoints = current.table().members.endpoints.to_vec();
        streaks.retain(|address, _| endpoints.iter().any(|endpoint| endpoint.address() == *address));
        let none = endpoints.is_empty();
        round(&current, &check, endpoints, &mut streaks).await;
        // Not held while nothing happens: it would outlive its use.
        drop(current);
        sleep(if none { LOOK_AGAIN } else { uneven(check.interval) }).await;
    }
}

/// Asks every endpoint once.
async fn round(
    upstream: &Arc<UpstreamState>,
    check: &Check,
    endpoints: Vec<Arc<Endpoint>>,
    streaks: &mut HashMap<SocketAddr, Streak>,
) {
    let mut waiting = endpoints.into_iter();
    let mut asked = FuturesUnordered::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(endpoint) = waiting.next()
        {
            asked.push(one(upstream, check, endpoint));
        }
        let Some((endpoint, answer)) = asked.next().await else { return };
        let streak = streaks.entry(endpoint.address()).or_default();
        let why = answer.as_ref().err().map(String::as_str).unwrap_or_default();
        // What is not in force yet, or no more, has no say: its endpoints are those of others too.
        if let Some(fit) = streak.add(answer.is_ok(), check)
            && upstream.roster.shows(upstream)
        {
            upstream.roster.checked(&endpoint.state, fit, why, clock::monotonic());
        }
    }
}

async fn one(
    upstream: &Arc<UpstreamState>,
    check: &Check,
    endpoint: Arc<Endpoint>,
) -> (Arc<Endpoint>, Result<(), String>) {
    let asking = Box::pin(ask::ask(upstream, &endpoint, &check.kind));
    let answer = timeout(check.timeout, asking).await.unwrap_or(Err("no answer in time".to_owned()));
    (endpoint, answer)
}

/// Give or take a tenth, so that gateways do not ask in step.
fn uneven(interval: Duration) -> Duration {
    let random = f64::from(u16::try_from(random::next() >> 48).unwrap_or(0)) / f64::from(u16::MAX);
    interval.mul_f64(0.9 + random / 5.0)
}

#[cfg(test)]
mod tests {
    use super::{Streak, uneven};
    use foregate_policy::balancing::{Check, CheckKind};
    use std::time::Duration;

    #[test]
    fn a_first_good_answer_counts_and_then_so_many_in_a_row() {
        let second = Duration::from_secs(1);
        let check = Check {
            kind: CheckKind::Tcp,
            interval: second,
            timeout: second,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let mut streak = Streak::default();
        let mut add = |good| streak.add(good, &check);
        // A check that begins knows nothing: one lost answer is no proof.
        assert_eq!(add(false), None);
        assert_eq!([add(true), add(false), add(true), add(true)], [None, None, None, Some(true)]);
        assert_eq!([add(false), add(false), add(true)], [None; 3]);
        assert_eq!([add(false), add(false), add(false), add(false)], [None, None, Some(false), Some(false)]);
        let mut streak = Streak::default();
        assert_eq!(streak.add(true, &check), Some(true));
    }

    #[test]
    fn intervals_are_uneven_within_bounds() {
        let second = Duration::from_secs(1);
        let all: Vec<Duration> = (0..100).map(|_| uneven(second)).collect();
        assert!(all.iter().all(|time| (second * 9 / 10..=second * 11 / 10).contains(time)), "{all:?}");
        assert!(all.iter().any(|time| *time != all[0]));
    }
}
