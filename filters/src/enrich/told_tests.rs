//! Classes, rankings, bands and reasons: policies as written, one request, what comes out.

use std::sync::Arc;

use http::HeaderMap;

use super::fixed::{Fixed, fixed};
use crate::context::RequestContext;
use crate::edits::splice;
use crate::score::{Detail, Item, Offer, Predictor, Reasons, ScoreFault};
use crate::testing::{Call, TestResources, build, check_with, get, run};

const HEAD: &str = "insecure: { anonymous: true }\nenrich:\n- { name: q, model: m, deadline: 5ms";

fn policy(set: &str) -> String {
    format!("{HEAD}, {set} }}\n")
}

fn item(key: &str, score: f32) -> Item {
    Item { key: key.into(), label: None, score }
}

/// A model that has everything to say.
fn talkative() -> Fixed {
    let detail = Detail {
        class: Some("Account access".into()),
        values: vec![0.8, 0.2],
        items: vec![item("SKU-1", 0.9), item("SKU-\"2\"", 0.5), item("SKU-3", 0.25)],
        reasons: Some(Reasons {
            base: 0.0,
            margin: 0.5,
            predictors: vec![Predictor {
                contribution: 0.5,
                label: "Visits".into(),
                name: "visits".into(),
                value: Some("14".into()),
            }],
        }),
    };
    let offer = Offer { classes: true, items: 3, reasons: true };
    Fixed { detail: Some(Box::new(detail)), offer: Some(offer), ..fixed(Ok(0.8)) }
}

fn resources(scorer: Fixed) -> TestResources {
    let mut resources = TestResources::default();
    resources.scorers.insert("m".to_owned(), Arc::new(scorer));
    resources
}

fn post(body: &str) -> Call {
    get("/").method("POST").header("content-type", "application/json").body(body.to_owned())
}

fn outcome(ctx: &RequestContext) -> (String, HeaderMap) {
    let body = splice(ctx.body.as_ref().unwrap(), &ctx.edits.body).unwrap();
    let mut headers = HeaderMap::new();
    ctx.edits.request.iter().for_each(|edit| edit.apply(&mut headers));
    (String::from_utf8(body.to_vec()).unwrap(), headers)
}

/// What the upstream gets: the body, and a header.
#[track_caller]
fn passes(set: &str, scorer: Fixed, call: &Call) -> (String, HeaderMap) {
    let chain = build(&policy(set), &resources(scorer)).unwrap();
    let (ctx, outcome_) = run(&chain, call);
    assert!(outcome_.is_ok(), "{set}: {outcome_:?}");
    outcome(&ctx)
}

