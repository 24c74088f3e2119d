//! Who proves nothing reaches nothing: certificates of clients, of workloads and of upstreams.

mod bound;
mod edge;
mod foreign;
mod mesh;
mod migration;
mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::{HOST, tls};
use crate::support::process::Options;
use crate::support::within;
use crate::support::workloads::Folder;

/// A gateway `edge` with one listener that shows the identity of the workload.
pub const MESH: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: mesh, protocol: HTTPS, port: 15443, tls: { options: { foregate.dev/identity: workload } } }
---";

/// A process with the identity in this folder.
pub fn identified(folder: &Folder) -> Options {
    Options::default().args(&["--identity", &folder.origin()])
}

/// Sends one request on a new connection; `Err` where the handshake was refused. With TLS 1.3 a client
/// learns of that only when it reads.
pub async fn ask(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<String> {
    let mut stream = tls(address, HOST, config).await?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    let read = within("an answer or an end", stream.read_to_end(&mut answer)).await;
    if answer.is_empty() {
        read?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status of one request on a new connection; `None` where the handshake was refused.
pub async fn status(address: SocketAddr, config: &Arc<ClientConfig>) -> Option<u16> {
    let answer = ask(address, config).await.ok()?;
    Some(answer.split(' ').nth(1).unwrap().parse().unwrap())
}
