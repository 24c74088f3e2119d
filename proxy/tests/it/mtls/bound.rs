//! Tokens that are bound to the certificate of their client.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::mtls::edge::{VALIDATED, gateway, secrets};
use crate::support::certificates::Authority;
use crate::support::client::{Client, HOST};
use crate::support::guarded::guarded;
use crate::support::idp::Idp;
use crate::support::policies::GATEWAY;
use crate::support::process::Foregate;
use crate::support::upstream::Upstream;
use crate::support::workloads::Domain;

#[tokio::test]
async fn a_bound_token_passes_with_its_certificate_and_with_no_other() {
    let (idp, partners) = (Idp::start().await, Domain::new("partner.test"));
    let leaf = Authority::new().leaf(&[HOST]);
    let backend = Upstream::answering("hello").await;
    let trusted = idp.trusted(&format!("{{ uri: {}/jwks }}", idp.url()), "requireBinding: true");
    let spec = format!("jwt:\n{trusted}authorize: [{{ name: all, allow: 'true' }}]");
    let text = guarded(backend.address, &spec).replace(GATEWAY, &gateway(&[("https", 8443, "")], VALIDATED));
    let foregate = Foregate::start(&text, secrets(&leaf, &partners)).await;
    let address = foregate.address("edge/https");
    let (web, other) = (partners.svid("/web"), partners.svid("/web"));
    let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(web.leaf.der()));
    let bound = idp.sign(&json!({ "cnf": { "x5t#S256": thumbprint } }));
    let unbound = idp.token("somebody");
    // Twice: what was verified before is known again, and asked for its proof all the same.
    for alpn in ["http/1.1", "h2", "http/1.1", "h2"] {
        for (svid, token, status) in [(&web, &bound, 200), (&other, &bound, 401), (&web, &unbound, 401)] {
            let mut client = Client::tls(address, HOST, &svid.client(&[alpn])).await.unwrap();
            let request = client.request("GET", "/").header("authorization", format!("Bearer {token}"));
            let reply = client.send_empty(request).await;
            assert_eq!(reply.status, status, "{alpn}: {}", reply.text());
        }
    }
    assert_eq!(backend.received().len(), 4);
}
