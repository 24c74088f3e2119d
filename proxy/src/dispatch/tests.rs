//! The choice of endpoints: shares, levels, panic, slow starts, keys, what outlives what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foregate_policy::balancing::{Algorithm, Balancing, Check, CheckKind};
use foregate_policy::snapshot::{Captured, Concurrency, Endpoint as Written, Protocol, Upstream};

use crate::clock;
use crate::dispatch::circuit::Outcome;
use crate::dispatch::endpoint::Outstanding;
use crate::dispatch::maglev::mix;
use crate::dispatch::roster::Roster;
use crate::dispatch::table::{Draw, Members, Table};
use crate::dispatch::upstream::{UpstreamState, Want};

const MS: Duration = Duration::from_millis(1);
const NOW: Duration = Duration::from_secs(10_000);

fn written(number: usize) -> Written {
    let host = format!("10.0.{}.{}", number / 250, number % 250 + 1).into();
    Written { host, port: 80, weight: 1, zone: None, priority: 0 }
}

/// An upstream with these endpoints and nothing else.
pub fn plain(name: &str, endpoints: Vec<Written>) -> Upstream {
    Upstream {
        name: name.into(),
        endpoints,
        services: Vec::new(),
        endpoints_file: None,
        virtual_addresses: Box::default(),
        captured: None,
        balancing: Balancing::default(),
        protocol: Protocol::Http1,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        max_idle_per_thread: 128,
        credentials: None,
        concurrency: Concurrency::default(),
        org_quota: None,
        proxy_protocol: None,
    }
}

fn spec(endpoints: Vec<Written>, balancing: Balancing) -> Arc<Upstream> {
    Arc::new(Upstream { balancing, ..plain("crm", endpoints) })
}

fn state(endpoints: Vec<Written>, balancing: Balancing) -> UpstreamState {
    UpstreamState::new(spec(endpoints, balancing), None, Roster::new("crm".into(), None), Some("a".into()))
}

fn of(policy: Algorithm) -> Balancing {
    Balancing { policy, panic_threshold: 25, ..Balancing::default() }
}

fn want(key: Option<u64>) -> Want<'static> {
    Want { key, safe: true, tried: &[], now: NOW }
}

/// How often each address is chosen.
fn shares(upstream: &UpstreamState, times: u64) -> HashMap<SocketAddr, u64> {
    let mut shares = HashMap::new();
    for _ in 0..times {
        *shares.entry(upstream.pick(&want(None)).unwrap().endpoint.address()).or_default() += 1;
    }
    shares
}

fn fail(upstream: &UpstreamState, index: usize, outcome: Outcome) {
    let endpoint = Arc::clone(&upstream.table().members.endpoints[index]);
    for _ in 0..5 {
        upstream.judge(&endpoint, outcome, MS, NOW);
    }
}

fn at(upstream: &UpstreamState, index: usize) -> SocketAddr {
    upstream.table().members.endpoints[index].address()
}

#[test]
fn a_slow_endpoint_gets_less_and_an_unknown_one_is_tried() {
    let upstream = state((0..3).map(written).collect(), of(Algorithm::PeakEwma));
    for (index, latency) in [(0, 1), (1, 1), (2, 100)] {
        upstream.table().members.endpoints[index].state.latency.observe(latency * MS, NOW);
    }
    let seen = shares(&upstream, 10_000);
    // Only a draw of it twice would choose it, and two are always different.
    assert_eq!(seen.get(&at(&upstream, 2)), None, "{seen:?}");
    let upstream = state((0..2).map(written).collect(), of(Algorithm::PeakEwma));
    upstream.table().members.endpoints[0].state.latency.observe(MS, NOW);
    let seen = shares(&upstream, 1_000);
    assert_eq!(seen.get(&at(&upstream, 1)), Some(&1_000), "nothing known, nothing outstanding: {seen:?}");
    let _asked = Outstanding::new(&upstream.table().members.endpoints[1].state);
    let seen = shares(&upstream, 1_000);
    assert_eq!(seen.get(&at(&upstream, 0)), Some(&1_000), "one at a time until it is known: {seen:?}");
}

