//! What objects become, and what is found out about each, without any cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use foregate_control::kubernetes::kinds::Resource;
use foregate_control::kubernetes::objects::{Key, Object, World};
use foregate_control::kubernetes::references::{Content, Holder, Reference, References};
use foregate_control::kubernetes::report::{Report, Verdict};
use foregate_control::kubernetes::services::{Ports, place};
use foregate_control::kubernetes::verdict::{Outcome, judge};
use kube::core::DynamicObject;

use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE, SERVICE};

/// A world of these documents; the first is the oldest.
pub fn world(documents: &[&str]) -> World {
    let mut world = World::default();
    let all = documents.iter().flat_map(|text| foregate_policy::parse::parse(text).documents);
    for (age, root) in all.enumerate() {
        let mut value = root.to_json();
        value["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{:02}Z", age % 60).into();
        let kind = value["kind"].as_str().unwrap().to_owned();
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        match (Resource::find(&kind), &*kind) {
            (Some(resource), _) => {
                let object: DynamicObject = serde_json::from_value(value).unwrap();
                world.apply(Object::read(resource, object));
            }
            (None, "Service") => {
                let ports = Ports::read(&serde_json::from_value(value).unwrap());
                world.services.0.insert(place(&namespace, &name), Arc::new(ports));
            }
            (None, "Namespace") => drop(world.namespaces.insert(name.into(), Arc::default())),
            other => panic!("{other:?}"),
        }
    }
    world
}

fn judged(documents: &[&str]) -> Outcome {
    let mut references = References::new();
    loop {
        let outcome = judge(&world(documents), &references);
        assert_eq!(outcome.stuck, [] as [String; 0]);
        let needed = outcome.rendered.needed.keys().filter(|reference| !references.contains_key(*reference));
        let new: Vec<Reference> = needed.cloned().collect();
        if new.is_empty() {
            return outcome;
        }
        // Nothing that is asked for is there.
        references.extend(new.into_iter().map(|reference| (reference, Arc::new(Content::Absent))));
    }
}

pub fn report(outcome: &Outcome, resource: Resource, name: &str) -> Report {
    outcome.rendered.reports[&Key::new(resource, "crm", name)].clone()
}

fn parent(outcome: &Outcome, resource: Resource, name: &str) -> (Verdict, Verdict) {
    let Report::Route(route) = report(outcome, resource, name) else { panic!("no route") };
    (route.parents[0].accepted.clone(), route.resolved)
}

pub fn ancestor(outcome: &Outcome, resource: Resource, name: &str) -> Verdict {
    let Report::Policy(policy) = report(outcome, resource, name) else { panic!("no policy") };
    policy.ancestors[0].1.clone()
}

pub fn text(outcome: &Outcome, path: &str) -> String {
    outcome.rendered.files.get(path).map(|file| file.text.to_string()).unwrap_or_default()
}

/// The policy for another target.
pub fn policy(kind: &str, name: &str) -> String {
    POLICY
        .replace("metadata: { name: leads", &format!("metadata: {{ name: {name}"))
        .replace("kind: HTTPRoute, name: leads", &format!("kind: {kind}, name: {name}"))
}

