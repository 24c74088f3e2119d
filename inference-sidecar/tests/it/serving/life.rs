//! How the server starts, is busy, is late, is watched, and ends.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use serde_json::json;

use super::{Answer, Running, ask_records, bundles, command, folder_of, head, records};

const MODEL: &str = "lead-score-logistic";
const PATH: &str = "/v2/models/lead-score-logistic/infer";

/// A request that is under way: its head and the first byte of its body have been sent.
fn begun(server: &Running, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let body = ask_records(&records(MODEL, 1)).to_string();
    let mut stream = server.connect();
    let length = body.len().to_string();
    let headers = [headers, &[("content-length", &length)]].concat();
    stream.write_all(&head("POST", PATH, &headers)).unwrap();
    stream.write_all(&body.as_bytes()[..1]).unwrap();
    (stream, body)
}

#[test]
fn a_request_under_way_is_finished_after_sigterm_and_no_other_is_begun() {
    let (mut server, _folder) = Running::start(&[MODEL], &["--max-requests", "1"]);
    let (mut stream, body) = begun(&server, &[]);
    // It is under way once another one is refused for it.
    while server.post(PATH, &ask_records(&records(MODEL, 1))).status != 503 {}
    let status = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(status.success());
    while TcpStream::connect(server.http).is_ok() {}
    while TcpStream::connect(server.grpc).is_ok() {}
    assert!(server.child.try_wait().unwrap().is_none(), "it waits for the request");
    stream.write_all(&body.as_bytes()[1..]).unwrap();
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn a_drain_that_takes_too_long_is_told_by_the_exit_code() {
    let (mut server, _folder) = Running::start(&[MODEL], &["--drain-timeout", "50ms", "--max-requests", "1"]);
    let (_stream, _) = begun(&server, &[]);
    while server.post(PATH, &ask_records(&records(MODEL, 1))).status != 503 {}
    Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
}

#[test]
fn more_requests_than_are_allowed_are_refused_and_probes_are_not() {
    let (server, _folder) = Running::start(&[MODEL], &["--max-requests", "1"]);
    let (mut stream, body) = begun(&server, &[("connection", "close")]);
    let busy = loop {
        let answer = server.post(PATH, &ask_records(&records(MODEL, 1)));
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(busy.status, 503);
    assert!(busy.head.contains("retry-after: 1") && busy.error().contains("1 requests"), "{}", busy.head);
    assert_eq!(server.get("/v2/health/ready").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    let answers = server.triton(json!({ "word": "raw", "calls": [
        { "method": "ServerReady", "hex": "" }, { "method": "ServerMetadata", "hex": "" },
    ]}));
    assert_eq!((&answers[0][0], &answers[1][0]), (&json!("OK"), &json!("RESOURCE_EXHAUSTED")));
    stream.write_all(&body.as_bytes()[1..]).unwrap();
    assert_eq!(Answer::read(&mut stream).status, 200);
    assert_eq!(server.post(PATH, &ask_records(&records(MODEL, 1))).status, 200);
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let (server, _folder) = Running::start(&[MODEL], &["--request-timeout", "100ms"]);
    let (mut stream, _) = begun(&server, &[("connection", "close")]);
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 504);
    assert!(answer.error().contains("deadline"), "{}", answer.error());
}

#[test]
fn requests_and_rows_are_counted() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    assert_eq!(server.post(PATH, &ask_records(&records(MODEL, 3))).status, 200);
    assert_eq!(server.post("/v2/models/nobody/infer", &json!({})).status, 404);
    assert_eq!(server.post("/v2/models/nobody-else/infer", &json!({})).status, 404);
    let page = String::from_utf8(server.get("/metrics").body).unwrap();
    for line in [
        r#"foregate_inference_requests_total{protocol="http",call="infer",outcome="ok"} 1"#,
        r#"foregate_inference_requests_total{protocol="http",call="infer",outcome="not_found"} 2"#,
        r#"foregate_inference_rows_total{model="lead-score-logistic"} 3"#,
        r#"foregate_inference_request_duration_seconds_count{protocol="http",call="infer"} 3"#,
        "foregate_inference_models 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("nobody"), "names that clients make up are no labels");
}

#[test]
fn a_folder_whose_bundles_are_at_fault_is_not_served_and_says_where() {
    let empty = tempfile::tempdir().unwrap();
    let folder = folder_of(&[MODEL]);
    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("model.yaml"), "kind: ModelBundle\n").unwrap();
    let twice = folder_of(&[MODEL]);
    std::os::unix::fs::symlink(bundles().join(MODEL), twice.path().join("again")).unwrap();
    for (path, says) in
        [(empty.path(), "no bundle in it"), (folder.path(), "broken"), (twice.path(), "occur twice")]
    {
        let output = command(&["serve", "--models"]).arg(path).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_bundle_that_became_faulty_is_told_and_the_loaded_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("models").join(MODEL);
    fs::create_dir_all(&copy).unwrap();
    for file in ["model.yaml", "model.onnx", "golden.json"] {
        fs::copy(bundles().join(MODEL).join(file), copy.join(file)).unwrap();
    }
    let server = Running::serve(folder.path(), &["--model-control", "explicit"]);
    fs::write(copy.join("model.onnx"), b"other").unwrap();
    let refused = server.post("/v2/repository/models/lead-score-logistic/load", &json!({}));
    assert_eq!(refused.status, 400);
    assert!(
        refused.error().contains("model.onnx") && refused.error().contains("sha256"),
        "{}",
        refused.error()
    );
    assert_eq!(server.post(PATH, &ask_records(&records(MODEL, 1))).status, 200);
    fs::write(copy.join("model.yaml"), "nothing").unwrap();
    assert_eq!(server.post("/v2/repository/models/lead-score-logistic/unload", &json!({})).status, 200);
    let index = server.post("/v2/repository/index", &json!({})).json();
    assert_eq!((&index[0]["name"], &index[0]["state"]), (&json!(MODEL), &json!("UNAVAILABLE")));
    assert!(index[0]["reason"].as_str().unwrap().contains("model.yaml"), "{index}");
    assert_eq!(server.post("/v2/repository/index", &json!({ "ready": true })).json(), json!([]));
    assert_eq!(server.post(PATH, &ask_records(&records(MODEL, 1))).status, 404);
}
