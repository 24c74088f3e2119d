//! An unknown field hides no other fault of its document, and causes none.

use crate::materials::{BASE, CRM, brief, compiled, route};

fn faults(text: &str) -> Vec<String> {
    brief(&compiled(text).map(|_| ()).unwrap_err())
}

/// The base with this in place of what its policy says, and a route.
fn policy(spec: &str) -> String {
    BASE.replace("  insecure: { anonymous: true }\n", spec) + &route("web", &format!("rules: [{{ {CRM} }}]"))
}

/// The faults of the base with a route `web` of this one rule.
fn rule(rule: &str) -> Vec<String> {
    faults(&format!("{BASE}{}", route("web", &format!("rules: [{{ {rule} }}]"))))
}

#[test]
fn an_unknown_field_hides_no_fault_beside_it() {
    let text = policy(
        "  rateLimits: [{ name: a, limit: 1, per: 1s }]
  authorize:
  - { name: all, allow: 'true && reqest.method == \"GET\"' }
  - { name: office, deny: '!inCidr(source.address, \"10.0.0.0/40\")' }
",
    );
    let got = faults(&text);
    assert_eq!(got.len(), 3, "{got:#?}");
    assert!(got[0].starts_with("FG0102 16:3 unknown field `rateLimits`"), "{got:#?}");
    assert!(got[1].starts_with("FG0402 18:34 unknown name reqest"), "{got:#?}");
    assert!(got[2].starts_with("FG0403 19:52 "), "{got:#?}");
}

#[test]
fn fields_not_supported_hide_nothing_in_any_kind_or_depth() {
    let text = format!(
        "{}{}",
        BASE.replace("port: 8080", "port: 0, extra: 1")
            .replace("endpoints: ['crm:80']", "endpoints: [crm], nonsense: { a: 1 }"),
        route(
            "web",
            &format!(
                "useDefaultGateways: All\nrules:\n- {{ matches: [{{ path: {{ value: a }}, hots: [] }}], {CRM} }}"
            )
        )
    );
    assert_eq!(
        faults(&text),
        [
            "FG0207 4:85 port 0 cannot be listened on",
            "FG0102 4:88 unknown field `extra`",
            "FG0301 9:21 `crm` is not host:port",
            "FG0102 9:27 unknown field `nonsense`",
            "FG0103 23:3 the field `useDefaultGateways` is not supported by this version",
            "FG0205 25:34 the path must start with `/`",
            "FG0102 25:39 unknown field `hots`",
        ]
    );
}

#[test]
fn a_misspelt_field_of_a_policy_is_one_fault() {
    let web = "targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: web }]";
    let second = |spec: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: of-web }}\nspec: {{ {web}, {spec} }}\n"
        )
    };
    let anonymous = "  insecure: { anonymous: true }\n";
    for (text, want) in [
        (policy("  authorise: [{ name: all, allow: 'true' }]\n"), "FG0102 16:3 unknown field `authorise`"),
        (policy("  insecure: { anonymus: true }\n"), "FG0102 16:15 unknown field `anonymus`"),
        (policy(anonymous).replace("targetRefs", "targetRef"), "FG0102 15:3 unknown field `targetRef`"),
        // A rule that neither allows nor denies.
        (policy("  authorize: [{ name: all, alow: 'true' }]\n"), "FG0102 16:28 unknown field `alow`"),
        // Expressions may read what the misspelt field defines, in this policy and in others.
        (
            policy(
                "  jwts: []\n  authorize: [{ name: all, allow: '\"a\" in jwt.scopes && has(jwt.org)' }]\n",
            ),
            "FG0102 16:3 unknown field `jwts`",
        ),
        (
            policy("  enriched: []\n  authorize: [{ name: all, allow: 'enrich.lead.score < 0.5' }]\n"),
            "FG0102 16:3 unknown field `enriched`",
        ),
        (
            policy("  authorise: []\n") + &second("addresses: { allow: [10.0.0.0/8] }"),
            "FG0102 16:3 unknown field `authorise`",
        ),
        (
            policy("  jwts: []\n") + &second("authorize: [{ name: all, allow: 'jwt.subject == \"a\"' }]"),
            "FG0102 16:3 unknown field `jwts`",
        ),
    ] {
        assert_eq!(faults(&text), [want], "{text}");
    }
}

