//! Consumers: who is known by which key, and what is wrong with that.

use foregate_policy::cases::{CaseTokens, run};
use foregate_policy::compile::Options;
use foregate_policy::documents::case::Token;

use foregate_filters::moment::Moment;

use crate::materials::{BASE, CRM, Fake, brief, compiled, route, sources};

const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

struct NoTokens;

impl CaseTokens for NoTokens {
    fn token(&self, _: &Token, _: Moment) -> Result<String, String> {
        Err("no tokens here".to_owned())
    }
}

/// A consumer with this spec, in flow style; HASH stands for a hash.
fn consumer(name: &str, spec: &str) -> String {
    let spec = spec.replace("HASH", &format!("\"{HASH}\""));
    format!(
        "apiVersion: foregate.dev/v1alpha1\nkind: Consumer\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n"
    )
}

/// Everything of the gateway under an `apiKey` section.
fn keyed(section: &str) -> String {
    let policy =
        format!("  apiKey: {section}\n  authorize: [{{ name: any, allow: 'consumer.name != \"\"' }}]\n---\n");
    BASE.replace("  insecure: { anonymous: true }\n---\n", &policy)
        + &route("web", &format!("rules: [{{ name: all, {CRM} }}]"))
}

#[test]
fn faults_and_lints_of_consumers_have_code_and_place() {
    let key = |prefix: &str, more: &str| format!("{{ keys: [{{ prefix: {prefix}, hash: HASH{more} }}] }}");
    let faults = |text: String| brief(&compiled(&(keyed("{}") + &text)).unwrap_err());
    let two = consumer("a", &key("abcdefgh", "")) + &consumer("b", &key("abcdefgh", ""));
    assert_eq!(faults(two), ["FG0201 34:26 the key `abcdefgh` belongs to the consumer `a` already"]);
    let client = "{ client: { id: mule, secrets: [{ hash: HASH }] } }";
    let two = consumer("a", client) + &consumer("b", client);
    assert_eq!(faults(two), ["FG0201 34:23 the client id `mule` belongs to the consumer `a` already"]);
    for (spec, code) in [
        ("{ keys: [{ prefix: a_b, hash: HASH }] }", "FG0116"),
        ("{ keys: [{ prefix: abcdefgh, hash: 'md5:abc' }] }", "FG0116"),
        ("{ keys: [{ prefix: abcdefgh, hash: HASH, expires: 2027-13-01T00:00:00Z }] }", "FG0301"),
        ("{ keys: [{ prefix: abcdefgh, hash: HASH, expires: tomorrow }] }", "FG0116"),
        ("{ keys: [{ prefix: abcdefgh, key: fg_a_b }] }", "FG0102"),
        ("{ client: { id: 'a b', secrets: [{ hash: HASH }] } }", "FG0116"),
        ("{ client: { id: a, secrets: [] } }", "FG0107"),
    ] {
        let faults = faults(consumer("a", spec));
        assert!(faults.iter().any(|fault| fault.starts_with(code)), "{spec}: {faults:?}");
    }
    // The clock of these tests stands at 1970.
    let weak = keyed("{ groups: [partner] }")
        + &consumer("idle", "{ groups: [partners] }")
        + &consumer("old", &key("abcdefgh", ", expires: 1969-12-31T00:00:00Z"));
    let warnings = brief(&compiled(&weak).unwrap().warnings);
    assert_eq!(
        warnings,
        [
            "FG0626 16:22 no consumer belongs to the group `partner`",
            "FG0627 28:19 the consumer `idle` has no key, so nobody can be it",
            "FG0625 34:126 the key has expired at 1969-12-31T00:00:00Z and is refused",
        ]
    );
}

#[test]
fn cases_speak_for_consumers_of_the_namespace_only() {
    let here = consumer("here", "{ keys: [{ prefix: abcdefgh, hash: HASH }] }");
    let elsewhere = consumer("there, namespace: other", "{ keys: [{ prefix: abcdefgi, hash: HASH }] }");
    let mut sources = sources(&(keyed("{ header: x-key }") + &here + &elsewhere));
    let case = |request: &str, expect: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Case\nmetadata: {{ name: a }}\nspec: {{ request: {{ path: /, {request} }}, expect: {expect} }}\n---\n"
        )
    };
    let cases = case("consumer: here", "{ requestHeaders: { x-key: null } }")
        + &case("consumer: other/there", "{ reply: 401, reason: KeyInvalid, step: identify }")
        + &case("headers: { x-key: fg_abcdefgh_x }", "{ reply: 401, reason: KeyInvalid }");
    sources.add("policies/edge.cases.yaml".into(), cases);
    let reports = run(&sources, &Fake, Options::default(), &NoTokens, Moment::default()).unwrap();
    let differences: Vec<_> = reports.iter().flat_map(|report| &report.differences).collect();
    assert!(differences.is_empty() && reports.len() == 3, "{differences:?}");
    sources.add("policies/more.cases.yaml".into(), case("consumer: nobody", "{}"));
    let faults = run(&sources, &Fake, Options::default(), &NoTokens, Moment::default()).unwrap_err();
    assert_eq!(brief(&faults), ["FG0701 4:39 there is no Consumer named `nobody`"]);
}

#[test]
fn a_policy_of_the_gateway_protects_its_routes_and_one_on_trial_does_not() {
    let gateway = |policy: &str| {
        BASE.replace("  insecure: { anonymous: true }\n", policy)
            + &route("web", &format!("rules: [{{ name: all, {CRM} }}]"))
    };
    assert!(compiled(&gateway("  authorize: [{ name: a, allow: 'true' }]\n")).is_ok());
    for policy in ["", "  mode: shadow\n  authorize: [{ name: a, allow: 'true' }]\n"] {
        let faults = brief(&compiled(&gateway(policy)).unwrap_err());
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("FG0303") && fault.contains("nothing says who may call")),
            "{faults:?}"
        );
    }
}

#[test]
fn fingerprints_follow_what_decides_about_a_route() {
    let key = |prefix: &str| consumer("a", &format!("{{ keys: [{{ prefix: {prefix}, hash: HASH }}] }}"));
    let fingerprint = |text: String| compiled(&text).unwrap().routes.all()[0].fingerprint;
    let one = fingerprint(keyed("{}") + &key("abcdefgh"));
    assert_eq!(one, fingerprint(keyed("{}") + "# a comment\n" + &key("abcdefgh")));
    assert_ne!(one, fingerprint(keyed("{}") + &key("abcdefgi")));
    assert_ne!(one, fingerprint(keyed("{ forward: true }") + &key("abcdefgh")));
    let open =
        |more: &str| fingerprint(format!("{BASE}{}{more}", route("web", &format!("rules: [{{ {CRM} }}]"))));
    assert_eq!(open(""), open(&key("abcdefgh")), "no policy of the route asks for keys");
}
