//! What a sound folder compiles to, and what it is warned of.

use std::path::Path;
use std::time::Duration;

use foregate_policy::compile::{Options, compile};
use foregate_policy::documents::model::Placement;
use foregate_policy::route::Action;
use foregate_policy::snapshot::Concurrency;

use crate::materials::{BASE, CRM, Fake, brief, compiled, route, sources};

#[test]
fn a_sound_folder_compiles_without_warnings_and_its_revision_follows_the_text() {
    let text = format!("{BASE}{}", route("web", &format!("rules: [{{ name: all, {CRM} }}]")));
    let one = compiled(&text).unwrap();
    assert_eq!(brief(&one.warnings), [""; 0]);
    assert_eq!(one.revision.len(), 12);
    assert_eq!(one.revision, compiled(&text).unwrap().revision);
    assert_ne!(one.revision, compiled(&(text + "# more\n")).unwrap().revision);
    let listener = &one.listeners[0];
    assert_eq!((&*listener.gateway, &*listener.name, listener.port), ("edge", "http", 8080));
    assert_eq!(listener.address.to_string(), "0.0.0.0");
    let route = &one.routes.all()[0];
    assert_eq!((route.id, &*route.name, route.body_limit), (0, "web/all", 1 << 20));
    let upstream = &one.upstreams[0];
    assert_eq!(
        (upstream.connect_timeout, upstream.idle_timeout),
        (Duration::from_secs(2), Duration::from_mins(1))
    );
    assert_eq!((&*upstream.endpoints[0].host, upstream.endpoints[0].port), ("crm", 80));
}

#[test]
fn dead_documents_are_warned_of() {
    let text = format!(
        "{BASE}{}{}{}",
        route(
            "web",
            &format!(
                "rules:\n- {{ matches: [{{ path: {{ value: /a }} }}, {{ path: {{ value: /a/ }} }}], {CRM} }}\n- {{ matches: [{{ path: {{ value: /b }} }}], {CRM} }}"
            )
        ),
        route("zeb", &format!("rules: [{{ matches: [{{ path: {{ value: /b }} }}], {CRM} }}]")),
        "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: old }\nspec: { endpoints: ['old:80'] }\n\
         ---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: { name: idle }\nspec: {}\n\
         ---\napiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead-score }\nspec: { bundle: { path: m } }\n"
    );
    let codes: Vec<String> =
        compiled(&text).unwrap().warnings.iter().map(|fault| fault.code.to_string()).collect();
    assert_eq!(codes, ["FG0604", "FG0604", "FG0602", "FG0601", "FG0603"]);
    let detached = BASE.replace("port: 8080", "port: 8080, hostname: a.example.com")
        + &route("web", &format!("hostnames: [b.example.com]\nrules: [{{ {CRM} }}]"));
    let codes: Vec<String> =
        compiled(&detached).unwrap().warnings.iter().map(|fault| fault.code.to_string()).collect();
    assert_eq!(codes, ["FG0606", "FG0605"]);
}

#[test]
fn fairness_among_one_tenant_is_warned_of_and_concurrency_has_its_defaults() {
    let with = |fairness: &str, concurrency: &str| {
        let text = BASE
            .replace(
                "insecure: { anonymous: true }",
                &format!("insecure: {{ anonymous: true }}\n  fairness: {fairness}"),
            )
            .replace("endpoints: ['crm:80']", &format!("endpoints: ['crm:80']{concurrency}"));
        compiled(&(text + &route("web", &format!("rules: [{{ {CRM} }}]")))).unwrap()
    };
    let constant = with("{ key: '\"acme\"' }", "");
    assert_eq!(brief(&constant.warnings).len(), 1);
    assert!(brief(&constant.warnings)[0].starts_with("FG0717 "), "{:?}", constant.warnings);
    assert_eq!(constant.upstreams[0].concurrency, Concurrency::default());
    let forged = with("{ key: 'request.headers[\"x-tenant\"]' }", "");
    assert!(brief(&forged.warnings)[0].starts_with("FG0718 "), "{:?}", forged.warnings);
    let said = with("{ key: source.address }", ", concurrency: { max: 20, queue: { size: 0, wait: 1s } }");
    assert_eq!(brief(&said.warnings), [""; 0]);
    let (queue, wait) = (0, Duration::from_secs(1));
    assert_eq!(said.upstreams[0].concurrency, Concurrency { max: 20, min: 20, adaptive: true, queue, wait });
}

