//! The real server, asked by clients of others and by hostile ones.

mod access;
mod clients;
mod hostile;
mod life;
mod predict;
mod sockets;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use foregate_inference::bundle::Bundle;
use foregate_inference::features::Reading;
use foregate_inference::scorer::{ModelScorer, RowScore, Rows};
use serde_json::{Value, json};

/// Long enough for the slowest machine; only a fault waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles")
}

/// The command, not yet run.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foregate-inference"));
    command.args(words);
    command
}

/// A process of the server, ended with its test.
struct Running {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Running {
    /// Serves a folder with these bundles alone; it takes the place of the shipped ones, which take long to load.
    fn start(models: &[&str], words: &[&str]) -> (Self, tempfile::TempDir) {
        let folder = folder_of(models);
        (Self::serve(folder.path(), words), folder)
    }

    fn serve(models: &Path, words: &[&str]) -> Self {
        let mut command = command(&["serve", "--models"]);
        command.arg(models);
        for port in ["--http", "--grpc"].iter().filter(|port| !words.contains(port)) {
            command.args([port, "127.0.0.1:0"]);
        }
        let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
        let (mut http, mut grpc, mut ready) = (None, None, false);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split_once(' ') {
                Some(("http", address)) => http = Some(address.parse().unwrap()),
                Some(("grpc", address)) => grpc = Some(address.parse().unwrap()),
                _ => ready |= line == "ready",
            }
            if ready {
                break;
            }
        }
        assert!(ready, "the server ended before it was ready");
        Self { child, http: http.unwrap(), grpc: grpc.unwrap() }
    }

    /// Sends a request and reads the answer to the end of the connection.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let length = body.len().to_string();
        let headers = [headers, &[("connection", "close"), ("content-length", &length)]].concat();
        stream.write_all(&head(method, path, &headers)).unwrap();
        // Who refuses a body may close before all of it is sent.
        let _ = stream.write_all(body);
        Answer::read(&mut stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The clients of Triton, told what to do; what they print.
    fn triton(&self, mut asked: Value) -> Value {
        asked["http"] = self.http.to_string().into();
        asked["grpc"] = self.grpc.to_string().into();
        triton(&asked)
    }

    /// The most memory the process ever had, in MiB.
    fn peak(&self) -> u64 {
        peak(self.child.id()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process ever had, in MiB; `None` once it has ended.
pub(crate) fn peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10)
}

fn triton(asked: &Value) -> Value {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python with tritonclient: run `bash .ci/test`, which makes one");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/triton_clients.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    assert!(status.success(), "triton_clients.py failed");
    serde_json::from_slice(&stdout).unwrap()
}

/// A folder with links to these shipped bundles.
pub(crate) fn folder_of(models: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for model in models {
        std::os::unix::fs::symlink(bundles().join(model), folder.path().join(model)).unwrap();
    }
    folder
}

/// The head of a request.
fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A response.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    /// Reads to the end of the connection.
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset behind the answer takes nothing of it away.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes.split_off(end + 4) }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// What `{"error": ..}` says.
    fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error has words").to_owned()
    }
}

/// Records of the golden vectors of a shipped bundle, as JSON texts.
fn records(model: &str, count: usize) -> Vec<String> {
    let golden = std::fs::read(bundles().join(model).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let vectors = golden["vectors"].as_array().unwrap();
    vectors.iter().take(count).map(|vector| vector["record"].to_string()).collect()
}

/// What the engine in this process says of records: their features, and their scores.
fn engine(model: &str, records: &[String], explain: bool) -> (Vec<Vec<f32>>, Vec<RowScore>) {
    let bundle = Bundle::load(&bundles().join(model)).unwrap();
    let mut rows = Rows { count: records.len(), explain, ..Rows::default() };
    let reading = Reading { now: Duration::ZERO, values: explain };
    let mut features = Vec::new();
    for record in records {
        let extraction = bundle.plan.extract(record.as_bytes(), &[], reading).unwrap();
        rows.cells.extend(&extraction.rows);
        rows.values.extend(extraction.values);
        features.push(extraction.rows);
    }
    let scorer = ModelScorer::new(model, bundle, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    (features, runtime.block_on(scorer.score_rows(rows, PATIENCE)).unwrap().scores)
}

/// A number of JSON as FP32.
pub(crate) fn single(value: &Value) -> f32 {
    value.to_string().parse().unwrap_or_else(|_| panic!("{value} is no number"))
}

/// A request for a tensor of records.
fn ask_records(records: &[String]) -> Value {
    json!({ "inputs": [{ "name": "record", "datatype": "BYTES", "shape": [records.len()], "data": records }] })
}
