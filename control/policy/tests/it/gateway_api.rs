//! `GRPCRoute`, CORS, mirrors, choices of backends: precedence, faults, warnings.

use foregate_policy::routes::RouteMiss;
use foregate_policy::snapshot::Snapshot;
use http::Request;

use crate::materials::{BASE, CRM, brief, compiled, route};

const GRPC: &str = "backendRefs: [{ group: foregate.dev, kind: Upstream, name: grpc }]";

/// [`BASE`] with an upstream for gRPC, and these documents.
fn with(documents: &str) -> String {
    format!(
        "{BASE}apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: grpc }}\nspec: {{ endpoints: ['grpc:50051'], protocol: Http2 }}\n---\n{documents}"
    )
}

fn grpc(name: &str, spec: &str) -> String {
    route(name, spec).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

fn faults(documents: &str) -> Vec<String> {
    let told = compiled(&with(documents)).map(|_| ()).unwrap_err();
    // Places are those of other tests.
    brief(&told)
        .iter()
        .map(|fault| {
            fault
                .split(' ')
                .enumerate()
                .filter(|(at, _)| *at != 1)
                .map(|(_, word)| word)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

fn warnings(documents: &str) -> Vec<String> {
    let snapshot = compiled(&with(documents)).unwrap();
    let unused = |message: &str| message.starts_with("no route leads to the upstream");
    let told = snapshot.warnings.iter().filter(|warning| !unused(&warning.message));
    told.map(|warning| format!("{} {}", warning.code, warning.message)).collect()
}

fn call(snapshot: &Snapshot, request: &str) -> String {
    let mut words = request.split(' ');
    let mut builder = Request::builder().method("POST").uri(words.next().unwrap());
    for header in words {
        let (name, value) = header.split_once(':').unwrap();
        builder = builder.header(name, value);
    }
    let (head, ()) = builder.body(()).unwrap().into_parts();
    match snapshot.routes.find(8080, false, "h", &head) {
        Ok(route) => route.name.to_string(),
        Err(RouteMiss::Host) => "no host".to_owned(),
        Err(RouteMiss::Rule) => "no rule".to_owned(),
    }
}

#[test]
fn calls_find_their_rule_by_the_precedence_of_grpc_route() {
    let rule = |name: &str, matches: &str| format!("- {{ name: {name}, matches: [{matches}], {GRPC} }}\n");
    let rules = [
        rule("all", "{ headers: [] }"),
        rule("method", "{ method: { method: Get } }"),
        rule("service", "{ method: { service: crm.v1.Leads } }"),
        rule("both", "{ method: { service: crm.v1.Leads, method: Get } }"),
        rule(
            "header",
            "{ method: { service: crm.v1.Leads, method: Get }, headers: [{ name: x-a, value: '1' }] }",
        ),
        rule(
            "headers",
            "{ method: { service: crm.v1.Leads, method: Get }, headers: [{ name: x-a, value: '1' }, { name: x-b, type: RegularExpression, value: '[0-9]+' }] }",
        ),
        rule(
            "pattern",
            "{ method: { type: RegularExpression, service: 'crm[.]v[12][.].*', method: 'Get|List' } }",
        ),
        rule("of-header", "{ headers: [{ name: x-only, value: '1' }] }"),
        rule("shadowed", "{ method: { service: crm.v1.Leads } }"),
    ];
    let snapshot = compiled(&with(&grpc("rpc", &format!("rules:\n{}", rules.concat())))).unwrap();
    for (request, want) in [
        ("/crm.v1.Leads/Get", "rpc/both"),
        ("/crm.v1.Leads/Get x-a:1", "rpc/header"),
        ("/crm.v1.Leads/Get x-a:1 x-b:7", "rpc/headers"),
        ("/crm.v1.Leads/Get x-a:1 x-b:x", "rpc/header"),
        ("/crm.v1.Leads/List", "rpc/service"),
        ("/crm.v1.Leads/get", "rpc/service"),
        ("/crm.v2.Leads/Get", "rpc/pattern"),
        ("/crm.v1.Accounts/List", "rpc/pattern"),
        ("/crm.v1.Accounts/Lists", "rpc/all"),
        ("/other.Service/Get", "rpc/method"),
        ("/other.Service/Put", "rpc/all"),
        ("/other.Service/Put x-only:1", "rpc/of-header"),
        ("/other.Service/Get x-only:1", "rpc/method"),
        ("/other.Service/", "no rule"),
        ("/other.Service", "no rule"),
        ("/a/b/c", "no rule"),
        ("/", "no rule"),
    ] {
        assert_eq!(call(&snapshot, request), want, "{request}");
    }
    let (head, ()) = Request::get("/crm.v1.Leads/Get").body(()).unwrap().into_parts();
    assert!(snapshot.routes.find(8080, false, "h", &head).is_err(), "a call is a POST");
    let told: Vec<_> = snapshot.warnings.iter().map(|it| it.message.as_str()).collect();
    assert!(told.contains(&"no request reaches this match: rule 2 of this route takes them all"), "{told:?}");
}

#[test]
fn what_a_grpc_route_cannot_mean_is_a_fault() {
    let one =
        |matches: &str| grpc("rpc", &format!("rules: [{{ matches: [{{ method: {matches} }}], {GRPC} }}]"));
    for (documents, want) in [
        (one("{}"), vec!["FG0205 a service or a method must be named"]),
        (one("{ service: 'a b' }"), vec!["FG0205 `a b` is not the name of a service"]),
        (one("{ service: a/b }"), vec!["FG0205 `a/b` is not the name of a service"]),
        (one("{ method: a.b }"), vec!["FG0205 `a.b` is not the name of a method"]),
        (
            one("{ type: RegularExpression, method: '(' }"),
            vec!["FG0205 the regular expression cannot be compiled: unclosed group"],
        ),
        (
            grpc("rpc", &format!("rules: [{{ {CRM} }}]")),
            vec!["FG0641 the Upstream `crm` is spoken to in HTTP/1.1, and gRPC needs HTTP/2"],
        ),
        (
            grpc(
                "rpc",
                &format!(
                    "rules: [{{ filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {{ group: foregate.dev, kind: Upstream, name: crm }} }} }}], {GRPC} }}]"
                ),
            ),
            vec!["FG0641 the Upstream `crm` is spoken to in HTTP/1.1, and gRPC needs HTTP/2"],
        ),
        (
            grpc("rpc", &format!("rules: [{{ filters: [{{ type: URLRewrite }}], {GRPC} }}]")),
            vec!["FG0106 `URLRewrite` is not a value of this field"],
        ),
        (
            grpc("rpc", &format!("rules: [{{ filters: [{{ type: ExtensionRef }}], {GRPC} }}]")),
            vec!["FG0103 `ExtensionRef` is not supported by this version"],
        ),
        (
            grpc("rpc", "rules: [{}]"),
            vec!["FG0206 the rule leads nowhere: it has no backendRefs and does not redirect"],
        ),
    ] {
        assert_eq!(faults(&documents), want, "{documents}");
    }
}

#[test]
fn a_host_of_a_listener_belongs_to_one_kind_of_route() {
    let http = |hosts: &str| route("web", &format!("{hosts}\nrules: [{{ {CRM} }}]"));
    let rpc = |hosts: &str| grpc("rpc", &format!("{hosts}\nrules: [{{ {GRPC} }}]"));
    let shared = "FG0640 the GRPCRoute `rpc` serves the same host on listener `http`";
    for (web, calls, want) in [
        ("", "", vec![shared]),
        ("hostnames: [a.test]", "hostnames: [a.test]", vec![shared]),
        ("hostnames: ['*.test']", "hostnames: [a.test]", vec![shared]),
        ("", "hostnames: [a.test]", vec![shared]),
        ("hostnames: [a.test]", "hostnames: [b.test]", vec![]),
        ("hostnames: ['*.a.test']", "hostnames: ['*.b.test', a.test]", vec![]),
    ] {
        let documents = [http(web), rpc(calls)].concat();
        let told = compiled(&with(&documents)).map_or_else(|_| faults(&documents), |_| Vec::new());
        assert_eq!(told, want, "{web} {calls}");
    }
}

#[test]
fn filters_that_contradict_themselves_are_faults() {
    let one = |filters: &str| route("web", &format!("rules: [{{ filters: [{filters}], {CRM} }}]"));
    let mirror = |more: &str| {
        one(&format!(
            "{{ type: RequestMirror, requestMirror: {{ backendRef: {{ group: foregate.dev, kind: Upstream, name: grpc }}{more} }} }}"
        ))
    };
    let cors = |fields: &str| one(&format!("{{ type: CORS, cors: {{ {fields} }} }}"));
    for (documents, want) in [
        (
            mirror(", percent: 5, fraction: { numerator: 1 }"),
            "FG0204 either `percent` or `fraction`, not both",
        ),
        (mirror(", percent: 101"), "FG0107 the number must be at most 100"),
        (mirror(", fraction: { numerator: 5, denominator: 4 }"), "FG0204 5 of 4 is more than all"),
        (mirror("").replace("name: grpc }", "name: gone }"), "FG0304 there is no Upstream named `gone`"),
        (one("{ type: RequestMirror }"), "FG0204 a RequestMirror needs the field `requestMirror`"),
        (
            one(
                "{ type: CORS, cors: { allowOrigins: ['*'] } }, { type: CORS, cors: { allowOrigins: ['*'] } }",
            ),
            "FG0204 a second CORS here",
        ),
        (cors(""), "FG0302 no origin is allowed: the filter would do nothing"),
        (cors("allowOrigins: [app.test]"), "FG0301 `app.test` is not an origin"),
        (cors("allowOrigins: ['*', 'https://a.test']"), "FG0302 `*` stands alone"),
        (cors("allowOrigins: ['*'], allowMethods: [BREW]"), "FG0106 `BREW` is not a value of this field"),
        (
            route(
                "web",
                "rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm, filters: [{ type: CORS, cors: { allowOrigins: ['*'] } }] }] }]",
            ),
            "FG0204 CORS is for rules, not for backends",
        ),
    ] {
        assert_eq!(faults(&documents), [want], "{documents}");
    }
    let twice = ["{ type: RequestMirror, requestMirror: { backendRef: { group: foregate.dev, kind: Upstream, name: grpc } } }";
        2];
    assert!(compiled(&with(&one(&twice.join(", ")))).is_ok());
}

#[test]
fn choices_lead_to_backends_of_the_route() {
    let web =
        route("web", &format!("rules: [{{ {CRM} }}, {{ matches: [{{ path: {{ value: /g }} }}], {GRPC} }}]"));
    let policy = |kind: &str, name: &str, choices: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: chooses }}\nspec:\n  targetRefs: [{{ group: gateway.networking.k8s.io, kind: {kind}, name: {name} }}]\n  insecure: {{ anonymous: true }}\n  choose: [{choices}]\n---\n"
        )
    };
    let always = |backend: &str| format!("{{ name: c-{backend}, when: 'true', backend: {backend} }}");
    let documents = |choices: &str| [web.clone(), policy("HTTPRoute", "web", choices)].concat();
    assert_eq!(
        faults(&documents(&always("fast"))),
        ["FG0642 no rule of the route `web` leads to the backend `fast`"]
    );
    assert_eq!(
        faults(&[web.clone(), policy("Gateway", "edge", &always("crm"))].concat()),
        ["FG0302 a policy that chooses backends cannot target a Gateway"]
    );
    assert_eq!(
        faults(&documents("{ name: a, when: 'jwt.tier == \"gold\"', backend: crm }")),
        // Told once for the policy, whatever the number of rules.
        ["FG0402 jwt cannot be read: no token is required here"]
    );
    assert_eq!(
        warnings(&documents(&[always("crm"), always("grpc")].join(", "))),
        ["FG0715 this choice is never made: an earlier one is always true"]
    );
}

