//! Requests with keys, against a ledger in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::answer::Answer;
use super::ledger::{Asked, Claim, Digest, Found, Later, Ledger, Unavailable};
use super::{First, Once};
use crate::context::RequestContext;
use crate::testing::{Call, TestResources, build, faults, get, run};

#[derive(Debug)]
enum State {
    Running(Digest),
    Done(Digest, Option<Arc<Answer>>),
}

/// Keeps everything, for ever.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<HashMap<Digest, State>>>);

#[derive(Debug)]
struct Held {
    kept: Kept,
    asked: Asked,
}

impl Claim for Held {
    fn finish(self: Box<Self>, answer: Option<Arc<Answer>>) {
        let done = State::Done(self.asked.fingerprint, answer);
        self.kept.0.lock().unwrap().insert(self.asked.key, done);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut kept = self.kept.0.lock().unwrap();
        if matches!(kept.get(&self.asked.key), Some(State::Running(_))) {
            kept.remove(&self.asked.key);
        }
    }
}

impl Ledger for Kept {
    fn claim<'a>(&'a self, asked: &'a Asked) -> Later<'a, Result<Found, Unavailable>> {
        let mut kept = self.0.lock().unwrap();
        let found = match kept.get(&asked.key) {
            Some(State::Running(fingerprint)) => Found::Running(*fingerprint),
            Some(State::Done(fingerprint, answer)) => Found::Done(*fingerprint, answer.clone()),
            None => {
                kept.insert(asked.key, State::Running(asked.fingerprint));
                Found::Free(Box::new(Held { kept: self.clone(), asked: asked.clone() }))
            }
        };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn ended<'a>(&'a self, _: &'a Digest, until: Duration) -> Later<'a, bool> {
        // Once, so that a test can end.
        assert_eq!(until, Duration::from_secs(1_060));
        self.0.lock().unwrap().clear();
        Box::pin(std::future::ready(true))
    }
}

/// A ledger that nobody can ask.
#[derive(Debug)]
struct Gone;

impl Ledger for Gone {
    fn claim<'a>(&'a self, _: &'a Asked) -> Later<'a, Result<Found, Unavailable>> {
        Box::pin(std::future::ready(Err(Unavailable("down".into()))))
    }