#[test]
fn the_least_asked_is_chosen_by_weight() {
    let mut endpoints: Vec<Written> = (0..2).map(written).collect();
    endpoints[0].weight = 3;
    let upstream = state(endpoints, of(Algorithm::LeastRequest));
    let endpoints = upstream.table().members.endpoints.to_vec();
    let _asked: Vec<Outstanding> =
        (0..400).map(|_| Outstanding::new(&upstream.pick(&want(None)).unwrap().endpoint.state)).collect();
    let outstanding: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.state.outstanding()).collect();
    assert!((280..=320).contains(&outstanding[0]), "{outstanding:?}");
}

#[test]
fn turns_follow_weights_evenly_spread() {
    let mut endpoints: Vec<Written> = (0..3).map(written).collect();
    (endpoints[0].weight, endpoints[1].weight) = (2, 4);
    endpoints[2].weight = 2;
    let upstream = state(endpoints, of(Algorithm::RoundRobin));
    let turns: Vec<SocketAddr> =
        (0..8).map(|_| upstream.pick(&want(None)).unwrap().endpoint.address()).collect();
    let count = |index| turns.iter().filter(|turn| **turn == at(&upstream, index)).count();
    assert_eq!([count(0), count(1), count(2)], [2, 4, 2]);
    assert!(turns.windows(3).all(|three| three[0] != three[1] || three[1] != three[2]), "{turns:?}");
}

#[test]
fn the_near_and_the_preferred_come_first_and_others_where_too_few_are_fit() {
    let mut endpoints: Vec<Written> = (0..12).map(written).collect();
    for (index, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.zone = Some(if index < 4 { "a" } else { "b" }.into());
        endpoint.priority = u16::from(index >= 8);
    }
    let upstream = state(endpoints, of(Algorithm::LeastRequest));
    let near = |seen: &HashMap<SocketAddr, u64>, range: std::ops::Range<usize>| -> u64 {
        range.map(|index| seen.get(&at(&upstream, index)).copied().unwrap_or(0)).sum()
    };
    let seen = shares(&upstream, 10_000);
    assert_eq!(near(&seen, 0..4), 10_000, "its own zone alone");
    fail(&upstream, 0, Outcome::Failure);
    assert_eq!(near(&shares(&upstream, 10_000), 0..4), 10_000, "three of four carry it all");
    fail(&upstream, 1, Outcome::Failure);
    let seen = shares(&upstream, 10_000);
    assert!((6_700..7_300).contains(&near(&seen, 2..4)), "70 of 100 with two of four: {seen:?}");
    assert!((2_700..3_300).contains(&near(&seen, 4..8)), "the rest to the next zone: {seen:?}");
    for index in 2..8 {
        fail(&upstream, index, Outcome::Failure);
    }
    assert_eq!(near(&shares(&upstream, 1_000), 8..12), 1_000, "none left: the next priority");
}

#[test]
fn where_too_few_are_fit_all_are_used() {
    let upstream = state((0..8).map(written).collect(), of(Algorithm::LeastRequest));
    for index in 0..6 {
        fail(&upstream, index, Outcome::Failure);
    }
    assert!(!upstream.table().panic);
    assert_eq!(shares(&upstream, 1_000).len(), 2);
    fail(&upstream, 6, Outcome::Failure);
    assert!(upstream.table().panic);
    assert_eq!(shares(&upstream, 1_000).len(), 8);
    let never = Balancing { panic_threshold: 0, ..of(Algorithm::LeastRequest) };
    let upstream = state((0..8).map(written).collect(), never);
    for index in 0..7 {
        fail(&upstream, index, Outcome::Failure);
    }
    assert_eq!(shares(&upstream, 1_000).len(), 1);
}

#[test]
fn errors_eject_half_at_most_and_failures_any() {
    let upstream = state((0..4).map(written).collect(), of(Algorithm::LeastRequest));
    for index in 0..4 {
        fail(&upstream, index, Outcome::Error);
    }
    assert_eq!(shares(&upstream, 1_000).len(), 2);
    fail(&upstream, 2, Outcome::Failure);
    assert_eq!(shares(&upstream, 1_000).len(), 1);
    let one = state(vec![written(0)], of(Algorithm::LeastRequest));
    assert!(!one.is_balanced() && one.only().is_some());
}