#[test]
fn one_service_is_spoken_to_as_its_routes_speak() {
    let gateway = GATEWAY
        .replace("  - { name: http,", "  - { name: tcp, protocol: TCP, port: 5432 }\n  - { name: http,");
    let other = |kind: &str, name: &str| {
        ROUTE
            .replace("kind: HTTPRoute", &format!("kind: {kind}"))
            .replace("metadata: { name: leads", &format!("metadata: {{ name: {name}"))
            .replace(
                "  - matches: [{ path: { type: PathPrefix, value: / } }]\n    backendRefs",
                "  - backendRefs",
            )
    };
    let http = ROUTE.replace("spec:\n", "spec:\n  hostnames: [leads.test]\n");
    let grpc = other("GRPCRoute", "calls").replace("spec:\n", "spec:\n  hostnames: [calls.test]\n");
    let h2c =
        SERVICE.replace("name: http, port: 80,", "name: http, port: 80, appProtocol: kubernetes.io/h2c,");
    let outcome = judged(&[
        CLASS,
        &gateway,
        &http,
        &grpc,
        &other("TCPRoute", "database"),
        POLICY,
        &policy("GRPCRoute", "calls"),
        &policy("TCPRoute", "database"),
        &h2c,
    ]);
    for (resource, name) in
        [(Resource::HttpRoute, "leads"), (Resource::GrpcRoute, "calls"), (Resource::TcpRoute, "database")]
    {
        let (accepted, resolved) = parent(&outcome, resource, name);
        assert!(accepted.ok && resolved.ok, "{name}: {accepted:?} {resolved:?}");
    }
    let upstreams = text(&outcome, "kubernetes/crm/Service/leads.80.yaml");
    let found: Vec<(&str, &str)> = upstreams
        .split("---\n")
        .filter(|document| !document.is_empty())
        .map(|document| {
            let after = |word: &str| document.split_once(word).unwrap().1.split('"').next().unwrap();
            (after("name: \""), after("protocol: \""))
        })
        .collect();
    let wanted =
        [("service.leads.80", "Http2"), ("service.leads.80.grpc", "Http2"), ("service.leads.80.tcp", "Tcp")];
    assert_eq!(found, wanted);
    let files: Vec<&str> =
        outcome.rendered.endpoints[&place("crm", "leads")].iter().map(|file| &*file.path).collect();
    assert_eq!(files, ["kubernetes/crm/Service/leads.80.endpoints"], "one file for all");
}

#[test]
fn what_cannot_be_a_backend_is_told_and_leads_nowhere() {
    let external = SERVICE.replace("spec: {", "spec: { type: ExternalName, externalName: example.com,");
    let udp = SERVICE.replace("port: 80,", "port: 80, protocol: UDP,");
    for (service, route, reason, told) in [
        (&*external, ROUTE.to_owned(), "BackendNotFound", "is a name of DNS"),
        (&udp, ROUTE.to_owned(), "BackendNotFound", "has no TCP port 80"),
        (SERVICE, ROUTE.replace("port: 80,", "port: 82,"), "BackendNotFound", "has no TCP port 82"),
        (
            SERVICE,
            ROUTE.replace("kind: Service", "kind: ServiceImport"),
            "InvalidKind",
            "`/ServiceImport` is no backend",
        ),
        (
            SERVICE,
            ROUTE.replace(
                "group: '', kind: Service, name: leads, port: 80",
                "group: foregate.dev, kind: Upstream, name: none",
            ),
            "BackendNotFound",
            "the Upstream `crm/none` does not exist",
        ),
    ] {
        let outcome = judged(&[CLASS, GATEWAY, &route, POLICY, service]);
        let (accepted, resolved) = parent(&outcome, Resource::HttpRoute, "leads");
        assert!(accepted.ok, "{accepted:?}");
        assert_eq!((resolved.ok, resolved.reason), (false, reason));
        assert!(resolved.message.contains(told), "{resolved:?}");
        assert!(outcome.rendered.endpoints.contains_key(&place("crm", "unresolved")));
    }
}

