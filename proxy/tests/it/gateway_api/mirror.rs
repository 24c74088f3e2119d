//! The filter `RequestMirror`: copies that nobody waits for.

use http::Response;

use crate::gateway_api::{Row, World, to};
use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, fed, full, zeros};

fn mirror(to: &str, more: &str) -> String {
    format!(
        "    - type: RequestMirror\n      requestMirror: {{ backendRef: {{ group: foregate.dev, kind: Upstream, name: {to} }}{more} }}\n"
    )
}

fn rules(mirrors: &str, more: &str) -> String {
    format!(
        "  - filters:\n{mirrors}{more}    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: one }}]\n"
    )
}

fn sample(upstream: &str, outcome: &str) -> String {
    format!("foregate_mirrored_requests_total{{upstream=\"{upstream}\",outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn copies_go_to_every_mirror_with_head_and_body_as_shaped() {
    let shaped = "    - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-shaped, value: '1' }] } }
    - { type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }\n";
    let mirrors = [mirror("two", ""), mirror("three", ", percent: 100"), mirror("none", ", percent: 0")];
    let rules = rules(&mirrors.concat(), shaped)
        .replace("  - filters:", "  - matches: [{ path: { value: /old } }]\n    filters:");
    let backends = [("one", false), ("two", false), ("three", true), ("none", false)];
    let documents = [policies::GATEWAY, &policies::route("all", &rules)].concat();
    let world = World::speaking(&backends, &documents).await;
    world.check(&[Row { seen: &[("path", "/new/a?b")], ..to("GET crm.test /old/a?b", "one") }]).await;
    for name in ["two", "three"] {
        world.backend(name).wait_received(2).await;
        let copy = world.backend(name).last();
        assert_eq!((copy.method.as_str(), copy.uri.path(), copy.header("x-shaped")), ("GET", "/new/a", "1"));
        world.gateway.wait_sample(&sample(name, "answered"), |count| (count - 2.0).abs() < 0.5).await;
    }

    // Bodies, with a length and in chunks.
    let mut client = Client::http1(world.gateway.address("edge/http")).await;
    assert_eq!(client.post("/old", "hello").await.status, 200);
    let (feed, body) = fed();
    let request = client.request("POST", "/old").body(body).unwrap();
    let sending = tokio::spawn(async move { client.send(request).await });
    assert!(feed.data("in ").await && feed.data("pieces").await);
    drop(feed);
    assert_eq!(sending.await.unwrap().json()["body"], "in pieces");
    for name in ["two", "three"] {
        world.backend(name).wait_received(4).await;
        let bodies: Vec<_> = world.backend(name).received().into_iter().map(|copy| copy.body).collect();
        assert!(bodies.contains(&"hello".into()) && bodies.contains(&"in pieces".into()), "{bodies:?}");
    }
    assert_eq!(world.backend("none").connections(), 0);
}

#[tokio::test]
async fn a_share_of_requests_is_copied() {
    let mirrors = mirror("two", ", fraction: { numerator: 1, denominator: 4 }");
    let documents = [policies::GATEWAY, &policies::route("all", &rules(&mirrors, ""))].concat();
    let world = World::new(&["one", "two"], &documents).await;
    let mut client = Client::http1(world.gateway.address("edge/http")).await;
    for _ in 0..400 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Six standard deviations around 100: one run in a billion falls out.
    world.backend("two").wait_received(48).await;
    let copies = world.backend("two").received().len();
    assert!((48..=152).contains(&copies), "{copies} of 400");
}

#[tokio::test]
async fn a_mirror_that_is_dead_slow_or_failing_is_never_noticed() {
    let dead = crate::support::unused_address().await;
    let slow = Upstream::start(|_| async { std::future::pending::<Response<_>>().await }).await;
    let failing = Upstream::start(|_| async {
        Response::builder().status(500).header("x-mirror", "1").body(full("no")).unwrap()
    })
    .await;
    let mirrors = [mirror("dead", ""), mirror("slow", ""), mirror("failing", "")].concat();
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules(&mirrors, "")),
        &policies::upstream("dead", dead, ""),
        &policies::upstream("slow", slow.address, ""),
        &policies::upstream("failing", failing.address, ""),
    ];
    let world = World::new(&["one"], &documents.concat()).await;
    world.check(&[Row { reply: &[("x-mirror", "")], ..to("GET crm.test /", "one") }]).await;
    slow.wait_received(2).await;
    world.gateway.wait_sample(&sample("dead", "failed"), |count| (count - 2.0).abs() < 0.5).await;
    world.gateway.wait_sample(&sample("failing", "answered"), |count| (count - 2.0).abs() < 0.5).await;
    // Those that wait in vain are so many and no more.
    let mut client = Client::http2(world.gateway.address("edge/http")).await;
    for _ in 0..300 {
        assert_eq!(client.get("/").await.status, 200);
    }
    world.gateway.wait_sample(&sample("slow", "busy"), |count| count >= 1.0).await;
}

#[tokio::test]
async fn an_answer_to_a_copy_that_comes_in_pieces_is_read_and_its_connection_serves_on() {
    let one = Upstream::answering("one").await;
    let two = Upstream::start(|_| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..3 {
                // Read before the next is sent: each is a piece of its own.
                feed.data(vec![b'x'; 12 << 10]).await;
            }
        });
        Response::new(body)
    })
    .await;
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules(&mirror("two", ""), "")),
        &policies::upstream("one", one.address, ""),
        &policies::upstream("two", two.address, ""),
    ];
    let options = Options::default().args(&["--threads", "1"]);
    let gateway = Foregate::start(&documents.concat(), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for sent in [1.0, 2.0, 3.0] {
        assert_eq!(client.get("/").await.status, 200);
        gateway.wait_sample(&sample("two", "answered"), |count| (count - sent).abs() < 0.5).await;
    }
    assert_eq!(two.connections(), 1);
}

#[tokio::test]
async fn large_bodies_and_broken_ones_are_not_copied() {
    let one = Upstream::answering("one").await;
    let two = Upstream::answering("two").await;
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules(&mirror("two", ""), "")),
        &policies::upstream("one", one.address, ""),
        &policies::upstream("two", two.address, ""),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.post("/", vec![b'x'; 64 << 10]).await.status, 200);
    two.wait_received(1).await;
    assert_eq!(two.last().body.len(), 64 << 10);
    for body in [full(vec![b'x'; (64 << 10) + 1]), zeros(1 << 20)] {
        let request = client.request("POST", "/").body(body).unwrap();
        assert_eq!(client.send(request).await.status, 200);
    }
    gateway.wait_sample(&sample("two", "too_large"), |count| (count - 2.0).abs() < 0.5).await;
    let (feed, body) = fed();
    let request = client.request("POST", "/").body(body).unwrap();
    let sending = tokio::spawn(async move { client.exchange(request).await.map(|_| ()) });
    assert!(feed.data("half").await);
    feed.fail().await;
    assert!(sending.await.unwrap().is_err());
    gateway.wait_sample(&sample("two", "broken_off"), |count| (count - 1.0).abs() < 0.5).await;
    assert_eq!(two.received().len(), 1);
}
