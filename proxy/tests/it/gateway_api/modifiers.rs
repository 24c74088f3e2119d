//! Header modifiers of rules and backends, redirects, rewrites.

use crate::gateway_api::{ROW, Row, World, route_at, rule, to};
use crate::support::policies;

#[tokio::test]
async fn headers_are_set_added_and_removed_by_rules_and_then_by_backends() {
    let rules = "  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{ name: X-Set, value: rule }, { name: X-Both, value: rule }]
        add: [{ name: X-Add, value: rule }]
        remove: [X-Remove]
    - type: ResponseHeaderModifier
      responseHeaderModifier: { set: [{ name: X-Told, value: rule }], add: [{ name: X-More, value: rule }] }
    backendRefs:
    - group: foregate.dev
      kind: Upstream
      name: one
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier:
          set: [{ name: x-both, value: backend }]
          add: [{ name: x-new, value: backend }]
          remove: [x-gone]
      - type: ResponseHeaderModifier
        responseHeaderModifier:
          set: [{ name: x-told, value: backend }]
          add: [{ name: x-more, value: backend }]
          remove: [x-backend-secret]
";
    let world = World::new(&["one"], &[policies::GATEWAY, &policies::route("all", rules)].concat()).await;
    world
        .check(&[
            Row {
                seen: &[("x-set", "rule"), ("x-both", "backend"), ("x-add", "rule"), ("x-new", "backend")],
                reply: &[("x-told", "backend"), ("x-more", "rule, backend")],
                ..to("GET crm.test /", "one")
            },
            Row {
                send: &[("X-SET", "mine"), ("x-remove", "1"), ("x-gone", "1"), ("x-kept", "1")],
                seen: &[("x-set", "rule"), ("x-remove", ""), ("x-gone", ""), ("x-kept", "1")],
                ..to("GET crm.test /", "one")
            },
        ])
        .await;
}

#[tokio::test]
async fn redirects_change_scheme_host_port_path_and_status() {
    let redirect = |path: &str, fields: &str| {
        format!(
            "  - {{ matches: [{{ path: {{ value: {path} }} }}], filters: [{{ type: RequestRedirect, requestRedirect: {{ {fields} }} }}] }}\n"
        )
    };
    let rules = [
        redirect("/host", "hostname: new.test"),
        redirect("/scheme", "scheme: https"),
        redirect("/port", "port: 8443, statusCode: 301"),
        redirect("/well-known", "scheme: https, port: 443, statusCode: 303"),
        redirect("/full", "path: { type: ReplaceFullPath, replaceFullPath: /there }, statusCode: 307"),
        redirect(
            "/prefix",
            "path: { type: ReplacePrefixMatch, replacePrefixMatch: /there }, statusCode: 308",
        ),
        redirect("/cut", "path: { type: ReplacePrefixMatch, replacePrefixMatch: / }"),
    ];
    let world =
        World::new(&[], &[policies::GATEWAY, &policies::route("all", &rules.concat())].concat()).await;
    let rows = [
        ("/host/a?b=c", 302, "http://new.test:8080/host/a?b=c"),
        ("/scheme", 302, "https://crm.test/scheme"),
        ("/port", 301, "http://crm.test:8443/port"),
        ("/well-known", 303, "https://crm.test/well-known"),
        ("/full/a?b=c", 307, "http://crm.test:8080/there?b=c"),
        ("/prefix/a?b=c", 308, "http://crm.test:8080/there/a?b=c"),
        ("/prefix", 308, "http://crm.test:8080/there"),
        ("/cut/a", 302, "http://crm.test:8080/a"),
        ("/cut", 302, "http://crm.test:8080/"),
    ];
    for (target, status, location) in rows {
        let (ask, reply) = (format!("GET crm.test {target}"), [("location", location)]);
        world.check(&[Row { ask: &ask, status, reply: &reply, ..ROW }]).await;
    }
}

#[tokio::test]
async fn rewrites_change_host_and_path() {
    let rewrite = |path: &str, fields: &str| {
        rule(
            &format!(
                "matches: [{{ path: {{ value: {path} }} }}], filters: [{{ type: URLRewrite, urlRewrite: {{ {fields} }} }}]"
            ),
            "one",
        )
    };
    let rules = [
        rewrite("/host", "hostname: inner.test"),
        rewrite("/full", "path: { type: ReplaceFullPath, replaceFullPath: /all }"),
        rewrite("/prefix", "path: { type: ReplacePrefixMatch, replacePrefixMatch: /new/ }"),
        rewrite("/cut/", "path: { type: ReplacePrefixMatch, replacePrefixMatch: '' }"),
        rewrite(
            "/both",
            "hostname: inner.test, path: { type: ReplacePrefixMatch, replacePrefixMatch: /there }",
        ),
    ];
    let world =
        World::new(&["one"], &[policies::GATEWAY, &route_at("all", "", &rules.concat())].concat()).await;
    let rows = [
        ("/host/a?b", "/host/a?b", "inner.test"),
        ("/full/a?b=c", "/all?b=c", "crm.test"),
        ("/prefix", "/new", "crm.test"),
        ("/prefix/", "/new/", "crm.test"),
        ("/prefix/a%20b?c", "/new/a%20b?c", "crm.test"),
        ("/cut/a", "/a", "crm.test"),
        ("/cut", "/", "crm.test"),
        ("/both/a", "/there/a", "inner.test"),
    ];
    for (target, path, host) in rows {
        let ask = format!("GET crm.test {target}");
        let seen = [("path", path), ("host", host), ("x-forwarded-host", "crm.test")];
        world.check(&[Row { seen: &seen, ..to(&ask, "one") }]).await;
    }
}
