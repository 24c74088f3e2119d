//! The choice of an endpoint among a thousand.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foregate::dispatch::roster::Roster;
use foregate::dispatch::upstream::{UpstreamState, Want};
use foregate_policy::balancing::{Algorithm, Balancing};
use foregate_policy::snapshot::{Concurrency, Endpoint, Protocol, Upstream};

use crate::measure::Table;

/// Endpoints of the upstream.
const ENDPOINTS: u32 = 1_000;

/// Measures every policy.
pub fn run<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    for (name, policy, keyed) in [
        ("endpoint pick of 1,000, peak EWMA", Algorithm::PeakEwma, false),
        ("endpoint pick of 1,000, least request", Algorithm::LeastRequest, false),
        ("endpoint pick of 1,000, round robin", Algorithm::RoundRobin, false),
        ("endpoint pick of 1,000, Maglev", Algorithm::Maglev, true),
    ] {
        if !table.wants(name) {
            continue;
        }
        let upstream = upstream(policy);
        ensure!(upstream.len() == ENDPOINTS as usize, "{} endpoints", upstream.len());
        let start = Duration::from_secs(5);
        for (endpoint, number) in upstream.table().members.endpoints.iter().zip(0_u32..) {
            endpoint.state.latency.observe(Duration::from_micros(u64::from(100 + number)), start);
        }
        let mut number = 0_u64;
        let mut pick = || {
            // Time passes, so that every latency has to decay, and every key is another.
            number += 1;
            let now = start + Duration::from_micros(number);
            let key = keyed.then(|| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            upstream.pick(&Want { key, safe: true, tried: &[], now }).map(|picked| picked.endpoint.pool)
        };
        pick().context("nothing to choose")?;
        table.row(name, pick)?;
    }
    Ok(())
}

fn upstream(policy: Algorithm) -> UpstreamState {
    let endpoint = |number: u32| Endpoint {
        host: format!("10.0.{}.{}", number / 250, number % 250 + 1).into(),
        port: 8080,
        weight: 1,
        zone: None,
        priority: 0,
    };
    let spec = Upstream {
        concurrency: Concurrency::default(),
        proxy_protocol: None,
        name: "crm".into(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        services: Vec::new(),
        endpoints_file: None,
        virtual_addresses: Box::default(),
        captured: None,
        balancing: Balancing { policy, panic_threshold: 25, ..Balancing::default() },
        protocol: Protocol::Http1,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_mins(1),
        max_idle_per_thread: 128,
        credentials: None,
        org_quota: None,
    };
    UpstreamState::new(Arc::new(spec), None, Roster::new("crm".into(), None), None)
}
