//! `:predict` and model status, as TensorFlow Serving has them.

use serde_json::{Value, json};

use super::{Running, engine, records, single};

#[test]
fn rows_and_columns_of_features_and_records_give_the_scores_of_the_engine() {
    let model = "lead-score-logistic";
    let (server, _folder) = Running::start(&[model], &[]);
    let texts = records(model, 3);
    let (features, scores) = engine(model, &texts, false);
    let objects: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let encoded: Vec<Value> = texts.iter().map(|text| json!({ "b64": base64(text.as_bytes()) })).collect();
    let named =
        |name: &str, values: &[Value]| values.iter().map(|value| json!({ name: value })).collect::<Vec<_>>();
    let rows: Vec<Value> = features.iter().map(|row| json!(row)).collect();
    let by_row = [
        json!(rows),
        json!(named("features", &rows)),
        json!(objects),
        json!(texts),
        json!(named("record", &objects)),
        json!(named("record", &encoded)),
        json!(encoded),
    ];
    let numbers = |value: &Value| -> Vec<f32> {
        value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(single).collect()
    };
    let expected: Vec<f32> = scores.iter().map(|(score, _)| *score).collect();
    for path in [format!("/v1/models/{model}:predict"), format!("/v1/models/{model}/versions/1.0.0:predict")]
    {
        for instances in &by_row {
            let asked = json!({ "instances": instances, "signature_name": "serving_default" });
            assert_eq!(numbers(&server.post(&path, &asked).json()["predictions"]), expected, "{instances}");
        }
        for inputs in [
            json!(rows),
            json!({ "features": rows }),
            json!(objects),
            json!(texts),
            json!({ "record": objects }),
            json!({ "record": encoded }),
        ] {
            let answer = server.post(&path, &json!({ "inputs": inputs })).json();
            assert_eq!(numbers(&answer["outputs"]), expected, "{inputs}");
        }
    }
    let status = server.get(&format!("/v1/models/{model}")).json();
    let line = json!({ "version": "1.0.0", "state": "AVAILABLE", "status": { "error_code": "OK", "error_message": "" } });
    assert_eq!(status, json!({ "model_version_status": [line] }));
    assert_eq!(server.get("/v1/models/nobody").status, 404);
}

#[test]
fn several_outputs_are_named() {
    let (server, _folder) = Running::start(&["case-queue"], &[]);
    let texts = records("case-queue", 2);
    let (_, scores) = engine("case-queue", &texts, false);
    let rows = server.post("/v1/models/case-queue:predict", &json!({ "instances": texts })).json();
    let columns = server.post("/v1/models/case-queue:predict", &json!({ "inputs": texts })).json();
    for (place, (score, detail)) in scores.iter().enumerate() {
        let detail = detail.as_ref().unwrap();
        let expected = json!({ "class": detail.class, "probabilities": detail.values, "score": score });
        for key in ["class", "probabilities", "score"] {
            let (row, column) = (&rows["predictions"][place][key], &columns["outputs"][key][place]);
            assert_eq!(row, column);
            let wanted: Value =
                serde_json::from_str(&serde_json::to_string(&expected[key]).unwrap()).unwrap();
            match (row, wanted) {
                (Value::Array(found), Value::Array(wanted)) => {
                    let numbers = |list: &[Value]| list.iter().map(single).collect::<Vec<_>>();
                    assert_eq!(numbers(found), numbers(&wanted), "{key}");
                }
                (Value::String(found), wanted) => assert_eq!(*found, wanted, "{key}"),
                (found, wanted) => assert_eq!(single(found), single(&wanted), "{key}"),
            }
        }
    }
}

#[test]
fn what_is_no_request_is_refused_with_words() {
    let (server, _folder) = Running::start(&["lead-score-logistic"], &["--max-rows", "4"]);
    for (asked, status, words) in [
        (json!({}), 400, "`instances` or `inputs`"),
        (json!({ "instances": [{}], "inputs": [] }), 400, "not both"),
        (json!({ "instances": [] }), 400, "no row"),
        (json!({ "instances": [{}, {}, {}, {}, {}] }), 413, "at most 4"),
        (json!({ "inputs": { "record": [{}, {}, {}, {}, {}] } }), 413, "at most 4"),
        (json!({ "instances": [7] }), 400, "instance 0"),
        (json!({ "instances": [[1, 2]] }), 400, "instance 0"),
        (json!({ "instances": [{}, vec![0; 31]] }), 400, "features and records"),
        (json!({ "instances": [{ "b64": "*" }] }), 400, "instance 0"),
        (json!({ "instances": [{ "AnnualRevenue": "much" }] }), 400, "record 0: feature annual_revenue"),
        (json!({ "inputs": { "wrong": [{}] } }), 400, "`record`"),
        (json!({ "inputs": { "features": [{}] } }), 400, "`record`"),
        (json!({ "inputs": [[1], [2]] }), 400, "data"),
        (json!({ "instances": [{}], "signature_name": "other" }), 400, "serving_default"),
        (json!([]), 400, "the request"),
    ] {
        let answer = server.post("/v1/models/lead-score-logistic:predict", &asked);
        assert_eq!(answer.status, status, "{asked}: {}", answer.error());
        assert!(answer.error().contains(words), "{asked}: {}", answer.error());
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three =
            chunk.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(three >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}
