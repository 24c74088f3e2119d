//! What models say beside a score: single records, collections, composites, reasons.

use serde_json::{Value, json};

use super::Scoring;
use crate::support::guarded::{bundle, model};

const JSON: &str = "application/json";

/// One object of the CRM: its model, where what it says goes, and what a vector of the bundle then leaves behind.
struct Object {
    name: &'static str,
    model: &'static str,
    set: &'static str,
    header: &'static str,
    field: &'static str,
    expected: fn(&Value) -> (Value, String),
}

const OBJECTS: [Object; 3] = [
    Object {
        name: "Case",
        model: "case-queue",
        set: "class: { body: /Suggested_Queue__c, header: x-case-queue }",
        header: "x-case-queue",
        field: "Suggested_Queue__c",
        expected: class,
    },
    Object {
        name: "Account",
        model: "product-next",
        set: "ranking: { body: /Next_Products__c, header: x-next-products, count: 3 }",
        header: "x-next-products",
        field: "Next_Products__c",
        expected: ranking,
    },
    Object {
        name: "Lead",
        model: "lead-score",
        set: "band: { body: /Lead_Tier__c, header: x-lead-tier, \
              steps: [{ below: 0.2, name: cold }, { below: 0.5, name: warm }, { name: hot }] }",
        header: "x-lead-tier",
        field: "Lead_Tier__c",
        expected: band,
    },
];

