//! Whatever is malformed, too large or a lie is refused, and the server goes on.

use std::io::Write;

use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::{Value, json};

use super::{Answer, Running, ask_records, head, records};

const MODEL: &str = "lead-score-logistic";
const PATH: &str = "/v2/models/lead-score-logistic/infer";

/// A request for one tensor.
fn tensor(name: &str, datatype: &str, shape: &Value, data: &Value) -> Value {
    json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] })
}

fn fine(server: &Running) {
    let answer = server.post(PATH, &ask_records(&records(MODEL, 1)));
    assert_eq!(answer.status, 200, "the server goes on");
}

#[test]
fn shapes_and_data_that_do_not_fit_are_refused() {
    let (server, _folder) = Running::start(&[MODEL], &["--max-rows", "100"]);
    let features = |shape: Value, data: Value| tensor("features", "FP32", &shape, &data);
    let record = |shape: Value, data: Value| tensor("record", "BYTES", &shape, &data);
    let row = vec![0.5; 31];
    let huge = i64::MAX;
    let with = |key: &str, value: Value| {
        let mut asked = record(json!([1]), json!(["{}"]));
        asked[key] = value;
        asked
    };
    for (asked, status, words) in [
        (features(json!([1, 30]), json!(row)), 400, "[rows, 31]"),
        (features(json!([31]), json!(row)), 400, "[rows, 31]"),
        (features(json!([1, 31, 1]), json!(row)), 400, "[rows, 31]"),
        (features(json!([2, 31]), json!(row)), 400, "62 elements"),
        (features(json!([0, 31]), json!([])), 400, "no row"),
        (features(json!([-1, 31]), json!(row)), 400, "negative"),
        (features(json!([]), json!([])), 400, "dimensions"),
        (features(json!([1, 1, 1, 1, 1, 1, 1, 1, 31]), json!(row)), 400, "dimensions"),
        (features(json!([huge, huge]), json!(row)), 400, "product"),
        (features(json!([huge, 31]), json!(row)), 400, "product"),
        (features(json!([200_000_000_000_i64, 31]), json!(row)), 413, "at most 100"),
        (features(json!([101, 31]), json!([])), 413, "at most 100"),
        (features(json!([1, 31]), json!(vec![0.5; 1_000_000])), 400, "31 elements"),
        (features(json!([1, 31]), json!([row, row])), 400, "data"),
        (features(json!([1, 31]), json!("AAAA")), 400, "data"),
        (features(json!([1, 31]), json!(vec!["x"; 31])), 400, "data"),
        (features(json!([1.5, 31]), json!(row)), 400, "the request"),
        (tensor("features", "FP64", &json!([1, 31]), &json!(row)), 400, "of type FP64"),
        (tensor("features", "BYTES", &json!([1]), &json!(["{}"])), 400, "`record` (BYTES)"),
        (tensor("x", "FP32", &json!([1, 31]), &json!(row)), 400, "no input `x`"),
        (record(json!([1_000_000]), json!(vec!["{}"; 1_000_000])), 413, "at most 100"),
        (record(json!([2]), json!(["{}"])), 400, "1 elements for 2 records"),
        (record(json!([1, 2]), json!(["{}", "{}"])), 400, "must be [rows]"),
        (record(json!([1]), json!([7])), 400, "element 0"),
        (record(json!([1]), json!(["[1]"])), 400, "record 0"),
        (record(json!([1]), json!([""])), 400, "record 0"),
        (record(json!([1]), json!([r#"{"AnnualRevenue":"much"}"#])), 400, "annual_revenue"),
        (record(json!([1]), json!([r#"{"records":[{},{}]}"#])), 400, "one record expected"),
        (record(json!([1]), json!([r#"{"attributes":{"type":"Case"}}"#])), 400, "another object"),
        (json!({ "inputs": [] }), 400, "one input"),
        (json!({}), 400, "inputs"),
        (with("outputs", json!([{ "name": "nothing" }])), 400, "no output `nothing`"),
        (
            with("outputs", json!([{ "name": "score", "parameters": { "classification": 3 } }])),
            400,
            "classification",
        ),
        (with("outputs", json!(vec![json!({ "name": "score" }); 65])), 400, "over 64"),
        (with("parameters", json!({ "explain": "yes" })), 400, "the request"),
    ] {
        let answer = server.post(PATH, &asked);
        assert_eq!(answer.status, status, "{}", answer.error());
        assert!(answer.error().contains(words), "{words}: {}", answer.error());
    }
    let two = json!({ "inputs": [features(json!([1, 31]), json!(row))["inputs"][0], record(json!([1]), json!(["{}"]))["inputs"][0]] });
    assert!(server.post(PATH, &two).error().contains("this one has 2"));
    for (asked, words) in
        [(&b"{"[..], "EOF"), (b"\xff", "the request"), (b"", "EOF"), (b"[[[[", "the request")]
    {
        let answer = server.ask("POST", PATH, &[], asked);
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains(words), "{}", answer.error());
    }
    let deep = "[".repeat(1_000_000);
    assert_eq!(server.ask("POST", PATH, &[], deep.as_bytes()).status, 400);
    fine(&server);
}

/// Sends binary tensors; `size` is what the request says of them.
fn binary(server: &Running, mut asked: Value, size: i64, length: Option<&str>, bytes: &[u8]) -> Answer {
    asked["inputs"][0].as_object_mut().unwrap().remove("data");
    asked["inputs"][0]["parameters"] = json!({ "binary_data_size": size });
    let json = asked.to_string();
    let own = json.len().to_string();
    let headers = [("inference-header-content-length", length.unwrap_or(&own))];
    server.ask("POST", PATH, &headers, &[json.as_bytes(), bytes].concat())
}

#[test]
fn binary_tensors_that_lie_are_refused() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    let features = || tensor("features", "FP32", &json!([1, 31]), &Value::Null);
    let record = |rows: i64| tensor("record", "BYTES", &json!([rows]), &Value::Null);
    let row = [0_u8; 124];
    assert_eq!(binary(&server, features(), 124, None, &row).status, 200);
    assert_eq!(binary(&server, record(1), 6, None, b"\x02\0\0\0{}").status, 200);
    for (answer, words) in [
        (binary(&server, features(), 124, None, &row[..120]), "120 bytes follow"),
        (binary(&server, features(), 120, None, &row), "124 bytes follow"),
        (binary(&server, features(), 120, None, &row[..120]), "120 bytes for 31 numbers"),
        (binary(&server, features(), 125, None, &[0; 125]), "125 bytes for 31 numbers"),
        (binary(&server, features(), i64::MAX, None, &row), "bytes follow"),
        (binary(&server, features(), -1, None, &row), "the request"),
        (binary(&server, features(), 124, Some("99999"), &row), "more than the body has"),
        (binary(&server, features(), 124, Some("-1"), &row), "no number of bytes"),
        (binary(&server, features(), 124, Some("18446744073709551616"), &row), "no number of bytes"),
        (binary(&server, features(), 124, Some("10"), &row), "the request"),
        (binary(&server, features(), 124, None, &f32::INFINITY.to_le_bytes().repeat(31)), "row 0, column 0"),
        (binary(&server, features(), 124, None, &f32::NAN.to_le_bytes().repeat(31)), "is NaN"),
        (binary(&server, record(1), 6, None, b"\x03\0\0\0{}"), "cut short"),
        (binary(&server, record(1), 6, None, b"\xff\xff\xff\xff{}"), "cut short"),
        (binary(&server, record(1), 3, None, b"\x02\0\0"), "too few"),
        (binary(&server, record(2), 8, None, b"\x02\0\0\0{}\0\0"), "cut short"),
        (binary(&server, record(4_000), 6, None, b"\x02\0\0\0{}"), "too few"),
        (binary(&server, record(1), 8, None, b"\x02\0\0\0{}{}"), "behind its last element"),
        (binary(&server, record(1), 6, None, b"\x02\0\0\0\xff\xfe"), "record 0"),
        (binary(&server, record(1), 15, None, b"\x0b\0\0\0{\"Title\":\"\xc3"), "record 0"),
    ] {
        assert_eq!(answer.status, 400, "{}", answer.error());
        assert!(answer.error().contains(words), "{words}: {}", answer.error());
    }
    let json = tensor("features", "FP32", &json!([1, 31]), &json!(vec![0; 31])).to_string();
    let length = json.len().to_string();
    let headers = [("inference-header-content-length", length.as_str())];
    let answer = server.ask("POST", PATH, &headers, &[json.as_bytes(), &row].concat());
    assert!(answer.error().contains("no `binary_data_size`"), "{}", answer.error());
    fine(&server);
}

#[test]
fn text_that_is_no_utf_8_inside_a_record_is_refused() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    let bytes = b"{\"Title\":\"\xff\xfe\"}";
    let element = [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
    let asked = tensor("record", "BYTES", &json!([1]), &Value::Null);
    let answer = binary(&server, asked, i64::try_from(element.len()).unwrap(), None, &element);
    assert_eq!(answer.status, 400, "{}", answer.error());
    assert!(answer.error().contains("record 0"), "{}", answer.error());
}

#[test]
fn bodies_end_at_their_bound_packed_or_not() {
    let (server, _folder) = Running::start(&[MODEL], &["--max-body", "1MiB"]);
    let before = server.peak();
    let large = server.ask("POST", PATH, &[], &vec![b' '; (1 << 20) + 1]);
    assert_eq!(large.status, 413);
    assert!(large.error().contains("more than 1048576 bytes"), "{}", large.error());
    // One that does not tell its length.
    let mut stream = server.connect();
    stream
        .write_all(&head("POST", PATH, &[("transfer-encoding", "chunked"), ("connection", "close")]))
        .unwrap();
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 1 << 16], b"\r\n"].concat();
    while stream.write_all(&chunk).is_ok() {}
    let bomb = compress_to_vec_zlib(&vec![b' '; 256 << 20], 6);
    assert!(bomb.len() < 1 << 20);
    for (coding, status, words) in
        [("deflate", 413, "once decoded"), ("gzip", 400, "malformed"), ("br", 415, "only gzip")]
    {
        let answer = server.ask("POST", PATH, &[("content-encoding", coding)], &bomb);
        assert_eq!(answer.status, status, "{coding}");
        assert!(answer.error().contains(words), "{coding}: {}", answer.error());
    }
    assert!(server.peak() < before + 64, "{} MiB, {before} before", server.peak());
    fine(&server);
}

#[test]
fn heads_that_are_too_large_end_their_connection() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    let answer = server.ask("GET", "/v2", &[("x", &"a".repeat(100_000))], b"");
    assert_eq!(answer.status, 431);
    let many: Vec<(&str, &str)> = vec![("x", "a"); 1_000];
    assert_eq!(server.ask("GET", "/v2", &many, b"").status, 431);
    assert_eq!(server.get(&format!("/v2/models/{}", "a".repeat(10_000))).status, 404);
    fine(&server);
}

#[test]
fn unknown_models_paths_and_methods_are_told() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    for (method, path, status, words) in [
        ("POST", "/v2/models/nobody/infer", 404, "no model `nobody`"),
        ("POST", "/v2/models/lead-score-logistic/versions/9/infer", 404, "no version `9`"),
        ("GET", "/v2/models/nobody", 404, "no model"),
        ("GET", "/v2/models/nobody/stats", 404, "no model"),
        ("GET", "/v2/models/lead-score-logistic/config", 404, "nothing under this path"),
        ("GET", "/", 404, "nothing under this path"),
        ("GET", "/v2/models/../../etc/passwd", 404, "nothing under this path"),
        ("GET", PATH, 405, "this path is for POST"),
        ("DELETE", "/v2", 405, "this path is for GET"),
        ("POST", "/v1/models/lead-score-logistic:classify", 404, "nothing"),
    ] {
        let answer = server.ask(method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.error().contains(words), "{method} {path}: {}", answer.error());
    }
    assert_eq!(server.get("/v2/models/nobody/ready").status, 503);
    assert!(server.get(PATH).head.contains("allow: post"));
}

#[test]
fn messages_of_grpc_that_are_malformed_too_large_or_a_lie_are_refused() {
    let (server, _folder) = Running::start(&[MODEL], &["--max-body", "1MiB"]);
    let name = MODEL.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let named = format!("0a{:02x}{name}", MODEL.len());
    // An input `record` of type BYTES and this shape, in hexadecimal.
    let input = |shape: &str| format!("2a15{}", "0a067265636f7264120542595445531a04") + shape;
    let ask = |method: &str, hex: String| json!({ "method": method, "hex": hex });
    let calls = [
        (ask("ServerLive", String::new()), "OK", ""),
        (
            ask("ModelInfer", format!("{named}{}3a06020000007b7d", input("01010101"))),
            "INVALID_ARGUMENT",
            "must be [rows]",
        ),
        (
            ask("ModelInfer", format!("{named}2a120a067265636f7264120542595445531a01013a06020000007b7d")),
            "OK",
            "",
        ),
        (
            ask("ModelInfer", format!("{named}2a120a067265636f7264120542595445531a01013a06ff0000007b7d")),
            "INVALID_ARGUMENT",
            "cut short",
        ),
        (
            ask("ModelInfer", format!("{named}2a120a067265636f7264120542595445531a0101")),
            "INVALID_ARGUMENT",
            "no contents",
        ),
        (ask("ModelInfer", "0a066e6f626f6479".to_owned()), "NOT_FOUND", "no model `nobody`"),
        (ask("ModelInfer", "ffffff".to_owned()), "INVALID_ARGUMENT", "malformed"),
        (json!({ "method": "ModelInfer", "hex": "2a00", "times": 400_000 }), "INVALID_ARGUMENT", "over 64"),
        (
            json!({ "method": "ModelInfer", "hex": "00", "times": 2 << 20 }),
            "RESOURCE_EXHAUSTED",
            "more than 1048576",
        ),
        (ask("ModelReady", "0aff".to_owned()), "INVALID_ARGUMENT", "the message"),
        (ask("ModelReady", "0a01ff".to_owned()), "INVALID_ARGUMENT", "the message"),
        (ask("ModelConfig", String::new()), "UNIMPLEMENTED", "not known"),
        // What is wrong with a request of a stream is in its answer.
        (ask("ModelStreamInfer", "ffffff".to_owned()), "OK", ""),
        (
            json!({ "method": "ModelStreamInfer", "hex": "00", "times": 2 << 20 }),
            "RESOURCE_EXHAUSTED",
            "more than 1048576",
        ),
        (json!({ "service": "other.Service", "method": "Call", "hex": "" }), "UNIMPLEMENTED", "not known"),
        (json!({ "service": "grpc.health.v1.Health", "method": "Check", "hex": "" }), "OK", ""),
        (
            json!({ "service": "grpc.health.v1.Health", "method": "Check", "hex": "0a0178" }),
            "NOT_FOUND",
            "service",
        ),
        (
            json!({ "method": "ServerLive", "hex": "", "metadata": [["x", "a".repeat(100_000)]] }),
            "RESOURCE_EXHAUSTED",
            "",
        ),
    ];
    let asked: Vec<&Value> = calls.iter().map(|(call, ..)| call).collect();
    let answers = server.triton(json!({ "word": "raw", "calls": asked }));
    for ((call, code, words), answer) in calls.iter().zip(answers.as_array().unwrap()) {
        let call: String = call.to_string().chars().take(200).collect();
        // How a head that is too large is refused, HTTP/2 leaves open.
        if call.contains("\"metadata\"") {
            assert_ne!(answer[0], "OK");
            continue;
        }
        assert_eq!(answer[0], *code, "{call}: {answer}");
        assert!(answer[1].as_str().unwrap().contains(words), "{call}: {answer}");
    }
    fine(&server);
}

#[test]
fn probes_of_grpc_which_need_no_token_are_small_and_not_compressed() {
    let (server, _folder) = Running::start(&[MODEL], &[]);
    let answers = server.triton(json!({ "word": "raw", "calls": [
        { "method": "ServerReady", "hex": "00", "times": 300 },
        { "method": "ServerLive", "hex": "1200", "times": 100, "gzip": true },
        { "method": "ServerLive", "hex": "" },
    ]}));
    let codes = [&answers[0][0], &answers[1][0], &answers[2][0]];
    assert_eq!(codes, ["RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "OK"]);
    assert!(answers[0][1].as_str().unwrap().contains("more than 256"), "{answers}");
}