#[test]
fn upstreams_of_other_namespaces_need_a_grant() {
    let there = "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: far, namespace: b }\nspec: { endpoints: ['far:80'] }\n---\n";
    let web = |namespace: &str| {
        let far = format!("{{ group: foregate.dev, kind: Upstream, name: far, namespace: {namespace} }}");
        let mirror = format!("filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {far} }} }}]");
        route("web", &format!("rules: [{{ {mirror}, backendRefs: [{far}] }}]"))
    };
    let grant = |namespace: &str, kind: &str, from: &str, to: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{ name: g, namespace: {namespace} }}\nspec:\n  from: [{{ group: gateway.networking.k8s.io, kind: {kind}, namespace: {from} }}]\n  to: [{{ group: foregate.dev, kind: Upstream{to} }}]\n---\n"
        )
    };
    for granted in [grant("b", "HTTPRoute", "default", ""), grant("b", "HTTPRoute", "default", ", name: far")]
    {
        let snapshot = compiled(&with(&[there, &web("b"), &granted].concat())).unwrap();
        assert_eq!(&*snapshot.upstreams[2].name, "b/far");
    }
    let refused = "FG0643 no ReferenceGrant in the namespace `b` lets a HTTPRoute of `default` refer to the Upstream `far`";
    for other in [
        String::new(),
        grant("default", "HTTPRoute", "default", ""),
        grant("b", "GRPCRoute", "default", ""),
        grant("b", "HTTPRoute", "b", ""),
        grant("b", "HTTPRoute", "default", ", name: near"),
    ] {
        assert_eq!(faults(&[there, &web("b"), &other].concat()), [refused, refused], "{other}");
    }
    assert_eq!(
        faults(&[there, &web("c")].concat()),
        ["FG0304 there is no Upstream named `c/far`", "FG0304 there is no Upstream named `c/far`"]
    );
}

