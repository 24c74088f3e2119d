//! Introspection over the wire: asked once, believed for a while, refused when nobody answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::client::{Client, Reply};
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Body, Received, Upstream, full};
use crate::support::within;

/// An authorization server that answers every question alike, as a test says.
struct Server {
    upstream: Upstream,
    answer: Arc<Mutex<Answer>>,
    /// True while answers are held back.
    held: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
enum Answer {
    Json(Value),
    Raw(u16, &'static str, String),
    Redirect(String),
    Silence,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let (held, release) = watch::channel(false);
        let says = Arc::clone(&answer);
        let upstream = Upstream::start(move |_: Received| {
            let (says, mut release) = (Arc::clone(&says), release.clone());
            async move {
                let _ = release.wait_for(|held| !held).await;
                let answer = says.lock().unwrap().clone();
                respond(answer).await
            }
        })
        .await;
        Self { upstream, answer, held }
    }

    fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self) -> String {
        format!("http://{}/introspect", self.upstream.address)
    }

    fn policy(&self, more: &str) -> String {
        format!(
            "introspection:
- endpoint: {}
  audiences: [crm]
  clientAuth: {{ method: basic, clientId: 'gate way', secret: {{ file: secret }} }}
{more}
authorize: [{{ name: readers, allow: '\"crm.read\" in jwt.scopes' }}]
",
            self.url()
        )
    }

    /// The sample of a metric about this endpoint.
    fn series(&self, name: &str) -> String {
        format!("foregate_introspections_{name}_total{{endpoint=\"{}\"}}", self.url())
    }
}

async fn respond(answer: Answer) -> Response<Body> {
    let response = |status: u16, kind: &str, text: String| {
        Response::builder().status(status).header("content-type", kind).body(full(text)).unwrap()
    };
    match answer {
        Answer::Json(value) => response(200, "application/json", value.to_string()),
        Answer::Raw(status, kind, text) => response(status, kind, text),
        Answer::Redirect(to) => {
            Response::builder().status(307).header("location", to).body(full("")).unwrap()
        }
        Answer::Silence => std::future::pending().await,
    }
}

fn active() -> Answer {
    Answer::Json(json!({ "active": true, "scope": "crm.read", "aud": "crm", "sub": "maya" }))
}

async fn start(upstream: &Upstream, policy: &str) -> Foregate {
    let options = Options::default().file("secret", "pa:ss\n");
    Foregate::start(&guarded(upstream.address, policy), options).await
}

async fn bearing(client: &mut Client, token: &str) -> Reply {
    let request = client.request("GET", "/").header("authorization", format!("Bearer {token}"));
    client.send_empty(request).await
}

#[tokio::test]
async fn a_hundred_requests_with_one_new_token_ask_once_and_then_nobody_asks() {
    let (server, upstream) = (Server::start(active()).await, Upstream::answering("ok").await);
    let gateway = start(&upstream, &server.policy("")).await;
    let address = gateway.address("edge/http");
    server.held.send_replace(true);
    let callers = join_all((0..10).map(async |_| {
        let mut client = Client::http2(address).await;
        let requests = (0..10).map(|_| {
            let request = client.request("GET", "/").header("authorization", "Bearer opaque.A-1_~!");
            request.body(crate::support::upstream::empty()).unwrap()
        });
        client.send_all(requests.collect()).await
    }));
    let release = async {
        gateway.wait_sample("http_server_active_requests", |requests| requests >= 100.0).await;
        server.held.send_replace(false);
    };
    let (replies, ()) = tokio::join!(callers, release);
    assert!(replies.iter().flatten().all(|reply| reply.status == 200));
    let asked = server.upstream.received();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].method, "POST");
    assert_eq!(asked[0].header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(asked[0].body, "token=opaque.A-1_%7E%21&token_type_hint=access_token");
    // Id and secret are encoded before they are joined (RFC 6749, section 2.3.1).
    let basic = format!("Basic {}", STANDARD.encode("gate%20way:pa%3Ass"));
    assert_eq!(asked[0].header("authorization"), basic);
    let mut client = Client::http1(address).await;
    for _ in 0..20 {
        assert_eq!(bearing(&mut client, "opaque.A-1_~!").await.status, 200);
    }
    assert_eq!(server.upstream.received().len(), 1);
    server.say(Answer::Json(json!({ "active": false })));
    for _ in 0..5 {
        let reply = bearing(&mut client, "other").await;
        assert_eq!((reply.status, reply.reason().as_str()), (401, "TokenInvalid"));
    }
    assert_eq!(server.upstream.received().len(), 2, "no is remembered too");
    assert_eq!(upstream.received().len(), 120);
    assert!(!upstream.last().headers.contains_key("authorization"));
}

