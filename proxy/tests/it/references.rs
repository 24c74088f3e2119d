//! Secrets by reference are told to nobody: not in logs, metrics, pages, faults or problems.

use foregate::issuer::generate_pem;
use http::Response;
use serde_json::json;

use crate::support::client::Client;
use crate::support::guarded::policy;
use crate::support::policies::{GATEWAY, route_below, upstream as upstream_document};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Received, Upstream, full};

/// Occurs in every secret, and nowhere else.
const MARKER: &str = "hunter2";

/// What a key in PEM is known by.
const PEM: &str = "PRIVATE KEY";

/// A server that is authorization server, token endpoint and service at once; its answers hold secrets too.
async fn server() -> Upstream {
    Upstream::start(|request: Received| async move {
        let (status, answer) = match request.uri.path() {
            "/introspect" if request.body.starts_with(b"token=bad") => {
                (400, json!({ "error": MARKER, "error_description": MARKER }))
            }
            "/introspect" => (200, json!({ "active": true, "sub": "maya", "secret": MARKER, MARKER: 1 })),
            "/token" => (200, json!({ "access_token": format!("granted-{MARKER}"), "token_type": "Bearer" })),
            "/refuses" => (400, json!({ "error": format!("invalid_{MARKER}"), "access_token": MARKER })),
            _ => (200, json!({ "answer": "ok" })),
        };
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(full(answer.to_string())).unwrap()
    })
    .await
}

/// A route, its policy and its upstream, with these credentials.
fn served(name: &str, server: &Upstream, spec: &str, credentials: &str) -> String {
    let upstream = upstream_document(name, server.address, &format!("credentials: {{ {credentials} }}"));
    [route_below(name, name), upstream, policy(name, spec)].concat()
}

fn documents(server: &Upstream) -> String {
    let at = format!("http://{}", server.address);
    let introspection = |auth: &str| {
        format!(
            "introspection: [{{ endpoint: '{at}/introspect', clientAuth: {auth} }}]\nauthorize: [{{ name: all, allow: 'true' }}]"
        )
    };
    let file = "secret: { file: in-a-file }";
    let kept = "secret: { secretRef: { name: idp, key: secret } }";
    let key = "key: { file: key.pem }, alg: ES256";
    let token = |path: &str, auth: &str| {
        format!("clientCredentials: {{ tokenEndpoint: '{at}/{path}', clientAuth: {auth} }}")
    };
    [
        GATEWAY.to_owned(),
        served(
            "basic",
            server,
            &introspection(&format!("{{ method: basic, clientId: a, {file} }}")),
            &token("token", &format!("{{ method: basic, clientId: a, {kept} }}")),
        ),
        served(
            "post",
            server,
            &introspection(&format!("{{ method: post, clientId: a, {kept} }}")),
            "static: { header: x-api-key, prefix: Key, value: { env: FOREGATE_TEST_SECRET } }",
        ),
        served(
            "signed",
            server,
            &introspection(&format!("{{ method: private_key_jwt, clientId: a, {key} }}")),
            &format!("jwtBearer: {{ tokenEndpoint: '{at}/token', issuer: a, subject: b, {key} }}"),
        ),
        served(
            "refused",
            server,
            "insecure: { anonymous: true }",
            &token("refuses", &format!("{{ method: post, clientId: a, {file} }}")),
        ),
    ]
    .concat()
}