#[test]
fn an_ejected_endpoint_is_tried_by_one_request_and_comes_back() {
    let upstream = state((0..2).map(written).collect(), of(Algorithm::LeastRequest));
    fail(&upstream, 0, Outcome::Failure);
    let pick = |now, safe| upstream.pick(&Want { key: None, safe, tried: &[], now }).unwrap();
    assert!(!pick(NOW, true).trial);
    let later = NOW + 1_200 * MS;
    let table = upstream.table();
    assert!(table.is_due(later, true) && !table.is_due(later, false), "no request looks at all for nothing");
    drop(table);
    assert!(!pick(later, false).trial, "what may be repeated comes first");
    let trial = pick(later, true);
    assert!(trial.trial && trial.endpoint.address() == at(&upstream, 0));
    assert!(!pick(later, true).trial, "one at a time");
    upstream.judge(&trial.endpoint, Outcome::Good, MS, later);
    let seen = shares(&upstream, 1_000);
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn a_request_with_a_key_tries_none_but_its_own_endpoint() {
    for policy in [Algorithm::Maglev, Algorithm::PeakEwma] {
        let upstream = state((0..4).map(written).collect(), of(policy));
        let find = |key| upstream.pick(&want(Some(key))).unwrap().endpoint.address();
        let keys: Vec<u64> = (0..100).map(mix).collect();
        let before: Vec<SocketAddr> = keys.iter().map(|key| find(*key)).collect();
        let out = at(&upstream, 2);
        fail(&upstream, 2, Outcome::Failure);
        let mut trials = 0;
        for (key, before) in keys.iter().zip(before) {
            let later = Want { now: NOW + 5_000 * MS, ..want(Some(*key)) };
            let picked = upstream.pick(&later).unwrap();
            assert!(!picked.trial || before == out, "{policy:?}");
            assert!(before == out || picked.endpoint.address() == before, "{policy:?}");
            trials += u32::from(picked.trial);
        }
        assert_eq!(trials, 1, "{policy:?}");
    }
}

#[test]
fn a_slow_start_comes_to_its_share_in_time() {
    let how = Balancing { slow_start: 1_000 * MS, ..of(Algorithm::RoundRobin) };
    let upstream = state((0..4).map(written).collect(), how);
    upstream.table().members.endpoints[3].state.starts(NOW);
    let share = |past| {
        let picks = (0..40_000).filter(|_| {
            let want = Want { key: None, safe: true, tried: &[], now: NOW + past };
            upstream.pick(&want).unwrap().endpoint.address() == at(&upstream, 3)
        });
        picks.count()
    };
    let (begin, half, end) = (share(Duration::ZERO), share(500 * MS), share(1_000 * MS));
    assert!((700..1_700).contains(&begin), "a tenth of its share: {begin}");
    assert!((4_500..7_500).contains(&half), "half of it: {half}");
    assert!((9_500..10_500).contains(&end), "all of it: {end}");
}

#[test]
fn equal_keys_go_to_one_endpoint_and_few_move_when_it_leaves() {
    for policy in [Algorithm::Maglev, Algorithm::PeakEwma] {
        let ten = state((0..10).map(written).collect(), of(policy));
        let nine = state((0..9).map(written).collect(), of(policy));
        let find =
            |upstream: &UpstreamState, key| upstream.pick(&want(Some(key))).unwrap().endpoint.address();
        let gone = at(&ten, 9);
        let (mut moved, mut of_gone) = (0, 0);
        for key in (0..10_000).map(mix) {
            let before = find(&ten, key);
            assert_eq!(before, find(&ten, key));
            of_gone += u32::from(before == gone);
            moved += u32::from(before != find(&nine, key));
        }
        assert!((800..1_200).contains(&of_gone), "{policy:?}: {of_gone}");
        assert!(moved >= of_gone && moved < of_gone + 500, "{policy:?}: {moved} of {of_gone}");
        // An ejected endpoint moves its own keys alone, and has them back afterwards.
        let before: Vec<_> = (0..2_000).map(|key| find(&ten, mix(key))).collect();
        fail(&ten, 4, Outcome::Failure);
        let out = at(&ten, 4);
        for (key, before) in (0..2_000).zip(before) {
            let after = find(&ten, mix(key));
            assert!(if before == out { after != out } else { after == before }, "{policy:?}");
        }
    }
}

#[test]
fn a_retry_goes_to_another_endpoint_while_there_is_one() {
    for policy in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Maglev] {
        let upstream = state((0..3).map(written).collect(), of(policy));
        for key in [None, Some(7)] {
            let mut tried = Vec::new();
            for _ in 0..3 {
                let want = Want { key, safe: true, tried: &tried, now: NOW };
                let picked = upstream.pick(&want).unwrap().endpoint.pool;
                assert!(!tried.contains(&picked), "{policy:?}");
                tried.push(picked);
            }
            assert!(upstream.pick(&Want { key, safe: true, tried: &tried, now: NOW }).is_some());
        }
    }
}

