//! An origin that answers every request at once, and costs little itself.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::echo;
use crate::load::spin;
use crate::tls::{self, Shows};

/// Bytes of an answer where the path names no number.
const SIZE: usize = 1_024;
/// Bytes of an answer at most.
const MAX_SIZE: usize = 4 << 20;
/// Bytes of a request at most.
const MAX_REQUEST: usize = 2 << 20;

/// Answers with 1 KiB, below `/size/N` with N bytes, on `/close` with the end of the connection, and on `/mirror` with
/// the request.
#[derive(Args, Debug)]
pub struct Origin {
    /// Where plain HTTP/1.1 is spoken.
    address: SocketAddr,
    /// Where HTTP/1.1 is spoken on mutual TLS.
    #[arg(long, requires = "materials")]
    mutual: Option<SocketAddr>,
    /// Where HTTP/2 is spoken with prior knowledge.
    #[arg(long)]
    h2c: Option<SocketAddr>,
    /// Where gRPC is answered with the question.
    #[arg(long)]
    grpc: Option<SocketAddr>,
    /// The folder with certificates and keys.
    #[arg(long)]
    materials: Option<PathBuf>,
    /// Never sleeps, so that nobody pays for waking it.
    #[arg(long)]
    spin: bool,
}

impl Origin {
    /// Serves on this thread until the process is ended.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<()> {
        let body: Arc<str> = "x".repeat(MAX_SIZE).into();
        if self.spin {
            tokio::spawn(spin());
        }
        if let Some(address) = self.grpc {
            tokio::spawn(echo::serve(address));
        }
        if let (Some(address), Some(folder)) = (self.mutual, &self.materials) {
            let acceptor = TlsAcceptor::from(tls::server(folder, Shows::Both, &[b"http/1.1"])?);
            let (listener, body) = (TcpListener::bind(address).await?, Arc::clone(&body));
            tokio::spawn(each(listener, move |stream| {
                let (acceptor, body) = (acceptor.clone(), Arc::clone(&body));
                async move { answer(acceptor.accept(stream).await?, &body).await }
            }));
        }
        if let Some(address) = self.h2c {
            tokio::spawn(each(TcpListener::bind(address).await?, streams));
        }
        let listener = TcpListener::bind(self.address).await?;
        each(listener, move |stream| {
            let body = Arc::clone(&body);
            async move { answer(stream, &body).await }
        })
        .await?;
        Ok(())
    }
}

/// Serves every connection on a task of its own.
async fn each<F: Future<Output = io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

/// One connection of HTTP/2: 1 KiB for each request.
async fn streams(stream: TcpStream) -> io::Result<()> {
    const BODY: &[u8] = &[b'x'; SIZE];
    let service = service_fn(|_: Request<Incoming>| async {
        Ok::<_, http::Error>(Response::new(Full::new(Bytes::from_static(BODY))))
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(io::Error::other)
}

/// One connection of HTTP/1.1: of what is asked only the path matters, and where it ends.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, body: &str) -> io::Result<()> {
    let mut asked = Vec::with_capacity(4 << 10);
    let mut out = Vec::with_capacity(4 << 10);
    loop {
        while let Some(end) = end_of(&asked) {
            let request: Vec<u8> = asked.drain(..end).collect();
            let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let path = str::from_utf8(path).unwrap_or_default();
            let size = path.strip_prefix("/size/").and_then(|size| size.parse().ok()).unwrap_or(SIZE);
            let body = match path {
                "/mirror" => request.as_slice(),
                _ => body.as_bytes().get(..size).unwrap_or_default(),
            };
            let closes = path == "/close";
            out.clear();
            out.extend_from_slice(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\n",
            );
            if closes {
                out.extend_from_slice(b"connection: close\r\n");
            }
            io::Write::write_fmt(&mut out, format_args!("content-length: {}\r\n\r\n", body.len()))?;
            if body.len() <= 16 << 10 {
                out.extend_from_slice(body);
                stream.write_all(&out).await?;
            } else {
                stream.write_all(&out).await?;
                stream.write_all(body).await?;
            }
            stream.flush().await?;
            if closes {
                return stream.shutdown().await;
            }
        }
        if asked.len() > MAX_REQUEST || stream.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
}

/// Where the first request ends, by the length that it tells; `None` where not all of it is there.
fn end_of(asked: &[u8]) -> Option<usize> {
    let head = asked.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let mut lines = asked.get(..head)?.split(|byte| *byte == b'\n');
    if let Some(length) = lines.clone().find_map(|line| value(line, b"content-length:")) {
        let end = head.checked_add(str::from_utf8(length).ok()?.trim().parse().ok()?)?;
        return (end <= asked.len()).then_some(end);
    }
    if lines.any(|line| value(line, b"transfer-encoding:").is_some()) {
        const LAST: &[u8] = b"0\r\n\r\n";
        let found = asked.get(head..)?.windows(LAST.len()).position(|end| end == LAST)?;
        return Some(head + found + LAST.len());
    }
    Some(head)
}

/// The value of a line of a head, where it is the one of this name.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn requests_end_where_their_length_or_last_chunk_says() {
        assert_eq!(end_of(b"GET / HTTP/1.1\r\n\r\nGET"), Some(18));
        assert_eq!(end_of(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"), None);
        assert_eq!(end_of(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcd"), Some(41));
        let chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(end_of(chunked), Some(chunked.len()));
        assert_eq!(end_of(&chunked[..chunked.len() - 1]), None);
    }
}
