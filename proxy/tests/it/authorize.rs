//! Access rules over the wire: deny before allow, nothing allowed by default, errors refuse.

use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::guarded::{bundle, golden, model, routes};
use crate::support::idp::Idp;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};

const RULES: &str = r#"
authorize:
- { name: staff, allow: '"x-staff" in request.headers' }
- { name: readers, allow: 'request.method in ["GET", "HEAD"] && request.path.startsWith("/rules/open")' }
- { name: no-delete, deny: 'request.method == "DELETE"' }
- { name: young, deny: '"x-age" in request.headers && int(request.headers["x-age"]) < 18' }
- { name: tried, deny: 'request.path.endsWith("/tried")', mode: audit }
- { name: would-allow, allow: 'request.host == "other.test"', mode: audit }
"#;

/// Method, target, headers, verdict.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// The verdict as `<status>`, or `<status> <reason> <step>:<rule>`.
async fn verdict(gateway: &Foregate, reply: &Reply) -> String {
    let record = gateway.record(reply.decision()).await;
    let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    if reply.status == 200 {
        assert_eq!(record.get("foregate.reason"), None);
        return "200".to_owned();
    }
    assert_eq!(text("foregate.reason"), reply.reason());
    let rule = text("foregate.rule");
    assert!(!reply.text().contains(&rule), "the caller need not know the rule: {}", reply.text());
    format!("{} {} {}:{rule}", reply.status, reply.reason(), text("foregate.step"))
}

#[tokio::test]
async fn deny_is_stronger_than_allow_and_what_nobody_allows_is_refused() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&routes(upstream.address, &[("rules", RULES)]), Options::default()).await;
    let address = gateway.address("edge/http");
    let mut clients = [Client::http1(address).await, Client::http2(address).await];
    let cases: [Case; 11] = [
        ("GET", "/rules/open/a", &[], "200"),
        ("POST", "/rules/open/a", &[], "403 AccessDenied admit:default"),
        ("GET", "/rules/closed", &[], "403 AccessDenied admit:default"),
        ("GET", "/rules/closed?path=/rules/open", &[], "403 AccessDenied admit:default"),
        // The path is canonical before rules read it, and the upstream gets the same one.
        ("GET", "/rules/closed/../open/a", &[], "200"),
        ("GET", "/rules/open/%2e%2e/closed", &[], "403 AccessDenied admit:default"),
        ("POST", "/rules/closed", &[("x-staff", "1")], "200"),
        ("DELETE", "/rules/open", &[("x-staff", "1")], "403 AccessDenied admit:no-delete"),
        ("GET", "/rules/open", &[("x-age", "17")], "403 AccessDenied admit:young"),
        ("GET", "/rules/open", &[("x-age", "18")], "200"),
        // What cannot be evaluated refuses, whoever else would allow it.
        ("GET", "/rules/open", &[("x-age", "secret-age"), ("x-staff", "1")], "403 RuleError admit:young"),
    ];
    let mut passed = 0;
    for (method, target, headers, expected) in cases {
        for client in &mut clients {
            let mut request = client.request(method, target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let reply = client.send_empty(request).await;
            assert_eq!(verdict(&gateway, &reply).await, expected, "{method} {target} {headers:?}");
            passed += usize::from(reply.status == 200);
            assert_eq!(upstream.received().len(), passed, "{method} {target}");
        }
    }
    assert!(!gateway.access_log().text().contains("secret-age"), "details hold no values");
    for (reason, rule, count) in
        [("AccessDenied", "default", 8.0), ("AccessDenied", "no-delete", 2.0), ("RuleError", "young", 2.0)]
    {
        let labels = format!("route=\"rules/rule\",step=\"admit\",reason=\"{reason}\",rule=\"{rule}\"");
        let series = format!("foregate_refusals_total{{{labels}}}");
        gateway.wait_sample(&series, |value| (value - count).abs() < 0.5).await;
    }
}