#[test]
fn a_listener_takes_the_kinds_of_routes_that_it_lists() {
    let only = |kind: &str| {
        GATEWAY.replace("{ from: Same }", &format!("{{ from: Same }}, kinds: [{{ kind: {kind} }}]"))
    };
    let outcome = judged(&[CLASS, &only("GRPCRoute"), ROUTE, POLICY, SERVICE]);
    let (accepted, _) = parent(&outcome, Resource::HttpRoute, "leads");
    assert_eq!(accepted.reason, "NotAllowedByListeners");
    let outcome = judged(&[CLASS, &only("TCPRoute"), ROUTE, POLICY, SERVICE]);
    let Report::Gateway(gateway) = report(&outcome, Resource::Gateway, "edge") else { panic!("no gateway") };
    assert_eq!(
        (gateway.listeners[0].resolved.reason, gateway.listeners[0].kinds.len()),
        ("InvalidRouteKinds", 0)
    );
    for (parent_ref, reason) in
        [("name: edge, sectionName: other", "NoMatchingParent"), ("name: edge, port: 81", "NoMatchingParent")]
    {
        let outcome = judged(&[CLASS, GATEWAY, &ROUTE.replace("name: edge", parent_ref), POLICY, SERVICE]);
        assert_eq!(parent(&outcome, Resource::HttpRoute, "leads").0.reason, reason);
    }
    let named = GATEWAY.replace("port: 8080,", "port: 8080, hostname: '*.crm.test',");
    let elsewhere = ROUTE.replace("spec:\n", "spec:\n  hostnames: [leads.test]\n");
    let outcome = judged(&[CLASS, &named, &elsewhere, POLICY, SERVICE]);
    assert_eq!(parent(&outcome, Resource::HttpRoute, "leads").0.reason, "NoMatchingListenerHostname");
    // Routes and Gateways of others have no status of ours.
    let others = GATEWAY.replace("gatewayClassName: foregate", "gatewayClassName: other");
    assert!(
        judged(&[CLASS, &others, ROUTE, POLICY, SERVICE])
            .rendered
            .reports
            .keys()
            .all(|key| { matches!(key.resource, Resource::GatewayClass | Resource::Policy) })
    );
}

#[test]
fn a_fault_of_a_listener_costs_that_listener_and_one_of_a_policy_what_it_guards() {
    let gateway = GATEWAY.replace(
        "  - { name: http,",
        "  - { name: bad, protocol: HTTP, port: 81, tls: {} }\n  - { name: http,",
    );
    let outcome = judged(&[CLASS, &gateway, ROUTE, POLICY, SERVICE]);
    let Report::Gateway(report_of) = report(&outcome, Resource::Gateway, "edge") else {
        panic!("no gateway")
    };
    let [bad, good] = report_of.listeners.as_slice() else { panic!("{report_of:?}") };
    assert!(!bad.programmed.ok && good.programmed.ok);
    assert!(
        bad.accepted.message.starts_with("FG0203: an HTTP listener has no TLS (at spec.listeners[0].tls)"),
        "{bad:?}"
    );
    assert!(report_of.programmed.ok && report_of.accepted.reason == "ListenersNotValid");
    assert!(parent(&outcome, Resource::HttpRoute, "leads").0.ok);

    // Nothing lets anybody in.
    let outcome = judged(&[CLASS, GATEWAY, ROUTE, SERVICE]);
    let (accepted, _) = parent(&outcome, Resource::HttpRoute, "leads");
    assert!(!accepted.ok && accepted.message.starts_with("FG"), "{accepted:?}");

    let wrong = POLICY.replace("'true'", "'true &&'");
    let of_gateway = wrong
        .replace("metadata: { name: leads", "metadata: { name: all")
        .replace("kind: HTTPRoute, name: leads", "kind: Gateway, name: edge");
    let outcome = judged(&[CLASS, GATEWAY, ROUTE, POLICY, &of_gateway, SERVICE]);
    let Report::Gateway(gateway) = report(&outcome, Resource::Gateway, "edge") else { panic!("no gateway") };
    assert_eq!(gateway.accepted.reason, "PolicyRefused");
    assert_eq!(text(&outcome, "kubernetes/crm/HTTPRoute/leads.yaml"), "");
    // One on trial guards nothing.
    let trial = wrong
        .replace("metadata: { name: leads", "metadata: { name: trial")
        .replace("spec:\n", "spec:\n  mode: shadow\n");
    let outcome = judged(&[CLASS, GATEWAY, ROUTE, POLICY, &trial, SERVICE]);
    assert!(!ancestor(&outcome, Resource::Policy, "trial").ok);
    assert!(parent(&outcome, Resource::HttpRoute, "leads").0.ok);
    // A target that is gone costs the others nothing.
    let two = POLICY.replace(
        "name: leads }]",
        "name: leads }, { group: gateway.networking.k8s.io, kind: HTTPRoute, name: gone }]",
    );
    let outcome = judged(&[CLASS, GATEWAY, ROUTE, &two, SERVICE]);
    let Report::Policy(policy) = report(&outcome, Resource::Policy, "leads") else { panic!("no policy") };
    let reasons: Vec<&str> = policy.ancestors.iter().map(|(_, verdict)| verdict.reason).collect();
    assert_eq!(reasons, ["Accepted", "TargetNotFound"]);
    assert!(parent(&outcome, Resource::HttpRoute, "leads").0.ok);
}

