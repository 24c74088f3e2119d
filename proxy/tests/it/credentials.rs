//! Credentials that upstreams are shown: had, renewed, given up; never the client's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate::clock;
use foregate::issuer::{Issuer, generate_pem};
use foregate_filters::jwt::Alg;
use foregate_filters::jwt::key_set::KeySet;
use futures_util::future::join_all;
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::client::{Client, Reply};
use crate::support::policies::to;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Body, Received, Upstream, empty, fed, full};
use crate::support::within;

/// A token endpoint: each token has a number, from 1.
struct Server {
    upstream: Upstream,
    answer: Arc<Mutex<Value>>,
    held: watch::Sender<bool>,
}

impl Server {
    /// Every answer has these members besides the token; one of null is left out.
    async fn start(members: Value) -> Self {
        let answer = Arc::new(Mutex::new(members));
        let (held, release) = watch::channel(false);
        let (says, count) = (Arc::clone(&answer), Arc::new(AtomicUsize::new(0)));
        let upstream = Upstream::start(move |_: Received| {
            let (says, count, mut release) = (Arc::clone(&says), Arc::clone(&count), release.clone());
            async move {
                let _ = release.wait_for(|held| !held).await;
                let said = says.lock().unwrap().clone();
                grant(&said, count.fetch_add(1, Ordering::SeqCst) + 1)
            }
        })
        .await;
        Self { upstream, answer, held }
    }

    fn say(&self, members: Value) {
        *self.answer.lock().unwrap() = members;
    }

    fn asked(&self) -> usize {
        self.upstream.received().len()
    }

    /// An upstream with client credentials of this endpoint.
    fn client_credentials(&self) -> String {
        format!(
            "credentials: {{ clientCredentials: {{ tokenEndpoint: 'http://{}/token', scope: 'a b', audience: crm, \
             clientAuth: {{ method: post, clientId: gateway, secret: {{ file: secret }} }} }} }}",
            self.upstream.address
        )
    }
}

