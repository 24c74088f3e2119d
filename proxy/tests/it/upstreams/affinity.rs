//! Requests that belong together: by session, by header, by cookie, by address.

use std::collections::{HashMap, HashSet};

use super::{documents, endpoints};
use crate::support::client::{Client, Reply};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn five() -> Vec<Upstream> {
    let mut all = Vec::new();
    for name in NAMES {
        all.push(Upstream::answering(name).await);
    }
    all
}

fn spec(upstreams: &[Upstream], more: &str) -> String {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    format!("{}, {more}", endpoints(&addresses))
}

async fn get(client: &mut Client, headers: &[(&str, &str)]) -> Reply {
    let mut request = client.request("GET", "/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send_empty(request).await
}

#[tokio::test]
async fn a_session_sticks_to_its_endpoint_until_that_is_gone() {
    let mut upstreams = five().await;
    let more = "sessionPersistence: { sessionName: sid, absoluteTimeout: 1h }";
    let gateway = Foregate::start(&documents("", &spec(&upstreams, more)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut sessions = HashMap::new();
    for _ in 0..60 {
        let reply = get(&mut client, &[]).await;
        let cookie = reply.header("set-cookie").to_owned();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{cookie}");
        let pair = cookie.split(';').next().unwrap().to_owned();
        assert!(pair.starts_with("sid=") && pair.len() == 36, "{pair}");
        sessions.insert(pair, reply.text());
    }
    assert_eq!(sessions.values().collect::<HashSet<_>>().len(), 5, "sessions are spread");
    for (pair, endpoint) in &sessions {
        // Other connections, and other gateways.
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = get(&mut client, &[("cookie", &format!("other=1; {pair}"))]).await;
        assert_eq!((&reply.text(), reply.header("set-cookie")), (endpoint, ""));
    }
    let gone = upstreams.pop().unwrap();
    gateway.publish(&documents("", &spec(&upstreams, more))).await;
    for (pair, endpoint) in &sessions {
        let after = get(&mut client, &[("cookie", pair)]).await.text();
        assert!(if endpoint == "e" { after != "e" } else { after == *endpoint }, "{endpoint} {after}");
    }
    drop(gone);
}

#[tokio::test]
async fn a_session_may_be_told_in_a_header() {
    let upstreams = five().await;
    let more = "sessionPersistence: { type: Header, sessionName: X-Session }";
    let gateway = Foregate::start(&documents("", &spec(&upstreams, more)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..10 {
        let first = get(&mut client, &[]).await;
        let id = first.header("x-session").to_owned();
        assert_eq!(id.len(), 32, "{id}");
        for _ in 0..5 {
            let reply = get(&mut client, &[("x-session", &id)]).await;
            assert_eq!((reply.text(), reply.header("x-session")), (first.text(), ""));
        }
    }
}

#[tokio::test]
async fn equal_keys_go_to_the_same_endpoint_and_few_move() {
    for (hash_on, name, value) in [
        ("hashOn: { header: x-org }", "x-org", "org-"),
        ("hashOn: { cookie: org }", "cookie", "a=b; org="),
        ("hashOn: { expression: 'request.headers[\"x-org\"]' }", "x-org", "org-"),
    ] {
        let mut upstreams = five().await;
        let more = format!("loadBalancing: {{ policy: Maglev, {hash_on} }}");
        let gateway = Foregate::start(&documents("", &spec(&upstreams, &more)), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let mut before = Vec::new();
        for number in 0..200 {
            before.push(get(&mut client, &[(name, &format!("{value}{number}"))]).await.text());
        }
        for (number, endpoint) in before.iter().enumerate().step_by(7) {
            let again = get(&mut client, &[(name, &format!("{value}{number}"))]).await.text();
            assert_eq!(again, *endpoint);
        }
        let gone = upstreams.pop().unwrap();
        gateway.publish(&documents("", &spec(&upstreams, &more))).await;
        let (mut moved, mut of_gone) = (0, 0);
        for (number, endpoint) in before.iter().enumerate() {
            let after = get(&mut client, &[(name, &format!("{value}{number}"))]).await.text();
            moved += i32::from(after != *endpoint);
            of_gone += i32::from(endpoint == "e");
        }
        assert!((20..=65).contains(&of_gone), "{of_gone} of 200 went to one of five");
        assert!(moved >= of_gone && moved <= of_gone + 30, "{moved} moved, {of_gone} had to");
        // Without the key they go anywhere.
        let mut anywhere = HashSet::new();
        for _ in 0..50 {
            anywhere.insert(get(&mut client, &[]).await.text());
        }
        assert!(anywhere.len() > 1);
        drop(gone);
    }
}

#[tokio::test]
async fn one_address_goes_to_one_endpoint() {
    let upstreams = five().await;
    let spec = spec(&upstreams, "loadBalancing: { policy: Maglev }");
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut seen = HashSet::new();
    for _ in 0..10 {
        let mut client = Client::http1(gateway.address("edge/http")).await;
        seen.insert(client.get("/").await.text());
    }
    assert_eq!(seen.len(), 1);
}

/// A rule with a session, to two upstreams of two endpoints each, of which the second gets a third of the sessions.
fn routed(session: &str, upstreams: &[Upstream]) -> String {
    let of = |name: &str, upstreams: &[Upstream]| {
        let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        format!(
            "\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: {name} }}\nspec: {{ {} }}\n---",
            endpoints(&addresses)
        )
    };
    let backend =
        |name, weight| format!("{{ group: foregate.dev, kind: Upstream, name: {name}, weight: {weight} }}");
    let rule = format!(
        "  - {{ sessionPersistence: {session}, backendRefs: [{}, {}] }}",
        backend("one", 2),
        backend("two", 1)
    );
    [
        policies::GATEWAY,
        &policies::route("all", &rule),
        &of("one", &upstreams[..2]),
        &of("two", &upstreams[2..4]),
    ]
    .concat()
}

#[tokio::test]
async fn a_session_of_a_route_sticks_to_its_backend_and_its_endpoint() {
    let upstreams = five().await;
    for session in ["{ sessionName: sid }", "{ type: Header, sessionName: X-Sid, idleTimeout: 1h }"] {
        let gateway = Foregate::start(&routed(session, &upstreams), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let mut sessions = HashMap::new();
        for _ in 0..60 {
            let reply = get(&mut client, &[]).await;
            let shown = if session.contains("Header") {
                ("x-sid", reply.header("x-sid").to_owned())
            } else {
                ("cookie", reply.header("set-cookie").split(';').next().unwrap().to_owned())
            };
            assert!(!shown.1.is_empty());
            sessions.insert(shown, reply.text());
        }
        let count =
            |names: [&str; 2]| sessions.values().filter(|text| names.contains(&text.as_str())).count();
        assert!((25..=52).contains(&count(["a", "b"])), "two of three: {}", count(["a", "b"]));
        assert_eq!(sessions.values().collect::<HashSet<_>>().len(), 4);
        for ((name, value), endpoint) in &sessions {
            for _ in 0..3 {
                let reply = get(&mut client, &[(name, value)]).await;
                assert_eq!(
                    (&reply.text(), reply.header("set-cookie"), reply.header("x-sid")),
                    (endpoint, "", "")
                );
            }
        }
    }
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let upstreams = five().await;
    let session = "{ sessionName: sid, absoluteTimeout: 1h, idleTimeout: 10m, cookieConfig: { lifetimeType: Permanent } }";
    let gateway = Foregate::start(&routed(session, &upstreams), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = get(&mut client, &[]).await;
    let cookie = reply.header("set-cookie").to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{cookie}");
    let value = cookie.split(';').next().unwrap().strip_prefix("sid=").unwrap();
    let parts: Vec<&str> = value.split('.').collect();
    let now = u64::from_str_radix(parts[1], 16).unwrap();
    let shown = |created: u64, seen: u64| format!("sid={}.{created:x}.{seen:x}", parts[0]);
    for (created, seen, what) in [
        (now, now, "kept"),
        (now - 3000, now - 300, "renewed"),
        (now - 3000, now - 700, "idle for too long"),
        (now - 3700, now, "over"),
    ] {
        let again = get(&mut client, &[("cookie", &shown(created, seen))]).await;
        let told = again.header("set-cookie");
        match what {
            "kept" => assert_eq!((again.text(), told), (reply.text(), "")),
            "renewed" => {
                assert_eq!(again.text(), reply.text());
                assert!(told.starts_with(&format!("sid={}.{created:x}.", parts[0])), "{told}");
            }
            _ => assert!(told.starts_with("sid=") && !told.contains(parts[0]), "{what}: {told}"),
        }
    }
}
