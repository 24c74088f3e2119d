//! A collector of traces and logs that answers as a test wants.

use serde_json::Value;

use crate::support::grpc::Peer;
use crate::support::lines::Lines;

/// A receiver of OTLP, by gRPC and HTTP.
#[derive(Debug)]
pub struct Collector {
    peer: Peer,
    grpc: u64,
    http: u64,
}

impl Collector {
    /// See the script for modes; with a certificate and key, gRPC is in TLS.
    pub async fn start(args: &[&str]) -> Self {
        let peer = Peer::run("otlp_peer.py", args);
        let told = peer.lines.wait("the ports of the collector", |line| line["grpc"].is_u64()).await;
        let port = |name: &str| told[name].as_u64().unwrap();
        Self { grpc: port("grpc"), http: port("http"), peer }
    }

    /// A collector of others that passes on to `behind` what it gets.
    pub async fn before(behind: &Self) -> Self {
        let peer = Peer::run("rotel_peer.py", &[&behind.grpc.to_string()]);
        let told = peer.lines.wait("the ports of the collector", |line| line["grpc"].is_u64()).await;
        let port = |name: &str| told[name].as_u64().unwrap();
        Self { grpc: port("grpc"), http: port("http"), peer }
    }

    /// Where it is reached, by this way of speaking.
    pub fn url(&self, scheme: &str) -> String {
        let (host, port) = match scheme {
            "grpc" => ("127.0.0.1", self.grpc),
            "grpcs" => ("localhost", self.grpc),
            _ => ("127.0.0.1", self.http),
        };
        format!("{scheme}://{host}:{port}")
    }

    /// All that it has told.
    pub const fn lines(&self) -> &Lines {
        &self.peer.lines
    }

    /// The span of this name in this trace; waits for it.
    pub async fn span(&self, trace: &str, name: &str) -> Value {
        let fits = |line: &Value| line["trace"] == trace && line["name"] == name;
        self.peer.lines.wait(&format!("{name} of {trace}"), fits).await
    }

    /// The log record of this decision; waits for it.
    pub async fn log(&self, decision: &str) -> Value {
        let fits =
            |line: &Value| line["log"].is_string() && line["attributes"]["foregate.decision"] == decision;
        self.peer.lines.wait(&format!("the log record of {decision}"), fits).await
    }

    /// The server span of this decision; waits for it.
    pub async fn server(&self, decision: &str) -> Value {
        let fits = |line: &Value| line["kind"] == 2 && line["attributes"]["foregate.decision"] == decision;
        self.peer.lines.wait(&format!("the span of {decision}"), fits).await
    }
}
