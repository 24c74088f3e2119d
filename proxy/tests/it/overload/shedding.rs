//! Twice what a backend can serve: it stays busy, the rest is told.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::overload::{Backend, Crowd};
use crate::support::client::Client;
use crate::support::gate::Gate;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;
use crate::support::within;

const PLACES: usize = 8;
const SERVICE: Duration = Duration::from_millis(40);

/// Twice as often as a place becomes free.
const EVERY: Duration = Duration::from_micros(2_500);
const REQUESTS: usize = 1_600;

/// When a request was sent, how long it took, and how it ended.
struct Sent {
    number: usize,
    took: Duration,
    status: u16,
    reason: String,
    retry: String,
}

#[expect(clippy::disallowed_methods, reason = "a test that asks how soon an answer came reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// How much later than it asks to is woken whoever sleeps here, nine times of ten: this machine may be busy with other
/// tests. Measured until stopped.
async fn lateness(mut stopped: tokio::sync::oneshot::Receiver<()>) -> Duration {
    const NAP: Duration = Duration::from_millis(5);
    let mut late = Vec::new();
    loop {
        let before = now();
        tokio::time::sleep(NAP).await;
        late.push(before.elapsed().saturating_sub(NAP));
        if stopped.try_recv() != Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            late.sort_unstable();
            return late[late.len() * 9 / 10];
        }
    }
}

