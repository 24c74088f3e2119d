//! API keys over the wire: who is let in, what is told and forwarded.

use std::process::Command;

use serde_json::Value;

use crate::support::client::{Client, Reply};
use crate::support::consumers::{Known, known};
use crate::support::guarded::{guarded, routes};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

const SPEC: &str = "apiKey: { groups: [partners] }
authorize:
- { name: eu, allow: 'consumer.metadata.region == \"eu\"' }
";
const PARTNER: &str = "groups: [partners], metadata: { region: eu }";

async fn get(client: &mut Client, headers: &[(&str, &str)]) -> Reply {
    let mut request = client.request("GET", "/orders");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send_empty(request).await
}

#[tokio::test]
async fn a_key_opens_what_its_consumer_may_do_and_reaches_nobody() {
    let upstream = Upstream::answering("ok").await;
    let (sales, abroad, stranger) = (known("sales"), known("abroad"), known("stranger"));
    let policies = guarded(upstream.address, SPEC)
        + &sales.document("", PARTNER)
        + &abroad.document("", "groups: [partners], metadata: { region: us }")
        + &stranger.document("", "metadata: { region: eu }");
    let gateway = Foregate::start(&policies, Options::default()).await;
    let address = gateway.address("edge/http");
    for mut client in [Client::http1(address).await, Client::http2(address).await] {
        let reply = get(&mut client, &[("x-api-key", &sales.key)]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(gateway.record(reply.decision()).await["foregate.consumer"], "sales");
        assert!(!upstream.last().headers.contains_key("x-api-key"));
        for (key, status, reason, rule) in [
            (&abroad.key, 403, "AccessDenied", "default"),
            (&stranger.key, 403, "AccessDenied", "all"),
            (&"fg_none_of_them".to_owned(), 401, "KeyInvalid", "all"),
        ] {
            let reply = get(&mut client, &[("x-api-key", key)]).await;
            assert_eq!((reply.status, reply.reason().as_str()), (status, reason));
            assert_eq!(gateway.record(reply.decision()).await["foregate.rule"], rule);
            let (_, told) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
            let named = if reason == "KeyInvalid" { "null" } else { "\"" };
            let input = format!("\"consumer.name\":{named}");
            assert!(told.replace(": ", ":").contains(&input), "{told}");
        }
    }
    assert_eq!(upstream.received().len(), 2);
    let (metrics, decisions) = (gateway.metrics().await, gateway.admin_page("/decisions?limit=100").await.1);
    for text in [gateway.access_log().text(), gateway.events().text(), metrics, decisions] {
        for secret in [&sales, &abroad, &stranger] {
            assert!(!text.contains(&secret.key), "the key of {} is told", secret.name);
        }
    }
}

#[tokio::test]
async fn callers_cannot_tell_what_is_wrong_with_a_key_and_operators_can() {
    let upstream = Upstream::answering("ok").await;
    let (good, old) = (known("good"), known("old"));
    let policies = guarded(upstream.address, SPEC)
        + &good.document("", PARTNER)
        + &old.document("expires: 2020-01-01T00:00:00Z", PARTNER);
    let gateway = Foregate::start(&policies, Options::default()).await;
    let wrong = format!("{}x", good.key);
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut told = Vec::new();
    for (key, detail) in [
        ("fg_nobody_000", "no key of any consumer begins so"),
        (wrong.as_str(), "the public part is known, and the secret part is wrong"),
        (old.key.as_str(), "the key has expired"),
    ] {
        let reply = get(&mut client, &[("x-api-key", key)]).await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, "ApiKey realm=\"foregate\""));
        assert_eq!(gateway.record(reply.decision()).await["foregate.detail"], detail);
        let mut body = reply.json();
        body.as_object_mut().unwrap().retain(|name, _| name != "decision" && name != "instance");
        told.push(body.to_string().replace(reply.decision(), ""));
    }
    assert!(told.iter().all(|body| *body == told[0]), "{told:#?}");
    let reply = get(&mut client, &[]).await;
    assert_eq!((reply.status, reply.reason().as_str()), (401, "KeyMissing"));
    let twice = get(&mut client, &[("x-api-key", &good.key), ("x-api-key", &good.key)]).await;
    assert_eq!((twice.status, twice.reason().as_str()), (401, "KeyInvalid"));
    let query = client.get(&format!("/orders?x-api-key={}", good.key)).await;
    assert_eq!((query.status, query.reason().as_str()), (401, "KeyMissing"));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn one_key_replaces_another_without_a_gap() {
    let upstream = Upstream::answering("ok").await;
    let (first, second) = (known("first"), known("second"));
    let base = guarded(upstream.address, SPEC);
    let gateway = Foregate::start(&(base.clone() + &first.document("", PARTNER)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(get(&mut client, &[("x-api-key", &second.key)]).await.status, 401);
    // The document of the first consumer, with the key of the second beside its own, then instead of it.
    let of = |key: &Known| {
        let document = key.document("", "");
        document.split_once("keys: [").and_then(|(_, rest)| rest.split_once(']')).unwrap().0.to_owned()
    };
    let old = first.document("", PARTNER);
    let both = old.replace(&of(&first), &format!("{}, {}", of(&first), of(&second)));
    let new = old.replace(&of(&first), &of(&second));
    for (step, (text, statuses)) in [(both, [200, 200]), (new, [401, 200])].into_iter().enumerate() {
        gateway.publish(&(base.clone() + &text)).await;
        for (key, status) in [&first.key, &second.key].into_iter().zip(statuses) {
            let reply = get(&mut client, &[("x-api-key", key)]).await;
            assert_eq!(reply.status, status, "step {step}");
            let consumer = &gateway.record(reply.decision()).await["foregate.consumer"];
            assert_eq!(*consumer, if status == 200 { Value::from("first") } else { Value::Null });
        }
    }
}

#[tokio::test]
async fn a_key_from_the_command_line_opens_the_gateway() {
    let made = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_foregate")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (shown, document) = text.split_once("---\n").unwrap();
        (shown.lines().map(str::to_owned).collect::<Vec<_>>(), format!("\n{document}---"))
    };
    let (key, keyed) =
        made(&["token", "key", "--consumer", "cli", "--group", "partners", "--expires-in", "1h"]);
    let (client_id, mule) = made(&["token", "key", "--consumer", "mule", "--client"]);
    let upstream = Upstream::answering("ok").await;
    let by_client = "apiKey: { headers: { clientId: client_id, clientSecret: client_secret } }
authorize: [{ name: mule, allow: 'consumer.name == \"mule\"' }]";
    let by_key =
        "apiKey: { groups: [partners] }\nauthorize: [{ name: cli, allow: 'consumer.name == \"cli\"' }]";
    let policies = routes(upstream.address, &[("key", by_key), ("mule", by_client)]) + &keyed + &mule;
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/key").header("x-api-key", &key[0]);
    assert_eq!(client.send_empty(request).await.status, 200);
    let request = client
        .request("GET", "/mule")
        .header("client_id", &client_id[0])
        .header("client_secret", &client_id[1]);
    assert_eq!(client.send_empty(request).await.status, 200);
    let received = upstream.last();
    assert!(!received.headers.keys().any(|name| name.as_str().starts_with("client")), "{received:?}");
}

#[tokio::test]
async fn no_spelling_of_a_credential_header_poses_as_another() {
    let upstream = Upstream::answering("ok").await;
    let sales = known("sales");
    let forward = "apiKey: { headers: { clientId: client_id, clientSecret: client_secret }, forward: true }
jwt: [{ issuer: 'https://idp.test', audiences: [crm], jwks: { inline: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw\"}]}' }, algorithms: [HS256] }]
authorize: [{ name: any, allow: 'true' }]";
    let policies =
        routes(upstream.address, &[("key", SPEC), ("both", forward)]) + &sales.document("", PARTNER);
    let gateway = Foregate::start(&policies, Options::default()).await;
    let address = gateway.address("edge/http");
    for mut client in [Client::http1(address).await, Client::http2(address).await] {
        // Names differ in case on HTTP/1.1 only; no other spelling is the header.
        for name in ["X-API-KEY", "x-Api-Key"] {
            let request = client.request("GET", "/key").header(name, &sales.key);
            assert_eq!(client.send_empty(request).await.status, 200, "{name}");
        }
        for name in ["x_api_key", "x-api_key", "api-key", "x-apikey"] {
            let request = client.request("GET", "/key").header(name, &sales.key);
            let reply = client.send_empty(request).await;
            assert_eq!((reply.status, reply.reason().as_str()), (401, "KeyMissing"), "{name}");
        }
        let before = upstream.received().len();
        let mut request = client.request("GET", "/key").header("x-api-key", &sales.key);
        for name in ["x_api_key", "x-api_key", "x_api-key"] {
            request = request.header(name, "forged");
        }
        assert_eq!(client.send_empty(request).await.status, 200);
        let received = upstream.received().pop().unwrap();
        assert_eq!(upstream.received().len(), before + 1);
        assert!(!received.headers.values().any(|value| value == "forged"), "{received:?}");
        // Neither a half of the pair nor another way to identify lets a forged half through.
        let request = client.request("GET", "/both").header("client-id", "forged");
        assert_eq!(client.send_empty(request).await.reason(), "CredentialsMissing");
        let request = client.request("GET", "/both").header("client_id", "forged");
        assert_eq!(client.send_empty(request).await.reason(), "KeyInvalid");
    }
}