#[tokio::test]
async fn a_rule_on_trial_is_written_down_and_refuses_nobody() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&routes(upstream.address, &[("rules", RULES)]), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/rules/open/tried").await;
    assert_eq!(reply.status, 200);
    let record = gateway.record(reply.decision()).await;
    let audits: Vec<(&Value, &Value)> =
        record["foregate.audits"].as_array().unwrap().iter().map(|it| (&it["rule"], &it["step"])).collect();
    assert_eq!(
        audits,
        [(&json!("would-allow"), &json!("admit")), (&json!("tried"), &json!("admit"))],
        "{record}"
    );
    // The same to a host that the allow rule on trial would let in, and to one more path.
    let request = client.request_to("other.test", "GET", "/rules/open");
    let reply = client.send_empty(request).await;
    assert_eq!(gateway.record(reply.decision()).await.get("foregate.audits"), None);
    let request = client.request_to("other.test", "GET", "/rules/closed");
    assert_eq!(client.send_empty(request).await.status, 403, "an allow rule on trial lets nobody in");
    for (rule, count) in [("tried", 1.0), ("would-allow", 1.0)] {
        let series = format!("foregate_audits_total{{route=\"rules/rule\",rule=\"{rule}\"}}");
        gateway.wait_sample(&series, |value| (value - count).abs() < 0.5).await;
    }
    let (_, decisions) = gateway.admin_page("/decisions").await;
    assert!(decisions.contains(r#""rule":"tried""#), "{decisions}");
}

#[tokio::test]
async fn rules_read_tokens() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let spec = format!(
        "jwt:\n{}authorize:
- {{ name: writers, allow: '\"crm.write\" in jwt.scopes' }}
- {{ name: owner, allow: 'jwt.org.id == request.headers[\"x-org\"] && jwt.subject.startsWith(\"uid:\")' }}
- {{ name: interns, deny: 'has(jwt.claims.groups) && \"interns\" in jwt.claims.groups' }}\n",
        idp.by_url()
    );
    let gateway = Foregate::start(&routes(upstream.address, &[("token", &spec)]), Options::default()).await;
    gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    for (claims, org, expected) in [
        (json!({ "scope": "crm.read crm.write" }), None, "200"),
        (json!({ "scp": ["crm.write"] }), None, "200"),
        (json!({ "scope": "crm.writer", "sub": "uid:1", "org": { "id": "a" } }), Some("a"), "200"),
        (json!({ "sub": "uid:1", "org": { "id": "a" } }), Some("b"), "403 AccessDenied admit:default"),
        (json!({ "sub": "1", "org": { "id": "a" } }), Some("a"), "403 AccessDenied admit:default"),
        (json!({ "sub": "uid:1", "org": { "id": "a" } }), None, "403 RuleError admit:owner"),
        (json!({ "sub": "uid:1" }), Some("a"), "403 RuleError admit:owner"),
        (json!({ "scope": "crm.write", "groups": ["interns"] }), None, "403 AccessDenied admit:interns"),
        (json!({ "scope": "crm.write", "groups": ["sales"] }), None, "200"),
    ] {
        let mut request = client.request("GET", "/token");
        request = request.header("authorization", format!("Bearer {}", idp.sign(&claims)));
        if let Some(org) = org {
            request = request.header("x-org", org);
        }
        let reply = client.send_empty(request).await;
        assert_eq!(verdict(&gateway, &reply).await, expected, "{claims} {org:?}");
    }
    assert_eq!(upstream.received().len(), 4);
}

#[tokio::test]
async fn rules_that_read_a_score_decide_by_it_and_rules_that_do_not_come_before() {
    let upstream = Upstream::answering("ok").await;
    let spec = r#"
enrich: [{ name: lead, model: lead-score, deadline: 500ms }]
authorize:
- { name: no-delete, deny: 'request.method == "DELETE"' }
- { name: good-leads, allow: 'enrich.lead.ok && enrich.lead.score >= 0.3' }
- { name: staff, allow: '"x-staff" in request.headers' }
- { name: junk, deny: 'enrich.lead.max < 0.05 && enrich.lead.count == 1' }
"#;
    let shipped = bundle("lead-score");
    let policies = [routes(upstream.address, &[("lead", spec)]), model("lead-score", &shipped)].concat();
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let record_of = |fits: fn(f64) -> bool| {
        let found = golden(&shipped).into_iter().find(|(_, score)| fits(*score)).unwrap();
        serde_json::to_vec(&found.0).unwrap()
    };
    let (good, middling) = (record_of(|score| score > 0.3), record_of(|score| (0.06..0.28).contains(&score)));
    let junk = record_of(|score| score < 0.04);
    for (method, body, staff, expected) in [
        ("POST", &good, false, "200"),
        ("POST", &middling, false, "403 AccessDenied decide:default"),
        ("POST", &middling, true, "200"),
        ("POST", &junk, true, "403 AccessDenied decide:junk"),
        // Refused before the body is even read.
        ("DELETE", &junk, true, "403 AccessDenied admit:no-delete"),
    ] {
        let mut request = client.request(method, "/lead").header("content-type", "application/json");
        if staff {
            request = request.header("x-staff", "1");
        }
        let reply = client.send(request.body(full(body.clone())).unwrap()).await;
        assert_eq!(verdict(&gateway, &reply).await, expected, "{}", String::from_utf8_lossy(body));
        let scored = gateway.record(reply.decision()).await.get("foregate.scores").is_some();
        assert_eq!(scored, method == "POST");
    }
    assert_eq!(upstream.received().len(), 2);
}
