//! A client that sends any bytes, and reads HTTP/1.1 responses as they are.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::connect;
use crate::support::within;

/// A connection on which bytes are sent as a test wrote them.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawResponse {
    pub status: u16,
    /// Status line and headers, with their line ends.
    pub head: String,
    pub body: Vec<u8>,
    /// False where the connection ended before the body did.
    pub complete: bool,
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: connect(address).await, buffer: Vec::new() }
    }

    /// Sends bytes. Fails quietly where the other side has closed: its answer may still be there.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("bytes to be sent", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Reads more into the buffer; false at the end of the stream, also where it was reset.
    async fn fill(&mut self) -> bool {
        matches!(within("bytes", self.stream.read_buf(&mut self.buffer)).await, Ok(bytes) if bytes > 0)
    }

    /// Reads the head of a response; `None` where the connection ends first.
    pub async fn head(&mut self) -> Option<RawResponse> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {head:?}"));
        Some(RawResponse { status, head, body: Vec::new(), complete: true })
    }

    /// Reads a whole response to a request other than HEAD; `None` where the connection ends first.
    pub async fn response(&mut self) -> Option<RawResponse> {
        let mut response = self.head().await?;
        if response.header("transfer-encoding") == Some("chunked") {
            self.chunks(&mut response).await;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            response.complete = self.exactly(length, &mut response.body).await;
        } else if response.status >= 200 && !matches!(response.status, 204 | 304) {
            while self.fill().await {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    async fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.buffer.len() < length {
            if !self.fill().await {
                body.append(&mut self.buffer);
                return false;
            }
        }
        body.extend(self.buffer.drain(..length));
        true
    }

    /// A line without its end; `None` where the connection ends first.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8(self.buffer.drain(..end + 2).collect()).unwrap();
                return Some(line.trim_end().to_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn chunks(&mut self, response: &mut RawResponse) {
        response.complete = false;
        loop {
            let Some(line) = self.line().await else { return };
            let length = usize::from_str_radix(&line, 16).unwrap();
            if length == 0 {
                // Trailers, and the empty line.
                while let Some(line) = self.line().await {
                    if line.is_empty() {
                        response.complete = true;
                        return;
                    }
                    response.head.push_str(&line);
                    response.head.push_str("\r\n");
                }
                return;
            }
            if !self.exactly(length, &mut response.body).await || self.line().await.is_none() {
                return;
            }
        }
    }

    /// Reads until the other side closes; gives what came.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(self.exactly(count, &mut bytes).await, "the connection ended: {bytes:?}");
        bytes
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}

impl RawResponse {
    /// The value of a header, its name in lower case; the first of several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Sends bytes on a new connection and reads one response; `None` where there was none.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<RawResponse> {
    let mut client = RawClient::connect(address).await;
    client.send(bytes).await;
    client.response().await
}
