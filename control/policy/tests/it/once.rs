//! Idempotency and the calls of an org: what they compile to, faults, warnings.

use std::time::Duration;

use foregate_filters::authorize::Mode;

use crate::materials::{BASE, CRM, brief, compiled, route};

/// The base, with more in its policy and in the spec of its upstream.
fn with(policy: &str, upstream: &str) -> String {
    let base = BASE.replace(
        "  insecure: { anonymous: true }\n",
        &format!("  insecure: {{ anonymous: true }}\n  {policy}\n"),
    );
    let base = base.replace("endpoints: ['crm:80']", &format!("endpoints: ['crm:80']{upstream}"));
    base + &route("web", &format!("rules:\n- {{ {CRM} }}"))
}

fn codes(text: &str) -> Vec<String> {
    brief(&compiled(text).map(|_| ()).unwrap_err())
}

fn warned(text: &str) -> Vec<String> {
    brief(&compiled(text).unwrap().warnings)
}

#[test]
fn the_quota_of_an_org_belongs_to_its_upstream() {
    let quota = ", orgQuota: { classes: [{ name: a, until: 90 }, { name: b, until: 50, share: 20 }], consumers: { erp: { class: a } }, mode: audit }";
    let snapshot = compiled(&with("orgQuota: { key: source.address }", quota)).unwrap();
    let rules = snapshot.upstreams[0].org_quota.as_ref().unwrap();
    assert_eq!((rules.classes.len(), rules.default, rules.mode), (2, 1, Mode::Audit));
    assert_eq!((rules.refresh, rules.limit), (Duration::from_mins(1), None));
    assert_eq!(rules.consumers["erp"].class, 0);
    assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    let wrong = codes(&with(
        "addresses: {}",
        ", orgQuota: { classes: [{ name: a, until: 50 }, { name: b, until: 60 }] }",
    ));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(
        wrong[0].starts_with("FG0302 9:96 ") && wrong[0].contains("while a, which is more important"),
        "{wrong:?}"
    );
    let unknown = codes(&with("orgQuota: { key: nope }", ""));
    assert!(unknown[0].starts_with("FG0402"), "{unknown:?}");
}

#[test]
fn weak_keys_are_warned_of() {
    for (policy, expected) in [
        ("idempotency: {}", ""),
        ("idempotency: { scope: source.address }", ""),
        ("idempotency: { scope: '\"all\"' }", "FG0730"),
        ("idempotency: { scope: 'request.headers[\"x-org\"]' }", "FG0730"),
        ("idempotency: { scope: '\"orgs\"', key: { salesforce: Notification } }", ""),
        ("idempotency: { onError: continue }", "FG0729"),
    ] {
        let told = warned(&with(policy, ""));
        let codes: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(codes.join(" "), expected, "{policy}: {told:?}");
    }
}

#[test]
fn a_store_that_is_not_there_is_a_fault() {
    let wrong = codes(&with("idempotency: { store: redis }", ""));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("FG0304") && wrong[0].contains("no Store named `redis`"), "{wrong:?}");
}