#[test]
fn what_is_known_outlives_documents_and_answers() {
    let roster = Roster::new("crm".into(), None);
    let make = |endpoints, how| UpstreamState::new(spec(endpoints, how), None, Arc::clone(&roster), None);
    let first = make((0..3).map(written).collect(), of(Algorithm::LeastRequest));
    fail(&first, 1, Outcome::Failure);
    let second = make((1..5).map(written).collect(), of(Algorithm::RoundRobin));
    let out = at(&first, 1);
    assert_eq!(shares(&second, 100).get(&out), None, "the circuit stays open");
    assert_ne!(
        first.table().members.endpoints[1].pool,
        second.table().members.endpoints[0].pool,
        "but connections are its own"
    );
    // What one state learns, the other heeds.
    fail(&second, 1, Outcome::Failure);
    let also_out = at(&second, 1);
    assert_eq!(shares(&first, 100).get(&also_out), None);
}

#[test]
fn what_checks_say_counts_only_where_there_are_checks() {
    let check = Check {
        kind: CheckKind::Tcp,
        interval: MS,
        timeout: MS,
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    };
    let roster = Roster::new("crm".into(), None);
    let how = Balancing { check: Some(check), ..of(Algorithm::LeastRequest) };
    let endpoints: Vec<Written> = (0..3).map(written).collect();
    let checked = UpstreamState::new(spec(endpoints.clone(), how), None, Arc::clone(&roster), None);
    let unchecked =
        UpstreamState::new(spec(endpoints, of(Algorithm::LeastRequest)), None, Arc::clone(&roster), None);
    let unfit = Arc::clone(&checked.table().members.endpoints[0]);
    roster.checked(&unfit.state, false, "why", NOW);
    assert_eq!(shares(&checked, 1_000).get(&unfit.address()), None);
    assert_eq!(shares(&unchecked, 1_000).len(), 3);
    roster.checked(&unfit.state, true, "", NOW);
    assert_eq!(shares(&checked, 1_000).len(), 3);
}

#[test]
fn a_choice_among_none_is_none() {
    let how = of(Algorithm::PeakEwma);
    let table = Table::new(Arc::new(Members::new(Vec::new(), &how, None)), &how, 0);
    let draw = Draw { random: 1, key: None, tried: &[], now: clock::monotonic() };
    assert!(table.pick(&how, &AtomicUsize::new(0), &draw).is_none() && !table.panic);
}

#[test]
fn where_redirected_connections_meant_to_go_is_remembered_within_bounds() {
    let fixed = spec(vec![written(0)], of(Algorithm::RoundRobin));
    let captured = |captured| {
        Arc::new(Upstream { endpoints: Vec::new(), captured: Some(captured), ..Upstream::clone(&fixed) })
    };
    let state = |spec| UpstreamState::new(spec, None, Roster::new("crm".into(), None), None);
    let meant = |number: u16| Some(SocketAddr::from(([10, 0, 0, 1], 1_000 + number)));
    let address = state(captured(Captured::Address));
    let first = address.meant(meant(0)).unwrap();
    assert_eq!(first.address(), meant(0).unwrap());
    assert_eq!(address.meant(meant(0)).unwrap().pool, first.pool, "its connections are kept");
    assert_ne!(address.meant(meant(1)).unwrap().pool, first.pool);
    assert!(address.meant(None).is_none() && address.pick(&want(None)).is_none());
    for number in 0..600 {
        address.meant(meant(number)).unwrap();
    }
    assert!(first.gone.load(Ordering::Relaxed), "forgotten, with its connections");
    assert_ne!(address.meant(meant(0)).unwrap().pool, first.pool);
    let loopback = state(captured(Captured::Loopback));
    let of = |text: &str| loopback.meant(Some(text.parse().unwrap())).unwrap().address().to_string();
    assert_eq!(of("10.0.0.1:80"), "127.0.0.1:80");
    assert_eq!(of("[fd00::1]:80"), "[::1]:80");
    assert_eq!(of("[::ffff:10.0.0.1]:80"), "127.0.0.1:80");
    assert!(state(fixed).meant(meant(0)).is_none());
}