#[test]
fn each_of_them_has_its_field_and_header_for_one_record_and_for_many() {
    let steps = "steps: [{ below: 0.3, name: cold }, { below: 0.9, name: 'warm, so' }, { name: hot }]";
    for (set, one, header) in [
        ("class: { body: /Queue, header: x-a }", r#""Queue":"Account access""#, "Account access"),
        (
            "ranking: { body: /Next, header: x-a }",
            r#""Next":["SKU-1","SKU-\"2\"","SKU-3"]"#,
            "SKU-1;SKU-%222%22;SKU-3",
        ),
        (
            "ranking: { body: /Next, header: x-a, count: 2, scores: true }",
            r#""Next":[{"key":"SKU-1","score":0.9},{"key":"SKU-\"2\"","score":0.5}]"#,
            "SKU-1;SKU-%222%22",
        ),
        ("ranking: { body: /Next, header: x-a, count: 1, asText: true }", r#""Next":"[\"SKU-1\"]""#, "SKU-1"),
        (&format!("band: {{ body: /Tier, header: x-a, {steps} }}"), r#""Tier":"warm, so""#, "warm%2C so"),
    ] {
        let (body, headers) = passes(&format!("set: {{ {set} }}"), talkative(), &post(r#"{"a":1}"#));
        assert_eq!((body, headers["x-a"].to_str().unwrap()), (format!(r#"{{{one},"a":1}}"#), header));
        let (body, headers) =
            passes(&format!("set: {{ {set} }}"), talkative(), &post(r#"{"records":[{"a":1},{}]}"#));
        assert_eq!(body, format!(r#"{{"records":[{{{one},"a":1}},{{{one}}}]}}"#));
        assert_eq!(headers["x-a"].to_str().unwrap(), format!("{header},{header}"));
    }
}

#[test]
fn all_of_them_stand_beside_the_score_and_replace_what_the_client_sent() {
    let set = "explain: { onRequest: x-explain }, set: { body: /S, header: x-s, class: { body: /Queue }, \
               ranking: { body: /Next, count: 1 }, band: { body: /Tier, steps: [{ name: all }] }, \
               reasons: { body: /Why, asText: true } }";
    let plain = r#""S":0.8,"Queue":"Account access","Next":["SKU-1"],"Tier":"all""#;
    let why = r#""Why":"[{\"contributionValue\":0.5,\"predictorFields\":[{\"label\":\"Visits\",\"name\":\"visits\",\"value\":14}]}]""#;
    for sent in [
        "{}",
        r#"{"S":1,"Queue":2,"Next":3,"Tier":4,"Why":5}"#,
        r#"{"Why":5,"a":1}"#,
        r#"{"a":1,"Why":5}"#,
        r#"{"a":1,"Queue":"x","Why":5}"#,
    ] {
        let rest = if sent.contains("\"a\"") { r#","a":1"# } else { "" };
        let (body, _) = passes(set, talkative(), &post(sent));
        assert_eq!(body, format!("{{{plain}{rest}}}"), "{sent}");
        let (body, headers) = passes(set, talkative(), &post(sent).header("x-explain", "True"));
        assert_eq!(body, format!("{{{plain},{why}{rest}}}"), "{sent}");
        assert_eq!(headers["x-s-status"], "scored");
    }
    let (body, _) = passes(set, talkative(), &post("{}").header("x-explain", "yes"));
    assert_eq!(body, format!("{{{plain}}}"));
}

#[test]
fn a_field_without_a_value_is_taken_out_all_the_same() {
    // Two rules of one policy, so that removals of both meet at one comma.
    let policy = "insecure: { anonymous: true }\nenrich:\n\
                  - { name: a, model: m, deadline: 5ms, explain: { onRequest: x-e }, set: { reasons: { body: /A } } }\n\
                  - { name: b, model: m, deadline: 5ms, explain: { onRequest: x-e }, set: { reasons: { body: /B } } }\n";
    let chain = build(policy, &resources(talkative())).unwrap();
    for (sent, left) in [
        (r#"{"A":5,"B":6,"x":0}"#, r#"{"x":0}"#),
        (r#"{"B":6,"A":5,"x":0}"#, r#"{"x":0}"#),
        (r#"{"A":5,"x":0,"B":6}"#, r#"{"x":0}"#),
        (r#"{"x":0,"A":5,"B":6}"#, r#"{"x":0}"#),
        (r#"{"A":5,"B":6}"#, "{}"),
        (r#"{"A":5}"#, "{}"),
        (r#"{"x":0}"#, r#"{"x":0}"#),
    ] {
        let (ctx, result) = run(&chain, &post(sent));
        assert!(result.is_ok());
        assert_eq!(outcome(&ctx).0, left, "{sent}");
    }
}

#[test]
fn fields_of_ours_are_refused_or_hidden_ones_found_whichever_they_are() {
    for (set, name) in [
        ("class: { body: /Queue }", "Queue"),
        ("ranking: { body: /Queue }", "Queue"),
        ("band: { body: /Queue, steps: [{ name: all }] }", "Queue"),
    ] {
        let strict = policy(&format!("onReserved: reject, set: {{ {set} }}"));
        let refused = "enrich: FieldReserved by q";
        check_with(&strict, &resources(talkative()), &post(&format!("{{\"{name}\":1}}")), refused);
        check_with(&strict, &resources(talkative()), &post(r#"{"a":1}"#), "continue");
        let lenient = policy(&format!("onError: continue, default: 0.1, set: {{ {set} }}"));
        let unreadable = Fixed { whole: Some(ScoreFault::Body { offset: 0, what: "no" }), ..talkative() };
        check_with(&lenient, &resources(unreadable.clone()), &post("<queue>1</queue>"), refused);
        check_with(&lenient, &resources(unreadable), &post("<a/>"), "continue");
    }
}

#[test]
fn a_default_has_a_band_and_no_class() {
    let set = "onError: continue, default: 0.1, set: { body: /S, class: { body: /Queue, header: x-q }, \
               band: { body: /Tier, header: x-t, steps: [{ below: 0.5, name: cold }, { name: hot }] } }";
    let failed = Fixed { score: Err(ScoreFault::Feature("x".into())), ..talkative() };
    let (body, headers) = passes(set, failed, &post(r#"{"Queue":"forged"}"#));
    assert_eq!(body, r#"{"S":0.1,"Tier":"cold"}"#);
    assert_eq!((headers.get("x-q"), &headers["x-t"]), (None, &"cold".parse().unwrap()));
}

#[test]
fn rules_read_class_and_band() {
    let rules = |rule: &str| {
        let set = "set: { band: { steps: [{ below: 0.5, name: cold }, { name: hot }] } }";
        format!("{}authorize:\n- {{ name: r, deny: '{rule}' }}\n", policy(set))
    };
    for (rule, expected) in [
        ("enrich.q.class == \"Account access\"", "decide: AccessDenied by r"),
        ("enrich.q.class == \"Billing\"", "continue"),
        ("enrich.q.band == \"hot\"", "decide: AccessDenied by r"),
        ("enrich.q.band == \"cold\"", "continue"),
        ("\"hot\" in enrich.q.bands && size(enrich.q.classes) == 1", "decide: AccessDenied by r"),
    ] {
        check_with(&rules(rule), &resources(talkative()), &post("{}"), expected);
    }
    // A model of which nothing is known may be asked, and says nothing.
    let silent = || resources(fixed(Ok(0.5)));
    check_with(&rules("enrich.q.class == \"\""), &silent(), &post("{}"), "decide: AccessDenied by r");
}

#[test]
fn reasons_never_cost_the_score() {
    let set = "explain: { percent: 100 }, set: { body: /S, reasons: { body: /Why } }";
    let chain = build(&policy(set), &resources(talkative())).unwrap();
    let (ctx, _) = run(&chain, &post("{}"));
    let reasons = &ctx.scores[0].beside.as_ref().unwrap().reasons;
    assert_eq!(&*reasons[0].as_ref().unwrap().predictors[0].name, "visits");
    let busy = Fixed { busy: true, ..talkative() };
    let (body, _) = passes(set, busy, &post(r#"{"Why":1}"#));
    assert_eq!(body, r#"{"S":0.8}"#, "the threads are busy, the score is given here");
}

#[test]
fn what_a_model_does_not_say_or_cannot_go_where_it_should_is_refused() {
    let told = |set: &str| {
        let mute = Fixed { offer: Some(Offer::default()), ..fixed(Ok(0.5)) };
        let faults = build(&policy(set), &resources(mute)).unwrap_err();
        faults
            .iter()
            .map(|it| format!("{} {}: {}", it.fault.code, it.fault.at, it.fault.message))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let at = "spec.enrich[0]";
    for (set, expected) in [
        ("set: { class: { body: /A } }", format!("FG0684 {at}.set.class: the model m has no classes")),
        ("set: { ranking: { body: /A } }", format!("FG0684 {at}.set.ranking: the model m ranks nothing")),
        ("explain: { percent: 5 }", format!("FG0684 {at}.explain: the model m gives no reasons")),
    ] {
        assert_eq!(told(set), expected, "{set}");
    }
    let told = |set: &str| {
        let faults = build(&policy(set), &resources(talkative())).unwrap_err();
        faults
            .iter()
            .map(|it| format!("{} {}: {}", it.fault.code, it.fault.at, it.fault.message))
            .collect::<Vec<_>>()
            .join("; ")
    };
    for (set, expected) in [
        (
            "set: { class: {} }",
            format!("FG0302 {at}.set.class: neither `body` nor `header`: it goes nowhere"),
        ),
        (
            "set: { class: { body: a } }",
            format!("FG0301 {at}.set.class.body: `a` is not a field of a record"),
        ),
        (
            "set: { class: { header: cookie } }",
            format!("FG0301 {at}.set.class.header: the header `cookie` cannot carry a score"),
        ),
        (
            "set: { body: /A, class: { body: /a } }",
            format!("FG0302 {at}.set.class.body: another enrichment sets this field"),
        ),
        (
            "set: { ranking: { body: /A, count: 4 } }",
            format!(
                "FG0684 {at}.set.ranking.count: count must be from 1 to the 3 items that the model tells"
            ),
        ),
        ("set: { reasons: { body: /A } }", format!("FG0302 {at}.set.reasons: no request is explained")),
        (
            "explain: {}",
            format!("FG0302 {at}.explain: neither `percent` nor `onRequest`: nothing is explained"),
        ),
        ("explain: { percent: 101 }", format!("FG0301 {at}.explain.percent: percent must be from 1 to 100")),
        (
            "explain: { onRequest: 'a b' }",
            format!("FG0301 {at}.explain.onRequest: `a b` is not a header name"),
        ),
        (
            "set: { band: { steps: [{ below: 1, name: a }] } }",
            format!("FG0685 {at}.set.band.steps: scores over all steps have no name"),
        ),
    ] {
        assert_eq!(told(set), expected, "{set}");
    }
}
