//! Which rule takes a request: every kind of match, and their precedence.

use crate::gateway_api::{Row, World, answered, route_at, rule, to};
use crate::support::policies;
use crate::support::process::served;

#[tokio::test]
async fn matches_in_the_order_of_precedence() {
    let rules = [
        rule("matches: [{ path: { value: / } }]", "root"),
        rule("matches: [{ path: { value: /a } }]", "prefix"),
        rule("matches: [{ path: { value: /a/b } }]", "longer"),
        rule("matches: [{ path: { type: Exact, value: /a/b } }]", "exact"),
        rule("matches: [{ path: { type: RegularExpression, value: '/a/[0-9]+' } }]", "regex"),
        rule("matches: [{ path: { value: /a }, method: POST }]", "method"),
        rule("matches: [{ path: { value: /a }, headers: [{ name: X-A, value: one }] }]", "header"),
        rule(
            "matches: [{ path: { value: /a }, headers: [{ name: x-a, value: one }, { name: x-b, type: RegularExpression, value: 'b+' }] }]",
            "headers",
        ),
        rule("matches: [{ path: { value: /a }, queryParams: [{ name: q, value: one }] }]", "query"),
        // The same as an earlier one: never asked.
        rule("matches: [{ path: { value: /a } }]", "shadowed"),
    ];
    let names =
        ["root", "prefix", "longer", "exact", "regex", "method", "header", "headers", "query", "shadowed"];
    let documents = [policies::GATEWAY, &policies::route("all", &rules.concat())].concat();
    let world = World::new(&names, &documents).await;
    world
        .check(&[
            to("GET crm.test /", "root"),
            to("GET crm.test /ab", "root"),
            to("GET crm.test /A", "root"),
            to("GET crm.test /a", "prefix"),
            to("GET crm.test /a/", "prefix"),
            to("GET crm.test /a/c", "prefix"),
            to("GET crm.test /a/b", "exact"),
            to("GET crm.test /a/b/", "longer"),
            to("GET crm.test /a/b/c", "longer"),
            to("GET crm.test /a/bc", "prefix"),
            to("GET crm.test /a/12", "regex"),
            to("GET crm.test /a/12x", "prefix"),
            // A path comes before a method, a method before headers, headers before queries.
            to("POST crm.test /a/b", "exact"),
            to("POST crm.test /a/12", "regex"),
            to("POST crm.test /a", "method"),
            Row { send: &[("x-a", "one")], ..to("POST crm.test /a", "method") },
            Row { send: &[("x-a", "one")], ..to("GET crm.test /a?q=one", "header") },
            Row { send: &[("x-a", "two")], ..to("GET crm.test /a", "prefix") },
            Row { send: &[("x-a", "one"), ("x-b", "bb")], ..to("GET crm.test /a", "headers") },
            Row { send: &[("x-a", "one"), ("x-b", "bc")], ..to("GET crm.test /a", "header") },
            to("GET crm.test /a?q=one", "query"),
            to("GET crm.test /a?p=1&q=%6fne", "query"),
            to("GET crm.test /a?q=two&q=one", "prefix"),
        ])
        .await;
    assert!(world.backend("shadowed").received().is_empty());
}

#[tokio::test]
async fn ties_between_routes_go_to_the_first_name_and_rules_have_names() {
    let named = |name: &str| format!("name: {name}, matches: [{{ path: {{ value: /{name} }} }}]");
    let routes = [
        route_at("b-route", "", &rule("", "second")),
        route_at("a-route", "", &rule("", "first")),
        route_at("named", "", &[rule(&named("one"), "first"), rule(&named("two"), "second")].concat()),
    ];
    let world = World::new(&["first", "second"], &[policies::GATEWAY, &routes.concat()].concat()).await;
    world
        .check(&[
            to("GET crm.test /", "first"),
            to("GET crm.test /one", "first"),
            to("GET crm.test /two", "second"),
        ])
        .await;
    for route in ["named/one", "named/two", "a-route/0"] {
        world.gateway.wait_sample(&served("GET", 200, route), |count| (count - 2.0).abs() < 0.5).await;
    }
}

#[tokio::test]
async fn what_no_rule_takes_is_not_found() {
    let rules = rule("matches: [{ path: { type: Exact, value: /only }, method: GET }]", "only");
    let documents = [policies::GATEWAY, &route_at("one", "crm.test", &rules)].concat();
    let world = World::new(&["only"], &documents).await;
    world
        .check(&[
            to("GET crm.test /only", "only"),
            to("GET crm.test:8080 /only?a=b", "only"),
            answered("GET crm.test /only/", 404),
            answered("GET crm.test /", 404),
            answered("POST crm.test /only", 404),
            answered("GET other.test /only", 404),
            answered("GET sub.crm.test /only", 404),
        ])
        .await;
}
