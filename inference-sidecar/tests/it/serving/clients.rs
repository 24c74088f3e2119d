//! Unmodified clients of Triton get what the engine says, in every form.

use serde_json::{Value, json};

use super::{Running, ask_records, engine, records, single};

const MODES: [&str; 7] =
    ["http_json", "http_binary", "http_gzip", "http_deflate", "grpc_raw", "grpc_typed", "grpc_gzip"];

/// A tensor of an answer: shape and cells.
fn tensor(shape: &[usize], cells: impl IntoIterator<Item = impl Into<Value>>) -> Value {
    json!([shape, cells.into_iter().map(Into::into).collect::<Vec<Value>>()])
}

fn number(cell: f32) -> Value {
    f64::from(cell).into()
}

/// The same with numbers as FP32: what reads JSON here may be off by a bit of a double.
fn exact(value: &Value) -> Value {
    match value {
        Value::Number(_) => format!("{:?}", single(value)).into(),
        Value::Array(values) => values.iter().map(exact).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), exact(value))).collect(),
        other => other.clone(),
    }
}

/// The outputs that a model should give for these records; JSON numbers as the clients print them.
fn expected(model: &str, records: &[String], explain: bool) -> (Vec<Vec<f32>>, Value) {
    let (features, scores) = engine(model, records, explain);
    let rows = scores.len();
    let mut outputs = json!({ "score": tensor(&[rows], scores.iter().map(|(score, _)| number(*score))) });
    let details: Vec<_> = scores.iter().filter_map(|(_, detail)| detail.as_deref()).collect();
    if details.iter().any(|detail| detail.class.is_some()) {
        let classes = details.iter().map(|detail| detail.class.as_deref().unwrap());
        outputs["class"] = tensor(&[rows], classes);
        let values = details.iter().flat_map(|detail| &detail.values).copied().map(number);
        outputs["probabilities"] = tensor(&[rows, details[0].values.len()], values);
    }
    if details.iter().any(|detail| !detail.items.is_empty()) {
        let shape = [rows, details[0].items.len()];
        let items = || details.iter().flat_map(|detail| &detail.items);
        outputs["items"] = tensor(&shape, items().map(|item| &*item.key));
        outputs["item_labels"] =
            tensor(&shape, items().map(|item| item.label.as_deref().unwrap_or_default()));
        outputs["item_scores"] = tensor(&shape, items().map(|item| number(item.score)));
    }
    (features, outputs)
}

fn agree(model: &str, count: usize) {
    let (server, _folder) = Running::start(&[model], &[]);
    let records = records(model, count);
    let (features, outputs) = expected(model, &records, false);
    let names: Vec<&String> = outputs.as_object().unwrap().keys().collect();
    let asked = json!({
        "word": "infer", "model": model, "features": features, "records": records, "outputs": names, "explain": false,
    });
    let answers = server.triton(asked);
    for mode in MODES {
        for input in ["features", "record"] {
            assert_eq!(exact(&answers[mode][input]), exact(&outputs), "{mode}, {input}");
        }
    }
}

#[test]
fn a_score_of_a_forest_is_that_of_the_engine() {
    agree("churn-risk", 20);
}

#[test]
fn a_score_of_a_graph_is_that_of_the_engine() {
    agree("lead-score-logistic", 20);
}

#[test]
fn classes_are_those_of_the_engine() {
    agree("case-queue", 7);
}

#[test]
fn rankings_are_those_of_the_engine() {
    agree("product-next", 5);
}

#[test]
fn requests_of_a_stream_are_answered_in_order_and_a_bad_one_ends_nothing() {
    let model = "lead-score-logistic";
    let (server, _folder) = Running::start(&[model], &[]);
    let mut records = records(model, 20);
    let (_, scores) = engine(model, &records, false);
    let mut models = vec![model; records.len()];
    models[7] = "nobody";
    records[11] = "[1]".to_owned();
    for gzip in [false, true] {
        let asked = json!({ "word": "stream", "models": models, "records": records, "gzip": gzip });
        let answers = server.triton(asked);
        let answers = answers.as_array().unwrap();
        assert_eq!(answers.len(), records.len());
        for (place, answer) in answers.iter().enumerate() {
            if [7, 11].contains(&place) {
                assert_eq!(answer[0], "error", "{place}");
                let message = answer[1].as_str().unwrap();
                assert!(message.contains(if place == 7 { "nobody" } else { "record 0" }), "{message}");
            } else {
                assert_eq!(answer[0], format!("r{place}"));
                assert_eq!(single(&answer[1][0]), scores[place].0, "{place}");
            }
        }
    }
    // As Triton counts them: each request of a stream is one.
    let counts = server.get("/v2/models/lead-score-logistic/stats").json();
    assert_eq!(counts["model_stats"][0]["inference_stats"]["success"]["count"], 36);
}

