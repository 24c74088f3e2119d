//! Cases: verdicts compared with what was expected.

use std::time::Duration;

use foregate_filters::moment::Moment;
use foregate_policy::cases::{CaseTokens, Report, run};
use foregate_policy::compile::Options;
use foregate_policy::documents::case::Token;

use crate::materials::{BASE, CRM, Fake, brief, route, sources};

struct NoTokens;

impl CaseTokens for NoTokens {
    fn token(&self, token: &Token, _: Moment) -> Result<String, String> {
        Err(format!("no key for {:?}", token.claims.get("iss")))
    }
}

const POLICY: &str = "
  authorize:
  - { name: readers, allow: 'request.method == \"GET\"' }
  - { name: writers, allow: 'enrich.lead.score > 0.2' }
  - { name: hold, deny: 'enrich.lead.score > 0.9' }
  rateLimit: [{ name: slow, key: source.address, limit: 1, per: 1h }]
  enrich: [{ name: lead, model: lead-score, deadline: 3ms, set: { header: x-score, body: /Lead_Score__c } }]
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: lead-score }
spec: { bundle: { path: models/lead } }
---
";

fn reports(cases: &str) -> Result<Vec<Report>, Vec<String>> {
    let text = BASE.replace("\n  insecure: { anonymous: true }\n---\n", POLICY)
        + &route("web", &format!("rules: [{{ matches: [{{ path: {{ value: /leads }} }}], {CRM} }}]"));
    let mut sources = sources(&text);
    let documents = cases.lines().filter(|line| !line.trim().is_empty()).enumerate().map(|(index, case)| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Case\nmetadata: {{ name: case {index} }}\nspec: {case}\n---\n"
        )
    });
    let file = documents.collect::<Vec<_>>().concat();
    sources.add("policies/edge.cases.yaml".into(), file);
    let moment = Moment { unix: Duration::from_hours(500_000), monotonic: Duration::from_secs(1) };
    run(&sources, &Fake, Options::default(), &NoTokens, moment).map_err(|faults| brief(&faults))
}

#[test]
fn true_cases_pass() {
    let reports = reports(
        r"
{ request: { path: /leads, body: {} }, expect: { route: web/0, upstream: crm, requestHeaders: { x-score: '0.25', x-gone: null } } }
{ request: { method: POST, path: /leads, body: { a: 1 } }, expect: { body: { a: 1, Lead_Score__c: 0.25 } } }
{ request: { method: POST, path: /leads, body: {} }, scores: { lead: 0.95 }, expect: { reply: 403, reason: AccessDenied, step: decide, rule: hold } }
{ request: { method: POST, path: /leads, body: {} }, scores: { lead: 0.1 }, expect: { reply: 403, reason: AccessDenied, step: decide } }
{ request: { path: /other }, expect: { reply: 404, reason: RouteNotFound, step: route } }
{ request: { path: /leads, times: 2 }, expect: { reply: 429, reason: RateLimited, step: guard, rule: slow } }
",
    )
    .unwrap();
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.passed()).collect();
    assert!(failed.is_empty() && reports.len() == 6, "{failed:#?}");
}

#[test]
fn untrue_cases_fail_and_say_why() {
    let reports = reports(
        r"
{ request: { path: /leads, body: {} }, expect: { reply: 401 } }
{ request: { path: /other }, expect: { upstream: crm } }
{ request: { path: /leads, body: {} }, expect: { route: x, upstream: y, requestHeaders: { x-score: '1' }, body: { Lead_Score__c: 1 } } }
",
    )
    .unwrap();
    let counts: Vec<usize> = reports.iter().map(|report| report.differences.len()).collect();
    assert_eq!(counts, [1, 2, 4], "{reports:#?}");
    assert_eq!(reports[0].differences, ["expected reply 401, but it was forwarded"]);
    assert_eq!((&*reports[1].file, reports[1].line), ("policies/edge.cases.yaml", 8));
}

