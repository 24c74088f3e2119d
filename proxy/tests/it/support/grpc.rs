//! A server and a client of grpcio, started for one test and ended with it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::lines::Lines;

/// A process of the script.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    pub lines: Lines,
}

impl Peer {
    fn start(role: &str) -> Self {
        Self::run("grpc_peer.py", &[role])
    }

    /// Starts a script of `tests/peers` that ends with its input.
    pub fn run(script: &str, args: &[&str]) -> Self {
        let python = std::env::var("FOREGATE_PYTHON").expect(
            "FOREGATE_PYTHON names no Python with what the peers need: run `bash .ci/test`, which makes one",
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let mut child = Command::new(python)
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = Lines::read(child.stdout.take().unwrap());
        Self { child, lines }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves `crm.v1.Leads`, `crm.v1.Accounts` and the health service.
#[derive(Debug)]
pub struct GrpcServer {
    peer: Peer,
    pub address: SocketAddr,
}

impl GrpcServer {
    pub async fn start() -> Self {
        let peer = Peer::start("server");
        let told = peer.lines.wait("the port of the gRPC server", |line| line["port"].is_u64()).await;
        let port = u16::try_from(told["port"].as_u64().unwrap()).unwrap();
        Self { peer, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// The first call of this method that ended so; waits for it.
    pub async fn saw(&self, method: &str, ended: &str) -> Value {
        let what = format!("{method} to have {ended}");
        self.peer.lines.wait(&what, |line| line["method"] == method && line["ended"] == ended).await
    }

    /// The first calls, as many as these; waits for them.
    pub async fn calls(&self, count: usize) -> Vec<Value> {
        self.peer.lines.wait_count("calls", count, |line| line["method"].is_string()).await
    }

    /// How many calls there were so far.
    pub fn count(&self) -> usize {
        self.peer.lines.all().into_iter().filter(|line| line["method"].is_string()).count()
    }
}

/// Calls one after the other.
#[derive(Debug)]
pub struct GrpcClient {
    peer: Peer,
    calls: usize,
    target: String,
}

impl GrpcClient {
    /// A client of this address, which it calls by this name.
    pub fn start(target: SocketAddr) -> Self {
        Self { peer: Peer::start("client"), calls: 0, target: target.to_string() }
    }

    /// Makes a call and waits for its end; see the script for `call`. `target` is added.
    pub async fn call(&mut self, mut call: Value) -> Value {
        call["target"] = json!(self.target);
        writeln!(self.peer.child.stdin.as_mut().unwrap(), "{call}").unwrap();
        self.calls += 1;
        let told = self.peer.lines.wait_count("the end of a call", self.calls, Value::is_object).await;
        told[self.calls - 1].clone()
    }

    /// A unary call of a method of `crm.v1.Leads`.
    pub async fn unary(&mut self, method: &str, message: &str, metadata: &[(&str, &str)]) -> Value {
        let method = format!("/crm.v1.Leads/{method}");
        self.call(json!({ "method": method, "kind": "unary", "messages": [message], "metadata": metadata }))
            .await
    }
}
