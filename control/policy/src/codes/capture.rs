//! What is told about codes of redirected connections, in order.

use super::{CAPTURE, CAPTURED_UPSTREAM, Entry, PLAIN_PORTS, UNKNOWN_DESTINATIONS, entry};

/// Codes from 770, in order.
pub const OF_CAPTURE: &[Entry] = &[
    entry(
        CAPTURE,
        "A listener for redirected connections cannot be so",
        "Listeners with protocol foregate.dev/Inbound and foregate.dev/Outbound take what the kernel redirects to them (`foregate init`). Inbound is always mutual TLS with the identity of the workload, outbound is what the application says; neither has a name, a certificate or a PROXY protocol of its own, nor shares its port. `detect.opaquePorts`, `insecure.plainPorts` and `insecure.unknownDestinations` are about such listeners alone.",
        "listeners:\n- { name: inbound, protocol: foregate.dev/Inbound, port: 15006, tls: { certificateRefs: [{ name: web }] } }",
        "listeners:\n- { name: inbound, protocol: foregate.dev/Inbound, port: 15006 }",
    ),
    entry(
        CAPTURED_UPSTREAM,
        "An upstream cannot be where connections meant to go",
        "With `captured` an upstream has no endpoints: requests and connections go on to the address that the client meant (Address), or to its port on loopback (Loopback). That is known of redirected connections alone. On loopback listens what others are not to reach, such as the admin endpoint of the sidecar, so that routes name the ports that may be reached there.",
        "kind: HTTPRoute\nspec: { parentRefs: [{ name: sidecar }], rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: app }] }] }\n---\nkind: Upstream\nmetadata: { name: app }\nspec: { captured: Loopback }",
        "kind: HTTPRoute\nspec: { parentRefs: [{ name: sidecar, port: 8080 }], rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: app }] }] }\n---\nkind: Upstream\nmetadata: { name: app }\nspec: { captured: Loopback }",
    ),
    entry(
        PLAIN_PORTS,
        "Ports of the workload that take plain connections",
        "`insecure.plainPorts` lets whoever reaches the workload speak to these ports without TLS, as nobody: rules that read `peer` refuse it, and a rule must allow it. Probes are better served by `foregate init --skip-inbound-ports`, where the sidecar has no part in them.",
        "insecure: { plainPorts: [9000] }",
        "# foregate init --skip-inbound-ports 9000",
    ),
    entry(
        UNKNOWN_DESTINATIONS,
        "The application reaches every unknown address",
        "`insecure.unknownDestinations` passes on what the application opens to addresses that no upstream of a route has: nothing decides about it, and nothing but a record of the connection is made. Name what it needs in upstreams instead.",
        "insecure: { unknownDestinations: true }",
        "kind: Upstream\nmetadata: { name: mail }\nspec: { endpoints: [\"mail.example.com:587\"], protocol: Tcp }",
    ),
];
