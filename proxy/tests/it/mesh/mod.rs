//! Pods whose connections the kernel redirects to their sidecars: plain inside, mutual TLS between.

mod capture;
mod redirect;
mod refusals;
mod spoken;

use crate::support::netns::{Pod, Resident, Sidecar, pods};
use crate::support::workloads::Domain;

/// The sidecar of the application that serves, which is `orders`.
const SERVING: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: sidecar }
spec:
  gatewayClassName: foregate
  addresses: [{ value: "::" }]
  listeners: [{ name: inbound, protocol: foregate.dev/Inbound, port: 15006 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders }
spec:
  parentRefs: [{ name: sidecar, port: 8080 }, { name: sidecar, port: 9000 }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: application }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: mail }
spec:
  parentRefs: [{ name: sidecar, port: 2525 }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: talker }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: application }
spec: { captured: Address }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: talker }
spec: { captured: Loopback, protocol: Tcp }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: orders }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders }]
  authorize:
  - { name: web, allow: 'peer.id == "spiffe://example.org/ns/shop/sa/web" && destination.port == 8080' }
  - { name: probes, allow: 'destination.port == 9000 && request.path == "/healthz"' }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: mail }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: TCPRoute, name: mail }]
  authorize:
  - { name: web, allow: 'peer.id == "spiffe://example.org/ns/shop/sa/web" && destination.port == 2525' }
"#;

/// The sidecar of the application that calls.
const CALLING: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: outbound }
spec:
  gatewayClassName: foregate
  addresses: [{ value: 127.0.0.1 }, { value: "::1" }]
  listeners: [{ name: outbound, protocol: foregate.dev/Outbound, port: 15001 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders-4 }
spec:
  parentRefs: [{ name: outbound, port: 8080 }]
  hostnames: [orders-4.test]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: orders-4 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders-6 }
spec:
  parentRefs: [{ name: outbound }]
  hostnames: [orders-6.test]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: orders-6 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: mail-4 }
spec:
  parentRefs: [{ name: outbound }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: mail-4 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: mail-6 }
spec:
  parentRefs: [{ name: outbound }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: mail-6 }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: orders-4 }
spec:
  endpoints: ["10.77.0.2:8080"]
  virtualAddresses: ["10.96.0.10:80", "10.96.0.10:8080"]
  tls: { mode: Mutual, peers: ["spiffe://example.org/ns/crm/sa/orders"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: orders-6 }
spec:
  endpoints: ["[fd77::2]:8080"]
  tls: { mode: Mutual, peers: ["spiffe://example.org/ns/crm/sa/orders"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: mail-4 }
spec:
  endpoints: ["10.77.0.2:2525"]
  protocol: Tcp
  tls: { mode: Mutual, peers: ["spiffe://example.org/ns/crm/sa/orders"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: mail-6 }
spec:
  endpoints: ["[fd77::2]:2525"]
  protocol: Tcp
  tls: { mode: Mutual, peers: ["spiffe://example.org/ns/crm/sa/orders"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: outbound }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: outbound }]
  authorize: [{ name: application, allow: 'source.address != "192.0.2.1"' }]
"#;

/// Two pods with their applications, and a sidecar in each.
struct Mesh {
    web: Pod,
    orders: Pod,
    application: Resident,
    calling: Sidecar,
    serving: Sidecar,
}

impl Mesh {
    /// The pod that calls is the workload at `path`; `init` are arguments of both `foregate init`.
    async fn start(path: &str, init: &[&str]) -> Self {
        Self::with(path, init, (CALLING, SERVING)).await
    }

    async fn with(path: &str, init: &[&str], (calling, serving): (&str, &str)) -> Self {
        let [web, orders] = pods();
        for pod in [&web, &orders] {
            let done = pod.init(init);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        let domain = Domain::new("example.org");
        let application = orders.resident(&["serve", "8080", "2525", "9000"]).await;
        let calling = start(&web, calling, 2, &domain, path).await;
        let serving = start(&orders, serving, 1, &domain, "/ns/crm/sa/orders").await;
        Self { web, orders, application, calling, serving }
    }
}

impl Mesh {
    /// Files with the certificate of the pod that calls, and its key.
    fn certificate(&self) -> [String; 2] {
        ["svid.pem", "svid_key.pem"].map(|name| self.calling.identity(name).display().to_string())
    }
}

async fn start(pod: &Pod, policies: &str, sockets: usize, domain: &Domain, path: &str) -> Sidecar {
    let svid = domain.svid(path);
    let identity = [
        ("svid.pem", svid.leaf.certificate.as_str()),
        ("svid_key.pem", svid.leaf.key.as_str()),
        ("svid_bundle.pem", domain.bundle.as_str()),
    ];
    pod.sidecar(policies, sockets, &identity).await
}

/// What curl resolves the names of the tests to.
const NAMES: [&str; 4] =
    ["--resolve", "orders-4.test:8080:10.77.0.2", "--resolve", "orders-6.test:8080:[fd77::2]"];
