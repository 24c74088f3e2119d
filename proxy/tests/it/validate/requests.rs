//! Bodies and parameters on their way to a service.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::guarded::{bundle, guarded, model};
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Upstream, full};
use crate::validate::oracle::Oracle;
use crate::validate::{Checked, LEAD};

const FORM: &str = "insecure: { anonymous: true }
validate: { body: { schema: { file: lead.json }, maxSize: 8KiB } }";
const API: &str = "insecure: { anonymous: true }
validate: { openapi: { file: crm.yaml, basePath: /api } }";
const JSON: (&str, &str) = ("content-type", "application/json");

fn lead() -> Value {
    json!({
        "FirstName": "Maya", "LastName": "Okafor", "Company": "Northwind Freight", "Email": "maya@northwind.example",
        "Industry": "Transportation", "LeadSource": "Web", "AnnualRevenue": 18_500_000, "NumberOfEmployees": 240,
        "Country": "US", "Website_Visits__c": 14, "Viewed_Demo__c": true, "Description": "quotes \u{1f69a}"
    })
}

/// Numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// A lead, changed as JSON or as text; some of them are still leads.
fn mutated(seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut lead = lead();
    let members = lead.as_object_mut().unwrap();
    let names: Vec<String> = members.keys().cloned().collect();
    let values = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!(""),
        json!("x".repeat(300)),
        json!([]),
        json!({}),
        json!(true),
        json!("Web"),
        json!(1e300),
    ];
    for _ in 0..dice.below(3) {
        let name = &names[dice.below(names.len())];
        match dice.below(4) {
            0 => drop(members.remove(name)),
            1 => drop(members.insert(format!("{name}__c"), values[dice.below(values.len())].clone())),
            2 => drop(members.insert("IsAdmin".to_owned(), json!(true))),
            _ => drop(members.insert(name.clone(), values[dice.below(values.len())].clone())),
        }
    }
    let mut body = lead.to_string().into_bytes();
    for _ in 0..dice.below(3) {
        let at = dice.below(body.len());
        let extra: [&[u8]; 9] =
            [b"\"", b"\\", b"\xff", b"\\ud800", b"{", b"]", b",", b" ", b"\"LastName\":\"x\","];
        match dice.below(5) {
            0 => {
                body.remove(at);
            }
            1 => body[at] = u8::try_from(dice.below(256)).unwrap(),
            2 => drop(body.splice(at..at, extra[dice.below(9)].iter().copied())),
            3 => drop(body.splice(1..1, extra[8].iter().copied())),
            _ => body.truncate(at),
        }
        if body.is_empty() {
            body.push(b'0');
        }
    }
    body
}

#[tokio::test]
async fn whatever_becomes_of_a_lead_only_leads_reach_the_service() {
    let mut checked = Checked::start(Upstream::answering("ok").await, &[("form", FORM)]).await;
    let bodies: Vec<Vec<u8>> = (1..=1_500).map(mutated).collect();
    let mut replies = Vec::new();
    for body in &bodies {
        let reply = checked.send("POST", "/form", &[JSON], body.clone()).await;
        let told = if reply.status == 200 { "valid".to_owned() } else { reply.reason() };
        replies.push(told);
    }
    let passed: Vec<&Vec<u8>> =
        bodies.iter().zip(&replies).filter(|(_, told)| *told == "valid").map(|(body, _)| body).collect();
    let received = checked.upstream.received();
    assert!(
        passed.iter().copied().eq(received.iter().map(|request| &request.body)),
        "other bodies arrived than passed"
    );
    assert!((200..1_300).contains(&passed.len()), "{} of 1500 pass: that says little", passed.len());
    let schema: Value = serde_json::from_str(LEAD).unwrap();
    let oracle = Oracle::start().ask(&[(schema, bodies.clone())]).concat();
    for ((body, told), oracle) in bodies.iter().zip(&replies).zip(&oracle) {
        let agreed = match told.as_str() {
            "valid" => oracle == "valid",
            "SchemaViolation" => oracle == "invalid",
            "BodyInvalid" => oracle == "malformed",
            _ => false,
        };
        assert!(agreed, "{told}, but {oracle}: {}", String::from_utf8_lossy(body));
    }
}

