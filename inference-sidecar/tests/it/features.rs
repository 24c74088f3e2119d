//! Records and features read from bodies of every shape, against expectations and a naive reader.

use foregate_filters::score::ScoreFault;
use foregate_inference::features::extract::Extraction;
use foregate_inference::features::spec::FeatureSpec;
use foregate_inference::features::{Plan, Reading};
use foregate_inference::table::Tables;
use serde_json::{Value, json};

fn plan(features: Value) -> Plan {
    let specs: Vec<FeatureSpec> = serde_json::from_value(features).unwrap();
    Plan::compile("Lead", &specs, &Tables::new()).unwrap()
}

fn visits() -> Plan {
    plan(json!([{"name": "v", "pointer": "/V", "type": "number", "default": -1.0}]))
}

fn extract(plan: &Plan, body: &str) -> Result<Extraction, ScoreFault> {
    plan.extract(body.as_bytes(), &["S__c".into(), "T__c".into()], Reading::default())
}

/// Removes the reserved ranges and writes `"S__c":1` into each record, as the gateway does.
fn spliced(body: &str, found: &Extraction) -> String {
    let mut out = body.to_owned();
    for record in found.records.iter().rev() {
        for range in record.reserved.iter().rev() {
            out.replace_range(range.clone(), "");
        }
        out.insert_str(record.insert_at, if record.empty { r#""S__c":1"# } else { r#""S__c":1,"# });
    }
    out
}

#[test]
fn every_shape_of_body_gives_its_records() {
    let lead = r#""attributes":{"type":"Lead"}"#;
    let cases = [
        (r#"{"V":3}"#.to_owned(), Ok(vec![3.0])),
        ("{}".to_owned(), Ok(vec![-1.0])),
        (r#"{"V":null,"x":{"V":7},"y":[{"V":8}]}"#.to_owned(), Ok(vec![-1.0])),
        (r#"{"\u0056":3}"#.to_owned(), Ok(vec![3.0])),
        (format!(r#"{{{lead},"V":3}}"#), Ok(vec![3.0])),
        (format!(r#"{{"allOrNone":false,"records":[{{{lead},"V":1}},{{"V":2}}]}}"#), Ok(vec![1.0, 2.0])),
        (r#"{"records":7,"V":3}"#.to_owned(), Ok(vec![3.0])),
        (
            r#"{"compositeRequest":[{"method":"POST","url":"/services/data/v62.0/sobjects/Lead","body":{"V":1}},
               {"url":"/services/data/v62.0/sobjects/Contact","body":{"V":2}},{"body":{"V":3},"url":"\/sobjects\/lead\/00Q1"},
               {"url":"/sobjects/%4Cead/Ext__c/5?x=/y","body":{"V":4}},{"url":"/sobjects/Lead/00Q2"}]}"#
                .to_owned(),
            Ok(vec![1.0, 3.0, 4.0]),
        ),
        ("[]".to_owned(), Err("an object expected")),
        ("3".to_owned(), Err("an object expected")),
        (r#"{"records":[]}"#.to_owned(), Err("no record of the object")),
        (r#"{"records":[3]}"#.to_owned(), Err("a record must be an object")),
        (
            format!(r#"{{"records":[{{"attributes":{{"type":"Case"}},"V":1}},{{{lead},"V":2}},{{"V":3,"attributes":{{"type":"Case"}}}}]}}"#),
            Ok(vec![2.0]),
        ),
        (r#"{"records":[{"attributes":{"type":"Case"}}]}"#.to_owned(), Err("no record of the object")),
        (r#"{"records":[{"attributes":{"type":"Case","type":"Lead"}}]}"#.to_owned(), Err("two types of one record")),
        (
            format!(r#"{{"records":[{{"attributes":{{"type":"Case"}},{lead}}}]}}"#),
            Err("two types of one record"),
        ),
        (r#"{"records":[{"attributes":{"type":7}}]}"#.to_owned(), Err("the type of a record must be a string")),
        (r#"{"attributes":{"type":"Case"},"V":1}"#.to_owned(), Err("a record of another object")),
        (r#"{"V":1,"records":[{"V":2}]}"#.to_owned(), Err("records, and members of a record beside them")),
        (r#"{"records":[{"V":2}],"s__C":1}"#.to_owned(), Err("a member of a record beside records")),
        (r#"{"records":[{}],"records":[{}]}"#.to_owned(), Err("records, and members of a record beside them")),
        (r#"{"compositeRequest":[{"url":"/sobjects/Lead","body":[]}]}"#.to_owned(), Err("a record must be an object")),
        (r#"{"compositeRequest":[{"url":"/a","body":{},"url":"/b"}]}"#.to_owned(), Err("two URLs in a subrequest")),
        (r#"{"compositeRequest":[{"url":"/sobjects/Case","body":{}}]}"#.to_owned(), Err("no record of the object")),
        (format!(r#"{{"records":[{}{{}}]}}"#, "{},".repeat(200)), Err("over 200 records")),
        (r#"{"V":1"#.to_owned(), Err("the text ends too soon")),
    ];
    for (body, expected) in cases {
        match (extract(&visits(), &body), expected) {
            (Ok(found), Ok(rows)) => assert_eq!(found.rows, rows, "{body}"),
            (Err(ScoreFault::Body { what, .. }), Err(expected)) => assert_eq!(what, expected, "{body}"),
            (got, expected) => panic!("{body}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn reserved_members_go_wherever_they_stand() {
    let cases = [
        (r#"{"S__c":9,"a":1}"#, r#"{"S__c":1,"a":1}"#),
        (r#"{"a":1,"S__c":9,"b":2}"#, r#"{"S__c":1,"a":1,"b":2}"#),
        (r#"{"a":1,"S__c":9}"#, r#"{"S__c":1,"a":1}"#),
        (r#"{"S__c":9}"#, r#"{"S__c":1}"#),
        ("{ }", r#"{"S__c":1 }"#),
        (r#"{ "S__c" : {"x":[1]} , "a":1}"#, r#"{"S__c":1,"a":1}"#),
        (r#"{"S__c":1,"T__c":2}"#, r#"{"S__c":1}"#),
        (r#"{"S__c":1,"s__C":2,"a":1,"\u0053__c":3,"T__c":[] }"#, r#"{"S__c":1,"a":1 }"#),
        (r#"{"records":[{"S__c":5},{"a":1}]}"#, r#"{"records":[{"S__c":1},{"S__c":1,"a":1}]}"#),
    ];
    for (body, expected) in cases {
        assert_eq!(spliced(body, &extract(&visits(), body).unwrap()), expected, "{body}");
    }
}

#[test]
fn transforms_follow_the_bundle_format() {
    let number = |extra: Value| {
        let mut feature = json!({"name": "f", "pointer": "/F", "type": "number"});
        feature.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        feature
    };
    let text = |extra: Value| {
        let mut feature = number(extra);
        feature["type"] = json!("string");
        feature
    };
    let scale = json!({"impute": 3.0, "log": true, "scale": {"mean": 1.0, "std": 2.0}});
    let one_hot = json!({"default": "", "oneHot": {"values": ["a", "b"], "other": true}});
    let cases: Vec<(Value, &str, Option<Vec<f32>>)> = vec![
        (number(scale.clone()), r#"{"F":-5}"#, Some(vec![-0.5])),
        (number(scale), "{}", Some(vec![(4.0_f32.ln() - 1.0) / 2.0])),
        (number(json!({"bucket": {"edges": [1, 5]}})), r#"{"F":1}"#, Some(vec![0.0, 1.0, 0.0])),
        (number(json!({"bucket": {"edges": [1, 5]}})), r#"{"F":5.5}"#, Some(vec![0.0, 0.0, 1.0])),
        (number(json!({})), "{}", None),
        (number(json!({"default": 2})), r#"{"F":"1"}"#, None),
        (number(json!({"default": 2, "lenient": true})), r#"{"F":"1"}"#, Some(vec![1.0])),
        (number(json!({"default": 2, "lenient": true})), r#"{"F":"\u0020-1.5e1\t"}"#, Some(vec![-15.0])),
        (number(json!({"default": 2, "lenient": true})), r#"{"F":"1."}"#, Some(vec![2.0])),
        (number(json!({"default": 2, "lenient": true})), r#"{"F":[1]}"#, Some(vec![2.0])),
        (number(json!({})), r#"{"F":1e999}"#, None),
        (number(json!({})), r#"{"F":1e39}"#, None),
        (number(json!({})), r#"{"F":1,"F":1}"#, None),
        (text(one_hot.clone()), r#"{"F":"b"}"#, Some(vec![0.0, 1.0, 0.0])),
        (text(one_hot.clone()), r#"{"F":"\u0062"}"#, Some(vec![0.0, 1.0, 0.0])),
        (text(one_hot), "{}", Some(vec![0.0, 0.0, 1.0])),
        (text(json!({"ordinal": {"Cold": 0, "Hot": 2}, "otherwise": 7})), r#"{"F":"Hot"}"#, Some(vec![2.0])),
        (text(json!({"ordinal": {"Cold": 0, "Hot": 2}, "otherwise": 7})), r#"{"F":"x"}"#, Some(vec![7.0])),
        // fnv1a64("a") = 0xaf63dc4c8601ec8c, so bucket 0 of 4.
        (text(json!({"hash": {"buckets": 4}})), r#"{"F":"a"}"#, Some(vec![1.0, 0.0, 0.0, 0.0])),
        (text(json!({"hash": {"buckets": 4}, "default": ""})), "{}", Some(vec![0.0; 4])),
        (
            json!({"name": "f", "pointer": "/a~1b/c", "type": "boolean"}),
            r#"{"a/b":{"c":true}}"#,
            Some(vec![1.0]),
        ),
    ];
    for (feature, body, expected) in cases {
        let found = plan(json!([feature])).extract(body.as_bytes(), &[], Reading::default()).unwrap();
        match expected {
            Some(row) => {
                assert_eq!(found.records[0].features, Ok(()), "{feature} {body}");
                let near = found.rows.iter().zip(&row).all(|(a, b)| (a - b).abs() < 1e-6);
                assert!(near && found.rows.len() == row.len(), "{feature} {body}: {:?}", found.rows);
            }
            None => {
                assert!(matches!(found.records[0].features, Err(ScoreFault::Feature(_))), "{feature} {body}");
            }
        }
    }
    let nan =
        plan(json!([number(json!({"missing": "nan"}))])).extract(b"{}", &[], Reading::default()).unwrap();
    assert!(nan.rows[0].is_nan());
}

#[test]
fn a_record_at_fault_does_not_spoil_its_neighbours() {
    let plan = plan(json!([{"name": "v", "pointer": "/V", "type": "number"}]));
    let found = extract(&plan, r#"{"records":[{"V":1},{"V":"x"},{"V":3}]}"#).unwrap();
    assert_eq!(found.rows, [1.0, 3.0]);
    assert_eq!(
        found.records.iter().map(|record| record.features.is_ok()).collect::<Vec<_>>(),
        [true, false, true]
    );
}

#[test]
fn contradicting_specs_are_refused() {
    let cases = [
        json!({"type": "number", "pointer": "V"}),
        json!({"type": "number", "pointer": "/V/0"}),
        json!({"type": "number", "default": 1, "impute": 1}),
        json!({"type": "number", "default": "x"}),
        json!({"type": "string"}),
        json!({"type": "string", "oneHot": {"values": ["a", "a"]}}),
        json!({"type": "string", "hash": {"buckets": 0}}),
        json!({"type": "boolean", "log": true}),
        json!({"type": "number", "bucket": {"edges": [2, 1]}}),
        json!({"type": "number", "scale": {"mean": 0, "std": 0}}),
        json!({"type": "number", "pointer": "/attributes/type"}),
        json!({"type": "string", "hash": {"buckets": 5000}}),
    ];
    for case in cases {
        let mut spec = json!({"name": "f", "pointer": "/V"});
        spec.as_object_mut().unwrap().extend(case.as_object().unwrap().clone());
        let spec: FeatureSpec = serde_json::from_value(spec).unwrap();
        assert!(Plan::compile("Lead", &[spec], &Tables::new()).is_err(), "{case}");
    }
}

/// Reads one record the slow way: a tree, then pointers.
fn naive(record: &Value) -> Option<Vec<f32>> {
    let level = match record.get("Rating") {
        None | Some(Value::Null) => 0.0,
        Some(Value::String(text)) => {
            if text == "Hot" {
                2.0
            } else {
                1.0
            }
        }
        Some(_) => return None,
    };
    let depth = match record.pointer("/a/b") {
        None | Some(Value::Null) => f32::NAN,
        Some(value) => value.to_string().parse().ok().filter(|_| value.is_number())?,
    };
    Some(vec![level, depth])
}

#[test]
fn one_pass_reads_what_a_tree_would() {
    let plan = plan(json!([
        {"name": "r", "pointer": "/Rating", "type": "string", "default": "Cold", "ordinal": {"Cold": 0, "Hot": 2}, "otherwise": 1},
        {"name": "d", "pointer": "/a/b", "type": "number", "missing": "nan"},
    ]));
    let ratings = [json!("Hot"), json!("Warm \"é\\"), json!(null), json!(3), json!({"x": 1})];
    let inners = [
        json!({"b": 4}),
        json!({"c": [{"b": 1}], "b": -2.5}),
        json!([{"b": 1}]),
        json!({"b": "4"}),
        json!(7),
        json!({"b": {}}),
    ];
    let mut compared = 0;
    for rating in &ratings {
        for inner in &inners {
            for order in [["Rating", "a", "z"], ["z", "a", "Rating"]] {
                let mut record = serde_json::Map::new();
                for key in order {
                    let value = match key {
                        "Rating" => rating,
                        "a" => inner,
                        _ => &json!([{"Rating": "Hot", "a": {"b": 9}}, "}"]),
                    };
                    record.insert(key.to_owned(), value.clone());
                }
                let record = Value::Object(record);
                let body = serde_json::to_string_pretty(&json!({"records": [record, record]})).unwrap();
                let found = plan.extract(body.as_bytes(), &[], Reading::default()).unwrap();
                match naive(&record) {
                    Some(row) => {
                        let twice = [row.clone(), row].concat();
                        assert!(
                            found.rows.iter().zip(&twice).all(|(a, b)| a == b || a.is_nan() && b.is_nan()),
                            "{body}"
                        );
                        assert_eq!(found.rows.len(), 4, "{body}");
                    }
                    None => assert!(found.rows.is_empty(), "{body}: {:?}", found.rows),
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 60);
}
