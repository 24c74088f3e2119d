//! Answers of authorization servers: which pass, which do not, how long they are believed.

use std::collections::HashMap;
use std::future::ready;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::introspector::{Introspector, NotAnswered};
use crate::testing::{Call, TestResources, build, faults, get, run, verdict};

const ENDPOINT: &str = "https://idp.example.com/introspect";
/// Whole seconds since the epoch at which every request of [`get`] comes.
const NOW: u64 = 500_000 * 3600;

/// Answers as a test says, and counts how often it is asked.
#[derive(Debug, Default)]
struct Server {
    /// `None`: it cannot be reached.
    answer: Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl Server {
    fn say(&self, answer: &Value) {
        *self.answer.lock().unwrap() = Some(answer.to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Introspector for Server {
    fn ask<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().unwrap().clone();
        Box::pin(ready(answer.map(Bytes::from).ok_or_else(|| NotAnswered("no answer in time".into()))))
    }
}

fn policy(more: &str) -> String {
    format!(
        "introspection:
- endpoint: {ENDPOINT}
  issuer: https://idp.example.com/
  audiences: [crm]
  clientAuth: {{ method: basic, clientId: gateway, secret: {{ env: SECRET }} }}
{more}
authorize: [{{ name: readers, allow: '\"crm.read\" in jwt.scopes' }}]
"
    )
}

struct Stand {
    server: Arc<Server>,
    chain: crate::chain::Chain,
}

impl Stand {
    fn new(policy: &str) -> Self {
        let server = Arc::new(Server::default());
        let introspectors: HashMap<_, _> =
            [(ENDPOINT.to_owned(), Arc::clone(&server) as Arc<dyn Introspector>)].into();
        let chain = build(policy, &TestResources { introspectors, ..TestResources::default() }).unwrap();
        Self { server, chain }
    }

    fn verdict(&self, call: &Call) -> String {
        verdict(&self.chain, call)
    }
}

fn bearing(token: &str) -> Call {
    get("/").header("authorization", format!("Bearer {token}"))
}

/// A good answer, with these members changed; one of null is left out.
fn answer(changes: &Value) -> Value {
    let mut all =
        json!({ "active": true, "scope": "crm.read", "aud": "crm", "sub": "maya", "exp": NOW + 600 });
    let members = all.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    all
}

const INVALID: &str = "identify: TokenInvalid by https://idp.example.com/";

#[test]
fn an_active_token_makes_the_principal_that_rules_and_headers_read() {
    let stand = Stand::new(&policy("  claimsToHeaders: [{ claim: org.id, header: x-org }]"));
    stand.server.say(&answer(&json!({ "org": { "id": "acme" }, "token_type": "Bearer" })));
    let (ctx, outcome) = run(&stand.chain, &bearing("opaque").header("x-org", "evil"));
    assert_eq!(outcome, Ok(()));
    let principal = ctx.principal.unwrap();
    assert_eq!((&*principal.issuer, &*principal.subject), ("https://idp.example.com/", "maya"));
    assert_eq!((principal.expires, &*principal.scopes), (NOW + 600, &["crm.read".into()][..]));
    assert!(!principal.claims.contains_key("active"));
    let mut headers = bearing("opaque").header("x-org", "evil").head().headers;
    ctx.edits.request.iter().for_each(|edit| edit.apply(&mut headers));
    assert_eq!(headers.get("x-org").unwrap(), "acme");
    assert!(!headers.contains_key("authorization"));
}

#[test]
fn whatever_an_answer_lacks_refuses() {
    let good = [
        json!({}),
        json!({ "token_type": "bearer" }),
        json!({ "token_type": "access_token" }),
        json!({ "exp": null }),
        json!({ "aud": ["other", "crm"] }),
        json!({ "iss": "https://idp.example.com/" }),
        json!({ "scope": null, "scp": ["crm.read"] }),
    ];
    for changes in good {
        let stand = Stand::new(&policy(""));
        stand.server.say(&answer(&changes));
        assert_eq!(stand.verdict(&bearing("opaque")), "continue", "{changes}");
    }
    let bad = [
        json!({ "active": false }),
        json!({ "active": null }),
        json!({ "active": "true" }),
        json!({ "active": 1 }),
        json!({ "iss": "https://evil.example.com/" }),
        json!({ "iss": ["https://idp.example.com/"] }),
        json!({ "aud": "other" }),
        json!({ "aud": null }),
        json!({ "aud": { "crm": true } }),
        json!({ "exp": NOW - 31 }),
        json!({ "exp": "soon" }),
        json!({ "nbf": NOW + 60 }),
        json!({ "iat": NOW + 60 }),
        json!({ "token_type": "DPoP" }),
        json!({ "token_type": "refresh_token" }),
        json!({ "token_type": ["Bearer"] }),
        json!({ "cnf": { "jkt": "x" } }),
        json!({ "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode([1; 32]) } }),
        json!({ "sub": 7 }),
        json!({ "scope": { "crm.read": true } }),
    ];
    for changes in bad {
        let stand = Stand::new(&policy(""));
        stand.server.say(&answer(&changes));
        assert_eq!(stand.verdict(&bearing("opaque")), INVALID, "{changes}");
    }
}

#[test]
fn answers_that_are_none_are_an_outage_and_no_token_passes() {
    for text in
        ["", "[]", "null", "true", "{\"active\":true,\"active\":true}", "{\"active\":true}x", "<html>"]
    {
        let stand = Stand::new(&policy(""));
        *stand.server.answer.lock().unwrap() = Some(text.to_owned());
        let refused = "identify: IntrospectionUnavailable by https://idp.example.com/";
        assert_eq!(stand.verdict(&bearing("opaque")), refused, "{text}");
        let (_, outcome) = run(&stand.chain, &bearing("opaque"));
        let reply = outcome.unwrap_err().reply;
        assert_eq!(reply.headers[0].0, http::header::RETRY_AFTER);
        assert_eq!(stand.server.asked(), 2, "an outage is not remembered");
    }
}

#[test]
fn requests_without_a_sound_token_are_refused_without_asking() {
    let stand = Stand::new(&policy(""));
    let missing = "identify: TokenMissing by policy-0";
    assert_eq!(stand.verdict(&get("/?access_token=opaque")), missing);
    assert_eq!(stand.verdict(&get("/").header("authorization", "Basic b3BhcXVl")), missing);
    for token in ["", "a, Bearer b", "\"a\"", "a;b", "a\\b", &"a".repeat((16 << 10) + 1)] {
        assert_eq!(stand.verdict(&bearing(token)), "identify: TokenInvalid by policy-0", "{token}");
    }
    let twice = bearing("a").header("authorization", "Bearer a");
    assert_eq!(stand.verdict(&twice), "identify: TokenInvalid by policy-0");
    assert_eq!(stand.server.asked(), 0);
}

#[test]
fn answers_are_believed_for_a_while_and_never_beyond_exp() {
    let stand = Stand::new(&policy("  cache: { max: 10m, negative: 5s }"));
    stand.server.say(&answer(&json!({ "exp": NOW + 60 })));
    let call = bearing("opaque");
    assert_eq!(stand.verdict(&call), "continue");
    stand.server.say(&json!({ "active": false }));
    assert_eq!(stand.verdict(&call.clone().after(Duration::from_secs(59))), "continue");
    assert_eq!(stand.server.asked(), 1);
    // With the tolerated difference of clocks.
    assert_eq!(stand.verdict(&call.clone().after(Duration::from_secs(90))), INVALID);
    assert_eq!(stand.server.asked(), 2);
    // Five seconds, less a fifth at most.
    assert_eq!(stand.verdict(&call.clone().after(Duration::from_secs(93))), INVALID);
    assert_eq!(stand.server.asked(), 2, "no is remembered too");
    stand.server.say(&answer(&json!({ "exp": null })));
    assert_eq!(stand.verdict(&call.clone().after(Duration::from_secs(95))), "continue");
    // The longest time less a fifth at most.
    assert_eq!(stand.verdict(&call.clone().after(Duration::from_secs(95 + 479))), "continue");
    assert_eq!(stand.server.asked(), 3);
    stand.server.say(&json!({ "active": false }));
    assert_eq!(stand.verdict(&call.after(Duration::from_secs(95 + 600))), INVALID);
}

#[test]
fn an_outage_is_bridged_only_where_the_policy_says_so() {
    for (more, bridged) in [("", false), ("  onUnavailable: stale", true)] {
        let stand = Stand::new(&policy(more));
        stand.server.say(&answer(&json!({})));
        assert_eq!(stand.verdict(&bearing("known")), "continue");
        *stand.server.answer.lock().unwrap() = None;
        let unavailable = "identify: IntrospectionUnavailable by https://idp.example.com/";
        let expected = if bridged { "continue" } else { unavailable };
        let later = |seconds| bearing("known").after(Duration::from_secs(seconds));
        assert_eq!(stand.verdict(&later(61)), expected);
        assert_eq!(stand.verdict(&bearing("unknown")), unavailable);
        assert_eq!(stand.verdict(&later(631)), unavailable, "not beyond exp");
        stand.server.say(&json!({ "active": false }));
        assert_eq!(stand.verdict(&later(62)), INVALID, "an answer counts, whatever was known");
        *stand.server.answer.lock().unwrap() = None;
        assert_eq!(
            stand.verdict(&later(63 + 10)),
            unavailable,
            "a refused token is not stale, it is refused"
        );
    }
}

#[test]
fn a_bound_token_needs_its_certificate_on_every_use() {
    let stand = Stand::new(&policy("  requireBinding: true"));
    stand.server.say(&answer(&json!({ "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]) } })));
    let with = |thumbprint| Call { thumbprint, ..bearing("bound") };
    assert_eq!(stand.verdict(&with(Some([7; 32]))), "continue");
    assert_eq!(stand.verdict(&with(Some([8; 32]))), INVALID);
    assert_eq!(stand.verdict(&with(None)), INVALID);
    assert_eq!(stand.verdict(&with(Some([7; 32]))), "continue");
    assert_eq!(stand.server.asked(), 1);
    stand.server.say(&answer(&json!({})));
    assert_eq!(stand.verdict(&Call { thumbprint: Some([7; 32]), ..bearing("plain") }), INVALID);
}

#[test]
fn jwts_of_listed_issuers_are_verified_and_all_other_tokens_are_asked_about() {
    let jwt = "jwt: [{ issuer: https://jwt.example.com/, audiences: [crm], jwks: { file: keys } }]\n";
    let server = Arc::new(Server::default());
    let resources = TestResources {
        introspectors: [(ENDPOINT.to_owned(), Arc::clone(&server) as Arc<dyn Introspector>)].into(),
        keys: [("https://jwt.example.com/".to_owned(), Arc::new(NoKeys) as Arc<dyn crate::keys::Keys>)]
            .into(),
        ..TestResources::default()
    };
    let chain = build(&(policy("") + jwt), &resources).unwrap();
    server.say(&answer(&json!({})));
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let token = |header: Value, claims: Value| format!("{}.{}.AAAA", part(header), part(claims));
    let mine = json!({ "iss": "https://jwt.example.com/", "aud": "crm", "exp": NOW + 60 });
    for header in [json!({ "alg": "none" }), json!({ "alg": "ES256", "crit": ["b64"] }), json!([])] {
        let verdict = verdict(&chain, &bearing(&token(header.clone(), mine.clone())));
        assert!(verdict.starts_with("identify: TokenInvalid"), "{header}: {verdict}");
    }
    assert_eq!(server.asked(), 0, "a bad JWT has no second chance");
    for token in [
        token(json!({ "alg": "ES256" }), json!({ "iss": "https://other.example.com/" })),
        token(json!({ "alg": "ES256" }), json!({ "iss": ["https://jwt.example.com/"] })),
        "opaque".to_owned(),
        "a.b.c".to_owned(),
        "00Dxx0000001gPL!AQcAQJ.x_y".to_owned(),
    ] {
        assert_eq!(verdict(&chain, &bearing(&token)), "continue", "{token}");
    }
    assert_eq!(server.asked(), 5);
    assert_eq!(verdict(&chain, &get("/")), "identify: TokenMissing by policy-0");
}

#[derive(Debug)]
struct NoKeys;

impl crate::keys::Keys for NoKeys {
    fn current(&self) -> Option<Arc<crate::jwt::key_set::KeySet>> {
        None
    }

    fn may_refetch(&self, _: Option<&str>, _: crate::moment::Moment) -> bool {
        false
    }

    fn refetch<'a>(
        &'a self,
        _: Option<&'a str>,
        _: crate::moment::Moment,
    ) -> Pin<Box<dyn Future<Output = Option<Arc<crate::jwt::key_set::KeySet>>> + Send + 'a>> {
        Box::pin(ready(None))
    }
}

#[test]
fn every_fault_of_every_endpoint_is_told_at_once() {
    let auth = "clientAuth: { method: basic, clientId: a, secret: { env: A } }";
    let found = faults(&format!(
        "introspection:
- {{ endpoint: 'http://idp.example.com/', cache: {{ max: 2h, negative: 2m }}, {auth} }}
- {{ endpoint: 'https://idp.example.com/', scopesClaim: '', audiences: [''], {auth} }}
- {{ endpoint: 'https://idp.example.com/', issuer: a, clientAuth: {{ method: post, clientId: a }} }}
- {{ endpoint: 'https://idp.example.com/', issuer: a, {auth} }}
authorize: [{{ name: all, allow: 'jwt.sub != \"\"' }}]"
    ));
    assert_eq!(
        found,
        [
            "FG0303 spec.introspection[0].endpoint: secrets would go over plain http",
            "FG0301 spec.introspection[0].cache.max: the time must be between 1s and 3600s",
            "FG0301 spec.introspection[0].cache.negative: the time is over 60s",
            "FG0302 spec.introspection[1]: no token is ever asked about here: only the first entry may name no issuer",
            "FG0301 spec.introspection[1].audiences[0]: the audience is empty",
            "FG0301 spec.introspection[1].scopesClaim: the claim is not of 1 to 256 bytes",
            "FG0302 spec.introspection[2].clientAuth.method: this method needs `secret`",
            "FG0302 spec.introspection[3].issuer: this issuer is listed twice",
            "FG0310 spec.introspection[3]: nobody to ask",
        ]
    );
}
