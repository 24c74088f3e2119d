//! Scores over the wire: in the header, in the body, and nothing else changed.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::guarded::{bundle, copy_bundle, golden, model, routes};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Received, Upstream, full};

mod rotated;
mod stored;
mod streamed;
mod told;

const JSON: &str = "application/json";

/// A gateway that scores leads at `/reject`, `/lenient`, `/strict` and `/logistic`.
struct Scoring {
    upstream: Upstream,
    gateway: Foregate,
    client: Client,
}

fn spec(model: &str, more: &str) -> String {
    let set = "set: { header: X-Lead-Score, body: /Lead_Score__c }";
    format!(
        "insecure: {{ anonymous: true }}
enrich: [{{ name: lead, model: {model}, deadline: 900ms, {set}{more} }}]\n"
    )
}

impl Scoring {
    async fn start() -> Self {
        let lenient = spec("lead-score", ", onError: continue, default: 0.24");
        let specs = [
            ("reject", spec("lead-score", "")),
            ("lenient", lenient),
            ("strict", spec("lead-score", ", onReserved: reject")),
            ("logistic", spec("lead-score-logistic", "")),
        ];
        let models: String =
            ["lead-score", "lead-score-logistic"].iter().map(|name| model(name, &bundle(name))).collect();
        Self::with(&specs.each_ref().map(|(name, spec)| (*name, spec.as_str())), &models).await
    }

    async fn with(specs: &[(&str, &str)], models: &str) -> Self {
        let upstream = Upstream::answering("ok").await;
        let policies = [routes(upstream.address, specs), models.to_owned()].concat();
        let gateway = Foregate::start(&policies, Options::default()).await;
        let client = Client::http1(gateway.address("edge/http")).await;
        Self { upstream, gateway, client }
    }

