//! Keys that are good, absent, wrong, doubled, and of the wrong group.

use crate::api_key::key::{Digest, key};
use crate::consumer::Consumer;
use crate::consumers::{ClientId, Registration, Secret};
use crate::edits::HeaderEdit;
use crate::testing::{Call, TestResources, build, faults, get, run, verdict};

const OPEN: &str = "insecure: { anonymous: true }\n";

fn resources() -> TestResources {
    let mut resources = TestResources::default().consumer("sales", &["crm", "eu"]).consumer("batch", &[]);
    let secret = Secret { digest: Digest::of_secret("mule-1", "hush"), expires: None };
    resources.registered.push(Registration {
        consumer: Consumer { name: "mule".into(), ..Consumer::default() },
        keys: Vec::new(),
        client: Some(ClientId { id: "mule-1".into(), secrets: vec![secret] }),
    });
    resources
}

#[track_caller]
fn check(policy: &str, call: &Call, expected: &str) {
    let chain = build(&format!("{OPEN}{policy}"), &resources()).unwrap();
    assert_eq!(verdict(&chain, call), expected, "{call:?}");
}

#[test]
fn a_key_names_its_consumer() {
    let policy = "apiKey: {}\nauthorize: [{ name: sales, allow: 'consumer.name == \"sales\" && \"eu\" in consumer.groups' }]";
    let chain = build(policy, &resources()).unwrap();
    let call = |name: &str| get("/").header("x-api-key", resources().key(name));
    assert_eq!(verdict(&chain, &call("sales")), "continue");
    assert_eq!(verdict(&chain, &call("batch")), "admit: AccessDenied by default");
    let (ctx, _) = run(&chain, &call("sales"));
    assert_eq!(&*ctx.consumer.unwrap().name, "sales");
    assert_eq!(ctx.edits.request.as_slice(), [HeaderEdit::Remove("x-api-key".parse().unwrap())]);
}

#[test]
fn whatever_is_wrong_with_a_key_looks_the_same() {
    let wrong = key(&[b's'; 8], &[0; 32]);
    let good = resources().key("sales");
    for value in [wrong.as_str(), "fg_unknown_key", "nonsense", "", &"x".repeat(513), "\u{e9}"] {
        check("apiKey: {}", &get("/").header("x-api-key", value), "identify: KeyInvalid by policy-0");
    }
    let twice = get("/").header("x-api-key", &good).header("x-api-key", &good);
    check("apiKey: {}", &twice, "identify: KeyInvalid by policy-0");
    for missing in [get("/"), get(&format!("/?x-api-key={good}")), get("/").header("x_api_key", &good)] {
        check("apiKey: {}", &missing, "identify: KeyMissing by policy-0");
    }
    let chain = build(&format!("{OPEN}apiKey: {{}}"), &resources()).unwrap();
    let told = |value: &str| {
        let reply = run(&chain, &get("/").header("x-api-key", value)).1.unwrap_err().reply;
        (reply.reason, reply.rule, reply.headers)
    };
    assert_eq!(told(&wrong), told("fg_unknown_key"));
}

#[test]
fn ids_and_secrets_of_clients_are_two_headers() {
    let policy = "apiKey: { headers: { clientId: client_id, clientSecret: client_secret } }";
    let call = |id: &str, secret: &str| get("/").header("client_id", id).header("client_secret", secret);
    check(policy, &call("mule-1", "hush"), "continue");
    for call in [
        call("mule-1", "hus"),
        call("mule-2", "hush"),
        get("/").header("client_id", "mule-1"),
        get("/").header("client_secret", "hush"),
        call("mule-1", "hush").header("client_id", "mule-1"),
    ] {
        check(policy, &call, "identify: KeyInvalid by policy-0");
    }
    check(policy, &get("/?client_id=mule-1&client_secret=hush"), "identify: KeyMissing by policy-0");
}

#[test]
fn only_some_groups_may_be_let_in() {
    let policy = "apiKey: { header: X-Key, groups: [eu, us], forward: true }";
    let call = |name: &str| get("/").header("x-key", resources().key(name));
    check(policy, &call("sales"), "continue");
    check(policy, &call("batch"), "identify: AccessDenied by policy-0");
    let chain = build(&format!("{OPEN}{policy}"), &resources()).unwrap();
    let edits = run(&chain, &call("sales")).0.edits.request;
    assert!(matches!(edits.as_slice(), [HeaderEdit::Set(name, _)] if name == "x-key"), "{edits:?}");
}

#[test]
fn a_faulty_section_says_all_that_is_wrong() {
    for (policy, expected) in [
        (
            "apiKey: { header: x, headers: { clientId: a, clientSecret: b } }",
            "FG0302 spec.apiKey: header and headers exclude each other",
        ),
        ("apiKey: { header: 'a b' }", "FG0301 spec.apiKey.header: this is not a header name"),
        (
            "apiKey: { header: Authorization }",
            "FG0302 spec.apiKey.header: a key cannot stand in `authorization`",
        ),
        (
            "apiKey: { headers: { clientId: a, clientSecret: A } }",
            "FG0302 spec.apiKey.headers: id and secret stand in the same header",
        ),
        ("apiKey: { groups: [a, a] }", "FG0302 spec.apiKey.groups[1]: the group stands twice"),
    ] {
        assert_eq!(faults(&format!("{OPEN}{policy}")), [expected], "{policy}");
    }
}
