//! The gateway beside oidc-provider: introspection, bound tokens, credentials, keys that rotate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate::issuer::{Issuer, generate_pem};
use futures_util::future::join_all;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::certificates::Authority;
use crate::support::client::{Client, Reply};
use crate::support::guarded::{guarded, policy, routes};
use crate::support::oidc::{Oidc, SECRET, client};
use crate::support::policies::{GATEWAY, route_below, upstream as upstream_document};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;
use crate::support::within;

const READERS: &str = "authorize: [{ name: readers, allow: '\"crm.read\" in jwt.scopes' }]\n";

fn introspection(oidc: &Oidc, auth: &str) -> String {
    format!(
        "introspection:
- issuer: {0}
  endpoint: {0}/token/introspection
  audiences: [crm]
  cache: {{ max: 1s, negative: 0s }}
  claimsToHeaders: [{{ claim: client_id, header: x-client }}]
  clientAuth: {auth}
{READERS}",
        oidc.url()
    )
}

async fn bearing(client: &mut Client, target: &str, token: &str) -> Reply {
    let request = client.request("GET", target).header("authorization", format!("Bearer {token}"));
    client.send_empty(request).await
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_by_every_method_until_they_are_revoked() {
    let pem = generate_pem().unwrap();
    let jwks = Issuer::from_pem("gateway", &pem).unwrap().jwks();
    let signs = json!({ "jwks": jwks, "token_endpoint_auth_signing_alg": "ES256" });
    let oidc = Oidc::start(&[
        client("basic", "client_secret_basic", &json!({})),
        client("post", "client_secret_post", &json!({})),
        client("signing", "private_key_jwt", &signs),
    ])
    .await;
    let upstream = Upstream::answering("ok").await;
    let secret = "secret: { secretRef: { name: idp, key: client } }";
    let specs = [
        ("basic", introspection(&oidc, &format!("{{ method: basic, clientId: basic, {secret} }}"))),
        ("post", introspection(&oidc, &format!("{{ method: post, clientId: post, {secret} }}"))),
        (
            "signing",
            introspection(
                &oidc,
                &format!(
                    "{{ method: private_key_jwt, clientId: signing, key: {{ file: key.pem }}, alg: ES256, audience: {} }}",
                    oidc.url()
                ),
            ),
        ),
    ];
    let specs: Vec<(&str, &str)> = specs.iter().map(|(name, spec)| (*name, spec.as_str())).collect();
    let options = Options::default().file("secrets/idp/client", SECRET).file("key.pem", pem);
    let gateway = Foregate::start(&routes(upstream.address, &specs), options).await;
    let mut caller = Client::http1(gateway.address("edge/http")).await;
    let token = oidc.token("post", "urn:crm:opaque", None).await;
    for (name, _) in &specs {
        let target = format!("/{name}");
        let reply = bearing(&mut caller, &target, &token).await;
        assert_eq!(reply.status, 200, "{name}: {}", gateway.record(reply.decision()).await);
        assert_eq!(upstream.last().header("x-client"), "post");
        let reply = bearing(&mut caller, &target, "never-issued").await;
        assert_eq!((reply.status, reply.reason().as_str()), (401, "TokenInvalid"), "{name}");
    }
    oidc.revoke("post", &token).await;
    within("the revoked token to be refused", async {
        while bearing(&mut caller, "/basic", &token).await.status == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_bound_token_is_worth_nothing_without_its_certificate() {
    let bound = json!({ "tls_client_certificate_bound_access_tokens": true });
    let oidc = Oidc::start(&[client("bound", "client_secret_post", &bound)]).await;
    let upstream = Upstream::answering("ok").await;
    let auth = "{ method: post, clientId: bound, secret: { file: secret } }";
    let jwt = format!(
        "jwt: [{{ issuer: {}, audiences: [crm], jwks: {{ discover: true }} }}]\n{READERS}",
        oidc.url()
    );
    let specs = [("opaque", introspection(&oidc, auth)), ("jwt", jwt)];
    let specs: Vec<(&str, &str)> = specs.iter().map(|(name, spec)| (*name, spec.as_str())).collect();
    let options = Options::default().file("secret", SECRET);
    let gateway = Foregate::start(&routes(upstream.address, &specs), options).await;
    let series = format!("foregate_jwks_keys{{issuer=\"{}\"}}", oidc.url());
    gateway.wait_sample(&series, |keys| keys >= 1.0).await;
    let leaf = Authority::new().leaf(&["client.test"]);
    let mut caller = Client::http1(gateway.address("edge/http")).await;
    for name in ["opaque", "jwt"] {
        let token = oidc.token("bound", &format!("urn:crm:{name}"), Some(&leaf.certificate)).await;
        if name == "jwt" {
            let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
            let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(leaf.der()));
            assert_eq!(claims["cnf"], json!({ "x5t#S256": thumbprint }));
        }
        for _ in 0..2 {
            let reply = bearing(&mut caller, &format!("/{name}"), &token).await;
            assert_eq!((reply.status, reply.reason().as_str()), (401, "TokenInvalid"), "{name}");
            let record = gateway.record(reply.decision()).await;
            let detail = record["foregate.detail"].as_str().unwrap_or_default();
            assert_eq!(
                detail, "the token is bound to a certificate, and the client has shown none",
                "{record}"
            );
        }
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn keys_rotate_under_load_and_no_request_fails() {
    let oidc = Oidc::start(&[client("post", "client_secret_post", &json!({}))]).await;
    let upstream = Upstream::answering("ok").await;
    let spec = format!(
        "jwt: [{{ issuer: {}, audiences: [crm], types: [at+jwt], jwks: {{ discover: true }} }}]\n{READERS}",
        oidc.url()
    );
    let gateway = Foregate::start(&guarded(upstream.address, &spec), Options::default()).await;
    let series = |name: &str| format!("foregate_jwks_{name}{{issuer=\"{}\"}}", oidc.url());
    gateway.wait_sample(&series("keys"), |keys| keys >= 1.0).await;
    let stop = AtomicBool::new(false);
    let load = join_all((0..4).map(async |number| {
        let mut caller = if number % 2 == 0 {
            Client::http1(gateway.address("edge/http")).await
        } else {
            Client::http2(gateway.address("edge/http")).await
        };
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            let token = oidc.token("post", "urn:crm:jwt", None).await;
            let reply = bearing(&mut caller, "/", &token).await;
            assert_eq!(reply.status, 200, "request {sent}: {}", gateway.record(reply.decision()).await);
            sent += 1;
        }
        sent
    }));
    let rotations = async {
        for round in 2..4 {
            oidc.rotate().await;
            gateway
                .wait_sample(&series("fetches_succeeded_total"), |fetches| fetches >= f64::from(round))
                .await;
            upstream.wait_received(upstream.received().len() + 20).await;
            // An issuer is asked once in ten seconds at most, whoever sends unknown kids.
            gateway.wait_sample(&series("age_seconds"), |age| age > 10.0 || round == 3).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(load, rotations);
    assert_eq!(sent.iter().sum::<usize>(), upstream.received().len());
}

#[tokio::test]
async fn a_token_for_the_upstream_is_had_by_every_method() {
    let pem = generate_pem().unwrap();
    let jwks = Issuer::from_pem("gateway", &pem).unwrap().jwks();
    let signs = json!({ "jwks": jwks, "token_endpoint_auth_signing_alg": "ES256" });
    let oidc = Oidc::start(&[
        client("basic", "client_secret_basic", &json!({})),
        client("signing", "private_key_jwt", &signs),
    ])
    .await;
    let upstream = Upstream::answering("ok").await;
    let secret = "{ method: basic, clientId: basic, secret: { file: secret } }";
    let key = format!(
        "{{ method: private_key_jwt, clientId: signing, key: {{ file: key.pem }}, alg: ES256, audience: {} }}",
        oidc.url()
    );
    let mut documents = GATEWAY.to_owned();
    for (name, auth) in [("basic", secret), ("signing", key.as_str())] {
        let more = format!(
            "credentials: {{ clientCredentials: {{ tokenEndpoint: \"{}/token\", scope: crm.write, clientAuth: {auth} }} }}",
            oidc.url()
        );
        documents += &upstream_document(name, upstream.address, &more);
        documents += &route_below(name, name);
        documents += &policy(name, "insecure: { anonymous: true }");
    }
    let options = Options::default().file("secret", SECRET).file("key.pem", pem);
    let gateway = Foregate::start(&documents, options).await;
    let mut caller = Client::http1(gateway.address("edge/http")).await;
    for name in ["basic", "signing"] {
        let reply = bearing(&mut caller, &format!("/{name}"), "the client's own").await;
        assert_eq!(reply.status, 200, "{}", gateway.record(reply.decision()).await);
        let shown = upstream.last();
        let values: Vec<_> = shown.headers.get_all("authorization").iter().collect();
        assert_eq!(values.len(), 1);
        assert!(values[0].to_str().unwrap().starts_with("Bearer "));
        assert!(!values[0].to_str().unwrap().contains("own"));
        // The server itself says what the token is.
        let left = format!("foregate_credential_expires_in_seconds{{upstream=\"{name}\"}}");
        gateway.wait_sample(&left, |left| left > 500.0).await;
    }
}
