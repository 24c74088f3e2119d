//! Which route a request takes, by the precedence of Gateway API.

use foregate_policy::route::{PathRewrite, Redirect, Target};
use foregate_policy::routes::RouteMiss;
use foregate_policy::snapshot::Snapshot;
use http::{Request, StatusCode};

use crate::materials::{BASE, CRM, compiled, route};

fn find(snapshot: &Snapshot, request: &str) -> String {
    let mut words = request.split(' ');
    let (method, host, path) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let mut builder = Request::builder().method(method).uri(path);
    for header in words {
        let (name, value) = header.split_once(':').unwrap();
        builder = builder.header(name, value);
    }
    let (head, ()) = builder.body(()).unwrap().into_parts();
    match snapshot.routes.find(8080, false, host, &head) {
        Ok(route) => route.name.to_string(),
        Err(RouteMiss::Host) => "no host".to_owned(),
        Err(RouteMiss::Rule) => "no rule".to_owned(),
    }
}

#[test]
fn precedence_is_that_of_gateway_api() {
    let rule = |name: &str, matches: &str| format!("- {{ name: {name}, matches: [{matches}], {CRM} }}\n");
    let rules = [
        rule("root", "{ path: { value: / } }"),
        rule("foo", "{ path: { value: /foo } }"),
        rule("foobar", "{ path: { value: /foo/bar/ } }"),
        rule("exact", "{ path: { type: Exact, value: /foo/bar } }"),
        rule("regex", "{ path: { type: RegularExpression, value: '/foo/[0-9]+' } }"),
        rule("method", "{ path: { value: /foo }, method: POST }"),
        rule("one", "{ path: { value: /foo }, headers: [{ name: X-A, value: '1' }] }"),
        rule("two", "{ path: { value: /foo }, headers: [{ name: x-a, value: '1' }, { name: x-b, type: RegularExpression, value: 'a|b' }] }"),
        rule("query", "{ path: { value: /foo }, queryParams: [{ name: q, value: a b }] }"),
        rule("later", "{ path: { value: /foo/bar } }"),
    ]
    .concat();
    let snapshot = compiled(&format!("{BASE}{}", route("web", &format!("rules:\n{rules}")))).unwrap();
    for (request, want) in [
        ("GET h /", "web/root"),
        ("GET h /fooo", "web/root"),
        ("GET h /foo", "web/foo"),
        ("GET h /foo/", "web/foo"),
        ("GET h /foo/x", "web/foo"),
        ("GET h /foo/bar", "web/exact"),
        ("POST h /foo/bar", "web/exact"),
        ("GET h /foo/bar/", "web/foobar"),
        ("GET h /foo/bar/x", "web/foobar"),
        ("GET h /foo/barx", "web/foo"),
        ("GET h /foo/12", "web/regex"),
        ("GET h /foo/12x", "web/foo"),
        ("POST h /foo/12", "web/regex"),
        ("POST h /foo", "web/method"),
        ("POST h /foo x-a:1 x-b:a", "web/method"),
        ("GET h /foo x-a:1", "web/one"),
        ("GET h /foo x-a:2", "web/foo"),
        ("GET h /foo x-a:1 x-b:b", "web/two"),
        ("GET h /foo x-a:1 x-b:bb", "web/one"),
        ("GET h /foo?q=a%20b", "web/query"),
        ("GET h /foo?q=a+b&q=c", "web/query"),
        ("GET h /foo?q=c&q=a+b", "web/foo"),
        ("GET h /foo?q=a+b x-a:1", "web/one"),
        ("GET h /FOO", "web/root"),
    ] {
        assert_eq!(find(&snapshot, request), want, "{request}");
    }
    let shadowed: Vec<&str> = snapshot.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(shadowed, ["no request reaches this match: rule 2 of this route takes them all"]);
}

#[test]
fn ties_go_to_the_first_name_then_the_first_rule() {
    let one = |name: &str, rule: &str| route(name, &format!("rules: [{{ name: {rule}, {CRM} }}]"));
    let snapshot = compiled(&format!("{BASE}{}{}", one("b", "x"), one("a", "z"))).unwrap();
    assert_eq!(find(&snapshot, "GET h /"), "a/z");
    let rules = format!("rules: [{{ name: z, {CRM} }}, {{ name: a, {CRM} }}]");
    let snapshot = compiled(&format!("{BASE}{}", route("web", &rules))).unwrap();
    assert_eq!(find(&snapshot, "GET h /"), "web/z");
}

