//! Secrets that pass through the gateway are told to nobody but the upstream.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::json;

use crate::support::client::Client;
use crate::support::guarded::{bundle, guarded, model};
use crate::support::idp::Idp;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};

/// Occurs in every secret, and nowhere else.
const MARKER: &str = "hunter2";

/// What is done with tokens, headers, queries and bodies that hold secrets.
fn spec(idp: &Idp) -> String {
    let shared = "- issuer: shared
  audiences: [crm]
  algorithms: [HS256]
  jwks: { file: shared.jwks }
  claimsToHeaders: [{ claim: secret, header: x-claim }]
";
    format!(
        "jwt:\n{}{shared}enrich: [{{ name: lead, model: lead-score, deadline: 900ms, onError: continue, default: 0.2 }}]
rateLimit:
- {{ name: per-secret, key: jwt.secret, limit: 5, per: 24h }}
authorize:
- {{ name: everybody, allow: 'true' }}
- {{ name: number, deny: '\"x-number\" in request.headers && int(request.headers[\"x-number\"]) > 7' }}
- {{ name: member, deny: 'jwt.claims[request.headers[\"x-name\"]] == \"\"' }}
- {{ name: audited, deny: 'int(jwt.secret) > 7', mode: audit }}\n",
        idp.trusted(&format!("{{ uri: {}/jwks }}", idp.url()), "")
    )
}

fn shared_keys() -> String {
    let secret = URL_SAFE_NO_PAD.encode(format!("{MARKER}-{}", "k".repeat(40)));
    json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "s", "k": secret }] }).to_string()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The status that must come back, headers, body.
type Call = (u16, Vec<(&'static str, String)>, String);

/// Requests full of secrets, good ones and bad ones.
fn calls(idp: &Idp) -> Vec<Call> {
    let secret = json!({ "secret": MARKER, MARKER: 1, "list": [MARKER] });
    let good = idp.sign(&secret);
    let unhappy = |claims: serde_json::Value| {
        let mut all = secret.clone();
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        idp.sign(&all)
    };
    let json_type = ("content-type", "application/json".to_owned());
    let authorized = |token: &str| ("authorization", bearer(token));
    let name = ("x-name", "secret".to_owned());
    let body = format!("{{\"Title\":\"{MARKER}\",\"AnnualRevenue\":1}}");
    let wrong = format!("{{\"Title\":\"{MARKER}\",\"AnnualRevenue\":\"{MARKER}\",\"{MARKER}\":1}}");
    vec![
        (200, vec![authorized(&good), json_type.clone(), name.clone()], body.clone()),
        (200, vec![authorized(&good), json_type.clone(), name.clone()], wrong),
        (200, vec![authorized(&good), json_type.clone(), name.clone()], MARKER.to_owned()),
        (403, vec![authorized(&good), json_type.clone(), ("x-number", MARKER.to_owned())], body.clone()),
        (
            403,
            vec![authorized(&good), json_type.clone(), ("x-name", format!("{MARKER}-absent"))],
            body.clone(),
        ),
        (401, vec![authorized(&unhappy(json!({ "exp": 1 })))], String::new()),
        (401, vec![authorized(&unhappy(json!({ "aud": MARKER })))], String::new()),
        (401, vec![authorized(&unhappy(json!({ "iss": MARKER })))], String::new()),
        (401, vec![authorized(&unhappy(json!({ "sub": { "a": MARKER } })))], String::new()),
        (401, vec![authorized(&format!("{good}{MARKER}"))], String::new()),
        (401, vec![authorized(MARKER)], String::new()),
        (401, vec![("authorization", format!("Basic {MARKER}"))], String::new()),
        (401, vec![authorized(&good), ("authorization", MARKER.to_owned())], String::new()),
    ]
}

#[tokio::test]
async fn no_secret_is_found_in_logs_events_metrics_admin_pages_or_the_decision_log() {
    let idp = Idp::start().await;
    let answer = |_| async {
        let response = Response::builder().header("set-cookie", format!("answer={MARKER}"));
        response.body(full(format!("answer {MARKER}"))).unwrap()
    };
    let upstream = Upstream::start(answer).await;
    let policies =
        [guarded(upstream.address, &spec(&idp)), model("lead-score", &bundle("lead-score"))].concat();
    let logs = tempfile::tempdir().unwrap();
    let decision_log = logs.path().join("decisions").display().to_string();
    let args = ["--drain-notice", "10ms", "--decision-sample", "1/1", "--decision-log", &decision_log];
    let options = Options::default().args(&args).file("shared.jwks", shared_keys());
    let mut gateway = Foregate::start(&policies, options).await;
    gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    let calls = calls(&idp);
    let mut passed = 0;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        for (number, (status, headers, body)) in calls.iter().enumerate() {
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            let mut request = client.request("POST", &format!("/path?token={MARKER}&{MARKER}"));
            request = request.header("cookie", format!("session={MARKER}")).header("x-api-key", MARKER);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let reply = client.send(request.body(full(body.clone())).unwrap()).await;
            // The key of the limit is a secret too: five of its requests pass, the sixth is refused.
            let expected = if http2 && number == 2 { 429 } else { *status };
            assert_eq!(reply.status, expected, "call {number}: {}", reply.text());
            passed += usize::from(reply.status == 200);
            if reply.status != 200 {
                assert!(!reply.text().contains(MARKER), "{}", reply.text());
            }
            let record = gateway.record(reply.decision()).await;
            let (found, page) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
            assert!(found == 200 && page.contains("foregate.steps"), "{record}");
            assert!(!page.contains(MARKER), "{page}");
        }
    }
    assert_eq!(upstream.received().len(), passed);
    assert!(upstream.last().uri.query().unwrap().contains(MARKER), "the upstream gets what is its own");
    // Keys that cannot be read, and an upstream that is gone.
    gateway.write("shared.jwks", format!("{{ \"keys\": [ {MARKER}, \"k\": \"{MARKER}\" ] }}"));
    gateway.event("keys not reloaded").await;
    drop(upstream);
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client
        .request("POST", &format!("/?{MARKER}"))
        .header("authorization", bearer(&idp.sign(&json!({ "secret": "1" }))));
    let request = request.header("x-name", "secret").header("cookie", MARKER);
    let reply = client.send(request.body(full(MARKER)).unwrap()).await;
    assert!(reply.status >= 500, "{reply:?}");
    for page in ["/metrics", "/config", "/decisions?limit=500", "/"] {
        let (status, text) = gateway.admin_page(page).await;
        assert!(status == 200 && !text.contains(MARKER), "{page}: {text}");
    }
    gateway.terminate();
    assert!(gateway.exit().await.success());
    gateway.access_log().ended().await;
    for (what, lines) in [("access log", gateway.access_log()), ("events", gateway.events())] {
        let line = lines.text().lines().find(|line| line.contains(MARKER)).map(str::to_owned);
        assert_eq!(line, None, "in the {what}");
    }
    assert_eq!(gateway.access_log().all().len(), 2 * calls.len() + 1);
    let decisions = std::fs::read_to_string(decision_log).unwrap();
    assert_eq!(decisions.matches("\"kind\":\"decision\"").count(), 2 * calls.len() + 1);
    assert!(!decisions.contains(MARKER), "{decisions}");
}
