//! Who and what does not pass between pods.

use crate::mesh::{CALLING, Mesh, NAMES, SERVING};
use crate::support::netns::allowed;

const WEB: &str = "/ns/shop/sa/web";

#[tokio::test]
async fn a_workload_that_no_rule_allows_is_refused() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::start("/ns/shop/sa/jobs", &[]).await;
    for name in ["orders-4.test", "orders-6.test"] {
        let url = format!("http://{name}:8080/orders");
        let (status, reply) = mesh.web.curl(&[&NAMES[..], &[&url]].concat());
        assert_eq!(status, 403, "{reply}");
    }
    for host in [mesh.orders.four, mesh.orders.six] {
        assert_eq!(mesh.web.talk(host, "2525", "hello"), None);
    }
    let record = mesh.serving.record("\"mail/0\"").await;
    assert!(
        record.contains("spiffe://example.org/ns/shop/sa/jobs") && record.contains("AccessDenied"),
        "{record}"
    );
}

#[tokio::test]
async fn nobody_comes_in_without_a_certificate_and_nothing_leads_back() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::start(WEB, &[]).await;
    for host in ["10.77.0.2", "[fd77::2]"] {
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:8080/")]).0, 0);
        // TLS, but nobody is at the other end of it.
        assert_eq!(mesh.web.curl_as_proxy(&["-k", &format!("https://{host}:8080/")]).0, 0);
        // The listener itself, as if it were an application.
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:15006/")]).0, 0);
    }
    mesh.serving.decided(&mesh.orders, "port 8080 is spoken to with mutual TLS alone").await;
    mesh.serving.decided(&mesh.orders, "it was not redirected").await;
    // From inside: what stays on loopback is not redirected, and the listener knows of no other destination.
    for host in ["127.0.0.1", "[::1]"] {
        assert_eq!(mesh.web.curl(&[&format!("http://{host}:15001/")]).0, 0);
    }
    mesh.calling.decided(&mesh.web, "it was not redirected").await;
    assert_eq!(mesh.web.curl(&[&NAMES[..], &["http://orders-4.test:8080/"]].concat()).0, 200);
}

#[tokio::test]
async fn the_application_reaches_nothing_unknown_unless_a_switch_says_so() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::start(WEB, &["--skip-inbound-ports", "9000"]).await;
    for host in ["10.77.0.2", "[fd77::2]"] {
        assert_eq!(mesh.web.curl(&[&format!("http://{host}:9000/")]).0, 0);
    }
    mesh.calling.decided(&mesh.web, "no upstream of a route has [fd77::2]:9000").await;
    let open = format!("{CALLING}  insecure: {{ unknownDestinations: true }}\n");
    mesh.calling.publish(&mesh.web, &open).await;
    for host in ["10.77.0.2", "[fd77::2]"] {
        let (status, reply) = mesh.web.curl(&[&format!("http://{host}:9000/past")]);
        assert_eq!(status, 200, "{reply}");
    }
    // What is known goes to whom it means all the same.
    assert_eq!(mesh.web.curl(&[&NAMES[..], &["http://orders-4.test:8080/"]].concat()).0, 200);
    mesh.calling.publish(&mesh.web, CALLING).await;
    assert_eq!(mesh.web.curl(&["http://10.77.0.2:9000/"]).0, 0);
}

#[tokio::test]
async fn probes_are_answered_past_the_sidecar_or_on_a_port_that_a_switch_names() {
    if !allowed() {
        return;
    }
    // Past it: the kubelet has no certificate.
    let mesh = Mesh::start(WEB, &["--skip-inbound-ports", "9000"]).await;
    for host in ["10.77.0.2", "[fd77::2]"] {
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:9000/healthz")]).0, 200);
    }
    // Through it, once a switch says so, and as far as a rule allows it.
    assert!(mesh.orders.init(&[]).status.success());
    assert_eq!(mesh.web.curl_as_proxy(&["http://10.77.0.2:9000/healthz"]).0, 0);
    let open = format!(
        "{SERVING}---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: probes }}\nspec:\n  \
         targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: sidecar }}]\n  \
         insecure: {{ plainPorts: [9000] }}\n"
    );
    mesh.serving.publish(&mesh.orders, &open).await;
    for host in ["10.77.0.2", "[fd77::2]"] {
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:9000/healthz")]).0, 200);
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:9000/orders")]).0, 403);
        assert_eq!(mesh.web.curl_as_proxy(&[&format!("http://{host}:8080/healthz")]).0, 0);
    }
}

#[tokio::test]
async fn connections_that_the_kernel_leads_back_are_refused_and_not_opened_again_and_again() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::start(WEB, &["--proxy-uid", "4711"]).await;
    for _ in 0..3 {
        for name in ["orders-4.test", "orders-6.test"] {
            let (status, _) = mesh.web.curl(&[&NAMES[..], &[&format!("http://{name}:8080/")]].concat());
            assert!(status >= 500, "{status}");
        }
    }
    assert_eq!(mesh.web.talk(mesh.orders.four, "2525", "hello"), None);
    let record = mesh.calling.record("LoopDetected").await;
    assert!(record.contains("foregate init --proxy-uid"), "{record}");
    let (_, metrics) = mesh.web.curl(&["http://127.0.0.1:9090/metrics"]);
    assert!(metrics.contains("LoopDetected"), "{metrics}");
    // Right rules, and it goes on: nothing has to be started anew.
    assert!(mesh.web.init(&[]).status.success());
    assert_eq!(mesh.web.curl(&[&NAMES[..], &["http://orders-4.test:8080/"]].concat()).0, 200);
}