#[tokio::test]
async fn whoever_lies_or_is_down_is_not_believed_and_nothing_arrives() {
    let elsewhere = Server::start(active()).await;
    let (server, upstream) = (Server::start(active()).await, Upstream::answering("ok").await);
    let gateway = start(&upstream, &server.policy("")).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let good = r#"{"active":true,"scope":"crm.read","aud":"crm"}"#.to_owned();
    let huge = format!(
        "{{\"active\":true,\"scope\":\"crm.read\",\"aud\":\"crm\",\"x\":\"{}\"}}",
        "x".repeat(1 << 20)
    );
    let rows = [
        ("another type", Answer::Raw(200, "text/html", good.clone()), "not JSON by its Content-Type"),
        ("no type", Answer::Raw(200, "", good.clone()), "not JSON by its Content-Type"),
        ("a huge body", Answer::Raw(200, "application/json", huge), "over 64 KiB"),
        ("a redirect", Answer::Redirect(elsewhere.url()), "status 307"),
        ("a redirect to a private address", Answer::Redirect("http://10.0.0.1/".to_owned()), "status 307"),
        ("an error", Answer::Raw(500, "application/json", good.clone()), "status 500"),
        ("another success", Answer::Raw(202, "application/json", good.clone()), "status 202"),
        ("the client refused", Answer::Raw(401, "application/json", good.clone()), "status 401"),
        ("no JSON", Answer::Raw(200, "application/json", "active=true".to_owned()), "one JSON object"),
        ("a list", Answer::Raw(200, "application/json", format!("[{good}]")), "one JSON object"),
        (
            "active twice",
            Answer::Raw(200, "application/json", good.replacen('{', "{\"active\":false,", 1)),
            "one JSON object",
        ),
        ("silence", Answer::Silence, "no answer in time"),
    ];
    let count = rows.len();
    for (what, answer, told) in rows {
        server.say(answer);
        let reply = bearing(&mut client, &format!("token-{}", what.replace(' ', "-"))).await;
        assert_eq!((reply.status, reply.reason().as_str()), (503, "IntrospectionUnavailable"), "{what}");
        assert_eq!(reply.header("retry-after"), "5", "{what}");
        assert!(!reply.headers.contains_key("www-authenticate"), "the token may well be good");
        let record = gateway.record(reply.decision()).await;
        assert!(record["foregate.detail"].as_str().unwrap().contains(told), "{what}: {record}");
    }
    assert_eq!(server.upstream.received().len(), count, "each was asked about");
    assert!(elsewhere.upstream.received().is_empty(), "a redirect was followed");
    assert!(upstream.received().is_empty());
    server.say(active());
    assert_eq!(bearing(&mut client, "good").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_left_alone_and_asked_again() {
    let (server, upstream) = (Server::start(active()).await, Upstream::answering("ok").await);
    let gateway = start(&upstream, &server.policy("  cache: { max: 1s }\n  onUnavailable: stale")).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(bearing(&mut client, "known").await.status, 200);
    server.say(Answer::Raw(503, "text/plain", String::new()));
    for number in 0..30 {
        let reply = bearing(&mut client, &format!("new-{number}")).await;
        assert_eq!((reply.status, reply.reason().as_str()), (503, "IntrospectionUnavailable"));
    }
    assert!(server.upstream.received().len() < 10, "{}", server.upstream.received().len());
    // What was known passes for a while, by the word of the policy.
    assert_eq!(bearing(&mut client, "known").await.status, 200);
    server.say(active());
    within("the endpoint to be asked again", async {
        while bearing(&mut client, "new").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let failed = gateway.sample(&server.series("failed")).await.unwrap();
    assert!((5.0..10.0).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_secret_that_changes_is_used_at_once_and_one_that_is_gone_changes_nothing() {
    let (server, upstream) = (Server::start(active()).await, Upstream::answering("ok").await);
    let gateway = start(&upstream, &server.policy("")).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let number = AtomicUsize::new(0);
    let mut shown = async || {
        let token = format!("token-{}", number.fetch_add(1, Ordering::Relaxed));
        assert_eq!(bearing(&mut client, &token).await.status, 200);
        server.upstream.last().header("authorization").to_owned()
    };
    let basic = |secret: &str| format!("Basic {}", STANDARD.encode(format!("gate%20way:{secret}")));
    assert_eq!(shown().await, basic("pa%3Ass"));
    gateway.write("secret", "new");
    within("the new secret", async {
        while shown().await != basic("new") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gateway.write("secret", "");
    gateway.event("keys not reloaded").await;
    assert_eq!(shown().await, basic("new"));
}
