//! Tables: what expressions give, and what is wrong with those that do not compile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use serde_json::json;

use super::{BoolExpression, Enriched, Environment, KeyExpression, Reads, Scope};
use crate::consumer::Consumer;
use crate::context::{Beside, Client, RequestContext, ScoreFact};
use crate::fault::Path;
use crate::moment::Moment;
use crate::peer::{Peer, SpiffeId};
use crate::principal::Principal;

fn environment() -> Environment {
    Environment {
        rules: vec![
            Enriched { name: "lead".to_owned(), class: true, band: true },
            Enriched { name: "churn".to_owned(), ..Enriched::default() },
        ],
        principal: true,
        consumer: true,
        body: true,
    }
}

fn head() -> request::Parts {
    let request = http::Request::builder()
        .method("POST")
        .uri("/services/data/v62.0/sobjects/Lead?dry=1")
        .header("host", "CRM.example.com:8443")
        .header("x-team", "sales")
        .header("x-many", "a")
        .header("x-many", "b")
        .header("x-bytes", http::HeaderValue::from_bytes(b"\xff").unwrap());
    request.body(()).unwrap().into_parts().0
}

fn context() -> RequestContext {
    let client = Client {
        peer: SocketAddr::from(([10, 0, 0, 1], 4000)),
        address: "203.0.113.9".parse().unwrap(),
        tls: true,
        destination: Some(SocketAddr::from(([10, 0, 0, 9], 5432))),
    };
    let mut ctx = RequestContext::new(Moment::default(), client);
    ctx.route = Arc::from("leads");
    let claims = json!({
        "aud": ["crm", "erp"], "org_id": "00D5", "level": 3, "ratio": 0.5, "big": 18_446_744_073_709_551_615_u64,
        "admin": true, "none": null, "groups": ["a", "b", 7], "org": { "name": "Northwind", "tags": ["x"] }
    });
    ctx.principal = Some(Arc::new(Principal {
        issuer: "https://idp.example.com/".into(),
        subject: "uid:005".into(),
        scopes: ["crm.read".into(), "crm.write".into()].into(),
        claims: claims.as_object().unwrap().clone().into(),
        expires: 1_800_000_000,
    }));
    ctx.peer = Some(Arc::new(Peer {
        id: Some(SpiffeId::parse("spiffe://example.org/ns/crm/sa/leads").unwrap()),
        thumbprint: [7; 32],
        expires: Duration::from_hours(500_000),
    }));
    ctx.consumer = Some(Arc::new(Consumer {
        name: "mule".into(),
        groups: vec!["partners".into()],
        metadata: json!({ "plan": "gold" }).as_object().unwrap().clone(),
    }));
    ctx.scores.push(ScoreFact {
        rule: "lead".into(),
        model: "lead-score".into(),
        version: "3".into(),
        scores: [0.25, 0.75].into_iter().collect(),
        fault: None,
        beside: Some(Box::new(Beside {
            classes: ["Sales".into(), "Billing".into()].into(),
            bands: ["cold".into(), "hot".into()].into(),
            ..Beside::default()
        })),
    });
    ctx
}

/// The value of an expression, or its error, as text.
fn evaluate(text: &str) -> String {
    evaluate_in(text, &context())
}