#[test]
fn services_mean_the_upstreams_that_stand_for_them() {
    let stand_in = |name: &str, said: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: {name}, namespace: b }}\nspec: {{ endpoints: ['10.0.0.1:80'], protocol: {said} }}\n---\n"
        )
    };
    let grant = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{ name: g, namespace: b }}\nspec:\n  from: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default }}]\n  to: [{{ group: '', kind: {kind} }}]\n---\n"
        )
    };
    let to = |reference: &str| route("web", &format!("rules: [{{ backendRefs: [{reference}] }}]"));
    let there = stand_in("service.leads.80", "Http1");
    let far = to("{ name: leads, port: 80, namespace: b }");
    let snapshot = compiled(&with(&[&*there, &far, &grant("Service")].concat())).unwrap();
    assert_eq!(&*snapshot.upstreams[2].name, "b/service.leads.80");
    let upstreams = grant("Upstream").replace("''", "foregate.dev");
    assert_eq!(
        faults(&[&*there, &far, &upstreams].concat()),
        [
            "FG0643 no ReferenceGrant in the namespace `b` lets a HTTPRoute of `default` refer to the Service `leads`"
        ]
    );
    for (reference, told) in [
        ("{ name: leads, port: 80 }", "FG0791 the Service `leads` and its port 80 are not known here"),
        ("{ name: leads }", "FG0790 a reference to a Service needs the number of a port"),
        ("{ kind: Upstream, name: crm }", "FG0790 the kind Upstream is of the group foregate.dev"),
        (
            "{ group: foregate.dev, kind: Upstream, name: crm, port: 80 }",
            "FG0790 a reference to an Upstream has no port",
        ),
    ] {
        assert_eq!(faults(&to(reference)), [told]);
    }
}