fn class(vector: &Value) -> (Value, String) {
    let labels = ["Billing", "Technical", "Logistics", "Account access", "Sales"];
    let scores: Vec<f64> =
        vector["scores"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
    let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
    (json!(labels[best]), labels[best].to_owned())
}

fn ranking(vector: &Value) -> (Value, String) {
    let items: Vec<&str> =
        vector["items"].as_array().unwrap().iter().take(3).filter_map(Value::as_str).collect();
    (json!(items), items.join(";"))
}

fn band(vector: &Value) -> (Value, String) {
    let score = vector["score"].as_f64().unwrap();
    let band = if score < 0.2 {
        "cold"
    } else if score < 0.5 {
        "warm"
    } else {
        "hot"
    };
    (json!(band), band.to_owned())
}

/// The vectors of a bundle, whose records are JSON in the order of their members.
fn vectors(name: &str) -> Vec<Value> {
    let text = std::fs::read(bundle(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    golden["vectors"].as_array().unwrap().iter().take(40).cloned().collect()
}

fn typed(object: &str, record: &Value) -> Value {
    let mut typed = json!({ "attributes": { "type": object } });
    typed.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
    typed
}

async fn start() -> Scoring {
    let specs = OBJECTS.map(|object| {
        let enrich =
            format!("{{ name: it, model: {}, deadline: 900ms, set: {{ {} }} }}", object.model, object.set);
        (object.name.to_ascii_lowercase(), format!("insecure: {{ anonymous: true }}\nenrich: [{enrich}]\n"))
    });
    let models: String = OBJECTS.iter().map(|object| model(object.model, &bundle(object.model))).collect();
    Scoring::with(&specs.each_ref().map(|(name, spec)| (name.as_str(), spec.as_str())), &models).await
}

#[tokio::test]
async fn class_ranking_and_band_reach_single_records_collections_and_composites() {
    let mut scoring = start().await;
    for object in OBJECTS {
        let Object { name, header, field, expected, .. } = object;
        let (target, vectors) = (format!("/{}", name.to_ascii_lowercase()), vectors(object.model));
        let told: Vec<(Value, String)> = vectors.iter().map(expected).collect();
        assert!(told.iter().any(|other| *other != told[0]), "{name}: all vectors say the same");
        for (vector, (value, text)) in vectors.iter().zip(&told) {
            let mut sent = vector["record"].clone();
            let before = scoring.pass(&target, sent.to_string()).await;
            // A client that writes the field itself changes nothing.
            sent[field.to_uppercase()] = json!("forged");
            let seen = scoring.pass(&target, sent.to_string()).await;
            assert_eq!(seen.body, before.body);
            assert_eq!(
                (seen.header(header), seen.headers.get_all(header).iter().count()),
                (text.as_str(), 1)
            );
            // Byte for byte, so that numbers stay as they were written.
            let record = vector["record"].to_string();
            let comma = if record == "{}" { "" } else { "," };
            assert_eq!(seen.body, format!("{{\"{field}\":{value}{comma}{}", &record[1..]));
        }
        let list: Vec<&str> = told.iter().map(|(_, text)| text.as_str()).collect();
        let records: Vec<Value> = vectors.iter().map(|vector| typed(name, &vector["record"])).collect();
        let other = json!({ "attributes": { "type": "Campaign" }, "Name": "Spring" });
        let all = [&records[..], std::slice::from_ref(&other)].concat();
        let batch = json!({ "records": all });
        let seen = scoring.pass(&target, batch.to_string()).await;
        assert_eq!(seen.header(header), list.join(","));
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        let fields: Vec<Value> = told.iter().map(|(value, _)| value.clone()).collect();
        let all = body["records"].as_array().unwrap();
        assert_eq!(all.iter().filter_map(|record| record.get(field).cloned()).collect::<Vec<_>>(), fields);
        assert_eq!(all.last(), Some(&other));
        let part = |body: &Value, of: &str| json!({ "method": "POST", "referenceId": "r", "url": format!("/services/data/v62.0/sobjects/{of}"), "body": body });
        let composite = json!({ "compositeRequest": [
            part(&json!({ "Name": "Spring" }), "Campaign"), part(&vectors[1]["record"], name),
        ] });
        let seen = scoring.pass(&target, composite.to_string()).await;
        assert_eq!(seen.header(header), told[1].1);
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["compositeRequest"][1]["body"][field], told[1].0);
        assert_eq!(body["compositeRequest"][0]["body"], json!({ "Name": "Spring" }));
    }
}

#[tokio::test]
async fn reasons_go_to_the_field_and_to_the_decision_and_personal_values_nowhere() {
    let set = "explain: { onRequest: x-explain }, set: { body: /Score__c, reasons: { body: /Reasons__c, asText: true } }";
    let specs = ["lead-score", "case-escalation"].map(|name| {
        let enrich = format!("{{ name: it, model: {name}, deadline: 900ms, {set} }}");
        (name, format!("insecure: {{ anonymous: true }}\nenrich: [{enrich}]\n"))
    });
    let models: String = specs.iter().map(|(name, _)| model(name, &bundle(name))).collect();
    let mut scoring =
        Scoring::with(&specs.each_ref().map(|(name, spec)| (*name, spec.as_str())), &models).await;
    for (name, secret) in [("lead-score", None), ("case-escalation", Some("unacceptable"))] {
        let target = format!("/{name}");
        let lead = match secret {
            None => vectors(name)[3]["record"].to_string(),
            Some(word) => json!({ "Subject": format!("This is {word}"), "Priority": "High" }).to_string(),
        };
        let plain: Value = serde_json::from_slice(&scoring.pass(&target, lead.clone()).await.body).unwrap();
        assert!(plain.get("Reasons__c").is_none() && plain["Score__c"].is_number(), "{plain}");
        let headers = [("content-type", JSON), ("x-explain", "true")];
        let reply = scoring.post(&target, &headers, lead.clone()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen: Value = serde_json::from_slice(&scoring.upstream.last().body).unwrap();
        assert_eq!(seen["Score__c"], plain["Score__c"]);
        let reasons: Value = serde_json::from_str(seen["Reasons__c"].as_str().unwrap()).unwrap();
        let told = reasons.as_array().unwrap();
        assert!((1..=5).contains(&told.len()), "{reasons}");
        let record = scoring.gateway.record(reply.decision()).await;
        let logged = &record["foregate.scores"][0]["reasons"][0];
        let told = |of: &Value| (of["name"].clone(), of.get("value").filter(|it| !it.is_null()).cloned());
        let logged: Vec<_> = logged["predictors"].as_array().unwrap().iter().map(told).collect();
        let written: Vec<_> =
            reasons.as_array().unwrap().iter().map(|it| told(&it["predictorFields"][0])).collect();
        assert_eq!(logged, written);
        if let Some(word) = secret {
            assert!(logged.contains(&(json!("text"), None)), "{reasons}");
            assert!(!(reasons.to_string() + &record.to_string()).contains(word), "{reasons}");
        }
    }
}