fn evaluate_in(text: &str, ctx: &RequestContext) -> String {
    let expression = match BoolExpression::new(text, &environment(), &Path::default()) {
        Ok(expression) => expression,
        Err(faults) => panic!("{text}: {faults:?}"),
    };
    match expression.evaluate(&Scope { head: &head(), ctx }) {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn table(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        assert_eq!(evaluate(text), *expected, "{text}");
    }
}

#[test]
fn who_is_not_there_can_be_asked_for_and_not_read() {
    let ctx = RequestContext { peer: None, consumer: None, ..context() };
    for (text, expected) in [
        ("has(peer.id) || has(peer.namespace) || has(consumer.name)", "false"),
        (
            r#"peer.id == "spiffe://example.org/a""#,
            "error: the connection has no peer certificate with such a SPIFFE id",
        ),
        (r#"consumer.name == "mule""#, "error: there is no API key"),
    ] {
        assert_eq!(evaluate_in(text, &ctx), expected, "{text}");
    }
}

#[test]
fn logic_absorbs_errors_where_the_other_side_decides() {
    table(&[
        ("!true", "false"),
        ("true && false", "false"),
        ("jwt.missing == 1", "error: no such key: missing"),
        ("true || jwt.missing == 1", "true"),
        ("jwt.missing == 1 || true", "true"),
        ("jwt.missing == 1 || jwt.admin", "true"),
        ("jwt.missing == 1 || false", "error: no such key: missing"),
        ("false && jwt.missing == 1", "false"),
        ("jwt.missing == 1 && false", "false"),
        ("jwt.missing == 1 && !jwt.admin", "false"),
        ("jwt.missing == 1 && true", "error: no such key: missing"),
        ("jwt.org_id || true", "true"),
        ("jwt.org_id || false", "error: bool wanted, string found"),
        ("!jwt.org_id", "error: bool wanted, string found"),
        ("jwt.admin ? source.tls : jwt.missing", "true"),
        ("jwt.missing ? true : true", "error: no such key: missing"),
        ("1 > 2 ? false : true", "true"),
    ]);
}

#[test]
fn the_environment_is_read() {
    table(&[
        (r#""crm.write" in jwt.scopes && request.method == "POST""#, "true"),
        (r#""crm.admin" in jwt.scopes"#, "false"),
        (r#"request.path == "/services/data/v62.0/sobjects/Lead" && request.query == "dry=1""#, "true"),
        (r#"request.host == "crm.example.com" && request.scheme == "https""#, "true"),
        (r#"request.headers["x-team"] == "sales" && request.headers["X-Team"] == "sales""#, "true"),
        (r#"request.headers["x-many"] == "a, b""#, "true"),
        (r#"request.headers["x-none"] == "a""#, "error: no such key: x-none"),
        (r#"request.headers["x-bytes"] == "a""#, "error: header x-bytes is not UTF-8"),
        (r#""x-team" in request.headers && !("x-none" in request.headers)"#, "true"),
        ("has(request.headers.host) && !has(request.headers.nothing)", "true"),
        (r#"request.headers[jwt.org.name.lowerAscii()] == "a""#, "error: no such key: (computed)"),
        (r#"source.address == "203.0.113.9" && source.peer == "10.0.0.1" && source.tls"#, "true"),
        (r#"inCidr(source.address, "203.0.113.0/24") && !inCidr(source.peer, "203.0.113.0/24")"#, "true"),
        (r#"inCidr(source.peer, "::ffff:10.0.0.0/104") && inCidr(source.peer, "10.0.0.1")"#, "true"),
        (r#"inCidr(request.headers["x-team"], "10.0.0.0/8")"#, "error: not an IP address"),
        (r#"route.name == "leads""#, "true"),
        (r#"peer.id == "spiffe://example.org/ns/crm/sa/leads" && peer.trustDomain == "example.org""#, "true"),
        (
            r#"peer.path.startsWith("/ns/crm/") && peer.namespace == "crm" && peer.serviceAccount == "leads""#,
            "true",
        ),
        (
            r#"consumer.name == "mule" && "partners" in consumer.groups && consumer.metadata.plan == "gold""#,
            "true",
        ),
        ("destination.port == 5432 && has(destination.port)", "true"),
        ("has(peer.id) && has(consumer.name) && !has(consumer.metadata.region)", "true"),
        (r#"jwt.issuer == "https://idp.example.com/" && jwt.subject == "uid:005""#, "true"),
        (r#""erp" in jwt.audiences && size(jwt.audiences) == 2 && jwt.expires == 1800000000"#, "true"),
        (r#"jwt.org_id == "00D5" && jwt.claims["org_id"] == "00D5" && jwt.claims.org_id == "00D5""#, "true"),
        (r#"jwt.org.name == "Northwind" && jwt.org["tags"][0] == "x""#, "true"),
        ("has(jwt.org_id) && !has(jwt.nothing) && has(jwt.org.name) && !has(jwt.org.nothing)", "true"),
        ("has(jwt.org_id.name)", "error: list or map wanted, string found"),
        (r#""org_id" in jwt.claims && jwt.none == null && size(jwt.org) == 2"#, "true"),
        ("enrich.lead.score == 0.75 && enrich.lead.max == 0.75 && enrich.lead.min == 0.25", "true"),
        (r#"enrich.lead.count == 2 && enrich.lead.ok && enrich.lead.model == "lead-score""#, "true"),
        (r#"enrich.lead.version == "3" && enrich.lead.scores[1] > 0.7"#, "true"),
        ("enrich.churn.score > 0.5", "error: enrich rule churn left no score"),
        (r#"enrich.lead.class == "Billing" && enrich.lead.band == "hot""#, "true"),
        (r#""Sales" in enrich.lead.classes && enrich.lead.bands[0] == "cold""#, "true"),
    ]);
}

#[test]
fn numbers_compare_across_types_and_arithmetic_is_checked() {
    table(&[
        ("1 == 1.0 && 2 > 1.5 && 1.5 < 2 && 2.0 >= 2 && -1 > -1.5", "true"),
        ("9223372036854775807 < 9223372036854775808.0", "true"),
        ("9007199254740993 == 9007199254740992.0", "false"),
        ("jwt.level == 3 && jwt.level == 3.0 && jwt.level + 1 == 4 && jwt.ratio < 1", "true"),
        ("jwt.big > 9223372036854775807", "true"),
        ("0.0 / 0.0 == 0.0 / 0.0 || 0.0 / 0.0 < 1.0", "false"),
        ("7 / 2 == 3 && 7 % 4 == 3 && -7 / 2 == -3 && 2 * 3 - 1 == 5", "true"),
        ("1 / 0 == 1", "error: division by zero"),
        ("1 % (jwt.level - 3) == 1", "error: division by zero"),
        ("9223372036854775807 + 1 > 0", "error: integer overflow"),
        ("-9223372036854775808 / -1 > 0", "error: integer overflow"),
        ("-9223372036854775808 % -1 == 0", "error: integer overflow"),
        ("-(-9223372036854775808) > 0", "error: integer overflow"),
        ("jwt.level + jwt.ratio > 1.0", "error: int wanted, double found"),
        ("jwt.org_id > 1", "error: string wanted, int found"),
        (r#""a" < "b" && "B" < "a" && false < true"#, "true"),
        (r#"jwt.level == "3""#, "false"),
        (r#"jwt.level != "3" && jwt.none != 0"#, "true"),
    ]);
}

#[test]
fn functions_work_on_text_lists_and_numbers() {
    table(&[
        (r#"request.path.startsWith("/services/") && request.path.endsWith("Lead")"#, "true"),
        (
            r#"request.path.contains("v62") && "Lead".lowerAscii() == "lead" && "a".upperAscii() == "A""#,
            "true",
        ),
        (r#"request.path.matches("^/services/data/v[0-9]+[.]0/")"#, "true"),
        (r#"request.path.matches("^/other")"#, "false"),
        (r#"size("grüße") == 5 && "grüße".size() == 5 && size([1, 2]) == 2"#, "true"),
        (
            r#"string(3) == "3" && string(true) == "true" && string(0.5) == "0.5" && string("a") == "a""#,
            "true",
        ),
        (
            r#"int("12") == 12 && int(2.9) == 2 && int(-2.9) == -2 && double("1.5") == 1.5 && double(2) == 2.0"#,
            "true",
        ),
        (r#"int("x") == 1"#, "error: not an integer"),
        ("double(request.method) == 1.0", "error: not a number"),
        ("int(1e30) == 1", "error: integer overflow"),
        ("int(0.0 / 0.0) == 1", "error: integer overflow"),
        (r#""a" + "b" == "ab" && jwt.org_id + "x" == "00D5x""#, "true"),
        (r#"request.method in ["GET", "POST"] && 2 in [1, 2] && 2.0 in [1, 2]"#, "true"),
        (r#"request.method in [jwt.org_id, "PO" + "ST"]"#, "true"),
        ("[1, 2] == [1, 2.0] && [1] != [2] && jwt.groups[2] == 7", "true"),
        ("[1][1] == 1", "error: no element 1"),
        ("jwt.groups[-1] == 1", "error: no element -1"),
        ("jwt.level[0] == 1", "error: list or map wanted, int found"),
    ]);
}

#[test]
fn macros_look_through_lists() {
    table(&[
        (r#"jwt.scopes.exists(s, s.startsWith("crm."))"#, "true"),
        (r#"jwt.scopes.all(s, s.startsWith("crm."))"#, "true"),
        (r#"jwt.scopes.all(s, s.endsWith("read"))"#, "false"),
        (r#"jwt.scopes.exists_one(s, s.endsWith("read"))"#, "true"),
        ("enrich.lead.scores.exists(s, s > 0.7) && !enrich.lead.scores.all(s, s > 0.7)", "true"),
        ("[].all(x, false) && ![].exists(x, true)", "true"),
        ("jwt.groups.exists(g, g > 5)", "true"),
        ("jwt.groups.exists(g, g > 50)", "error: string wanted, int found"),
        ("jwt.groups.all(g, g > 50)", "false"),
        ("jwt.groups.exists_one(g, g > 5)", "error: string wanted, int found"),
        ("jwt.org_id.exists(g, true)", "error: list wanted, string found"),
        (r#"jwt.scopes.all(s, jwt.groups.exists(g, g == "a" && s != "x"))"#, "true"),
        (r#"jwt.scopes.exists(request, request == "crm.read")"#, "true"),
    ]);
}

#[test]
fn without_a_principal_every_read_of_it_is_an_error() {
    let mut ctx = context();
    ctx.principal = None;
    for text in [r#""a" in jwt.scopes"#, r#"jwt.issuer == """#, "jwt.x == null", "size(jwt.audiences) == 0"] {
        assert_eq!(evaluate_in(text, &ctx), "error: there is no verified token", "{text}");
    }
    // Where there are several ways to identify, rules ask which was taken.
    for text in ["has(jwt.org_id)", "has(jwt.subject)", "has(jwt.scopes)"] {
        assert_eq!(evaluate_in(text, &ctx), "false", "{text}");
    }
}

#[test]
fn keys_are_text_and_never_empty() {
    let key = |text: &str| {
        let key = KeyExpression::new(text, &environment(), &Path::default()).unwrap();
        match key.evaluate(&Scope { head: &head(), ctx: &context() }, str::to_owned) {
            Ok(key) => key,
            Err(error) => format!("error: {error}"),
        }
    };
    for (text, expected) in [
        ("jwt.org_id", "00D5"),
        ("source.address", "203.0.113.9"),
        (r#""all""#, "all"),
        ("jwt.level", "3"),
        ("source.tls", "true"),
        ("jwt.ratio", "0.5"),
        (r#"has(jwt.tenant) ? jwt.tenant : "none""#, "none"),
        (r#"jwt.org_id + "/" + request.method"#, "00D5/POST"),
        (r#""""#, "error: the key is empty"),
        ("jwt.none", "error: string, int, bool or double wanted, null found"),
        ("jwt.groups", "error: string, int, bool or double wanted, list found"),
        ("jwt.missing", "error: no such key: missing"),
    ] {
        assert_eq!(key(text), expected, "{text}");
    }
}

#[test]
fn what_an_expression_reads_is_known_even_where_it_folds() {
    let reads = |text: &str| BoolExpression::new(text, &environment(), &Path::default()).unwrap().reads();
    assert_eq!(reads("true"), Reads::NOTHING);
    assert_eq!(reads(r#"request.method == "GET""#), Reads::REQUEST);
    assert_eq!(reads("source.tls && jwt.admin"), Reads::SOURCE | Reads::PRINCIPAL);
    assert_eq!(reads("false && enrich.lead.ok"), Reads::SCORE);
    assert_eq!(reads(r#"jwt.scopes.exists(jwt, jwt == "a")"#), Reads::PRINCIPAL);
}

/// Every fault as `FG0402 [the bytes it is about] message | help`.
fn faults(text: &str) -> Vec<String> {
    faults_in(text, &environment())
}

fn faults_in(text: &str, environment: &Environment) -> Vec<String> {
    let faults = BoolExpression::new(text, environment, &Path::default()).err().unwrap_or_default();
    faults
        .into_iter()
        .map(|fault| {
            let place = fault.within.map(|range| text[range].to_owned()).unwrap_or_default();
            let help = fault.help.map(|help| format!(" | {help}")).unwrap_or_default();
            format!("{} [{place}] {}{help}", fault.code, fault.message)
        })
        .collect()
}

#[test]
fn unknown_names_are_pointed_at_with_a_suggestion() {
    for (text, expected) in [
        ("reqest.method == \"GET\"", "FG0402 [reqest] unknown name reqest | did you mean request?"),
        (
            "foo",
            "FG0402 [foo] unknown name foo | known names are request, source, destination, peer, jwt, consumer, enrich, route; text stands in quotes",
        ),
        (
            "request.metod == \"GET\"",
            "FG0402 [metod] unknown field request.metod | did you mean request.method?",
        ),
        (
            "source.zzz",
            "FG0402 [zzz] unknown field source.zzz | it has source.address, source.peer, source.tls",
        ),
        ("enrich.leed.score > 0.1", "FG0402 [leed] there is no enrich rule leed | did you mean enrich.lead?"),
        (
            "enrich.lead.scor > 0.1",
            "FG0402 [scor] unknown field enrich.lead.scor | did you mean enrich.lead.score?",
        ),
        (
            r#"enrich.churn.class == "a""#,
            "FG0402 [class] the model of enrich.churn has no classes | only a classification with labels has classes",
        ),
        (
            r#""a" in enrich.churn.bands"#,
            "FG0402 [bands] the rule enrich.churn has no bands | name the scores by set: { band: { steps: [..] } }",
        ),
        ("enrich.lead.class > 1", "FG0403 [enrich.lead.class > 1] string and int have no order"),
        (
            "enrich.zzz.score > 0.1",
            "FG0402 [zzz] there is no enrich rule zzz | it has enrich.lead, enrich.churn",
        ),
        (
            "request == 1",
            "FG0403 [request] request is not a value by itself | it has request.method, request.path, request.query, request.host, request.scheme, request.headers, request.time",
        ),
        (
            "jwt.scopes.exists(s, t == \"a\")",
            "FG0402 [t] unknown name t | known names are request, source, destination, peer, jwt, consumer, enrich, route; text stands in quotes",
        ),
        ("\"grüße\" == reqest.path", "FG0402 [reqest] unknown name reqest | did you mean request?"),
        ("request.headers[\"x y\"] == \"a\"", "FG0402 [\"x y\"] \"x y\" is not a header name"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
    let bare = Environment::default();
    assert_eq!(
        faults_in("jwt.admin", &bare),
        [
            "FG0402 [jwt.admin] jwt cannot be read: no token is required here | add a jwt section to the policy; without one no token is verified"
        ]
    );
    assert_eq!(
        faults_in("enrich.lead.ok", &bare),
        ["FG0402 [lead] there is no enrich rule lead | the policy has no enrich rule"]
    );
}

#[test]
fn types_are_checked_before_a_request_comes() {
    for (text, expected) in [
        (
            "request.method",
            "FG0403 [request.method] an access rule or condition must be of type bool, and this is of type string",
        ),
        ("1", "FG0403 [1] an access rule or condition must be of type bool, and this is of type int"),
        ("request.method == 1", "FG0403 [request.method == 1] string and int are never equal"),
        ("request.method < 1", "FG0403 [request.method < 1] string and int have no order"),
        (
            "source.tls && request.path",
            "FG0403 [request.path] an operand of && must be of type bool, and this is of type string",
        ),
        (
            "!request.path",
            "FG0403 [request.path] the operand of ! must be of type bool, and this is of type string",
        ),
        (
            "1 + 1.0 > 1.0",
            "FG0403 [1 + 1.0] no arithmetic between int and double | write double(..) around the integer",
        ),
        (
            "\"a\" + 1 == \"a1\"",
            "FG0403 [\"a\" + 1] + cannot join string and int | write string(..) around the value that is not a string",
        ),
        ("1.5 % 1.0 == 0.0", "FG0403 [1.5 % 1.0] % takes integers"),
        ("1 in jwt.scopes", "FG0403 [1] a list of string never holds a value of type int"),
        ("1 in request.headers", "FG0403 [1] keys are strings, and this is of type int"),
        (
            "\"a\" in request.path",
            "FG0403 [request.path] in looks into a list or a map, and this is of type string | use contains() on a string",
        ),
        (
            "true ? \"a\" : 1",
            "FG0403 [\"a\" : 1] both sides of : must be of one type, and these are string and int",
        ),
        ("request.path.foo == 1", "FG0403 [request.path.foo] string has no fields"),
        (
            "request.path[0] == \"a\"",
            "FG0403 [request.path] [] takes a list or a map, and this is of type string",
        ),
        (
            "jwt.scopes[\"a\"] == \"a\"",
            "FG0403 [\"a\"] the value between [ ] must be of type int, and this is of type string",
        ),
        (
            "has(request.path)",
            "FG0403 [request.path] has() asks for a member of a map, and this field is always there",
        ),
        (
            "request.path.exists(c, true)",
            "FG0403 [request.path] all() and exists() look through a list, and this is of type string",
        ),
        (
            "jwt.scopes.all(s, s)",
            "FG0403 [s] the condition of a macro must be of type bool, and this is of type string",
        ),
        ("size(1) == 1", "FG0403 [1] size() takes a string, list or map, and this is of type int"),
        ("int(true) == 1", "FG0403 [true] bool cannot be made a int"),
        (
            "request.path.startsWith(1)",
            "FG0403 [1] the argument of startsWith() must be of type string, and this is of type int",
        ),
        (
            "inCidr(source.address, \"10.0.0.0/33\")",
            "FG0403 [\"10.0.0.0/33\"] \"10.0.0.0/33\" is not a network | write it as 10.0.0.0/8 or 2001:db8::/32",
        ),
        ("size() == 1", "FG0403 [size()] wrong number of arguments for size()"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

#[test]
fn what_is_not_supported_says_what_to_do_instead() {
    for (text, expected) in [
        ("1u == 1u", "FG0404 [1u] an unsigned number cannot be used here | write it without u"),
        ("b\"a\" == b\"a\"", "FG0404 [b\"a\"] a byte string cannot be used here | write a string, without b"),
        (
            "{\"a\": 1} == {\"a\": 1}",
            "FG0404 [{] a map literal cannot be used here | compare the values one by one",
        ),
        (
            "jwt.scopes.map(s, s) == []",
            "FG0404 [jwt.scopes.map(s, s)] a macro that makes a list cannot be used here | use all(x, ..), exists(x, ..) or exists_one(x, ..) on the list itself",
        ),
        (
            "jwt.scopes.filter(s, true) == []",
            "FG0404 [jwt.scopes.filter(s, true)] a macro that makes a list cannot be used here | use all(x, ..), exists(x, ..) or exists_one(x, ..) on the list itself",
        ),
        (
            "request.path.matches(request.method)",
            "FG0404 [request.method] a pattern that is not a literal cannot be used here | write the pattern as a literal, so that it is compiled once",
        ),
        (
            "inCidr(source.address, request.path)",
            "FG0404 [request.path] a network that is not a literal cannot be used here | write the network as a literal, such as \"10.0.0.0/8\"",
        ),
        (
            "duration(\"1h\") == 1",
            "FG0404 [duration] the function duration() cannot be used here | there are has, size, string, int, double, timestamp, inCidr, matches, pathMatches, pathParam, startsWith, endsWith, contains, matches, lowerAscii, upperAscii, size, getFullYear, getMonth, getDate, getDayOfMonth, getDayOfWeek, getHours, getMinutes, getSeconds",
        ),
        (
            "request.path.startWith(\"/\")",
            "FG0404 [startWith] the function startWith() cannot be used here | did you mean startsWith?",
        ),
        (
            "startsWith(request.path, \"/\")",
            "FG0404 [startsWith] the function startsWith() cannot be used here | write text.startsWith(..)",
        ),
        (
            "[1] + [2] == [1, 2]",
            "FG0404 [[1] + [2] + between lists cannot be used here | test each list with in, joined by ||",
        ),
    ] {
        let found = faults(text);
        assert_eq!(found.first().map(String::as_str), Some(expected), "{text}: {found:?}");
    }
}

#[test]
fn every_fault_of_an_expression_is_told_at_once() {
    let found = faults("reqest.path == \"a\" && sorce.tls && request.method == 1");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn malformed_text_is_a_fault_with_a_place_and_never_a_panic() {
    for text in [
        "",
        "  ",
        "a &&",
        "(",
        ")",
        "\"",
        "a ? b",
        "has(1)",
        "has(a)",
        "x.exists(1, true)",
        "[1,",
        "a..b",
        "1 +* 2",
        "@",
        "\u{0}",
        "a.exists(b.c, true)",
        "x.all((, true)",
        "has((",
        "-",
        "!",
        "'\\x'",
        "99999999999999999999 == 1",
        "1e999999 == 1.0",
        "`a`",
        "a.?b",
        "[?a]",
        "{?a: 1}",
    ] {
        let found = faults(text);
        assert!(!found.is_empty(), "{text:?}");
        assert!(found.iter().all(|fault| fault.starts_with("FG04")), "{text:?}: {found:?}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    for text in [
        format!("\"{}\" == \"\"", "a".repeat(5000)),
        format!("{}true{}", "(".repeat(1000), ")".repeat(1000)),
        format!("1{} > 1", "+1".repeat(2000)),
        format!("jwt{}", ".a".repeat(2000)),
        format!("{}1{} == 1", "[".repeat(1500), "]".repeat(1500)),
        format!("{}true", "true?".repeat(700)),
        "jwt.a.all(a, jwt.a.all(b, jwt.a.all(c, true)))".to_owned(),
    ] {
        assert!(BoolExpression::new(&text, &environment(), &Path::default()).is_err(), "{}", &text[..20]);
    }
    assert_eq!(evaluate(&format!("{}true", "!".repeat(4000))), "true", "a chain of ! is no nesting");
    let wide = vec!["source.tls"; 250].join(" && ");
    assert_eq!(evaluate(&wide), "true");
}

#[test]
fn time_is_compared_and_taken_apart() {
    let mut ctx = context();
    // 2026-11-22T23:30:05Z, a Sunday.
    ctx.moment.unix = Duration::from_secs(1_795_390_205);
    for (text, expected) in [
        (r#"request.time >= timestamp("2026-11-22T23:30:05Z")"#, "true"),
        (r#"request.time < timestamp("2026-11-23T00:30:05+01:00")"#, "false"),
        ("request.time == timestamp(1795390205)", "true"),
        ("request.time < timestamp(jwt.expires) && int(request.time) == 1795390205", "true"),
        (r#"string(request.time) == "2026-11-22T23:30:05Z""#, "true"),
        ("request.time.getFullYear() == 2026 && request.time.getMonth() == 10", "true"),
        ("request.time.getDate() == 22 && request.time.getDayOfMonth() == 21", "true"),
        ("request.time.getDayOfWeek() == 0 && request.time.getHours() == 23", "true"),
        ("request.time.getMinutes() == 30 && request.time.getSeconds() == 5", "true"),
        (r#"request.time.getDayOfWeek("+01:00") == 1 && request.time.getHours("+01:00") == 0"#, "true"),
        (r#"request.time.getHours("UTC") in [22, 23]"#, "true"),
        ("timestamp(jwt.org_id) < request.time", "error: not a point in time"),
        ("timestamp(9223372036854775807) < request.time", "error: integer overflow"),
    ] {
        assert_eq!(evaluate_in(text, &ctx), expected, "{text}");
    }
    for (text, expected) in [
        (
            r#"request.time > "2026-11-22T23:30:05Z""#,
            r#"FG0403 [request.time > "2026-11-22T23:30:05Z"] timestamp and string have no order"#,
        ),
        (
            r#"request.time > timestamp("tomorrow")"#,
            r#"FG0403 ["tomorrow"] a point in time must look like 2027-01-31T12:00:00Z"#,
        ),
        (
            r#"request.time.getHours("Europe/Berlin") == 1"#,
            r#"FG0403 ["Europe/Berlin"] an offset must be UTC or look like +02:00 | named zones change with the law of the land"#,
        ),
        (
            "request.path.getHours() == 1",
            "FG0403 [request.path] the value before .getHours() must be of type timestamp, and this is of type string",
        ),
        (
            "request.time",
            "FG0403 [request.time] an access rule or condition must be of type bool, and this is of type timestamp",
        ),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

#[test]
fn paths_have_parameters() {
    table(&[
        (r#"pathMatches(request.path, "/services/data/{version}/sobjects/{object}")"#, "true"),
        (r#"pathMatches(request.path, "/services/data/{version}/sobjects")"#, "false"),
        (r#"pathMatches(request.path, "/services/**")"#, "true"),
        (
            r#"pathParam(request.path, "/services/data/{version}/sobjects/{object}", "object") == "Lead""#,
            "true",
        ),
        (r#"pathParam(request.path, "/{a}/**", "a").startsWith("serv")"#, "true"),
        (r#"pathParam(request.path, "/{a}", "a") == "x""#, "error: no such key: a"),
        (r#"pathMatches("/a" + "/b", "/a/{x}") && pathParam("/a" + "/b", "/a/{x}", "x") == "b""#, "true"),
    ]);
    for (text, expected) in [
        (
            r#"pathMatches(request.path, "services/{x}")"#,
            r#"FG0403 ["services/{x}"] a pattern starts with / | patterns look like /accounts/{id}/orders/** or /health"#,
        ),
        (r#"pathParam(request.path, "/a/{id}", "ID") == "7""#, r#"FG0402 ["ID"] the pattern has no {ID}"#),
        (
            "pathMatches(request.path, request.method)",
            "FG0404 [request.method] a pattern that is not a literal cannot be used here | write the pattern as a literal, so that it is compiled once",
        ),
        (
            "pathMatches(request.path)",
            "FG0403 [pathMatches(request.path)] wrong number of arguments for pathMatches()",
        ),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}