#[tokio::test]
async fn no_referenced_secret_is_found_anywhere() {
    let server = server().await;
    let pem = generate_pem().unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let secrets = [MARKER, PEM, &body[40..60]];
    let options = Options::default()
        .args(&["--drain-notice", "10ms"])
        .env("FOREGATE_TEST_SECRET", format!("{MARKER}-env"))
        .file("in-a-file", format!("{MARKER}-file\n"))
        .file("secrets/idp/secret", format!("{MARKER}-kept"))
        .file("key.pem", pem.clone());
    let documents = documents(&server);
    let mut gateway = Foregate::start(&documents, options).await;
    let mut sent = 0;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        for (path, token, status) in [
            ("/basic", "good", 200),
            ("/post", "good", 200),
            ("/signed", "good", 200),
            ("/basic", "bad", 503),
            ("/post", "bad", 503),
            ("/signed", "bad", 503),
            ("/basic", "", 401),
            ("/refused", "good", 503),
        ] {
            let bearer =
                if token.is_empty() { MARKER.to_owned() } else { format!("Bearer {token}-{MARKER}") };
            let request = client.request("GET", path).header("authorization", bearer);
            let reply = client.send_empty(request.header("x-api-key", MARKER)).await;
            assert_eq!(reply.status, status, "{path} {token}: {}", reply.text());
            assert!(!reply.text().contains(MARKER));
            let _ = gateway.record(reply.decision()).await;
            let (_, page) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
            assert!(secrets.iter().all(|secret| !page.contains(secret)), "{page}");
            sent += 1;
        }
    }
    let seen = server.received();
    let arrived = |path: &str, name: &str, value: &str| {
        seen.iter().any(|request| request.uri.path() == path && request.header(name) == value)
    };
    let granted = format!("Bearer granted-{MARKER}");
    assert!(arrived("/basic", "authorization", &granted) && arrived("/signed", "authorization", &granted));
    assert!(arrived("/post", "x-api-key", &format!("Key {MARKER}-env")));
    // Secrets that cannot be read any more, or that are no longer fit, and policies that are refused.
    gateway.write("in-a-file", "");
    gateway.event("keys not reloaded").await;
    gateway.write("key.pem", format!("{MARKER} is no key"));
    gateway.write("secrets/idp/secret", [MARKER.as_bytes(), b"\xff\n\x00"].concat());
    gateway.write("policies.yaml", documents.replace("alg: ES256", "alg: RS256"));
    gateway.event("policies refused").await;
    for page in ["/metrics", "/config", "/decisions?limit=500", "/"] {
        let (status, text) = gateway.admin_page(page).await;
        assert_eq!(status, 200, "{page}");
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{page}: {text}");
    }
    gateway.terminate();
    assert!(gateway.exit().await.success());
    gateway.access_log().ended().await;
    for (what, lines) in [("access log", gateway.access_log()), ("events", gateway.events())] {
        let told = lines.text();
        let line = told.lines().find(|line| secrets.iter().any(|secret| line.contains(secret)));
        assert_eq!(line, None, "in the {what}");
    }
    assert_eq!(gateway.access_log().all().len(), sent);
}

#[tokio::test]
async fn a_secret_that_is_missing_or_unfit_is_a_fault_at_its_place_and_is_not_shown() {
    let server = server().await;
    let documents = documents(&server);
    let pem = generate_pem().unwrap();
    let sound = || {
        Options::default()
            .env("FOREGATE_TEST_SECRET", MARKER)
            .file("in-a-file", MARKER)
            .file("secrets/idp/secret", MARKER)
            .file("key.pem", pem.clone())
    };
    for (options, told) in [
        (sound().file("in-a-file", ""), "in-a-file` is empty"),
        (sound().file("in-a-file", "\n"), "in-a-file` is empty"),
        (sound().file("in-a-file", MARKER.repeat(10_000)), "in-a-file` is over 64 KiB"),
        (sound().file("secrets/idp/secret", [0xff, 0xfe]), "what a header or form cannot carry"),
        (sound().file("key.pem", MARKER), "not a private key in PEM for an ECDSA algorithm"),
        (sound().env("FOREGATE_TEST_SECRET", ""), "the environment variable `FOREGATE_TEST_SECRET` is empty"),
        (sound().env("FOREGATE_TEST_SECRET", "a\nb"), "what a header or form cannot carry"),
        (sound().without("key.pem"), "key.pem`: No such file"),
    ] {
        let (status, said) = Foregate::refused(&documents, options).await;
        assert_eq!(status.code(), Some(3), "{told}: {said}");
        assert!(said.contains("FG0310") && said.contains(told), "{told}: {said}");
        assert!(!said.contains(MARKER) && !said.contains(PEM), "{said}");
    }
    assert!(server.received().iter().all(|request| request.uri.path() != "/basic"));
}