#[test]
fn of_two_policies_about_one_service_the_older_holds() {
    let tls = |name: &str, section: &str, hostname: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: {name}, namespace: crm }}
spec:
  targetRefs: [{{ group: '', kind: Service, name: leads{section} }}]
  validation: {{ hostname: {hostname}, wellKnownCACertificates: System }}
"
        )
    };
    let port = ", sectionName: http";
    let outcome = judged(&[
        CLASS,
        GATEWAY,
        ROUTE,
        POLICY,
        SERVICE,
        &tls("z-first", port, "a.test"),
        &tls("a-second", port, "b.test"),
        &tls("whole", "", "c.test"),
    ]);
    assert!(ancestor(&outcome, Resource::BackendTlsPolicy, "z-first").ok);
    let second = ancestor(&outcome, Resource::BackendTlsPolicy, "a-second");
    assert_eq!((second.ok, second.reason), (false, "Conflicted"));
    assert!(text(&outcome, "kubernetes/crm/BackendTLSPolicy/z-first.yaml").contains("service.leads.80"));
    // What is said of a port counts before what is said of all.
    assert_eq!(text(&outcome, "kubernetes/crm/BackendTLSPolicy/whole.yaml"), "");
    assert!(parent(&outcome, Resource::HttpRoute, "leads").1.ok);
}

#[test]
fn secrets_are_asked_for_by_key_and_only_those_of_the_namespace() {
    let upstream = "
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: partner, namespace: crm }
spec:
  endpoints: ['10.0.0.1:443']
  tls: { mode: Mutual, clientCertificateRef: { name: ours } }
  credentials: { static: { header: authorization, value: { secretRef: { name: token, key: value } } } }
";
    let outcome = judge(&world(&[upstream]), &References::new());
    let needed: BTreeMap<String, Vec<String>> = outcome
        .rendered
        .needed
        .iter()
        .map(|(reference, keys)| {
            assert_eq!((reference.holder, &*reference.namespace), (Holder::Secret, "crm"));
            (reference.name.to_string(), keys.iter().cloned().collect())
        })
        .collect();
    let wanted = [("ours", vec!["tls.crt", "tls.key"]), ("token", vec!["value"])];
    let wanted: BTreeMap<String, Vec<String>> = wanted
        .into_iter()
        .map(|(name, keys)| (name.to_owned(), keys.into_iter().map(str::to_owned).collect()))
        .collect();
    assert_eq!(needed, wanted);
    let reserved = upstream.replace("name: partner", "name: service.leads.80");
    let outcome = judged(&[&reserved]);
    let Report::Plain(verdict) = report(&outcome, Resource::Upstream, "service.leads.80") else {
        panic!("no upstream")
    };
    assert!(verdict.message.starts_with("FG0793"), "{verdict:?}");
}

