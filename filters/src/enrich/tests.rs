//! Enrichment with a scorer whose answers are given.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request};
use serde_json::json;

use super::fixed::{Fixed, fixed};
use super::{Enrich, Spec};
use crate::context::{Client, RequestContext};
use crate::edits::splice;
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::jwt::{Jwks, TokenCache};
use crate::keys::Keys;
use crate::moment::Moment;
use crate::rate_limit::limiter::{Limiter, Rate};
use crate::reason::Reason;
use crate::resources::Resources;
use crate::score::{ScoreFault, Scorer};
use crate::verdict::Verdict;

struct Shelf(Arc<Fixed>);

impl Resources for Shelf {
    fn keys(&self, _: &str, _: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        Err(Fault::new(Code::REFERENCE, at.clone(), "no keys here"))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        unreachable!("no tokens here")
    }

    fn introspector(
        &self,
        _: &crate::introspection::Spec,
        at: &Path,
    ) -> Result<Arc<dyn crate::introspector::Introspector>, Fault> {
        Err(Fault::new(Code::SECRET, at.clone(), "nobody to ask"))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<crate::introspection::AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, _: &Rate) -> Arc<Limiter> {
        unreachable!("no limits here")
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        if model == "lead-score" {
            Ok(self.0.clone())
        } else {
            Err(Fault::new(Code::REFERENCE, at.clone(), "no such model"))
        }
    }
}

fn specs(text: serde_json::Value) -> Vec<Spec> {
    serde_json::from_value(text).unwrap()
}

fn build(scorer: Fixed, text: serde_json::Value) -> Result<Enrich, Vec<Fault>> {
    Enrich::build(&specs(text), &Path::default().key("enrich"), &Shelf(Arc::new(scorer)))
}

fn head(content_type: &str) -> Parts {
    Request::post("/").header("content-type", content_type).body(()).unwrap().into_parts().0
}

fn context(body: &str) -> RequestContext {
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let client = Client { peer, address: IpAddr::V4(Ipv4Addr::LOCALHOST), tls: false, destination: None };
    let mut ctx = RequestContext::new(Moment::default(), client);
    ctx.body = Some(Bytes::copy_from_slice(body.as_bytes()));
    ctx
}

fn run(filter: &Enrich, head: &Parts, ctx: &mut RequestContext) -> Verdict {
    match filter.on_request(head, ctx) {
        Verdict::Wait => {
            match filter.resume(head, ctx).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(verdict) => verdict,
                Poll::Pending => panic!("the scorer of these tests never waits"),
            }
        }
        verdict => verdict,
    }
}

fn enriched(ctx: &RequestContext) -> (String, HeaderMap) {
    let body = splice(ctx.body.as_ref().unwrap(), &ctx.edits.body).unwrap();
    let mut headers = HeaderMap::new();
    ctx.edits.request.iter().for_each(|edit| edit.apply(&mut headers));
    (String::from_utf8(body.to_vec()).unwrap(), headers)
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Reply(reply) => Some(reply.reason),
        _ => None,
    }
}

fn rule(name: &str, field: &str) -> serde_json::Value {
    json!({"name": name, "model": "lead-score", "deadline": "3ms", "set": {"header": format!("x-{name}"), "body": field}})
}

