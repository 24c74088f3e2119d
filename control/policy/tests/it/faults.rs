//! Every bad input: its code, its place, and how it is shown.

use foregate_policy::codes;
use foregate_policy::render::{Format, render};

use crate::materials::{BASE, CRM, brief, compiled, route, sources};

fn faults(text: &str) -> Vec<String> {
    brief(&compiled(text).map(|_| ()).unwrap_err())
}

fn upstream(spec: &str) -> String {
    format!("apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: crm }}\nspec: {spec}\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn structural_faults_have_code_and_place() {
    let gateway = |listener: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: edge }}\nspec:\n  gatewayClassName: foregate\n  listeners:\n  - {listener}\n"
        )
    };
    let mut differences = Vec::new();
    for (text, want) in [
        (upstream("{ endpoints: ['a:1'], tsl: {} }"), "FG0102 4:29 unknown field `tsl`"),
        (upstream("{ endpoints: 'a:1' }"), "FG0104 4:20 a list is wanted here, not a string"),
        (upstream("{}"), "FG0630 4:1 the upstream has no endpoints"),
        (upstream("{ endpoints: [] }"), "FG0630 4:9 the upstream has no endpoints"),
        (upstream("{ endpoints: [a] }"), "FG0301 4:21 `a` is not host:port"),
        (
            upstream("{ endpoints: ['a:1'], protocol: http2 }"),
            "FG0106 4:39 `http2` is not a value of this field",
        ),
        (
            upstream("{ endpoints: ['a:1'], timeouts: { idle: 3 s } }"),
            "FG0116 4:47 `3 s` is not a time span with its unit",
        ),
        (
            upstream("{ endpoints: ['a:1'], timeouts: { idle: 9h } }"),
            "FG0301 4:47 the time must be between 1s and 3600s",
        ),
        (
            upstream("{ endpoints: ['a:1'], concurrency: { min: 9, max: 8 } }"),
            "FG0660 4:49 the limit cannot stay at 9 or above and at 8 or below",
        ),
        (
            upstream("{ endpoints: ['a:1'], concurrency: { adaptive: false, min: 9 } }"),
            "FG0660 4:66 a limit that does not adapt is max, and has no min",
        ),
        (
            upstream("{ endpoints: ['a:1'], concurrency: { queue: { wait: 11s } } }"),
            "FG0301 4:59 the wait must be between 1ms and 10s",
        ),
        (
            upstream("{ endpoints: ['a:1'], tls: { mode: Mutual } }"),
            "FG0302 4:42 mode Mutual needs the peers",
        ),
        (
            upstream("{ endpoints: ['a:1'], tls: { mode: Simple, caFile: x.pem } }"),
            "FG0305 4:58 no such file",
        ),
        (
            upstream("{ endpoints: ['a:1'], endpoints: ['b:1'] }"),
            "FG0108 4:29 the key `endpoints` stands here twice",
        ),
        (upstream("{ endpoints: ['a:1'] "), "FG0101 4:7"),
        (
            upstream("{ endpoints: ['a:1'] }").replace("kind: Upstream", "kind: Upsteam"),
            "FG0110 2:7 unknown kind `Upsteam`",
        ),
        (
            upstream("{}").replace("foregate.dev/v1alpha1", "v1"),
            "FG0110 1:13 `v1` has no kind `Upstream` here",
        ),
        (
            upstream("{}")
                .replace("foregate.dev/v1alpha1", "gateway.networking.k8s.io/v1")
                .replace("kind: Upstream", "kind: UDPRoute"),
            "FG0111 2:7 the kind `UDPRoute` is not supported",
        ),
        ("apiVersion: v1\nkind: Secret\n".to_owned(), "FG0110 2:7 unknown kind `Secret` of `v1`"),
        ("kind: Policy\n".to_owned(), "FG0105 1:1 the field `apiVersion` is missing"),
        ("- a\n".to_owned(), "FG0104 1:3 a document must be a mapping, not a list"),
        (gateway("{ name: a, protocol: HTTP, port: 70000 }"), "FG0107 7:38 the number must be at most 65535"),
        (
            gateway("{ name: a, protocol: HTTP, port: '80' }"),
            "FG0104 7:38 an integer is wanted here, not a string",
        ),
        (gateway("{ name: a, protocol: HTTP, port: 0 }"), "FG0207 7:38 port 0 cannot be listened on"),
        (
            gateway("{ name: a, protocol: UDP, port: 80 }"),
            "FG0103 7:26 `UDP` is not supported by this version",
        ),
        (gateway("{ name: A, protocol: HTTP, port: 80 }"), "FG0116 7:13 `A` is not a name of"),
        (
            gateway("{ name: a, protocol: HTTPS, port: 443 }"),
            "FG0203 7:26 an HTTPS listener needs a certificate",
        ),
        (
            gateway("{ name: a, protocol: HTTP, port: 80, tls: { certificateRefs: [{ name: x }] } }"),
            "FG0203 7:42 an HTTP listener has no TLS",
        ),
        (
            gateway("{ name: a, protocol: HTTPS, port: 443, tls: { certificateRefs: [{ name: gone }] } }"),
            "FG0305 7:77 the certificate `gone` cannot be used",
        ),
        (
            gateway("{ name: a, protocol: HTTP, port: 80, allowedRoutes: { kinds: [] } }"),
            "FG0103 7:59 the field `kinds` is not supported",
        ),
        (
            gateway("{ name: a, protocol: HTTP, port: 80 }\n  - { name: b, protocol: HTTP, port: 80 }"),
            "FG0202 8:38 listener `a` of `edge` has the same port",
        ),
        (
            gateway("{ name: a, protocol: HTTP, port: 80 }\n  - { name: a, protocol: HTTP, port: 81 }"),
            "FG0201 8:13 a second listener named `a`",
        ),
    ] {
        let got = faults(&text);
        if got.len() != 1 || !got[0].starts_with(want) {
            differences.push(format!("{text}{got:#?}\nwanted {want}\n"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn faults_of_routes_have_code_and_place() {
    // The rule stands in line 6 of the route, which follows the base.
    let line = BASE.lines().count() + 6;
    let mut differences = Vec::new();
    for (rule, want) in [
        (
            "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crn }]",
            "FG0304 @:72 there is no Upstream named `crn`",
        ),
        (
            "backendRefs: [{ group: foregate.dev, kind: Service, name: crm }]",
            "FG0790 @:56 the kind Service is of the core group",
        ),
        ("matches: []", "FG0206 @:13 the rule leads nowhere"),
        (
            "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm, weight: 0 }]",
            "FG0206 @:85 the rule leads nowhere",
        ),
        (
            &format!("matches: [{{ path: {{ value: a }} }}], {CRM}"),
            "FG0205 @:40 the path must start with `/`",
        ),
        (
            &format!("matches: [{{ path: {{ value: /a/../b }} }}], {CRM}"),
            "FG0205 @:40 the path must not contain `.` or `..`",
        ),
        (
            &format!("matches: [{{ path: {{ type: RegularExpression, value: '/(' }} }}], {CRM}"),
            "FG0205 @:65 the regular expression cannot be compiled",
        ),
        (&format!("matches: [{{ method: get }}], {CRM}"), "FG0106 @:33 `get` is not a value of this field"),
        (
            &format!("filters: [{{ type: CORS, extensionRef: {{}} }}], {CRM}"),
            "FG0103 @:37 the field `extensionRef` is not supported",
        ),
        (
            &format!("filters: [{{ type: URLRewrite }}], {CRM}"),
            "FG0204 @:31 a URLRewrite needs the field `urlRewrite`",
        ),
        (
            &format!("filters: [{{ type: RequestRedirect, requestRedirect: {{}} }}], {CRM}"),
            "FG0206 @:72 a rule that redirects cannot forward",
        ),
        (
            &format!(
                "filters: [{{ type: RequestHeaderModifier, requestHeaderModifier: {{ remove: [Host] }} }}], {CRM}"
            ),
            "FG0204 @:88 the Host is changed by",
        ),
        (
            &format!(
                "filters: [{{ type: RequestHeaderModifier, requestHeaderModifier: {{ remove: [Connection] }} }}], {CRM}"
            ),
            "FG0204 @:88 `connection` belongs to the connection",
        ),
        (
            &format!("timeouts: {{ request: 1s, backendRequest: 2s }}, {CRM}"),
            "FG0302 @:54 backendRequest is longer than request",
        ),
        (
            &format!(
                "matches: [{{}}, {{}}], filters: [{{ type: URLRewrite, urlRewrite: {{ path: {{ type: ReplacePrefixMatch, replacePrefixMatch: / }} }} }}], {CRM}"
            ),
            "FG0204 @:90 a prefix is replaced only where",
        ),
    ] {
        let text = format!("{BASE}{}", route("web", &format!("rules: [{{ {rule} }}]")));
        let got = faults(&text);
        let want = want.replace('@', &line.to_string());
        if got.len() != 1 || !got[0].starts_with(&want) {
            differences.push(format!("  rules: [{{ {rule}\n{got:#?}\nwanted {want}\n"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_fault_of_every_document_is_told_at_once() {
    let text = format!(
        "{BASE}{}{}",
        route("a", "hostname: []\nrules: [{ name: B }]"),
        route("b", &format!("parentRefs: []\nrules:\n- {CRM}")).replace("  parentRefs: []\n", "")
    ) + "a: [\n---\n"
        + &upstream("{ endpoints: [x], idle: 1 }");
    let got = faults(&text);
    let codes: Vec<&str> = got.iter().map(|line| &line[..6]).collect();
    assert_eq!(codes, ["FG0102", "FG0116", "FG0101", "FG0201", "FG0301", "FG0102"], "{got:#?}");
}

#[test]
fn a_faulty_document_still_lends_its_name() {
    let text = BASE.replace("endpoints: ['crm:80']", "endpoints: ['crm:80'], nonsense: 1")
        + &route("web", &format!("rules: [{{ {CRM} }}]"));
    assert_eq!(faults(&text), ["FG0102 9:32 unknown field `nonsense`"]);
}

#[test]
fn a_route_that_nothing_protects_is_refused() {
    let text = BASE.replace("insecure: { anonymous: true }", "addresses: { allow: [10.0.0.0/8] }")
        + &route("web", &format!("rules: [{{ {CRM} }}]"));
    let got = faults(&text);
    assert!(got.len() == 1 && got[0].starts_with("FG0303 14:1 "), "{got:#?}");
    let text = BASE.replace("kind: Gateway, name: edge", "kind: HTTPRoute, name: other")
        + &route("web", &format!("rules: [{{ {CRM} }}]"))
        + &route("other", &format!("rules: [{{ {CRM} }}]"));
    let got = faults(&text);
    assert!(got.len() == 1 && got[0].contains("no policy targets the route `web`"), "{got:#?}");
}

#[test]
fn faults_of_policies_point_into_expressions_and_lists() {
    let policy = |spec: &str| {
        BASE.replace("  insecure: { anonymous: true }\n", spec)
            + &route("web", &format!("rules: [{{ {CRM} }}]"))
    };
    let got = faults(&policy(
        "  addresses: { deny: [10.0.0.0/8, 10.0.0.1, 10.0.0.0/40] }\n  authorize: [{ name: all, allow: 'true && reqest.method == \"GET\"' }]\n",
    ));
    assert_eq!(got.len(), 2, "{got:#?}");
    assert!(got[0].starts_with("FG0116 16:35 `10.0.0.1` is not a network"), "{got:#?}");
    let got = faults(&policy("  authorize: [{ name: all, allow: 'true && reqest.method == \"GET\"' }]\n"));
    assert_eq!(got.len(), 1, "{got:#?}");
    assert!(got[0].starts_with("FG0402 16:44 "), "{got:#?}");
    let enrich = "  authorize: [{ name: all, allow: 'true' }]\n  enrich: [{ name: lead, model: led-score, deadline: 3ms, set: { header: x-s } }]\n";
    let model = |path: &str| {
        policy(enrich)
            + "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead-score }\nspec: { bundle: { path: "
            + path
            + " } }\n"
    };
    let got = faults(&model("models/lead"));
    assert_eq!(got, ["FG0304 17:33 there is no Model named `led-score`"]);
    let got = faults(&model("broken").replace("led-score", "lead-score"));
    assert_eq!(got, ["FG0501 29:25 the golden vectors differ"]);
}

#[test]
fn people_see_the_line_a_caret_and_advice() {
    let faults = compiled(&upstream("{ endpoints: ['ü:1'], protocl: Http2 }")).unwrap_err();
    let unknown = faults.iter().find(|fault| fault.code == codes::UNKNOWN_FIELD).unwrap().clone();
    assert_eq!(
        render(std::slice::from_ref(&unknown), Format::Human { color: false }),
        "\
error[FG0102]: unknown field `protocl`
 --> policies/edge.yaml:4:26
  |
4 | spec: { endpoints: ['ü:1'], protocl: Http2 }
  |                             ^^^^^^^
  |
help: did you mean `protocol`?

"
        .replace("4:26", "4:29")
    );
    assert!(render(std::slice::from_ref(&unknown), Format::Human { color: true }).contains('\u{1b}'));
    let github = render(std::slice::from_ref(&unknown), Format::Github);
    assert_eq!(
        github,
        "::error file=policies/edge.yaml,line=4,col=29,endLine=4,endColumn=36,title=FG0102::unknown field `protocl`; did you mean `protocol`?\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&render(std::slice::from_ref(&unknown), Format::Json)).unwrap();
    assert_eq!((&json["code"], &json["column"]), (&"FG0102".into(), &29.into()));
    let sarif: serde_json::Value = serde_json::from_str(&render(&[unknown], Format::Sarif)).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "FG0102");
    assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"][0]["id"], "FG0102");
}

#[test]
fn a_word_in_place_of_a_mapping_is_told_what_the_mapping_holds() {
    let faults = compiled(&upstream("{ endpoints: ['a:1'], tls: Simple }")).unwrap_err();
    let wrong = faults.iter().find(|fault| fault.code == codes::TYPE).unwrap();
    assert_eq!(wrong.message, "a mapping is wanted here, not a string");
    let help = wrong.help.as_deref().unwrap();
    assert!(help.starts_with("known fields here: ") && help.contains("mode"), "{help}");
}

#[test]
fn documents_and_cases_stand_in_files_of_their_own() {
    let mut sources = sources(BASE);
    sources.add("policies/edge.cases.yaml".into(), upstream("{}"));
    assert_eq!(brief(&sources.faults), ["FG0115 2:7 Upstream documents do not belong in this file"]);
}