#[test]
fn clients_are_asked_for_certificates_of_authorities_that_are_there() {
    let gateway = GATEWAY.replace(
        "protocol: HTTP, port: 8080,",
        "protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: edge }] },",
    ) + "  tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: '', kind: ConfigMap, name: partners }] } } } }\n";
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["crm.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let present = |keys: &[(&str, String)]| {
        let keys = keys.iter().map(|(key, text)| ((*key).to_owned(), text.clone().into()));
        Arc::new(Content::Present(keys.collect()))
    };
    let secret = Reference::new(Holder::Secret, "crm", "edge");
    let authorities = Reference::new(Holder::ConfigMap, "crm", "partners");
    let mut references = References::new();
    references.insert(secret, present(&[("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())]));
    references.insert(authorities.clone(), Arc::new(Content::Absent));
    let world = world(&[CLASS, &gateway, ROUTE, POLICY, SERVICE]);
    let outcome = judge(&world, &references);
    let Report::Gateway(refused) = report(&outcome, Resource::Gateway, "edge") else { panic!("no gateway") };
    let resolved = &refused.listeners[0].resolved;
    assert_eq!(
        (resolved.reason, &*resolved.message),
        ("InvalidCACertificateRef", "the ConfigMap `crm/partners` does not exist")
    );
    assert!(!refused.programmed.ok, "nobody is served without being asked");
    references.insert(authorities, present(&[("ca.crt", certificate.pem())]));
    let outcome = judge(&world, &references);
    let Report::Gateway(served) = report(&outcome, Resource::Gateway, "edge") else { panic!("no gateway") };
    assert!(served.programmed.ok, "{served:?}");
    assert!(text(&outcome, "kubernetes/crm/Gateway/edge.yaml").contains("configmap.crm.partners"));
    assert!(outcome.rendered.secrets.contains_key("secrets/configmap.crm.partners/ca.crt"));
    assert!(parent(&outcome, Resource::HttpRoute, "leads").0.ok);
}

#[test]
fn a_fault_of_one_reference_costs_the_route_that_gateway_alone() {
    let tcp = |name: &str, ports: [u16; 2]| {
        let gateway = GATEWAY.replace("metadata: { name: edge", &format!("metadata: {{ name: {name}"));
        let listeners =
            ports.map(|port| format!("  - {{ name: p{port}, protocol: TCP, port: {port} }}\n")).concat();
        gateway.split("  - {").next().unwrap().to_owned() + &listeners
    };
    let route = |name: &str, parents: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{ name: {name}, namespace: crm }}
spec:
  parentRefs: {parents}
  rules: [{{ backendRefs: [{{ name: leads, port: 80 }}] }}]
"
        )
    };
    let (one, two) = (tcp("one", [5001, 5002]), tcp("two", [6001, 6002]));
    let first = route("a", "[{ name: one, sectionName: p5001 }]");
    // A reference that is not for us stands before the others, so that places differ.
    let second = route(
        "b",
        "[{ name: foreign }, { name: two, sectionName: p6002 }, { name: one, sectionName: p5001 }]",
    );
    let (a, b) = (policy("TCPRoute", "a"), policy("TCPRoute", "b"));
    let outcome = judged(&[CLASS, &one, &two, &first, &second, &a, &b, SERVICE]);
    assert!(parent(&outcome, Resource::TcpRoute, "a").0.ok);
    let Report::Route(route) = report(&outcome, Resource::TcpRoute, "b") else { panic!("no route") };
    let [good, bad] = route.parents.as_slice() else { panic!("{route:?}") };
    assert!(good.accepted.ok, "{good:?}");
    assert_eq!((bad.accepted.ok, bad.accepted.reason), (false, "UnsupportedValue"));
    assert!(bad.accepted.message.starts_with("FG0673"), "{bad:?}");
    assert!(text(&outcome, "kubernetes/crm/TCPRoute/b.yaml").contains("p6002"));
}

#[test]
fn of_routes_that_tie_the_older_one_has_the_requests() {
    let younger = ROUTE.replacen("name: leads", "name: aaa", 1);
    let outcome = judged(&[CLASS, GATEWAY, SERVICE, ROUTE, &younger, &policy("Gateway", "edge")]);
    let order = |name: &str| {
        let file = &outcome.rendered.files[&*format!("kubernetes/crm/HTTPRoute/{name}.yaml")];
        let document = foregate_policy::parse::parse(&file.text).documents.remove(0).to_json();
        document["metadata"]["annotations"]["foregate.dev/created"].as_str().unwrap().to_owned()
    };
    assert!(order("leads") < order("aaa"));
}