#[test]
fn the_score_goes_into_body_header_and_facts_inline_or_not() {
    let cases = [
        (r#"{"a":1.10}"#, r#"{"S":0.8123,"a":1.10}"#, "0.8123"),
        ("{ }", r#"{"S":0.8123 }"#, "0.8123"),
        (r#"{"S":9,"a":1}"#, r#"{"S":0.8123,"a":1}"#, "0.8123"),
        (r#"{"a":1,"S":9}"#, r#"{"S":0.8123,"a":1}"#, "0.8123"),
        (r#"{"S":9}"#, r#"{"S":0.8123}"#, "0.8123"),
        (r#"{"records":[{"a":1},{}]}"#, r#"{"records":[{"S":0.8123,"a":1},{"S":0.8123}]}"#, "0.8123,0.8123"),
    ];
    for inline in [true, false] {
        for (body, expected, header) in cases {
            let filter = build(Fixed { inline, ..fixed(Ok(0.812_34)) }, json!([rule("lead", "/S")])).unwrap();
            let mut ctx = context(body);
            assert_eq!(run(&filter, &head("application/json; charset=utf-8"), &mut ctx), Verdict::Continue);
            let (text, headers) = enriched(&ctx);
            assert_eq!(text, expected);
            assert_eq!(
                (&headers["x-lead"], &headers["x-lead-status"]),
                (&header.parse().unwrap(), &"scored".parse().unwrap())
            );
            assert_eq!((ctx.score("lead").unwrap().scores[0], &ctx.scores[0].fault), (0.812_34, &None));
        }
    }
}

#[test]
fn the_fact_names_the_version_that_decided() {
    for (version, told) in [(None, "1.0.0"), (Some("v2"), "v2")] {
        let filter = build(Fixed { version, ..fixed(Ok(0.5)) }, json!([rule("lead", "/S")])).unwrap();
        let mut ctx = context(r#"{"a":1}"#);
        assert_eq!(run(&filter, &head("application/json"), &mut ctx), Verdict::Continue);
        assert_eq!(&*ctx.scores[0].version, told);
    }
}

#[test]
fn rules_compose_on_one_body_whatever_the_client_sent() {
    let cases = [
        ("{}", r#"{"A":1,"B":1}"#),
        (r#"{"x":0}"#, r#"{"A":1,"B":1,"x":0}"#),
        (r#"{"A":5,"B":6}"#, r#"{"A":1,"B":1}"#),
        (r#"{"A":5,"B":6,"x":0}"#, r#"{"A":1,"B":1,"x":0}"#),
        (r#"{"B":6,"A":5,"x":0}"#, r#"{"A":1,"B":1,"x":0}"#),
        (r#"{"x":0,"A":5,"B":6}"#, r#"{"A":1,"B":1,"x":0}"#),
        (r#"{"A":5,"x":0,"B":6}"#, r#"{"A":1,"B":1,"x":0}"#),
    ];
    for (body, expected) in cases {
        let together = build(fixed(Ok(1.0)), json!([rule("a", "/A"), rule("b", "/B")])).unwrap();
        let apart = [
            build(fixed(Ok(1.0)), json!([rule("a", "/A")])).unwrap(),
            build(fixed(Ok(1.0)), json!([rule("b", "/B")])).unwrap(),
        ];
        for filters in [&[together][..], &apart] {
            let mut ctx = context(body);
            for filter in filters {
                assert_eq!(run(filter, &head("application/json"), &mut ctx), Verdict::Continue);
            }
            assert_eq!(enriched(&ctx).0, expected, "{body}");
        }
    }
}

#[test]
fn faults_refuse_or_give_the_flagged_default() {
    let body_fault = ScoreFault::Body { offset: 3, what: "a comma expected" };
    let cases = [
        (fixed(Err(ScoreFault::Late)), "late", Reason::ScoreUnavailable, r#"{"S":0.25,"a":1}"#),
        (fixed(Err(ScoreFault::Busy)), "busy", Reason::ScoreUnavailable, r#"{"S":0.25,"a":1}"#),
        (fixed(Err(ScoreFault::Model("x".into()))), "model", Reason::ScoreUnavailable, r#"{"S":0.25,"a":1}"#),
        (
            fixed(Err(ScoreFault::Feature("x".into()))),
            "feature",
            Reason::BodyUnreadable,
            r#"{"S":0.25,"a":1}"#,
        ),
        (Fixed { whole: Some(body_fault), ..fixed(Ok(0.5)) }, "body", Reason::BodyUnreadable, r#"{"a":1}"#),
    ];
    for (scorer, cause, refusal, expected) in cases {
        let copy = scorer.clone();
        let mut ctx = context(r#"{"a":1}"#);
        let filter = build(copy, json!([rule("lead", "/S")])).unwrap();
        assert_eq!(reason(&run(&filter, &head("application/json"), &mut ctx)), Some(refusal));
        assert!(
            ctx.scores[0].fault.is_some() && ctx.scores[0].scores.is_empty(),
            "it is told of all the same"
        );
        let mut lenient = rule("lead", "/S");
        lenient["onError"] = json!("continue");
        lenient["default"] = json!(0.25);
        let mut ctx = context(r#"{"a":1}"#);
        let filter = build(scorer, json!([lenient])).unwrap();
        assert_eq!(run(&filter, &head("application/json"), &mut ctx), Verdict::Continue);
        let (text, headers) = enriched(&ctx);
        assert_eq!((text.as_str(), headers["x-lead"].to_str().unwrap()), (expected, "0.25"));
        assert_eq!(headers["x-lead-status"].to_str().unwrap(), format!("default;cause={cause}"));
        assert!(ctx.scores[0].fault.is_some() && ctx.scores[0].scores.as_slice() == [0.25]);
    }
}

#[test]
fn bodies_that_are_not_plain_json_are_unreadable() {
    let encoded = |value: &str| {
        let mut head = head("application/json");
        head.headers.insert("content-encoding", value.parse().unwrap());
        head
    };
    let bare = Request::post("/").body(()).unwrap().into_parts().0;
    let cases = [
        (head("application/json"), "{}", true),
        (head("application/vnd.api+json"), "{}", true),
        (encoded("identity"), "{}", true),
        (head("text/plain"), "{}", false),
        (head("application/jsonx"), "{}", false),
        (encoded("gzip"), "{}", false),
        (bare, "{}", false),
        (head("application/json"), "", false),
    ];
    for (head, body, readable) in cases {
        let filter = build(fixed(Ok(0.5)), json!([rule("lead", "/S")])).unwrap();
        let verdict = run(&filter, &head, &mut context(body));
        assert_eq!(
            reason(&verdict),
            (!readable).then_some(Reason::BodyUnreadable),
            "{:?} {body}",
            head.headers
        );
    }
}

#[test]
fn an_unreadable_body_does_not_smuggle_a_field_of_ours() {
    let mut lenient = rule("lead", "/Lead_Score__c");
    lenient["onError"] = json!("continue");
    lenient["default"] = json!(0.25);
    let cases = [
        ("<Lead><lead_score__c>1</lead_score__c></Lead>", false),
        ("\u{feff}{\"Lead_Score__c\":1}", false),
        (r#"{"\u004cead_Score__c":1"#, false),
        ("\0{\0", false),
        ("<Lead/>", true),
    ];
    for (body, passes) in cases {
        let fault = ScoreFault::Body { offset: 0, what: "not JSON" };
        let scorer = Fixed { whole: Some(fault), ..fixed(Ok(0.5)) };
        let filter = build(scorer, json!([lenient.clone()])).unwrap();
        let verdict = run(&filter, &head("application/json"), &mut context(body));
        assert_eq!(reason(&verdict), (!passes).then_some(Reason::FieldReserved), "{body}");
    }
}

#[test]
fn reserved_fields_can_be_refused() {
    let mut strict = rule("lead", "/S");
    strict["onReserved"] = json!("reject");
    let filter = build(fixed(Ok(0.5)), json!([strict])).unwrap();
    assert_eq!(
        reason(&run(&filter, &head("application/json"), &mut context(r#"{"S":1}"#))),
        Some(Reason::FieldReserved)
    );
    assert_eq!(run(&filter, &head("application/json"), &mut context(r#"{"a":1}"#)), Verdict::Continue);
}

#[test]
fn scores_are_short_decimals() {
    let cases = [
        (0.812_34, "0.8123"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.000_01, "0"),
        (1500.0, "1500"),
        (-2.25, "-2.25"),
    ];
    for (score, text) in cases {
        let mut written = String::new();
        crate::decimal::push_score(&mut written, score);
        assert_eq!(written, text);
    }
}

#[test]
fn a_spec_that_cannot_work_is_refused_where_it_is_wrong() {
    let cases = [
        (json!({"name": "1st"}), "enrich[0].name"),
        (json!({"name": "in"}), "enrich[0].name"),
        (json!({"model": "none"}), "enrich[0].model"),
        (json!({"deadline": "2s"}), "enrich[0].deadline"),
        (json!({"deadline": "0s"}), "enrich[0].deadline"),
        (json!({"onError": "continue"}), "enrich[0].onError"),
        (json!({"default": 0.5}), "enrich[0].default"),
        (json!({"set": {"header": "not a header"}}), "enrich[0].set.header"),
        (json!({"set": {"header": "Authorization"}}), "enrich[0].set.header"),
        (json!({"set": {"body": "Field"}}), "enrich[0].set.body"),
        (json!({"set": {"body": "/a/b"}}), "enrich[0].set.body"),
        (json!({"set": {"body": "/a~2"}}), "enrich[0].set.body"),
    ];
    for (change, at) in cases {
        let mut spec = rule("lead", "/S");
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let faults = build(fixed(Ok(0.5)), json!([spec])).unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.at.to_string()).collect::<Vec<_>>(), [at], "{change}");
    }
    let faults = build(fixed(Ok(0.5)), json!([rule("lead", "/S"), rule("lead", "/s")])).unwrap_err();
    assert_eq!(faults.len(), 3, "name, header and field are taken: {faults:?}");
    assert!(build(fixed(Ok(0.5)), json!([{"name": "x", "model": "lead-score", "deadline": "1s"}])).is_ok());
}