#[test]
fn time_that_rows_wait_for_a_thread_is_told_apart() {
    let model = "lead-score-logistic";
    let (server, _folder) = Running::start(&[model], &["--model-threads", "1"]);
    // Pieces of 200 rows are not cheap: they go to the one thread.
    let some = records(model, 20);
    let many: Vec<String> = some.iter().cycle().take(4_000).cloned().collect();
    let asked = ask_records(&many);
    std::thread::scope(|scope| {
        let asks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.post("/v2/models/lead-score-logistic/infer", &asked).status))
            .collect();
        assert!(asks.into_iter().all(|ask| ask.join().unwrap() == 200));
    });
    let counts = server.get("/v2/models/lead-score-logistic/stats").json();
    let sums = &counts["model_stats"][0]["inference_stats"];
    let ns = |name: &str| sums[name]["ns"].as_u64().unwrap();
    assert_eq!((&sums["queue"]["count"], &sums["success"]["count"]), (&json!(4), &json!(4)));
    assert!(ns("queue") > 0, "{sums}");
    let parts = ns("queue") + ns("compute_input") + ns("compute_infer") + ns("compute_output");
    assert_eq!(parts, ns("success"));
}

#[test]
fn more_rows_than_one_run_takes_are_scored_in_order() {
    let (server, _folder) = Running::start(&["lead-score-logistic"], &[]);
    let some = records("lead-score-logistic", 20);
    let records: Vec<String> = some.iter().cycle().take(1_003).cloned().collect();
    let (_, scores) = engine("lead-score-logistic", &some, false);
    let answer = server.post("/v2/models/lead-score-logistic/infer", &ask_records(&records)).json();
    let found = answer["outputs"][0]["data"].as_array().unwrap();
    assert_eq!(found.len(), records.len());
    for (found, (score, _)) in found.iter().zip(scores.iter().cycle()) {
        assert_eq!(single(found), *score);
    }
}

#[test]
fn nan_in_binary_and_null_in_json_are_what_is_missing() {
    let (server, _folder) = Running::start(&["lead-score"], &[]);
    let (features, _) = engine("lead-score", &records("lead-score", 8), false);
    let missing: Vec<Vec<f32>> = features
        .iter()
        .map(|row| row.iter().map(|cell| if *cell > 1.0 { f32::NAN } else { *cell }).collect())
        .collect();
    assert!(missing.iter().flatten().any(|cell| cell.is_nan()));
    let shape = [missing.len(), missing[0].len()];
    let ask = |extra: Value| {
        let mut tensor = json!({ "name": "features", "datatype": "FP32", "shape": shape });
        tensor.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({ "inputs": [tensor] }).to_string()
    };
    let written =
        server.ask("POST", "/v2/models/lead-score/infer", &[], ask(json!({ "data": missing })).as_bytes());
    let binary: Vec<u8> = missing.iter().flatten().flat_map(|cell| cell.to_le_bytes()).collect();
    let head = ask(json!({ "parameters": { "binary_data_size": binary.len() } }));
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", length.as_str())];
    let raw =
        server.ask("POST", "/v2/models/lead-score/infer", &headers, &[head.as_bytes(), &binary].concat());
    assert_eq!(written.status, 200, "{:?}", written.json());
    assert_eq!(written.json(), raw.json());
    let full =
        server.ask("POST", "/v2/models/lead-score/infer", &[], ask(json!({ "data": features })).as_bytes());
    assert_ne!(full.json()["outputs"], raw.json()["outputs"], "something was missing");
}

#[test]
fn reasons_are_told_on_request_in_the_words_of_salesforce() {
    let model = "lead-score-logistic";
    let (server, _folder) = Running::start(&[model, "product-next"], &[]);
    let records = records(model, 3);
    let (_, scores) = engine(model, &records, true);
    let asked = json!({
        "word": "infer", "model": model, "features": [vec![0.0; 31]], "records": records,
        "outputs": ["score", "reasons"], "explain": true,
    });
    let answers = server.triton(asked);
    for mode in MODES {
        let told = answers[mode]["record"]["reasons"][1].as_array().unwrap();
        assert_eq!(told.len(), scores.len(), "{mode}");
        for (told, (score, detail)) in told.iter().zip(&scores) {
            let told: Value = serde_json::from_str(told.as_str().unwrap()).unwrap();
            assert_eq!(single(&told["predictionScore"]), *score);
            let mut predictors = String::new();
            detail.as_ref().unwrap().reasons.as_ref().unwrap().push_json(&mut predictors);
            assert_eq!(told["topPredictors"], serde_json::from_str::<Value>(&predictors).unwrap(), "{mode}");
        }
    }
    let mut asked = ask_records(&super::records("product-next", 1));
    asked["parameters"] = json!({ "explain": true });
    let refused = server.post("/v2/models/product-next/infer", &asked);
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("tells no reasons"), "{}", refused.error());
}

