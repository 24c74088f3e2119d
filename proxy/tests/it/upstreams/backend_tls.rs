//! Upstreams that prove who they are as a `BackendTLSPolicy` wants it.

use http::Response;

use super::documents;
use crate::support::certificates::Authority;
use crate::support::client::Client;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Speak, Upstream, full};

const ID: &str = "spiffe://example.org/ns/crm/sa/leads";

fn policy(validation: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: crm-tls }}
spec:
  targetRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}]
  validation: {{ caCertificateRefs: [{{ kind: Secret, name: other }}, {{ kind: Secret, name: crm }}], {validation} }}
---"
    )
}

#[tokio::test]
async fn an_endpoint_must_have_one_of_the_names_that_are_wanted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let leaf = authority.leaf_of(&["crm.example.com", "*.wild.test"], &[ID]);
    let upstream = Upstream::speaking(Speak::Tls(leaf.server(&["http/1.1"])), |_| async {
        Response::new(full("hello"))
    })
    .await;
    let stranger = Authority::new().leaf_of(&["crm.example.com"], &[ID]);
    let stranger = Upstream::speaking(Speak::Tls(stranger.server(&["http/1.1"])), |_| async {
        Response::new(full("stranger"))
    })
    .await;
    let alt = |name: &str| format!("hostname: elsewhere.test, subjectAltNames: [{name}]");
    let cases = [
        ("hostname: crm.example.com".to_owned(), true),
        ("hostname: elsewhere.test".to_owned(), false),
        ("hostname: a.wild.test".to_owned(), true),
        // The name that is asked for is then not looked at.
        (alt("{ type: Hostname, hostname: crm.example.com }"), true),
        (alt("{ type: Hostname, hostname: b.wild.test }"), true),
        (alt("{ type: Hostname, hostname: '*.example.com' }"), true),
        (alt("{ type: Hostname, hostname: '*.wild.test' }"), true),
        (alt("{ type: Hostname, hostname: '*.com' }"), false),
        (alt("{ type: Hostname, hostname: elsewhere.test }"), false),
        (alt(&format!("{{ type: URI, uri: '{ID}' }}")), true),
        (alt("{ type: URI, uri: 'spiffe://example.org/ns/crm/sa/lead' }"), false),
        (alt(&format!("{{ type: Hostname, hostname: no.test }}, {{ type: URI, uri: '{ID}' }}")), true),
    ];
    let spec = |upstream: &Upstream| super::endpoints(&[upstream.address]);
    let options = Options::default()
        .file("secrets/crm/ca.crt", authority.pem())
        .file("secrets/other/ca.crt", other.pem());
    let first = documents("", &spec(&upstream)) + &policy(&cases[0].0);
    let gateway = Foregate::start(&first, options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (validation, good) in cases {
        gateway.publish(&(documents("", &spec(&upstream)) + &policy(&validation))).await;
        let reply = client.get("/").await;
        if good {
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{validation}");
        } else {
            assert_eq!(reply.reason(), "UpstreamUntrusted", "{validation}");
        }
        // The right names of the wrong authority are worth nothing.
        gateway.publish(&(documents("", &spec(&stranger)) + &policy(&validation))).await;
        assert_eq!(client.get("/").await.reason(), "UpstreamUntrusted", "{validation}");
    }
}
