//! Requests and connections on one port: the name in TLS tells them apart.

use std::net::SocketAddr;

use crate::streams::{OPEN, gateway, parrot, policy, route, say, tls_parrot, upstream};
use crate::support::certificates::Authority;
use crate::support::client::{Client, shown, tls};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;

const NAMES: [&str; 3] = ["web.test", "deep.wild.test", "ends.test"];

/// `*.wild.test` is passed through, but for `deep.wild.test`, which is read, as is `web.test`; TLS for `ends.test` ends
/// here.
fn documents(web: SocketAddr, through: SocketAddr, plain: SocketAddr) -> String {
    let terminates = "tls: { certificateRefs: [{ name: all }] }";
    let listeners = [
        "{ name: wild, protocol: TLS, port: 8443, hostname: '*.wild.test', tls: { mode: Passthrough } }"
            .to_owned(),
        format!("{{ name: web, protocol: HTTPS, port: 8443, hostname: web.test, {terminates} }}"),
        format!("{{ name: deep, protocol: HTTPS, port: 8443, hostname: deep.wild.test, {terminates} }}"),
        format!("{{ name: ends, protocol: TLS, port: 8443, hostname: ends.test, {terminates} }}"),
    ];
    let listeners: Vec<&str> = listeners.iter().map(String::as_str).collect();
    [
        gateway(&listeners),
        route("TLSRoute", "wild", "hostnames: ['*.wild.test'], ", &[("through", 1)]),
        route("TLSRoute", "ends", "hostnames: [ends.test], ", &[("plain", 1)]),
        policy("TLSRoute", "wild", OPEN),
        policy("TLSRoute", "ends", OPEN),
        policies::route("web", "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: web }]"),
        upstream("through", through, ""),
        upstream("plain", plain, ""),
        policies::upstream("web", web, ""),
    ]
    .concat()
}

#[tokio::test]
async fn names_tell_requests_from_connections() {
    let authority = Authority::new();
    let web = Upstream::answering("web").await;
    let through = tls_parrot(&authority, "a.wild.test").await;
    let plain = parrot("plain").await;
    let leaf = authority.leaf(&NAMES);
    let options = Options::default()
        .args(&["--head-timeout", "2s"])
        .file("secrets/all/tls.crt", leaf.certificate.as_str())
        .file("secrets/all/tls.key", leaf.key.as_str());
    let text = documents(web.address, through.address, plain.address);
    let gateway = Foregate::start(&text, options).await;
    let address = gateway.address("edge/wild");
    for name in ["web.test", "deep.wild.test"] {
        for alpn in [&["h2"][..], &["http/1.1"]] {
            let mut client = Client::tls(address, name, &authority.client(alpn)).await.unwrap();
            let reply = client.send_empty(client.request_to(name, "GET", "/")).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "web"), "{name}");
            // What is agreed on for one name is not lent to those of other listeners, whatever these do.
            for other in ["a.wild.test", "ends.test"] {
                let reply = client.send_empty(client.request_to(other, "GET", "/")).await;
                assert_eq!(reply.status, 421, "{name} {other}");
            }
        }
    }
    let mut stream = tls(address, "a.wild.test", &authority.client(&["h2"])).await.unwrap();
    assert_ne!(shown(&stream), leaf.der(), "TLS ends at the upstream");
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "a.wild.test:hello=5");
    let mut stream = tls(address, "ends.test", &authority.client(&[])).await.unwrap();
    assert_eq!(shown(&stream), leaf.der());
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "plain:hello=5");
    assert!(tls(address, "other.test", &authority.client(&[])).await.is_err());
    // What is no TLS is not served, but for an alert of TLS, nor is what says nothing.
    for bytes in ["GET / HTTP/1.1\r\nHost: web.test\r\n\r\n", ""] {
        let mut client = RawClient::connect(address).await;
        client.send(bytes).await;
        let rest = client.rest().await;
        assert!(rest.first().is_none_or(|first| *first == 0x15), "{bytes}: {rest:?}");
    }
    // A listener that comes to read what another passed on ends its connections.
    let mut open = tls(address, "a.wild.test", &authority.client(&[])).await.unwrap();
    gateway.publish(&text.replace("deep.wild.test", "a.wild.test")).await;
    assert!(say(&mut open, "hello").await.is_err(), "it belongs to another listener now");
}