#[tokio::test]
async fn a_refusal_lists_what_is_wrong_and_nobody_repeats_a_value() {
    let mut checked = Checked::start(Upstream::answering("ok").await, &[("form", FORM), ("api", API)]).await;
    let body = json!({ "LastName": "Okafor", "Email": "sesame-4711", "AnnualRevenue": -4711 });
    let reply = checked.send("POST", "/form", &[JSON], body.to_string()).await;
    assert_eq!((reply.status, reply.header("content-type")), (422, "application/problem+json"));
    let told = reply.json();
    assert_eq!(told["reason"], "SchemaViolation");
    let errors = told["errors"].as_array().unwrap();
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error["pointer"].as_str().unwrap(), error["keyword"].as_str().unwrap()))
        .collect();
    assert_eq!(places, [("/Email", "pattern"), ("/AnnualRevenue", "minimum"), ("/Company", "required")]);
    let record = checked.gateway.record(reply.decision()).await.to_string();
    assert!(record.contains("body /Email pattern"), "{record}");
    let (_, explained) = checked.gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
    for text in [&reply.text(), &record, &explained] {
        assert!(!text.contains("4711"), "{text}");
    }
    let reply = checked.send("GET", "/api/sobjects/Lead?limit=4711&secret=4711", &[], "").await;
    assert_eq!(reply.status, 400);
    let errors = reply.json()["errors"].clone();
    assert_eq!(
        errors[0],
        json!({ "in": "query", "name": "secret", "pointer": "", "keyword": "undeclared", "message": "is no parameter of this operation" })
    );
    assert_eq!((errors[1]["name"].as_str(), errors[1]["keyword"].as_str()), (Some("limit"), Some("maximum")));
    assert!(!reply.text().contains("4711"));
    let reply = checked.send("DELETE", "/api/sobjects/Lead", &[], "").await;
    assert_eq!(
        (reply.status, reply.reason(), reply.header("allow")),
        (405, "MethodRefused".to_owned(), "GET")
    );
    let reply = checked.send("GET", "/api/sobjects/Case", &[], "").await;
    assert_eq!((reply.status, reply.reason().as_str()), (404, "OperationUnknown"));
    assert_eq!(checked.upstream.received().len(), 0);
}

/// A gzip member in one stored block (RFC 1951, section 3.2.4).
fn gzip(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    packed.write_all(&length.to_le_bytes()).unwrap();
    packed.write_all(&(!length).to_le_bytes()).unwrap();
    packed.write_all(body).unwrap();
    let mut sum = !0_u32;
    for byte in body {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    packed.write_all(&(!sum).to_le_bytes()).unwrap();
    packed.write_all(&u32::from(length).to_le_bytes()).unwrap();
    packed
}

#[tokio::test]
async fn an_encoded_body_arrives_as_what_was_checked() {
    let mut checked = Checked::start(Upstream::answering("ok").await, &[("form", FORM)]).await;
    let body = lead().to_string();
    let packed = gzip(body.as_bytes());
    let headers = [JSON, ("content-encoding", "gzip"), ("content-digest", "sha-256=:AAAA:")];
    let reply = checked.send("POST", "/form", &headers, packed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = checked.upstream.last();
    assert_eq!(seen.body, body);
    assert_eq!(seen.header("content-length"), body.len().to_string());
    assert!(!seen.headers.contains_key("content-encoding") && !seen.headers.contains_key("content-digest"));
    let zeros = gzip(&vec![b' '; 9 << 10]);
    for (body, coding, status, reason) in [
        (gzip(b"{}"), "gzip", 422, "SchemaViolation"),
        (zeros, "gzip", 413, "BodyTooLarge"),
        (gzip(b"{}"), "br", 415, "BodyEncoded"),
        (gzip(b"{}"), "deflate", 400, "BodyInvalid"),
        (body.into_bytes(), "gzip", 400, "BodyInvalid"),
    ] {
        let reply = checked.send("POST", "/form", &[JSON, ("content-encoding", coding)], body).await;
        assert_eq!((reply.status, reply.reason().as_str()), (status, reason), "{coding}");
    }
    assert_eq!(checked.upstream.received().len(), 1);
}

#[tokio::test]
async fn what_a_body_becomes_counts_against_the_memory_of_all_bodies() {
    let upstream = Upstream::answering("ok").await;
    let policies = guarded(upstream.address, "insecure: { anonymous: true }\nvalidate: {}");
    let options = Options::default().args(&["--max-body-memory", "100KiB"]);
    let gateway = Foregate::start(&policies, options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    // A stored block is as long as what it holds.
    for (count, status, reason) in [(60, 503, "BodyMemoryExhausted"), (40, 200, "")] {
        let body = json!(vec!["x".repeat(1_000); count]).to_string();
        let request = client.request("POST", "/").header(JSON.0, JSON.1).header("content-encoding", "gzip");
        let reply = client.send(request.body(full(gzip(body.as_bytes()))).unwrap()).await;
        assert_eq!(reply.status, status, "{count}: {}", reply.text());
        assert!(reason.is_empty() || reply.reason() == reason);
    }
    assert_eq!(gateway.sample("foregate_bodies_refused_total").await, Some(1.0));
    gateway.wait_sample("foregate_bodies_held_bytes", |held| held == 0.0).await;
}

#[tokio::test]
async fn an_encoded_lead_is_scored_once_it_is_decoded() {
    let spec = "insecure: { anonymous: true }
validate: {}
enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: X-Lead-Score, body: /Lead_Score__c } }]";
    let model = model("lead-score", &bundle("lead-score"));
    let mut checked = Checked::with(Upstream::answering("ok").await, &[("form", spec)], &model).await;
    let headers = [JSON, ("content-encoding", "gzip")];
    let reply = checked.send("POST", "/form", &headers, gzip(lead().to_string().as_bytes())).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = checked.upstream.last();
    assert_eq!(seen.header("x-lead-score-status"), "scored");
    let sent: Value = serde_json::from_slice(&seen.body).unwrap();
    assert!(sent["Lead_Score__c"].is_number() && sent["LastName"] == "Okafor", "{sent}");
}