    fn ended<'a>(&'a self, _: &'a Digest, _: Duration) -> Later<'a, bool> {
        Box::pin(std::future::ready(false))
    }
}

fn with(ledger: impl Ledger + 'static) -> TestResources {
    TestResources { ledger: Some(Arc::new(ledger)), ..TestResources::default() }
}

const OPEN: &str = "insecure: { anonymous: true }\n";
const ONE: &str = "insecure: { anonymous: true }\nidempotency: { scope: 'request.headers[\"x-org\"]' }";

fn post(key: &str, org: &str, body: &'static str) -> Call {
    get("/leads?x=1").method("POST").header("idempotency-key", key).header("x-org", org).body(body)
}

/// What one request meets: `first 1` with the number of claims, `again`, or the refusal.
fn meets(chain: &crate::chain::Chain, call: &Call) -> (String, RequestContext) {
    let (ctx, outcome) = run(chain, call);
    let told = match (outcome, ctx.once.as_deref()) {
        (Err(refusal), _) => format!("{}: {} by {}", refusal.step, refusal.reply.reason, refusal.reply.rule),
        (Ok(()), Some(Once::First(first))) => format!("first {}", first.claims.len()),
        (Ok(()), Some(once)) => once.name().to_owned(),
        (Ok(()), None) => "passes".to_owned(),
    };
    (told, ctx)
}

/// Carries a first request out.
fn finish(ctx: RequestContext, answer: Option<&Arc<Answer>>) {
    let Some(Once::First(First { claims, .. })) = ctx.once.map(|once| *once) else {
        panic!("no first request")
    };
    for claim in claims {
        claim.finish(answer.cloned());
    }
}

fn created() -> Arc<Answer> {
    Arc::new(Answer { status: StatusCode::CREATED, headers: HeaderMap::new(), body: "made".into() })
}

#[test]
fn a_request_is_carried_out_once_and_a_repeat_gets_its_answer() {
    let chain = build(ONE, &with(Kept::default())).unwrap();
    let (told, ctx) = meets(&chain, &post("k", "a", "{}"));
    assert_eq!(told, "first 1");
    assert_eq!(meets(&chain, &post("k", "a", "{}")).0, "decide: IdempotencyConflict by idempotency");
    finish(ctx, Some(&created()));
    let (told, ctx) = meets(&chain, &post("\"k\"", "a", "{}"));
    assert_eq!(told, "replayed");
    assert!(matches!(ctx.once.as_deref(), Some(Once::Again(answer)) if answer.body == "made"));
}

#[test]
fn a_first_request_that_is_given_up_frees_its_key() {
    let chain = build(ONE, &with(Kept::default())).unwrap();
    let (_, ctx) = meets(&chain, &post("k", "a", "{}"));
    drop(ctx);
    let (told, ctx) = meets(&chain, &post("k", "a", "{}"));
    assert_eq!(told, "first 1");
    finish(ctx, None);
    assert_eq!(meets(&chain, &post("k", "a", "{}")).0, "decide: IdempotencyAnswerGone by idempotency");
}

#[test]
fn another_payload_under_the_same_key_is_told_apart_and_other_scopes_never_meet() {
    let chain = build(ONE, &with(Kept::default())).unwrap();
    let (_, first) = meets(&chain, &post("k", "a", "{}"));
    let reused = "decide: IdempotencyKeyReused by idempotency";
    assert_eq!(meets(&chain, &post("k", "a", "{ }")).0, reused);
    finish(first, Some(&created()));
    let other = |uri: &str| Call { uri: uri.to_owned(), ..post("k", "a", "{}") };
    for call in
        [post("k", "a", "{ }"), post("k", "a", "{}").method("PATCH"), other("/leads?x=2"), other("/lead")]
    {
        assert_eq!(meets(&chain, &call).0, reused, "{call:?}");
    }
    assert_eq!(meets(&chain, &post("k", "b", "{ }")).0, "first 1");
    assert_eq!(meets(&chain, &post("l", "a", "{ }")).0, "first 1");
    assert_eq!(meets(&chain, &post("k", "a", "{}").method("PUT")).0, "passes");
    assert_eq!(meets(&chain, &get("/")).0, "passes");
}

#[test]
fn a_missing_or_malformed_key_is_told_where_one_is_required() {
    let chain = build(ONE, &with(Kept::default())).unwrap();
    let call = get("/").method("POST").header("x-org", "a");
    assert_eq!(meets(&chain, &call).0, "decide: IdempotencyKeyMissing by idempotency");
    let twice = post("a", "a", "").header("idempotency-key", "b");
    assert_eq!(meets(&chain, &twice).0, "decide: IdempotencyKeyInvalid by idempotency");
    assert_eq!(
        meets(&chain, &get("/").method("POST").header("idempotency-key", "k")).0,
        "decide: RuleError by idempotency"
    );
    let optional = ONE.replace("{ scope", "{ required: false, scope");
    let chain = build(&optional, &with(Kept::default())).unwrap();
    assert_eq!(meets(&chain, &call).0, "passes");
    assert_eq!(meets(&chain, &twice).0, "decide: IdempotencyKeyInvalid by idempotency");
}

#[test]
fn without_a_scope_keys_belong_to_whoever_is_identified() {
    let policy = "authorize: [{ name: all, allow: 'true' }]\napiKey: {}\nidempotency: {}";
    let kept = Kept::default();
    let resources = with(kept).consumer("sales", &[]).consumer("other", &[]);
    let chain = build(policy, &resources).unwrap();
    let call = |name: &str| post("k", "a", "{}").header("x-api-key", resources.key(name));
    let first = meets(&chain, &call("sales"));
    assert_eq!(first.0, "first 1");
    assert_eq!(meets(&chain, &call("other")).0, "first 1");
    assert_eq!(meets(&chain, &call("sales")).0, "decide: IdempotencyConflict by idempotency");
    let nobody = build(&format!("{OPEN}idempotency: {{}}"), &with(Kept::default())).unwrap();
    assert_eq!(meets(&nobody, &post("k", "a", "{}")).0, "decide: RuleError by idempotency");
}

#[test]
fn a_repeat_waits_where_the_policy_says_so() {
    let policy = ONE.replace("{ scope", "{ concurrent: Wait, scope");
    let chain = build(&policy, &with(Kept::default())).unwrap();
    let (_, _first) = meets(&chain, &post("k", "a", "{}"));
    assert_eq!(meets(&chain, &post("k", "a", "{}")).0, "first 1");
}

#[test]
fn a_ledger_that_cannot_be_asked_refuses_unless_the_policy_goes_on() {
    let chain = build(ONE, &with(Gone)).unwrap();
    assert_eq!(meets(&chain, &post("k", "a", "")).0, "decide: IdempotencyUnavailable by idempotency");
    let policy = ONE.replace("{ scope", "{ onError: continue, scope");
    let chain = build(&policy, &with(Gone)).unwrap();
    assert_eq!(meets(&chain, &post("k", "a", "")).0, "unguarded");
}

fn envelope(ids: &[&str]) -> String {
    let one = |id: &&str| format!("<Notification><Id>{id}</Id></Notification>");
    let all: String = ids.iter().map(one).collect();
    format!(
        "<e:Envelope><e:Body><notifications><OrganizationId>00D5e000000AbCd</OrganizationId>{all}</notifications></e:Body></e:Envelope>"
    )
}

#[test]
fn of_an_outbound_message_what_was_taken_before_is_taken_out() {
    let policy = format!("{OPEN}idempotency: {{ key: {{ salesforce: Notification }}, scope: '\"orgs\"' }}");
    let chain = build(&policy, &with(Kept::default())).unwrap();
    let call = |ids: &[&str]| get("/").method("POST").body(envelope(ids));
    let (a, b, c) = ("04l5e0000009abc", "04l5e0000009abd", "04l5e0000009abe");
    let (told, first) = meets(&chain, &call(&[a, b]));
    assert_eq!(told, "first 2");
    assert!(first.edits.body.is_empty());
    // One of them is on its way: the message comes again later.
    assert_eq!(meets(&chain, &call(&[c, a])).0, "decide: IdempotencyConflict by idempotency");
    finish(first, Some(&created()));
    assert_eq!(meets(&chain, &call(&[b])).0, "replayed");
    let (told, ctx) = meets(&chain, &call(&[b, c, a]));
    assert_eq!(told, "first 1");
    let body = crate::edits::splice(&envelope(&[b, c, a]).into(), &ctx.edits.body).unwrap();
    assert_eq!(body, envelope(&[c]));
    finish(ctx, Some(&created()));
    assert_eq!(meets(&chain, &call(&[a, b, c])).0, "replayed");
    for body in ["", "{}", "<a/>"] {
        let told = meets(&chain, &get("/").method("POST").body(body)).0;
        assert_eq!(told, "decide: IdempotencyKeyInvalid by idempotency", "{body}");
    }
    let zipped = call(&[a]).header("content-encoding", "gzip");
    assert_eq!(meets(&chain, &zipped).0, "decide: BodyEncoded by idempotency");
}

#[test]
fn an_event_is_known_by_its_uuid_however_it_is_wrapped() {
    let policy = format!("{OPEN}idempotency: {{ key: {{ salesforce: EventUuid }}, scope: '\"orgs\"' }}");
    let chain = build(&policy, &with(Kept::default())).unwrap();
    let id = "a2bca1a6-3d3a-4c1a-9d0e-1f2a3b4c5d6e";
    let bare = get("/").method("POST").body(format!(r#"{{"EventUuid":"{id}"}}"#));
    let wrapped = get("/").method("POST").body(format!(r#"{{"event":{{"EventUuid":"{id}","replayId":2}}}}"#));
    let (told, ctx) = meets(&chain, &bare);
    assert_eq!(told, "first 1");
    finish(ctx, Some(&created()));
    assert_eq!(meets(&chain, &wrapped).0, "replayed");
    let missing = meets(&chain, &get("/").method("POST").body("{}")).0;
    assert_eq!(missing, "decide: IdempotencyKeyMissing by idempotency");
}

#[test]
fn what_cannot_be_meant_is_a_fault() {
    for (spec, expected) in [
        ("keep: 30s", "FG0301 spec.idempotency.keep: keep must be from 1m to 168h"),
        ("maxResponse: 5MiB", "FG0301 spec.idempotency.maxResponse: maxResponse must be from 1B to 768KiB"),
        (
            "key: { header: a, expression: request.path }",
            "FG0302 spec.idempotency.key: several places for the key are named",
        ),
        ("key: { expression: nope }", "FG0402 spec.idempotency.key.expression: unknown name nope"),
        ("scope: nope", "FG0402 spec.idempotency.scope: unknown name nope"),
        ("key: { header: 'a b' }", "FG0301 spec.idempotency.key.header: a b is not a header name"),
    ] {
        assert_eq!(faults(&format!("{OPEN}idempotency: {{ {spec} }}")), [expected], "{spec}");
    }
    let shadow = "mode: shadow\nauthorize: [{ name: all, allow: 'true' }]\nidempotency: {}";
    let wrong = crate::testing::build_all(&[OPEN, shadow], &TestResources::default()).unwrap_err();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].fault.message.starts_with("a policy in shadow mode"), "{wrong:?}");
}