#[test]
fn routes_that_nothing_reaches_are_told() {
    let rules = "rules:\n- { matches: [{ path: { type: RegularExpression, value: '/.*' } }], backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }] }\n- { matches: [{ path: { value: /a } }, { path: { type: Exact, value: /b } }], backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }] }";
    assert_eq!(
        warnings(&route("web", rules)),
        ["FG0713 no request reaches this match: rule 0 of this route takes them all"]
    );
    let listeners = BASE.replace(
        "{ name: http, protocol: HTTP, port: 8080 }",
        "{ name: http, protocol: HTTP, port: 8080 }, { name: narrow, protocol: HTTP, port: 8080, hostname: a.test }",
    );
    let one = route("web", &format!("hostnames: [a.test, b.test]\nrules: [{{ {CRM} }}]"));
    let told = |documents: &str| -> Vec<String> {
        let snapshot = compiled(&format!("{listeners}{documents}")).unwrap();
        snapshot.warnings.iter().map(|it| format!("{} {}", it.code, it.message)).collect()
    };
    assert!(told(&one).is_empty(), "it is attached to both");
    let wide = one.replace("parentRefs: [{ name: edge }]", "parentRefs: [{ name: edge, sectionName: http }]");
    assert_eq!(
        told(&wide),
        ["FG0713 no request for `a.test` reaches this route: listener `narrow` of `edge` takes them all"]
    );
    let open = "{ type: CORS, cors: { allowOrigins: ['*'], allowCredentials: true } }";
    assert_eq!(
        warnings(&route("web", &format!("rules: [{{ filters: [{open}], {CRM} }}]"))),
        ["FG0714 scripts of every origin may call with the credentials of their visitor"]
    );
}
