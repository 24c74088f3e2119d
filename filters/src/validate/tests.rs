//! What gets past `validate`, and as what.

use std::sync::Arc;

use bytes::Bytes;
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::json;

use crate::body_memory::BodyMemory;
use crate::reason::Reason;
use crate::testing::{Call, TestResources, block_on, build, build_all, check, faults, get, run, verdict};
use crate::validate::decode::tests::gzip;
use crate::verdict::Reply;

const OPEN: &str = "insecure: { anonymous: true }\n";
const LEAD: &str = r"
insecure: { anonymous: true }
validate:
  body:
    schema:
      inline:
        type: object
        required: [LastName]
        properties: { LastName: { type: string, maxLength: 10 }, AnnualRevenue: { type: number, minimum: 0 } }
        additionalProperties: false
    maxSize: 200B
";

fn post(body: impl Into<Bytes>) -> Call {
    let body = body.into();
    let length = body.len().to_string();
    get("/leads")
        .method("POST")
        .header("content-type", "application/json")
        .header("content-length", length)
        .body(body)
}

/// What would be sent on, with the content coding that it would have.
fn sent(policy: &str, call: &Call) -> (String, bool) {
    let chain = build(policy, &TestResources::default()).unwrap();
    let (ctx, outcome) = run(&chain, call);
    assert_eq!(outcome, Ok(()), "{call:?}");
    let body = String::from_utf8_lossy(ctx.body.as_deref().unwrap_or_default()).into_owned();
    let mut headers = call.head().headers;
    for edit in &ctx.edits.request {
        edit.apply(&mut headers);
    }
    (body, headers.contains_key("content-encoding") || headers.contains_key("content-digest"))
}