#[test]
fn claims_that_resemble_names_of_ours_are_warned_of() {
    let policy = |rule: &str| {
        BASE.replace(
            "  insecure: { anonymous: true }\n",
            &format!(
                "  jwt: [{{ issuer: https://idp.test, audiences: [crm], jwks: {{ file: none-yet.json }} }}]\n  authorize: [{{ name: a, allow: '{rule}' }}]\n"
            ),
        ) + &route("web", &format!("rules: [{{ {CRM} }}]"))
    };
    for (rule, told) in [
        (r#""crm.read" in jwt.scopez"#, "did you mean jwt.scopes?"),
        (r#"jwt.subjct == "ada""#, "did you mean jwt.subject?"),
        (r#"jwt.sub == "ada" || jwt.org_id == "x" || jwt.scope == "crm""#, ""),
        (r#"jwt.claims["scopez"] == "crm" && jwt.subject != "x""#, ""),
    ] {
        let warnings = compiled(&policy(rule)).unwrap().warnings;
        let helps: Vec<_> = warnings.iter().filter_map(|warning| warning.help.as_deref()).collect();
        assert_eq!(helps.len(), usize::from(!told.is_empty()), "{rule}: {warnings:?}");
        assert!(helps.iter().all(|help| help.starts_with(told)), "{rule}: {helps:?}");
    }
}

#[test]
fn a_feature_store_lies_beside_its_document_and_has_exactly_one_key() {
    let web = route("web", &format!("rules: [{{ {CRM} }}]"));
    let text = |key: &str| {
        let head = "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead-score }\n";
        let store = format!("featureStore: {{ path: f.redb, key: {{ {key} }}, inbox: in }}");
        format!("{BASE}{web}{head}spec: {{ bundle: {{ path: m }}, {store} }}\n")
    };
    let snapshot = compiled(&text("file: f.key")).unwrap();
    let folder = snapshot.models[0].versions[0].bundle.parent().unwrap();
    let features = snapshot.models[0].features.as_ref().unwrap();
    assert_eq!((&features.path, &features.inbox), (&folder.join("f.redb"), &Some(folder.join("in"))));
    let key = features.key.as_ref().unwrap().file.as_deref();
    assert_eq!(key, Some(&*folder.join("f.key").display().to_string()));
    for (key, message) in [("", "no secret is named"), ("file: f.key, env: KEY", "several secrets are named")]
    {
        let faults = brief(&compiled(&text(key)).unwrap_err());
        assert!(faults.len() == 1 && faults[0].ends_with(message), "{faults:?}");
    }
}

#[test]
fn a_model_is_placed_by_measure_unless_its_document_says_where() {
    let model = |more: &str| {
        let head = "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead-score }\n";
        format!("{head}spec: {{ bundle: {{ path: m }}{more} }}\n")
    };
    let web = route("web", &format!("rules: [{{ {CRM} }}]"));
    for (more, placement) in [
        ("", Placement::Auto),
        (", placement: Inline", Placement::Inline),
        (", placement: Threads", Placement::Threads),
        (", placement: Sidecar", Placement::Sidecar),
    ] {
        assert_eq!(compiled(&format!("{BASE}{web}{}", model(more))).unwrap().models[0].placement, placement);
    }
    let faults = compiled(&format!("{BASE}{web}{}", model(", placement: inline"))).unwrap_err();
    assert_eq!(brief(&faults).len(), 1, "{faults:?}");
    assert_eq!(faults[0].help.as_deref(), Some("did you mean `Inline`?"));
}

#[test]
fn certificates_files_and_port_zero_are_resolved() {
    let text = BASE
        .replace(
            "{ name: http, protocol: HTTP, port: 8080 }",
            "{ name: https, protocol: HTTPS, port: 0, tls: { certificateRefs: [{ name: web }] } }",
        )
        .replace("['crm:80']", "['crm:443'], tls: { mode: Simple, caFile: roots.pem }, protocol: Http2")
        + &route("web", &format!("rules: [{{ {CRM} }}]"));
    let snapshot =
        compile(&sources(&text), &Fake, Options { port_zero: true, ..Options::default() }).unwrap();
    let tls = snapshot.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].certificate, Path::new("policies/secrets/web/tls.crt"));
    let upstream = snapshot.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(upstream.ca_files, [Path::new("policies/roots.pem")]);
}

#[test]
fn a_route_on_two_gateways_obeys_the_policies_of_each() {
    let second = BASE
        .replace("name: edge", "name: inner")
        .replace("8080", "8081")
        .replace("name: open", "name: inner");
    let second = second.replace(
        "insecure: { anonymous: true }",
        "authorize: [{ name: none, allow: 'false' }]\n  body: { maxSize: 2KiB }",
    );
    let second =
        second.replace("kind: Upstream\nmetadata: { name: crm }", "kind: Upstream\nmetadata: { name: crm2 }");
    let text = format!("{BASE}{second}{}", route("web", &format!("rules: [{{ {CRM} }}]")))
        .replace("parentRefs: [{ name: edge }]", "parentRefs: [{ name: edge }, { name: inner }]");
    let snapshot = compiled(&text).unwrap();
    let chains: Vec<(usize, usize)> =
        snapshot.routes.all().iter().map(|route| (route.chain.steps().count(), route.body_limit)).collect();
    assert_eq!(chains, [(0, 1 << 20), (1, 2 << 10)]);
}

#[test]
fn weights_redirects_and_rewrites_are_compiled() {
    let rules = "rules:\n\
        - { matches: [{ path: { value: /a } }], backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm, weight: 3 }, { group: foregate.dev, kind: Upstream, name: crm }], filters: [{ type: URLRewrite, urlRewrite: { hostname: in.example.com, path: { type: ReplacePrefixMatch, replacePrefixMatch: /x } } }] }\n\
        - { matches: [{ path: { value: /b } }], filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }] }";
    let snapshot = compiled(&format!("{BASE}{}", route("web", rules))).unwrap();
    let [first, second] = snapshot.routes.all() else { panic!("two routes") };
    let Action::Forward(forward) = &first.action else { panic!("forwards") };
    let chosen: Vec<u32> = (0..5).map(|number| forward.choose(number).unwrap().weight).collect();
    assert_eq!(chosen, [3, 3, 3, 1, 3]);
    let path = forward.rewrite.path.as_ref().unwrap();
    assert_eq!(
        (path.apply("/a/b"), path.apply("/a"), path.apply("/a/")),
        ("/x/b".into(), "/x".into(), "/x/".into())
    );
    let Action::Redirect(redirect) = &second.action else { panic!("redirects") };
    assert_eq!(redirect.status.as_u16(), 301);
}

#[test]
fn a_route_knows_where_it_and_every_rule_of_its_policies_is_written() {
    let policy = |name: &str, kind: &str, target: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: {name} }}\nspec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: {kind}, name: {target} }}]
  authorize:
  - {{ name: readers, allow: 'request.method == \"GET\"' }}
  - name: internal
    deny: 'request.headers[\"x-{name}\"] == \"1\"'\n---\n"
        )
    };
    let (outer, inner) = (policy("outer", "Gateway", "edge"), policy("inner", "HTTPRoute", "web"));
    let text = [BASE, &outer, &inner, &route("web", &format!("rules:\n- {{ {CRM} }}\n"))].concat();
    let compiled = compiled(&text).unwrap();
    let description = &compiled.routes.all()[0].description;
    let line = |needle: &str| text[..text.find(needle).unwrap()].matches('\n').count() + 1;
    assert_eq!(*description.revision, *compiled.revision);
    assert_eq!(description.headers, ["x-inner", "x-outer"]);
    assert_eq!(description.upstreams[0].1.line, line("metadata: { name: crm }"));
    let told: Vec<_> = description
        .links
        .iter()
        .map(|link| {
            let rules: Vec<_> =
                link.rules.iter().map(|placed| (&*placed.rule.name, placed.at.line)).collect();
            (&*link.policy, link.filter, link.at.line, rules)
        })
        .collect();
    // The same names in both policies, each in its own place.
    let (outer, inner) = (line("name: outer"), line("name: inner"));
    let expected = [("outer", outer), ("inner", inner)]
        .map(|(name, at)| (name, "authorize", at + 3, vec![("readers", at + 4), ("internal", at + 5)]));
    assert!(told.ends_with(&expected), "{told:?}");
    assert!(
        description.route.line > inner && &*description.route.file == description.links[0].at.file.as_ref()
    );
}