#[test]
fn a_misspelt_field_of_a_route_or_gateway_is_one_fault() {
    for (text, want) in [
        (CRM.replace("backendRefs", "backendRef"), "FG0102 23:13 unknown field `backendRef`"),
        (
            "filters: [{ type: RequestRedirect, requestRedirct: {} }]".to_owned(),
            "FG0102 23:48 unknown field `requestRedirct`",
        ),
        (
            format!("matches: [{{ path: {{ tpe: RegularExpression, value: '[/]a' }} }}], {CRM}"),
            "FG0102 23:33 unknown field `tpe`",
        ),
        (
            CRM.replace("name: crm", "name: billing, port: 80"),
            "FG0790 23:87 a reference to an Upstream has no port",
        ),
    ] {
        assert_eq!(rule(&text), [want], "{text}");
    }
    let web = route("web", &format!("rules: [{{ {CRM} }}]"));
    let elsewhere = web
        .replace(CRM, "filters: [{ type: RequestRedirect, requestRedirect: {} }]")
        .replace("name: web }", "name: web, namespace: b }")
        .replace("edge }", "edge, namespace: default }");
    let listener = |fields: &str| BASE.replace("protocol: HTTP, port: 8080", fields);
    for (text, want) in [
        (listener("port: 8080, protocol: HTTPS, tsl: {}") + &web, "FG0102 4:92 unknown field `tsl`"),
        (
            listener("protocol: HTTP, port: 8080, allowedRoute: { namespaces: { from: All } }") + &elsewhere,
            "FG0102 4:91 unknown field `allowedRoute`",
        ),
        (
            listener(
                "protocol: HTTP, port: 8080 }, { name: b, hostnam: b.example.com, protocol: HTTP, port: 8080",
            ) + &web,
            "FG0102 4:104 unknown field `hostnam`",
        ),
        (
            format!("{BASE}{}", web.replace("name: edge", "name: b, namespce: b")),
            "FG0102 22:27 unknown field `namespce`",
        ),
        (
            format!(
                "{BASE}{}",
                elsewhere
                    .replace("namespace: b", "namespce: b")
                    .replace("name: edge, namespace: default", "name: b")
            ),
            "FG0102 20:24 unknown field `namespce`",
        ),
    ] {
        assert_eq!(faults(&text), [want], "{text}");
    }
}

#[test]
fn only_what_may_follow_from_an_unknown_field_is_taken_back() {
    // The rule with the slip excuses nothing in the other one.
    let rules = format!(
        "rules:\n- {{ persistence: {{}}, {CRM} }}\n- {{ {} }}\n- {{ name: c }}",
        CRM.replace("crm", "crn")
    );
    assert_eq!(
        faults(&format!("{BASE}{}", route("web", &rules))),
        [
            "FG0102 24:7 unknown field `persistence`",
            "FG0304 25:66 there is no Upstream named `crn`",
            "FG0206 26:7 the rule leads nowhere: it has no backendRefs and does not redirect",
        ]
    );
    // A fault of another document is told, of whatever code.
    let text = BASE.replace("endpoints: ['crm:80']", "endpoints: ['crm:80'], nonsense: 1")
        + &route("web", &format!("rules: [{{ timeouts: {{ request: 1s, backendRequest: 2s }}, {CRM} }}]"));
    let got = faults(&text);
    assert!(got.len() == 2 && got[1].starts_with("FG0302 23:54 "), "{got:#?}");
    // A name that no policy defines is none, and plain http is never sound.
    let got = faults(&policy(
        "  rateLimits: []\n  jwt: [{ issuer: 'https://a/', audiences: [x], jwks: { uri: 'http://a/keys' } }]\n  authorize: [{ name: all, allow: 'enrichd.lead.ok' }]\n",
    ));
    let codes: Vec<&str> = got.iter().map(|line| &line[..6]).collect();
    assert_eq!(codes, ["FG0102", "FG0303", "FG0402"], "{got:#?}");
}

#[test]
fn a_document_that_lacks_a_required_field_is_not_read() {
    let text = BASE.replace("endpoints: ['crm:80']", "endpoints: [crm], healthCheck: { kind: TCP }");
    let got = faults(&(text + &route("web", &format!("rules: [{{ {CRM} }}]"))));
    assert_eq!(got, ["FG0105 9:27 the field `type` is missing", "FG0102 9:42 unknown field `kind`"]);
}