#[test]
fn bodies_are_well_formed_and_of_their_schema() {
    for (call, expected) in [
        (post(r#"{"LastName":"Okafor"}"#), "continue"),
        (post(r#"{"LastName":"Okafor","AnnualRevenue":1.5}"#), "continue"),
        (post(r#"{"LastName":"Okafor","LastName":"x"}"#), "admit: BodyInvalid by body"),
        (post(r#"{"LastName":"Okafor","L\u0061stName":"x"}"#), "admit: BodyInvalid by body"),
        (post(&b"{\"LastName\":\"\xff\"}"[..]), "admit: BodyInvalid by body"),
        (post("[]"), "admit: SchemaViolation by body"),
        (post(r#"{"LastName":"Okafor","other":1}"#), "admit: SchemaViolation by body"),
        (post(""), "admit: BodyInvalid by body"),
        (post(" ".repeat(201)), "admit: BodyTooLarge by body"),
        (get("/leads"), "continue"),
        (post("{}").header("content-type", "text/plain"), "admit: MediaTypeUnsupported by body"),
        (get("/").method("POST").body("{}"), "admit: MediaTypeUnsupported by body"),
        (
            get("/").method("PUT").header("content-type", "text/plain").body("{}"),
            "admit: MediaTypeUnsupported by body",
        ),
    ] {
        check(LEAD, &call, expected);
    }
}

#[test]
fn bounds_hold_without_a_word_about_them() {
    let policy = &format!("{OPEN}validate: {{}}");
    for (body, expected) in [
        ("{}".to_owned(), "continue"),
        (format!("{}{}", "[".repeat(32), "]".repeat(32)), "continue"),
        (format!("{}{}", "[".repeat(33), "]".repeat(33)), "admit: BodyInvalid by body"),
        (format!("[{}0]", "0,".repeat(1000)), "admit: BodyInvalid by body"),
        (format!("\"{}\"", "a".repeat(16 << 10)), "continue"),
        (format!("\"{}\"", "a".repeat((16 << 10) + 1)), "admit: BodyInvalid by body"),
        ("1".repeat(33), "admit: BodyInvalid by body"),
        ("\u{feff}{}".to_owned(), "admit: BodyInvalid by body"),
    ] {
        check(policy, &post(body), expected);
    }
    let narrow =
        &format!("{OPEN}validate: {{ body: {{ limits: {{ depth: 1, keys: 1, string: 3B, number: 2 }} }} }}");
    check(narrow, &post(r#"{"abc":12}"#), "continue");
    for body in [r#"{"a":1,"b":2}"#, r#"{"a":[]}"#, r#"{"abcd":1}"#, r#"{"a":123}"#] {
        check(narrow, &post(body), "admit: BodyInvalid by body");
    }
}

#[test]
fn encoded_bodies_are_checked_as_what_they_are_and_sent_on_so() {
    let lead = r#"{"LastName":"Okafor"}"#;
    for (packed, coding) in
        [(gzip(lead.as_bytes()), "gzip"), (compress_to_vec_zlib(lead.as_bytes(), 6), "deflate")]
    {
        let call = post(packed).header("content-encoding", coding).header("content-digest", "sha-256=:x:");
        assert_eq!(sent(LEAD, &call), (lead.to_owned(), false));
    }
    assert_eq!(sent(LEAD, &post(lead)), (lead.to_owned(), false));
    for (body, coding, expected) in [
        (gzip(br#"{"LastName":1}"#), "gzip", "admit: SchemaViolation by body"),
        (gzip(&[b' '; 201]), "gzip", "admit: BodyTooLarge by body"),
        (gzip(lead.as_bytes()), "br", "admit: BodyEncoded by body"),
        (gzip(lead.as_bytes()), "gzip, gzip", "admit: BodyEncoded by body"),
        (lead.as_bytes().to_vec(), "gzip", "admit: BodyInvalid by body"),
    ] {
        check(LEAD, &post(body).header("content-encoding", coding), expected);
    }
    let audit = LEAD.replace("validate:\n", "validate:\n  mode: audit\n");
    let packed = gzip(lead.as_bytes());
    let call = post(packed.clone()).header("content-encoding", "gzip");
    assert_eq!(sent(&audit, &call), (String::from_utf8_lossy(&packed).into_owned(), true));
}

#[test]
fn audit_tells_and_lets_pass() {
    let audit = LEAD.replace("validate:\n", "validate:\n  mode: audit\n");
    let chain = build(&audit, &TestResources::default()).unwrap();
    let (ctx, outcome) = run(&chain, &post(r#"{"LastName":"a secret value"}"#));
    assert_eq!(outcome, Ok(()));
    let told: Vec<String> =
        ctx.audits.iter().map(|fact| format!("{} {}: {}", fact.step, fact.rule, fact.detail)).collect();
    assert_eq!(told, ["admit body: SchemaViolation: body /LastName maxLength"]);
}

#[test]
fn refusals_tell_places_and_rules_and_no_value() {
    let chain = build(LEAD, &TestResources::default()).unwrap();
    let refused =
        run(&chain, &post(r#"{"LastName":"a secret value","AnnualRevenue":-77}"#)).1.unwrap_err().reply;
    let told: Vec<_> = refused.violations.iter().map(|it| (it.within, &*it.pointer, it.keyword)).collect();
    assert_eq!(told, [("body", "/LastName", "maxLength"), ("body", "/AnnualRevenue", "minimum")]);
    assert_eq!(&*refused.detail, "body /LastName maxLength; body /AnnualRevenue minimum");
    let all = format!("{refused:?}");
    assert!(!all.contains("secret") && !all.contains("77"), "{all}");
    let many = r#"{"LastName":"a","#.to_owned()
        + &(0..30).map(|number| format!("\"k{number}\":0")).collect::<Vec<_>>().join(",")
        + "}";
    let wide = LEAD.replace("200B", "1KiB");
    let chain = build(&wide, &TestResources::default()).unwrap();
    assert_eq!(run(&chain, &post(many)).1.unwrap_err().reply.violations.len(), 16);
}

#[test]
fn a_shadow_judges_bodies_only_where_they_are_there() {
    let shadow = format!("mode: shadow\n{LEAD}");
    let fact = |policies: &[&str], call: &Call| {
        let chain = build_all(policies, &TestResources::default()).unwrap();
        let (ctx, outcome) = run(&chain, call);
        assert_eq!(outcome, Ok(()));
        ctx.shadows[0].verdict.name()
    };
    let bad = post("[]");
    // The tests hand bodies to every chain: a gateway does so only where a policy in force asks for them.
    assert_eq!(fact(&[OPEN, &shadow], &bad), "refuse");
    assert_eq!(fact(&["insecure: { anonymous: true }\nvalidate: {}", &shadow], &bad), "refuse");
    let chain = build_all(&[OPEN, &shadow], &TestResources::default()).unwrap();
    assert_eq!(chain.body(), crate::filter::BodyNeed::None);
    let (head, mut ctx) = (bad.head(), bad.context());
    assert_eq!(crate::testing::block_on(chain.run_body(&head, &mut ctx)), Ok(()));
    assert_eq!(ctx.shadows[0].verdict.name(), "undecided");
}

#[test]
fn what_cannot_be_checked_is_a_fault() {
    for (validate, expected) in [
        ("{ body: { schema: {} } }", "FG0302 spec.validate.body.schema: a schema is either a file or inline"),
        (
            "{ body: { schema: { file: none.json } } }",
            "FG0305 spec.validate.body.schema.file: no file none.json",
        ),
        (
            "{ body: { schema: { inline: { properties: { a: { pattern: '(?=a)' } } } } } }",
            "FG0691 spec.validate.body.schema.inline.properties.a.pattern: the pattern cannot be read: look-around, including look-ahead and look-behind, is not supported",
        ),
        (
            "{ body: { schema: { inline: { format: zip }  }, formats: true } }",
            "FG0693 spec.validate.body.schema.inline.format: a format that is not checked; those that are: date-time, date, time, duration, email, hostname, ipv4, ipv6, uri, uri-reference, uuid, json-pointer, regex, int32, int64",
        ),
        (
            "{ body: { contentTypes: [text/csv] } }",
            "FG0695 spec.validate.body.contentTypes[0]: a media type in JSON, such as application/json, is asked for",
        ),
        (
            "{ body: { maxSize: 17MiB } }",
            "FG0301 spec.validate.body.maxSize: the size must be between 1B and 16MiB",
        ),
        (
            "{ body: { limits: { depth: 65 } } }",
            "FG0301 spec.validate.body.limits.depth: depth must be from 1 to 64",
        ),
        ("{ openapi: { file: none.yaml } }", "FG0305 spec.validate.openapi.file: no file none.yaml"),
    ] {
        assert_eq!(faults(&format!("{OPEN}validate: {validate}")), [expected], "{validate}");
    }
    let both = format!("{OPEN}validate: {{}}");
    let told = build_all(&[&both, &both], &TestResources::default()).unwrap_err();
    assert_eq!(
        told[0].fault.message,
        "validate is already in policy policy-0, which applies to the same route"
    );
}

#[test]
fn a_contract_and_a_schema_may_stand_side_by_side() {
    let resources = TestResources {
        files: [(
            "crm.yaml".to_owned(),
            json!({ "openapi": "3.1.0", "paths": { "/leads": { "post": {
                "requestBody": { "content": { "application/json": { "schema": { "required": ["Company"] } } } },
                "responses": { "200": { "description": "x" } }
            } } } }),
        )]
        .into(),
        ..TestResources::default()
    };
    let policy = r"
insecure: { anonymous: true }
validate: { body: { schema: { inline: { required: [LastName] } } }, openapi: { file: crm.yaml } }
";
    let chain = build(policy, &resources).unwrap();
    for (body, expected) in [
        (r#"{"LastName":"a","Company":"b"}"#, "continue"),
        (r#"{"Company":"b"}"#, "admit: SchemaViolation by body"),
        (r#"{"LastName":"a"}"#, "admit: SchemaViolation by openapi"),
    ] {
        assert_eq!(verdict(&chain, &post(body)), expected, "{body}");
    }
}

/// Takes bodies of at most so many bytes.
#[derive(Debug)]
struct Small(usize);

impl BodyMemory for Small {
    fn hold(self: Arc<Self>, body: Bytes) -> Result<Bytes, Box<Reply>> {
        if body.len() > self.0 { Err(Box::new(Reply::new(Reason::BodyMemoryExhausted))) } else { Ok(body) }
    }
}

#[test]
fn a_body_that_is_decoded_is_held_or_refused() {
    let chain = build(LEAD, &TestResources::default()).unwrap();
    let body = br#"{"LastName":"Okafor"}"#;
    let call = post(gzip(body)).header("content-encoding", "gzip");
    for (room, expected) in [(body.len(), Ok(())), (body.len() - 1, Err(Reason::BodyMemoryExhausted))] {
        let mut ctx = call.context();
        ctx.body = Some(call.body.clone());
        ctx.body_memory = Some(Arc::new(Small(room)));
        let outcome = block_on(chain.run_body(&call.head(), &mut ctx));
        assert_eq!(outcome.map_err(|refusal| refusal.reply.reason), expected);
        assert_eq!(ctx.decoded, expected.is_ok());
    }
}