#[test]
fn cases_that_cannot_run_are_diagnostics() {
    let faults = reports(
        r"
{ request: { path: leads }, expect: {} }
{ request: { path: /, token: { iss: x } }, expect: { reply: 401, reason: Wrong, step: nowhere } }
{ request: { path: /, body: { file: gone.json } }, expect: {}, expct: {} }
",
    )
    .unwrap_err();
    let codes: Vec<&str> = faults.iter().map(|fault| &fault[..6]).collect();
    assert_eq!(codes, ["FG0116", "FG0701", "FG0701", "FG0701", "FG0102"], "{faults:#?}");
}

const STREAMS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: db, protocol: TCP, port: 5432 }
  - { name: tls, protocol: TLS, port: 443, tls: { mode: Passthrough } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: db }
spec: { parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: db }] }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: { name: mail }
spec:
  parentRefs: [{ name: edge }]
  hostnames: ['*.mail.test']
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: mail }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: db }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: TCPRoute, name: db }]
  addresses: { allow: [10.0.0.0/8] }
  authorize: [{ name: all, allow: 'true' }]
  rateLimit: [{ name: few, key: source.address, limit: 2, per: 1h }]
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: mail }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: TLSRoute, name: mail }]
  authorize: [{ name: one, allow: 'request.host == \"a.mail.test\"' }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: db }
spec: { endpoints: ['db:5432'], protocol: Tcp }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: mail }
spec: { endpoints: ['mail:443'], protocol: Tcp }
";

fn of_streams(cases: &str) -> Result<Vec<Report>, Vec<String>> {
    let mut sources = sources(STREAMS);
    let documents = cases.lines().filter(|line| !line.trim().is_empty()).map(|case| {
        format!("apiVersion: foregate.dev/v1alpha1\nkind: Case\nmetadata: {{ name: x }}\nspec: {case}\n---\n")
    });
    sources.add("policies/edge.cases.yaml".into(), documents.collect());
    let moment = Moment { unix: Duration::from_hours(500_000), monotonic: Duration::from_secs(1) };
    run(&sources, &Fake, Options::default(), &NoTokens, moment).map_err(|faults| brief(&faults))
}

#[test]
fn connections_have_cases() {
    let reports = of_streams(
        r"
{ connection: { port: 5432, source: 10.1.2.3 }, expect: { route: db/0, upstream: db } }
{ connection: { listener: edge/db, source: 10.1.2.3, times: 3 }, expect: { refused: true, reason: RateLimited, step: guard, rule: few } }
{ connection: { listener: db, source: 192.0.2.1 }, expect: { refused: true, reason: AddressDenied } }
{ connection: { serverName: A.mail.test }, expect: { route: mail/0, upstream: mail } }
{ connection: { serverName: b.mail.test, listener: tls }, expect: { refused: true, reason: AccessDenied, rule: default } }
{ connection: { serverName: other.test, port: 443 }, expect: { refused: true, reason: RouteNotFound, step: route } }
{ connection: { port: 81 }, expect: { refused: true, reason: RouteNotFound } }
",
    )
    .unwrap();
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.passed()).collect();
    assert!(failed.is_empty() && reports.len() == 7, "{failed:#?}");
    let reports = of_streams(
        r"
{ connection: { port: 5432 }, expect: { upstream: db } }
{ connection: { serverName: a.mail.test }, expect: { refused: true } }
",
    )
    .unwrap();
    assert_eq!(
        reports[0].differences[0],
        "expected to be passed on, but it was refused with AddressDenied in guard, rule addresses: not allowed"
    );
    assert_eq!(reports[1].differences, ["expected to be refused, but it was passed on"]);
    for (case, want) in [
        ("{ expect: {} }", "a case has either a `request` or a `connection`"),
        ("{ request: { path: / }, connection: {}, expect: {} }", "a case has either"),
        ("{ connection: {}, expect: { reply: 403, body: x } }", "a connection has no `reply`"),
        ("{ request: { path: / }, expect: { refused: true } }", "write `reply`"),
        ("{ connection: { peer: 'spiffe://' }, expect: {} }", "is no SPIFFE id"),
    ] {
        let told = of_streams(case).unwrap_err();
        assert!(
            told.iter().any(|told| told.starts_with("FG0701") && told.contains(want)),
            "{case}: {told:?}"
        );
    }
}