/// Sends requests at their times, whatever becomes of those before.
async fn flood(crowd: &Crowd) -> Vec<Sent> {
    let mut sending = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    for number in 0..REQUESTS {
        ticks.tick().await;
        let crowd = crowd.clone();
        sending.spawn(async move {
            let start = now();
            let reply = crowd.get(number, &[]).await;
            let took = start.elapsed();
            let reason = if reply.status == 200 { String::new() } else { reply.reason() };
            let retry = reply.header("retry-after").to_owned();
            Sent { number, took, status: reply.status, reason, retry }
        });
    }
    let mut sent = within("all answers", sending.join_all()).await;
    sent.sort_by_key(|sent| sent.number);
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_twice_the_load_the_backend_stays_busy_and_the_rest_is_told_at_once() {
    let backend = Backend::start(PLACES, SERVICE).await;
    let policies =
        policies::to(backend.upstream.address, "concurrency: { min: 16, max: 1000, queue: { size: 32 } }");
    let gateway = Foregate::start(&policies, Options::default().args(&["--threads", "1"])).await;
    let crowd = Crowd::connect(gateway.address("edge/http"), 8).await;
    let flooding = flood(&crowd);
    let (told, lateness_told) = tokio::sync::oneshot::channel::<()>();
    let lateness = tokio::spawn(lateness(lateness_told));
    // Health and metrics are asked for all the while.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let looking = async {
        let mut looks = 0;
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = &mut stopped => return looks,
                _ = ticks.tick() => {}
            }
            for page in ["/livez", "/readyz", "/metrics"] {
                assert_eq!(gateway.admin_page(page).await.0, 200, "{page}");
            }
            looks += 1;
        }
    };
    let flooding = async {
        let sent = flooding.await;
        let _ = (stop.send(()), told.send(()));
        sent
    };
    let (sent, looks) = tokio::join!(flooding, looking);
    let lateness = lateness.await.unwrap();
    assert!(looks >= 5, "{looks}");

    let good = sent.iter().filter(|sent| sent.status == 200).count();
    let shed: Vec<&Sent> = sent.iter().filter(|sent| sent.status != 200).collect();
    assert!(shed.iter().all(|it| it.status == 503 && it.reason == "Overloaded" && it.retry == "1"));
    // What the backend worked on reached whoever asked for it.
    assert_eq!(good, backend.served());
    // Goodput: its places were taken all the while, but for the beginning and the end of the flood.
    let starved = backend.starved().saturating_sub(2 * PLACES);
    let part = if lateness < SERVICE / 4 { 20 } else { 5 };
    assert!(starved * part <= backend.served(), "{starved} of {}, {lateness:?} late", backend.served());
    assert!(shed.len() >= REQUESTS / 8, "{} shed", shed.len());
    // Four times it is somebody's turn to be woken: a client's, the gateway's, its timer's, and the client's again.
    let limit = Duration::from_millis(100) + 4 * lateness;
    let quick = shed.iter().filter(|it| it.took < limit).count();
    assert!(quick * 10 >= shed.len() * 9, "{quick} of {} within {limit:?}", shed.len());
    // It was found out what the backend can take: who is served is served in time.
    let (_, late) = sent.split_at(REQUESTS * 3 / 4);
    let slow = late.iter().filter(|it| it.status == 200 && it.took > 20 * SERVICE + 4 * lateness).count();
    assert!(slow * 10 <= late.len(), "{slow} of {} took long", late.len());

    // The load goes, and nothing is left of it.
    for series in ["in_flight", "waiting"] {
        let series = format!("foregate_upstream_requests_{series}{{upstream=\"crm\"}}");
        gateway.wait_sample(&series, |count| count == 0.0).await;
    }
    let by_upstream = gateway.sample("foregate_upstream_requests_shed_total{upstream=\"crm\"}").await;
    // None, unless this machine does not keep up.
    let by_worker = gateway.sample("foregate_requests_shed_total").await;
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let shed = shed.len() as f64;
    assert_eq!(by_upstream.zip(by_worker).map(|(one, other)| one + other), Some(shed));
    assert_eq!(Client::http1(gateway.address("edge/http")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_refusal_names_the_upstream_and_the_queue_is_served_when_there_is_room() {
    let gate = Gate::closed();
    let upstream = gate.upstream(200, "done").await;
    let concurrency = "concurrency: { max: 2, adaptive: false, queue: { size: 1, wait: 10s } }";
    let gateway = Foregate::start(&policies::to(upstream.address, concurrency), Options::default()).await;
    let crowd = Crowd::connect(gateway.address("edge/http"), 1).await;
    let mut sending = JoinSet::new();
    for number in 0..3 {
        let crowd = crowd.clone();
        sending.spawn(async move { crowd.get(number, &[]).await });
    }
    let waiting = "foregate_upstream_requests_waiting{upstream=\"crm\"}";
    gateway.wait_sample(waiting, |count| (count - 1.0).abs() < 0.5).await;
    // The queue is full: whoever has waited longest is refused, and whoever comes waits.
    let later = {
        let crowd = crowd.clone();
        tokio::spawn(async move { crowd.get(3, &[]).await })
    };
    let refused = within("a refusal", sending.join_next()).await.unwrap().unwrap();
    assert_eq!((refused.status, refused.reason().as_str()), (503, "Overloaded"));
    let record = gateway.record(refused.decision()).await;
    assert_eq!(record["foregate.rule"], "crm", "{record}");
    assert_eq!(record["foregate.step"], "dispatch", "{record}");
    upstream.wait_received(2).await;
    gate.open();
    assert_eq!(within("the one that waited", later).await.unwrap().status, 200);
    while let Some(reply) = sending.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
    assert_eq!(upstream.received().len(), 3);
}

#[tokio::test]
async fn whoever_sends_a_body_reads_the_refusal_too() {
    let upstream = Upstream::start(|received| async move {
        if received.uri.path() == "/never" {
            std::future::pending::<()>().await;
        }
        http::Response::new(crate::support::upstream::full("done"))
    })
    .await;
    let concurrency = "concurrency: { max: 1, adaptive: false, queue: { size: 0 } }";
    let gateway = Foregate::start(&policies::to(upstream.address, concurrency), Options::default()).await;
    let address = gateway.address("edge/http");
    let mut first = Client::http1(address).await;
    let holding = tokio::spawn(async move { first.get("/never").await });
    upstream.wait_received(1).await;
    for http2 in [false, true] {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        for _ in 0..3 {
            // More than the buffers of sockets hold: were it not read, the answer would be lost with a reset.
            let refused = client.post("/", vec![b'x'; 3 << 20]).await;
            assert_eq!((refused.status, refused.reason().as_str()), (503, "Overloaded"));
        }
    }
    holding.abort();
    let _ = holding.await;
    gateway.wait_sample("foregate_upstream_requests_in_flight{upstream=\"crm\"}", |count| count == 0.0).await;
    assert_eq!(Client::http1(address).await.post("/", vec![b'x'; 3 << 20]).await.status, 200);

    // What is counted stays what it is, however often policies are published.
    let shed = "foregate_upstream_requests_shed_total{upstream=\"crm\"}";
    assert_eq!(gateway.sample(shed).await, Some(6.0));
    for _ in 0..2 {
        gateway.publish(&policies::to(upstream.address, concurrency)).await;
    }
    assert_eq!(gateway.sample(shed).await, Some(6.0));
}

#[tokio::test]
async fn a_limit_that_is_published_holds_and_one_that_is_refused_does_not() {
    let backend = Backend::start(PLACES, Duration::ZERO).await;
    let with = |max: u32| {
        policies::to(backend.upstream.address, &format!("concurrency: {{ max: {max}, adaptive: false }}"))
    };
    let gateway = Foregate::start(&with(7), Options::default()).await;
    let limit = "foregate_upstream_concurrency_limit{upstream=\"crm\"}";
    assert_eq!(gateway.sample(limit).await, Some(7.0));
    gateway.publish(&with(9)).await;
    assert_eq!(gateway.sample(limit).await, Some(9.0));
    gateway.write("policies.yaml", with(11) + "nonsense: true\n");
    gateway.event("policies refused").await;
    assert_eq!(gateway.sample(limit).await, Some(9.0));
    assert_eq!(Client::http1(gateway.address("edge/http")).await.get("/").await.status, 200);
}