#[test]
fn ties_go_to_the_older_route_where_something_tells_their_age() {
    let one = |name: &str, created: &str| {
        let said = format!("{{ name: {name}, annotations: {{ foregate.dev/created: '{created}' }} }}");
        route(name, &format!("rules: [{{ name: x, {CRM} }}]")).replace(&format!("{{ name: {name} }}"), &said)
    };
    let (young, old) = (one("a", "2026-02-01T00:00:00Z"), one("b", "2026-01-01T00:00:00Z"));
    let snapshot = compiled(&format!("{BASE}{young}{old}")).unwrap();
    assert_eq!(find(&snapshot, "GET h /"), "b/x");
    let same = compiled(&format!("{BASE}{}{old}", one("a", "2026-01-01T00:00:00Z"))).unwrap();
    assert_eq!(find(&same, "GET h /"), "a/x");
}

#[test]
fn the_most_specific_host_wins_and_falls_back() {
    let one = |name: &str, hosts: &str, path: &str| {
        route(name, &format!("{hosts}\nrules: [{{ matches: [{{ path: {{ value: {path} }} }}], {CRM} }}]"))
    };
    let text = [
        one("any", "", "/"),
        one("wild", "hostnames: ['*.example.com']", "/"),
        one("deep", "hostnames: ['*.b.example.com']", "/"),
        one("exact", "hostnames: [a.example.com]", "/only"),
    ]
    .concat();
    let snapshot = compiled(&format!("{BASE}{text}")).unwrap();
    for (request, want) in [
        ("GET a.example.com /only", "exact/0"),
        ("GET a.example.com /", "wild/0"),
        ("GET x.b.example.com /", "deep/0"),
        ("GET b.example.com /", "wild/0"),
        ("GET example.com /", "any/0"),
        ("GET other /only", "any/0"),
    ] {
        assert_eq!(find(&snapshot, request), want, "{request}");
    }
}

#[test]
fn listeners_on_one_port_are_told_apart_by_host() {
    let text = BASE.replace(
        "[{ name: http, protocol: HTTP, port: 8080 }]",
        "[{ name: one, protocol: HTTP, port: 8080, hostname: one.example.com }, { name: all, protocol: HTTP, port: 8080, hostname: '*.example.com' }]",
    );
    let one = route("one", &format!("rules: [{{ {CRM} }}]"))
        .replace("{ name: edge }]", "{ name: edge, sectionName: one }]");
    let all = route("all", &format!("hostnames: [one.example.com, two.example.com]\nrules: [{{ matches: [{{ path: {{ value: /long }} }}], {CRM} }}]"))
        .replace("{ name: edge }]", "{ name: edge, sectionName: all }]");
    let snapshot = compiled(&format!("{text}{one}{all}")).unwrap();
    // A listener keeps the requests of its name, even where another one has a longer path.
    for (request, want) in [
        ("GET one.example.com /long", "one/0"),
        ("GET two.example.com /long", "all/0"),
        ("GET two.example.com /", "no rule"),
        ("GET three.example.com /long", "no rule"),
        ("GET example.org /", "no host"),
    ] {
        assert_eq!(find(&snapshot, request), want, "{request}");
    }
    let listener = |host: &str| snapshot.routes.listener(8080, false, host);
    assert_eq!(listener("two.example.com"), listener("three.example.com"));
    assert_ne!(listener("one.example.com"), listener("two.example.com"));
    assert_eq!(
        (listener("example.org"), snapshot.routes.listener(8081, false, "one.example.com")),
        (None, None)
    );
}

#[test]
fn locations_keep_what_the_redirect_does_not_change() {
    let from =
        Target { scheme: "http", host: "a.example.com", port: 8080, path: "/old/x", query: Some("q=1") };
    let plain = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
    let prefix = PathRewrite::Prefix { matched: "/old".into(), with: "/".into() };
    for (redirect, want) in [
        (plain.clone(), "http://a.example.com:8080/old/x?q=1"),
        (Redirect { scheme: Some("https".into()), ..plain.clone() }, "https://a.example.com/old/x?q=1"),
        (Redirect { port: Some(80), ..plain.clone() }, "http://a.example.com/old/x?q=1"),
        (
            Redirect { scheme: Some("https".into()), port: Some(8443), ..plain.clone() },
            "https://a.example.com:8443/old/x?q=1",
        ),
        (
            Redirect { host: Some("b.example.com".into()), path: Some(prefix), ..plain.clone() },
            "http://b.example.com:8080/x?q=1",
        ),
        (
            Redirect { path: Some(PathRewrite::Full("/new".into())), ..plain },
            "http://a.example.com:8080/new?q=1",
        ),
    ] {
        assert_eq!(redirect.location(from), want);
    }
}