/// The answer of the endpoint: `status` and `type` of `said` are those of the response.
fn grant(said: &Value, number: usize) -> Response<Body> {
    let mut all =
        json!({ "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 600 });
    let members = all.as_object_mut().unwrap();
    members.extend(said.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    let status = members.remove("status").and_then(|status| status.as_u64()).unwrap_or(200);
    let kind = members.remove("type");
    let kind = kind.as_ref().and_then(Value::as_str).unwrap_or("application/json");
    let response = Response::builder().status(u16::try_from(status).unwrap()).header("content-type", kind);
    response.header("location", "http://10.0.0.1/").body(full(all.to_string())).unwrap()
}

async fn start(documents: &str) -> Foregate {
    Foregate::start(documents, Options::default().file("secret", "s3cret")).await
}

fn series(name: &str) -> String {
    format!("foregate_credential_{name}{{upstream=\"crm\"}}")
}

async fn get(client: &mut Client) -> Reply {
    client.get("/").await
}

#[tokio::test]
async fn a_hundred_requests_share_one_token_which_the_upstream_alone_sees() {
    let (server, upstream) = (Server::start(json!({})).await, Upstream::answering("ok").await);
    server.held.send_replace(true);
    let gateway = start(&to(upstream.address, &server.client_credentials())).await;
    let address = gateway.address("edge/http");
    let callers = join_all((0..10).map(async |_| {
        let mut client = Client::http2(address).await;
        let requests = (0..10).map(|_| {
            let request = client.request("GET", "/").header("authorization", "Bearer of-the-client");
            request.body(empty()).unwrap()
        });
        client.send_all(requests.collect()).await
    }));
    let release = async {
        gateway.wait_sample("http_server_active_requests", |requests| requests >= 100.0).await;
        assert!(upstream.received().is_empty(), "a request went without its token");
        server.held.send_replace(false);
    };
    let (replies, ()) = tokio::join!(callers, release);
    assert!(replies.iter().flatten().all(|reply| reply.status == 200));
    assert_eq!(server.asked(), 1);
    let asked = server.upstream.last();
    assert_eq!(
        asked.body,
        "grant_type=client_credentials&client_id=gateway&client_secret=s3cret&scope=a%20b&audience=crm"
    );
    for seen in upstream.received() {
        let values: Vec<_> = seen.headers.get_all("authorization").iter().collect();
        assert_eq!(values, ["Bearer token-1"]);
    }
    gateway.wait_sample(&series("expires_in_seconds"), |left| (500.0..600.0).contains(&left)).await;
    assert_eq!(gateway.sample(&series("fetches_succeeded_total")).await, Some(1.0));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_no_request_waits() {
    let server = Server::start(json!({ "expires_in": "5" })).await;
    let upstream = Upstream::answering("ok").await;
    let gateway = start(&to(upstream.address, &server.client_credentials())).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut longest = Duration::ZERO;
    within("two renewals", async {
        while server.asked() < 3 {
            let before = clock::monotonic();
            assert_eq!(get(&mut client).await.status, 200);
            longest = longest.max(clock::monotonic().saturating_sub(before));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // While the server does not answer, the token that is still good goes on.
    server.held.send_replace(true);
    let renewals = series("fetches_succeeded_total");
    let before = gateway.sample(&renewals).await.unwrap();
    assert_eq!(get(&mut client).await.status, 200);
    server.held.send_replace(false);
    gateway.wait_sample(&renewals, |now| now > before).await;
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let upstream = Upstream::answering("ok").await;
    for (what, said, told) in [
        ("down", json!({ "status": 500 }), "status 500"),
        ("refused", json!({ "status": 400, "error": "invalid_grant" }), "error invalid_grant"),
        ("an error of its own", json!({ "status": 400, "error": "s3cret" }), "status 400"),
        ("another type", json!({ "type": "text/html" }), "not JSON by its Content-Type"),
        ("a redirect", json!({ "status": 307 }), "status 307"),
        ("a huge body", json!({ "x": "x".repeat(1 << 20) }), "over 64 KiB"),
        ("no token", json!({ "access_token": null }), "not a token response"),
        ("an empty token", json!({ "access_token": "" }), "cannot stand in a header"),
        ("a token with a line end", json!({ "access_token": "a\r\nx: y" }), "cannot stand in a header"),
        ("a token with a space", json!({ "access_token": "a b" }), "cannot stand in a header"),
        ("another kind", json!({ "token_type": "DPoP" }), "not a bearer token"),
        ("a strange lifetime", json!({ "expires_in": [1] }), "not a token response"),
    ] {
        let server = Server::start(said).await;
        let gateway = start(&to(upstream.address, &server.client_credentials())).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = get(&mut client).await;
        assert_eq!((reply.status, reply.reason().as_str()), (503, "CredentialUnavailable"), "{what}");
        let record = gateway.record(reply.decision()).await;
        assert_eq!((&record["foregate.step"], &record["foregate.rule"]), (&json!("shape"), &json!("crm")));
        let detail = record["foregate.detail"].as_str().unwrap();
        assert!(detail.contains(told) && !detail.contains("s3cret"), "{what}: {detail}");
        // Requests do not ask again before the pause is over.
        let asked = server.asked();
        for _ in 0..20 {
            assert_eq!(get(&mut client).await.status, 503, "{what}");
        }
        assert!(server.asked() <= asked + 2, "{what}: {} after {asked}", server.asked());
        assert!(upstream.received().is_empty(), "{what}");
        server.say(json!({}));
        within("a token", async {
            while get(&mut client).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(upstream.last().header("authorization").starts_with("Bearer token-"));
        let failed = gateway.sample(&series("fetches_failed_total")).await;
        assert!(failed.is_some_and(|failed| failed >= 1.0), "{what}");
        drop(gateway);
        upstream.forget();
    }
}

#[tokio::test]
async fn a_token_that_the_upstream_refuses_is_given_up_once() {
    let server = Server::start(json!({ "expires_in": null })).await;
    // The first token was revoked behind the gateway's back; later everything is refused.
    let all = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refuse_all = Arc::clone(&all);
    let upstream = Upstream::start(move |request: Received| {
        let bad = refuse_all.load(Ordering::SeqCst) || request.header("authorization") == "Bearer token-1";
        async move { Response::builder().status(if bad { 401 } else { 200 }).body(empty()).unwrap() }
    })
    .await;
    let gateway = start(&to(upstream.address, &server.client_credentials())).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(get(&mut client).await.status, 401, "the answer goes to the client as it is");
    assert_eq!(get(&mut client).await.status, 200, "the next request waits for a new token");
    assert_eq!(upstream.last().header("authorization"), "Bearer token-2");
    all.store(true, Ordering::SeqCst);
    for _ in 0..50 {
        assert_eq!(get(&mut client).await.status, 401);
    }
    assert_eq!(
        server.asked(),
        2,
        "an upstream that refuses everybody does not make the gateway ask without end"
    );
}

#[tokio::test]
async fn an_assertion_says_who_and_is_signed_with_the_key_of_now() {
    let (server, upstream) =
        (Server::start(json!({ "expires_in": 2 })).await, Upstream::answering("ok").await);
    let (first, second) = (generate_pem().unwrap(), generate_pem().unwrap());
    let more = format!(
        "credentials: {{ jwtBearer: {{ tokenEndpoint: 'http://{}/token', issuer: 3MVG9, subject: integration@acme.example, \
         audience: 'https://login.salesforce.com', keyId: k1, alg: ES256, key: {{ secretRef: {{ name: sf, key: key.pem }} }} }} }}",
        server.upstream.address
    );
    let options = Options::default().file("secrets/sf/key.pem", first.clone());
    let gateway = Foregate::start(&to(upstream.address, &more), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(get(&mut client).await.status, 200);
    let verified = |pem: &str, asked: &Received| -> Option<Value> {
        let form = String::from_utf8(asked.body.to_vec()).unwrap();
        let (kind, assertion) = form.split_once("&assertion=").unwrap();
        assert_eq!(kind, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
        let (message, signature) = assertion.rsplit_once('.').unwrap();
        let jwks = Issuer::from_pem("", pem).unwrap().jwks().to_string();
        let keys = KeySet::parse(jwks.as_bytes()).unwrap();
        let signed = keys
            .candidates(None, Alg::ES256)
            .any(|key| key.verifies(Alg::ES256, message.as_bytes(), signature));
        let claims = URL_SAFE_NO_PAD.decode(message.split('.').nth(1).unwrap()).unwrap();
        signed.then(|| serde_json::from_slice(&claims).unwrap())
    };
    let claims = verified(&first, &server.upstream.received()[0]).unwrap();
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!("3MVG9"), &json!("integration@acme.example"), &json!("https://login.salesforce.com"))
    );
    let left = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert!(left <= 180, "Salesforce takes no assertion of more than three minutes");
    gateway.write("secrets/sf/key.pem", &second);
    within("an assertion with the new key", async {
        while verified(&second, &server.upstream.last()).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let ids: std::collections::HashSet<String> = server
        .upstream
        .received()
        .iter()
        .filter_map(|asked| verified(&first, asked).or_else(|| verified(&second, asked)))
        .map(|claims| claims["jti"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), server.asked(), "no assertion is used twice");
}

#[tokio::test]
async fn a_static_secret_replaces_what_the_client_sends_in_every_spelling() {
    let upstream = Upstream::answering("ok").await;
    let more = "credentials: { static: { header: X-Api-Key, value: { file: secret } } }";
    let gateway = start(&to(upstream.address, more)).await;
    let address = gateway.address("edge/http");
    let head = "GET / HTTP/1.1\r\nHost: crm.test\r\nx-api-key: evil\r\nX-API-KEY: evil\r\nx_api_key: evil\r\n\
                X_Api-Key: evil\r\nauthorization: Bearer own\r\n\r\n";
    assert_eq!(raw::exchange(address, head.to_owned()).await.unwrap().status, 200);
    let seen = upstream.last();
    assert_eq!(seen.headers.get_all("x-api-key").iter().collect::<Vec<_>>(), ["s3cret"]);
    assert!(!seen.headers.contains_key("x_api_key") && !seen.headers.contains_key("x_api-key"));
    assert_eq!(seen.header("authorization"), "Bearer own", "other headers are the client's");
    // Not as a trailer either.
    let (feed, body) = fed();
    let mut client = Client::http2(address).await;
    let request = client.request("POST", "/").body(body).unwrap();
    let trailers: HeaderMap = [("x-api-key", "evil"), ("x-other", "kept")]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect();
    let feeding = async {
        assert!(feed.data("x").await);
        feed.trailers(trailers).await;
        drop(feed);
    };
    let (reply, ()) = tokio::join!(client.send(request), feeding);
    assert_eq!(reply.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-api-key"), "s3cret");
    assert!(!seen.trailers.is_some_and(|trailers| trailers.contains_key("x-api-key")));
    gateway.write("secret", "rotated");
    within("the new secret", async {
        loop {
            let mut client = Client::http1(address).await;
            assert_eq!(get(&mut client).await.status, 200);
            if upstream.last().header("x-api-key") == "rotated" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
