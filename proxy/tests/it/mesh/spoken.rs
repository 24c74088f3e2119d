//! What is spoken on a redirected connection that routes of either kind could take.

use crate::mesh::{CALLING, Mesh, NAMES, SERVING};
use crate::support::netns::allowed;

const WEB: &str = "/ns/shop/sa/web";

/// Both kinds of routes, for every port.
fn both(detect: &str) -> String {
    let policies = SERVING
        .replace("[{ name: sidecar, port: 8080 }, { name: sidecar, port: 9000 }]", "[{ name: sidecar }]")
        .replace("[{ name: sidecar, port: 2525 }]", "[{ name: sidecar }]")
        .replace("captured: Loopback, protocol: Tcp", "captured: Address, protocol: Tcp")
        .replace(" && destination.port == 2525", "");
    format!(
        "{policies}---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: detect }}\nspec:\n  \
         targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: sidecar }}]\n  \
         detect: {{ listeners: [inbound], within: 300ms{detect} }}\n  insecure: {{ plainPorts: [9000] }}\n"
    )
}

#[tokio::test]
async fn alpn_tells_what_is_spoken_or_the_first_bytes_do_unless_nobody_is_to_look() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::with(WEB, &[], (CALLING, &both(""))).await;
    // Sidecars agree on HTTP by ALPN; what a server that speaks first has on its connection is not waited for long.
    assert_eq!(mesh.web.curl(&[&NAMES[..], &["http://orders-4.test:8080/by-alpn"]].concat()).0, 200);
    mesh.serving.record("/by-alpn").await;
    for host in [mesh.orders.four, mesh.orders.six] {
        assert_eq!(mesh.web.talk(host, "2525", "hello").unwrap()["answer"], "250 hello");
    }
    // Without ALPN, in TLS and, where that may be, without.
    let [certificate, key] = mesh.certificate();
    let own = ["--cert", &certificate, "--key", &key, "-k", "--no-alpn"];
    let (status, reply) = mesh.web.curl_as_proxy(&[&own[..], &["https://10.77.0.2:8080/by-record"]].concat());
    assert_eq!(status, 200, "{reply}");
    let record = mesh.serving.record("/by-record").await;
    assert!(record.contains("spiffe://example.org/ns/shop/sa/web"), "{record}");
    assert_eq!(mesh.web.curl_as_proxy(&["http://[fd77::2]:9000/healthz"]).0, 200);
    mesh.serving.record("/healthz").await;
    // Nobody looks: the connection is passed on by the rules of its own route.
    mesh.serving.publish(&mesh.orders, &both(", opaquePorts: [8080, 9000]")).await;
    let (status, _) = mesh.web.curl_as_proxy(&[&own[..], &["https://10.77.0.2:8080/unread"]].concat());
    assert_eq!(status, 200);
    assert_eq!(mesh.web.curl_as_proxy(&["http://10.77.0.2:9000/healthz"]).0, 0, "nobody is no peer");
    mesh.serving.signal("TERM");
    mesh.serving.records.ended().await;
    assert!(!mesh.serving.records.text().contains("/unread"), "{}", mesh.serving.records.text());
}
