//! Credentials of upstreams and introspection: faults, lints, where secrets are looked for.

use foregate_policy::diagnostic::Diagnostic;

use crate::materials::{BASE, CRM, brief, compiled, route};

fn text(endpoint: &str, credentials: &str) -> String {
    let upstream = format!("endpoints: ['{endpoint}'], credentials: {credentials}");
    BASE.replace("endpoints: ['crm:80']", &upstream) + &route("web", &format!("rules: [{{ {CRM} }}]"))
}

fn faults(credentials: &str) -> Vec<String> {
    let told = compiled(&text("127.0.0.1:80", credentials)).map(drop).unwrap_err();
    told.iter().map(|fault| format!("{} {}", fault.code, fault.message)).collect()
}

fn codes(warnings: &[Diagnostic]) -> Vec<String> {
    warnings.iter().map(|warning| warning.code.to_string()).collect()
}

#[test]
fn what_does_not_fit_together_is_told_at_its_place() {
    let auth = "clientAuth: { method: basic, clientId: a, secret: { env: A } }";
    for (credentials, told) in [
        ("{}", vec!["FG0302 exactly one kind of credentials must be named"]),
        ("{ static: { header: host, value: { env: A } } }", vec!["FG0302 a credential must not set `host`"]),
        (
            "{ static: { header: X-Forwarded-For, value: { env: A, file: b } } }",
            vec!["FG0302 a credential must not set `x-forwarded-for`", "FG0302 several secrets are named"],
        ),
        (
            "{ static: { header: x-api-key, value: { secretRef: { name: gone, key: key } } } }",
            vec!["FG0310 no such file"],
        ),
        (
            &*format!(
                "{{ clientCredentials: {{ tokenEndpoint: 'http://idp.test/', lifetime: 1s, {auth} }} }}"
            ),
            vec!["FG0303 secrets would go over plain http", "FG0301 the time must be between 60s and 86400s"],
        ),
        (
            "{ jwtBearer: { tokenEndpoint: 'https://idp.test/', issuer: a, subject: b, alg: HS256, key: {} } }",
            vec!["FG0301 an assertion is signed with a private key", "FG0302 no secret is named"],
        ),
    ] {
        let found = faults(credentials);
        assert_eq!(found, told, "{credentials}");
    }
    // A secret itself has no place in a document.
    let found = faults("{ static: { header: x-api-key, value: hunter2 } }");
    assert!(found.iter().all(|line| line.starts_with("FG0104")), "{found:?}");
}

#[test]
fn credentials_in_clear_are_refused_but_on_this_machine_and_where_a_switch_says_so() {
    let fixed = "{ static: { header: x-api-key, value: { env: A } } }";
    let warnings = |text: &str| codes(&compiled(text).unwrap().warnings);
    assert_eq!(codes(&compiled(&text("crm:80", fixed)).unwrap_err()), ["FG0622"]);
    let switched = format!("{fixed}, insecure: {{ plainCredentials: true }}");
    assert_eq!(warnings(&text("crm:80", &switched)), ["FG0622"]);
    assert!(warnings(&text("127.0.0.1:80", fixed)).is_empty());
    let secure = format!("{fixed}, tls: {{ mode: Simple }}");
    assert!(warnings(&text("crm:443", &secure)).is_empty());
}

/// A policy that introspects with this secret, and what else it says of the endpoint.
fn introspecting(secret: &str, more: &str) -> String {
    let auth = format!("clientAuth: {{ method: post, clientId: a, secret: {secret} }}");
    let spec = format!(
        "introspection: [{{ endpoint: 'https://idp.test/', {auth}{more} }}]\n  \
         authorize: [{{ name: all, allow: 'jwt.sub != \"\"' }}]"
    );
    BASE.replace("insecure: { anonymous: true }", &spec) + &route("web", &format!("rules: [{{ {CRM} }}]"))
}

#[test]
fn weak_introspection_is_warned_of() {
    let warnings = |more: &str| codes(&compiled(&introspecting("{ env: A }", more)).unwrap().warnings);
    assert_eq!(warnings(""), ["FG0623"]);
    assert_eq!(warnings(", audiences: []"), ["FG0623"]);
    assert!(warnings(", audiences: [crm]").is_empty());
    assert_eq!(warnings(", audiences: [crm], onUnavailable: stale"), ["FG0624"]);
}

#[test]
fn secrets_lie_beside_the_policies_and_files_beside_their_policy() {
    for (secret, looked_for) in [
        ("{ secretRef: { name: idp, key: client.secret } }", "policies/secrets/idp/client.secret"),
        ("{ file: keys/secret }", "policies/keys/secret"),
    ] {
        let told = brief(&compiled(&introspecting(secret, "")).map(drop).unwrap_err());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("FG0310") && told[0].ends_with(looked_for), "{told:?}");
    }
    for (secret, told) in [
        ("{ secretRef: { name: ../idp, key: a } }", "FG0116"),
        ("{ secretRef: { name: idp, key: ../../a } }", "FG0116"),
        ("{ secretRef: { name: idp, key: .. } }", "FG0116"),
    ] {
        let found = brief(&compiled(&introspecting(secret, "")).map(drop).unwrap_err());
        assert!(found.iter().any(|line| line.starts_with(told)), "{secret}: {found:?}");
    }
}
