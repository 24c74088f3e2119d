//! Stores that gateways share, with a real Redis.

mod cluster;
mod counters;
mod failures;
mod leases;
mod processes;
mod secured;
mod values;

use std::sync::Arc;
use std::time::Duration;

use foregate::clock;
use foregate_filters::rate_limit::calendar::{Calendar, Period};
use foregate_filters::rate_limit::limiter::{Decision, Rate};
use foregate_filters::rate_limit::shared::{Admits, Counter, SharedCounters, Take, Unavailable};

/// A limit on its own.
fn rate(name: &str, limit: u32, per: Duration, burst: u32) -> Arc<Counter> {
    let name: Arc<str> = name.into();
    let admits = Admits::Rate(Rate { limit, per, burst });
    Arc::new(Counter { group: Arc::clone(&name), name, admits, lease: None })
}

/// A quota of today, UTC.
fn daily(name: &str, limit: u64) -> Arc<Counter> {
    let name: Arc<str> = name.into();
    let calendar = Arc::new(Calendar::new(Period::Day, "UTC").unwrap());
    let admits = Admits::Window { limit, calendar };
    Arc::new(Counter { group: Arc::clone(&name), name, admits, lease: None })
}

fn of(counter: &Arc<Counter>, key: &str, cost: u32) -> Take {
    Take { counter: Arc::clone(counter), key: key.into(), cost }
}

/// The same counter with a lease.
fn leased(counter: &Arc<Counter>, lease: u32) -> Arc<Counter> {
    Arc::new(Counter { lease: Some(lease), ..Counter::clone(counter) })
}

/// Decided as a request decides: here where that can be, or else by the store.
async fn decide(counters: &dyn SharedCounters, takes: &[Take]) -> Result<Vec<Decision>, Unavailable> {
    let moment = clock::now();
    match counters.take_at_once(takes, moment) {
        Some(decisions) => Ok(decisions.to_vec()),
        None => counters.take(takes, moment).await.map(|decisions| decisions.to_vec()),
    }
}

/// Whether one request with this cost is admitted.
async fn admits(counters: &dyn SharedCounters, take: Take) -> bool {
    decide(counters, &[take]).await.unwrap()[0].admitted
}