#[test]
fn server_and_models_tell_of_themselves_alike_by_both_protocols() {
    let (server, _folder) = Running::start(&["case-queue", "lead-score-logistic"], &[]);
    let records = records("case-queue", 4);
    assert_eq!(server.post("/v2/models/case-queue/infer", &ask_records(&records)).status, 200);
    assert_eq!(server.post("/v2/models/case-queue/infer", &ask_records(&[])).status, 400);
    let bad = vec![r#"{"attributes":{"type":"Lead"}}"#.to_owned()];
    assert_eq!(server.post("/v2/models/case-queue/infer", &ask_records(&bad)).status, 400);
    let told = server.triton(json!({ "word": "told", "model": "case-queue", "version": "1.0.0" }));
    for server in told["server"].as_array().unwrap() {
        assert_eq!(server["name"], "foregate-inference");
        assert_eq!(
            server["extensions"],
            json!(["binary_tensor_data", "model_repository", "statistics", "parameters"])
        );
    }
    let [http, grpc] = told["model"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(http["inputs"][0], json!({ "name": "features", "datatype": "FP32", "shape": [-1, 1034] }));
    assert_eq!(http["inputs"][1], json!({ "name": "record", "datatype": "BYTES", "shape": [-1] }));
    assert_eq!(http["outputs"][2], json!({ "name": "probabilities", "datatype": "FP32", "shape": [-1, 5] }));
    for key in ["name", "versions", "platform"] {
        assert_eq!(http[key], grpc[key]);
    }
    for (a, b) in http["outputs"].as_array().unwrap().iter().zip(grpc["outputs"].as_array().unwrap()) {
        assert_eq!((&a["name"], &a["datatype"]), (&b["name"], &b["datatype"]));
    }
    let [http, grpc] = told["statistics"].as_array().unwrap().as_slice() else { panic!("{told}") };
    let (http, grpc) = (&http["model_stats"][0], &grpc["model_stats"][0]);
    assert_eq!(http["inference_count"], 4);
    assert_eq!(http["execution_count"], 1);
    assert_eq!(http["inference_stats"]["success"]["count"], 1);
    assert_eq!(
        http["inference_stats"]["fail"]["count"], 1,
        "a request that names no rows never reached the model"
    );
    assert!(http["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0);
    assert!(http["last_inference"].as_u64().unwrap() > 1_700_000_000_000);
    // In the JSON of protobuf, numbers of 64 bits are strings.
    assert_eq!(grpc["inference_count"], "4");
    assert_eq!(
        grpc["inference_stats"]["success"]["ns"],
        http["inference_stats"]["success"]["ns"].to_string()
    );
    assert_eq!(told["all"], json!([2, 2]));
}

#[test]
fn models_are_loaded_and_unloaded_where_that_is_allowed() {
    let (server, _folder) = Running::start(&["churn-risk"], &["--model-control", "explicit"]);
    let told = server.triton(json!({ "word": "control", "model": "churn-risk" }));
    let (gone, there) =
        (json!([false, false, "UNAVAILABLE", "UNAVAILABLE"]), json!([true, true, "READY", "READY"]));
    assert_eq!(told["states"], json!([gone, there, gone, there]));
    let faults = told["faults"].as_array().unwrap();
    let statuses: Vec<&str> = faults.iter().map(|fault| fault[0].as_str().unwrap()).collect();
    let (http, grpc) = (["404", "404", "400"], ["NOT_FOUND", "NOT_FOUND", "INVALID_ARGUMENT"]);
    let grpc = grpc.map(|code| format!("StatusCode.{code}"));
    assert_eq!(statuses, [http.as_slice(), grpc.each_ref().map(String::as_str).as_slice()].concat());

    let (server, _folder) = Running::start(&["churn-risk"], &[]);
    let refused = server.post("/v2/repository/models/churn-risk/unload", &json!({}));
    assert_eq!(refused.status, 403);
    assert!(refused.error().contains("--model-control explicit"), "{}", refused.error());
}