#[tokio::test]
async fn what_the_head_tells_is_refused_before_the_body_is_asked_for() {
    let checked = Checked::start(Upstream::answering("ok").await, &[("form", FORM), ("api", API)]).await;
    for (target, content_type, length, status) in [
        ("/api/sobjects/Lead/1", "application/json", 10, 400),
        ("/api/sobjects/None", "application/json", 10, 404),
        ("/form", "text/plain", 10, 415),
        ("/form", "application/json", 9_000, 413),
    ] {
        let mut raw = RawClient::connect(checked.gateway.address("edge/http")).await;
        raw.send(format!(
            "PATCH {target} HTTP/1.1\r\nHost: crm.test\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\n\r\n"
        ))
        .await;
        let response = raw.head().await.unwrap();
        assert_eq!(response.status, status, "{target}");
    }
    assert_eq!(checked.upstream.received().len(), 0);
}

#[tokio::test]
async fn audit_lets_pass_and_tells_and_a_changed_schema_is_in_force_at_once() {
    let audit = FORM.replace("validate: {", "validate: { mode: audit,");
    let mut checked =
        Checked::start(Upstream::answering("ok").await, &[("form", FORM), ("audit", &audit)]).await;
    let packed = gzip(b"{\"LastName\":1}");
    let reply = checked.send("POST", "/audit", &[JSON, ("content-encoding", "gzip")], packed.clone()).await;
    assert_eq!(reply.status, 200);
    let seen = checked.upstream.last();
    assert_eq!((seen.body.as_ref(), seen.header("content-encoding")), (&packed[..], "gzip"));
    let record = checked.gateway.record(reply.decision()).await;
    let audit = &record["foregate.audits"][0];
    assert_eq!((audit["step"].as_str(), audit["rule"].as_str()), (Some("admit"), Some("body")), "{record}");
    assert_eq!(checked.send("POST", "/form", &[JSON], r#"{"LastName":"a"}"#).await.status, 422);
    let reloads = "foregate_config_reloads_total{outcome=\"success\"}";
    let before = checked.gateway.sample(reloads).await.unwrap_or_default();
    checked.gateway.write("lead.json", r#"{"required":["LastName"]}"#);
    checked.gateway.wait_sample(reloads, |count| count > before).await;
    assert_eq!(checked.send("POST", "/form", &[JSON], r#"{"LastName":"a"}"#).await.status, 200);
}