    async fn post(&mut self, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = self.client.request("POST", target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.send(request.body(full(body)).unwrap()).await
    }

    /// Posts JSON that must pass; gives what the upstream received.
    async fn pass(&mut self, target: &str, body: impl Into<Bytes>) -> Received {
        let reply = self.post(target, &[("content-type", JSON)], body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = self.upstream.last();
        assert_eq!(seen.header("content-length"), seen.body.len().to_string());
        seen
    }
}

fn near(text: &str, score: f64) -> bool {
    text.parse::<f64>().is_ok_and(|told| (told - score).abs() <= 1e-4)
}

#[tokio::test]
async fn a_lead_arrives_with_its_golden_score_and_every_other_byte_as_it_was() {
    let mut scoring = Scoring::start().await;
    for (target, name) in [("/reject", "lead-score"), ("/logistic", "lead-score-logistic")] {
        for (record, score) in golden(&bundle(name)) {
            let sent = serde_json::to_string(&record).unwrap();
            let seen = scoring.pass(target, sent.clone()).await;
            let told = seen.header("x-lead-score");
            assert!(near(told, score), "{name}: {told} for {score}: {sent}");
            assert_eq!(seen.header("x-lead-score-status"), "scored");
            let comma = if sent == "{}" { "" } else { "," };
            assert_eq!(seen.body, format!("{{\"Lead_Score__c\":{told}{comma}{}", &sent[1..]), "{name}");
        }
        let scored = format!("foregate_scores_total{{model=\"{name}\",outcome=\"scored\"}}");
        #[expect(clippy::cast_precision_loss, reason = "a few hundred vectors")]
        let count = golden(&bundle(name)).len() as f64;
        scoring.gateway.wait_sample(&scored, |value| (value - count).abs() < 0.5).await;
    }
}

#[tokio::test]
async fn long_ids_decimals_spaces_and_escapes_survive() {
    let mut scoring = Scoring::start().await;
    let sent = "\r\n {\t\"Id\" : 123456789012345678 ,\n\"Amount\":1.10,\"Ratio\":1e-7,\"Zero\":-0.0,\
                \"Name\":\"\\u00e9\\/\u{1f980}\",\"Nested\":{\"Lead_Score__c\":5,\"a\":[1.10 , {}]} ,\"Country\":\"US\"} \n";
    let seen = scoring.pass("/reject", sent).await;
    let told = seen.header("x-lead-score").to_owned();
    let expected = sent.replacen('{', &format!("{{\"Lead_Score__c\":{told},"), 1);
    assert_eq!(String::from_utf8_lossy(&seen.body), expected);
    // The largest bodies too: one lead with a megabyte of text beside its features.
    let sent = format!("{{\"Notes\":\"{}\",\"Title\":\"CFO\"}}", "n".repeat((1 << 20) - 64));
    let seen = scoring.pass("/reject", sent.clone()).await;
    let told = seen.header("x-lead-score").to_owned();
    assert!(
        seen.body == sent.replacen('{', &format!("{{\"Lead_Score__c\":{told},"), 1),
        "1 MiB came out changed"
    );
    let sent = format!("{{\"Notes\":\"{}\"}}", "n".repeat(2 << 20));
    let reply = scoring.post("/reject", &[("content-type", JSON)], sent).await;
    assert_eq!((reply.status, reply.reason().as_str()), (413, "BodyTooLarge"));
    assert_eq!(scoring.upstream.received().len(), 2);
}

#[tokio::test]
async fn what_a_client_says_of_its_score_is_replaced_or_refused() {
    let mut scoring = Scoring::start().await;
    let spoofed = [
        ("content-type", "Application/JSON; charset=utf-8"),
        ("X-Lead-Score", "0.99"),
        ("x_lead_score", "0.99"),
        ("x-lead-score-status", "scored by me"),
        ("x_lead_score_status", "scored by me"),
    ];
    // What is sent, what is left of it behind our member, and whether a strict rule refuses it.
    for (sent, left, ours) in [
        (r#"{"Title":"CFO"}"#, r#","Title":"CFO"}"#, false),
        (r#"{"Lead_Score__c":0.99,"Title":"CFO"}"#, r#","Title":"CFO"}"#, true),
        (r#"{"Title":"CFO","lead_SCORE__C":"1" }"#, r#","Title":"CFO" }"#, true),
        (r#"{"Lead_Score__c":1,"Title":"CFO","Lead_Score__c":{"a":[1,2]}}"#, r#","Title":"CFO"}"#, true),
        (r#"{"\u004cead_Score__c":0.99,"Title":"CFO"}"#, r#","Title":"CFO"}"#, true),
        (r#"{"Lead_Score__c":0.99}"#, "}", true),
    ] {
        let reply = scoring.post("/reject", &spoofed, sent).await;
        assert_eq!(reply.status, 200, "{sent}: {}", reply.text());
        let seen = scoring.upstream.last();
        let told = seen.header("x-lead-score");
        assert_eq!(seen.headers.get_all("x-lead-score").iter().count(), 1);
        assert!(told != "0.99" && seen.header("x-lead-score-status") == "scored", "{sent}: {told}");
        assert!(seen.headers.keys().all(|name| !name.as_str().contains('_')), "{:?}", seen.headers);
        assert_eq!(seen.body, format!("{{\"Lead_Score__c\":{told}{left}"), "{sent}");
        assert_eq!(seen.header("content-length"), seen.body.len().to_string());
        let reply = scoring.post("/strict", &spoofed, sent).await;
        assert_eq!(reply.status, if ours { 422 } else { 200 }, "{sent}");
        assert!(!ours || reply.reason() == "FieldReserved", "{sent}");
    }
    assert_eq!(scoring.upstream.received().len(), 7);
}

#[tokio::test]
async fn every_record_of_a_collection_has_its_own_score() {
    let mut scoring = Scoring::start().await;
    let vectors = golden(&bundle("lead-score"));
    let records: Vec<Value> = (0..200)
        .map(|number| {
            let mut record = json!({ "attributes": { "type": "Lead" } });
            let golden = vectors[number % vectors.len()].0.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(golden);
            record
        })
        .collect();
    let sent = json!({ "allOrNone": false, "records": records }).to_string();
    let seen = scoring.pass("/reject", sent.clone()).await;
    let told: Vec<&str> = seen.header("x-lead-score").split(',').collect();
    assert_eq!(told.len(), 200);
    let mut expected = sent.clone();
    for (number, told) in told.iter().enumerate() {
        assert!(near(told, vectors[number % vectors.len()].1), "record {number}: {told}");
        let member = format!("{{\"Lead_Score__c\":{told},\"attributes\"");
        expected = expected.replacen("{\"attributes\"", &member.replace("\"attributes\"", "\u{1}"), 1);
    }
    assert_eq!(seen.body, expected.replace('\u{1}', "\"attributes\""));
    let mut more = records.clone();
    more.push(records[0].clone());
    let reply =
        scoring.post("/reject", &[("content-type", JSON)], json!({ "records": more }).to_string()).await;
    assert_eq!((reply.status, reply.reason().as_str()), (422, "BodyUnreadable"), "201 records");
    // Records of other objects pass untouched beside leads.
    let mixed = r#"{"records":[{"attributes":{"type":"Contact"},"LastName":"A"},{"attributes":{"type":"Lead"},"Title":"CFO"}]}"#;
    let seen = scoring.pass("/reject", mixed).await;
    let told = seen.header("x-lead-score").to_owned();
    assert_eq!(told.split(',').count(), 1);
    let lead = "{\"attributes\":{\"type\":\"Lead\"";
    assert_eq!(seen.body, mixed.replace(lead, &format!("{{\"Lead_Score__c\":{told},{}", &lead[1..])));
}

#[tokio::test]
async fn leads_within_a_composite_are_scored_and_other_subrequests_are_not() {
    let mut scoring = Scoring::start().await;
    let (record, score) = golden(&bundle("lead-score")).remove(1);
    let lead = record.to_string();
    let request = |url: &str, body: &str| {
        format!(
            r#"{{"method":"POST","referenceId":"r","url":"/services/data/v62.0/sobjects/{url}","body":{body}}}"#
        )
    };
    let account = request("Account", r#"{"Name":"Harbor","Title":"CFO"}"#);
    let sent = format!("{{\"compositeRequest\":[{account},{},{account}]}}", request("Lead", &lead));
    let seen = scoring.pass("/reject", sent.clone()).await;
    let told = seen.header("x-lead-score").to_owned();
    assert!(near(&told, score), "{told} for {score}");
    let scored = format!("{{\"Lead_Score__c\":{told},{}", &lead[1..]);
    assert_eq!(seen.body, sent.replace(&lead, &scored));
    let none = format!("{{\"compositeRequest\":[{account}]}}");
    let reply = scoring.post("/reject", &[("content-type", JSON)], none).await;
    assert_eq!((reply.status, reply.reason().as_str()), (422, "BodyUnreadable"));
}

/// What it is, headers, body, and whether even a lenient rule must refuse it: what it hides cannot be known.
type Unreadable<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], bool);

#[tokio::test]
async fn what_cannot_be_read_is_refused_or_goes_on_flagged_as_the_policy_says() {
    let mut scoring = Scoring::start().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let zipped: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let cases: [Unreadable<'_>; 12] = [
        ("not JSON", &[("content-type", JSON)], b"LastName=Okafor", false),
        ("half of it", &[("content-type", JSON)], br#"{"LastName":"Okafor"#, false),
        ("two values", &[("content-type", JSON)], b"{}{}", false),
        ("a list", &[("content-type", JSON)], br#"[{"LastName":"Okafor"}]"#, false),
        ("too deep", &[("content-type", JSON)], deep.as_bytes(), false),
        ("nothing", &[("content-type", JSON)], b"", false),
        ("no content type", &[], b"{}", false),
        ("text", &[("content-type", "text/plain")], b"{}", false),
        ("two content types", &[("content-type", JSON), ("content-type", JSON)], b"{}", false),
        ("compressed", &[("content-type", JSON), ("content-encoding", "gzip")], zipped, true),
        ("not UTF-8", &[("content-type", JSON)], b"{\"a\":\"\xff\"}", true),
        ("ours in another shape", &[("content-type", "text/xml")], b"<Lead_Score__c>1</Lead_Score__c>", true),
    ];
    let mut passed = 0;
    for (what, headers, body, hides) in cases {
        let reply = scoring.post("/reject", headers, body.to_vec()).await;
        assert_eq!((reply.status, reply.reason().as_str()), (422, "BodyUnreadable"), "{what}");
        let record = scoring.gateway.record(reply.decision()).await;
        assert_eq!((&record["foregate.step"], &record["foregate.rule"]), (&json!("enrich"), &json!("lead")));
        let reply = scoring.post("/lenient", headers, body.to_vec()).await;
        if hides {
            assert_eq!((reply.status, reply.reason().as_str()), (422, "FieldReserved"), "{what}");
        } else {
            passed += 1;
            assert_eq!(reply.status, 200, "{what}: {}", reply.text());
            let seen = scoring.upstream.last();
            assert_eq!(seen.body, body, "{what}");
            assert_eq!(seen.header("x-lead-score"), "0.24", "{what}");
            assert_eq!(seen.header("x-lead-score-status"), "default;cause=body", "{what}");
            assert_eq!(seen.header("content-length"), body.len().to_string(), "{what}");
        }
        assert_eq!(scoring.upstream.received().len(), passed, "{what}");
    }
    let series = "foregate_scores_total{model=\"lead-score\",outcome=\"body\"}";
    scoring.gateway.wait_sample(series, |value| value > 8.5).await;
}

#[tokio::test]
async fn a_feature_of_the_wrong_type_or_missing_where_it_is_required_follows_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let country = "pointer: /Country, type: string, default: '',";
    copy_bundle(
        &bundle("lead-score-logistic"),
        folder.path(),
        |manifest| {
            assert!(manifest.contains(country));
            manifest.replace(country, "pointer: /Country, type: string,")
        },
        |record| record["Country"].is_string(),
    );
    let specs = [
        ("reject", spec("required", "")),
        ("lenient", spec("required", ", onError: continue, default: 0.24")),
    ];
    let specs = specs.each_ref().map(|(name, spec)| (*name, spec.as_str()));
    let mut scoring = Scoring::with(&specs, &model("required", folder.path())).await;
    assert_eq!(scoring.pass("/reject", r#"{"Country":"US"}"#).await.header("x-lead-score-status"), "scored");
    for (sent, feature) in [
        (r#"{"LastName":"Okafor"}"#, "country"),
        (r#"{"Country":null}"#, "country"),
        (r#"{"Country":"US","AnnualRevenue":"much"}"#, "annual_revenue"),
        (r#"{"Country":"US","Title":["CFO"]}"#, "title_level"),
        (r#"{"Country":"US","Country":"GB"}"#, "twice"),
    ] {
        let reply = scoring.post("/reject", &[("content-type", JSON)], sent).await;
        assert_eq!((reply.status, reply.reason().as_str()), (422, "BodyUnreadable"), "{sent}");
        let record = scoring.gateway.record(reply.decision()).await;
        let detail = record["foregate.detail"].as_str().unwrap();
        assert!(detail.contains(feature), "{sent}: {detail}");
        // The record can be read, so the default goes into it too.
        let seen = scoring.pass("/lenient", sent).await;
        assert_eq!(seen.body, format!("{{\"Lead_Score__c\":0.24,{}", &sent[1..]));
        assert_eq!(seen.header("x-lead-score-status"), "default;cause=feature", "{sent}");
    }
    let mixed = r#"{"records":[{"Country":"US"},{"Title":"CFO"},{"Country":"GB"}]}"#;
    let seen = scoring.pass("/lenient", mixed).await;
    let told: Vec<&str> = seen.header("x-lead-score").split(',').collect();
    assert!(told.len() == 3 && told[1] == "0.24" && told[0] != "0.24" && told[2] != "0.24", "{told:?}");
    assert_eq!(scoring.upstream.received().len(), 7);
}
