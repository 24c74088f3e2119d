//! Requests of HTTP/1.1, written and read by hand.

use std::io;

use anyhow::{Context, Result, bail};
use http::{HeaderValue, header};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::load::Work;
use crate::load::tally::Answer;
use crate::tls::NAME;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a head at most.
const MAX_HEAD: usize = 64 << 10;

/// A stream of bytes, plain or TLS.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection, what was read of it, and what is written to it.
pub(super) struct Stream {
    io: Box<dyn Bytes>,
    read: Vec<u8>,
    written: Vec<u8>,
}

/// What a head says about its body.
struct Head {
    status: u16,
    length: Length,
    keeps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
    /// Up to the end of the connection.
    Open,
}

/// Connects, with a handshake where TLS is asked for.
pub(super) async fn connect(work: &Work) -> Result<Box<dyn Bytes>> {
    let stream = TcpStream::connect(work.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let Some(tls) = &work.tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(NAME)?;
    Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await.context("handshake")?))
}

/// One request, on a new connection where there is none.
pub(super) async fn ask(
    work: &Work,
    stream: &mut Option<Stream>,
    token: Option<&HeaderValue>,
) -> Result<Answer> {
    let mut open = match stream.take() {
        Some(open) => open,
        None => Stream { io: connect(work).await?, read: Vec::with_capacity(8 << 10), written: Vec::new() },
    };
    open.write(work, token)?;
    open.io.write_all(&open.written).await.context("write")?;
    open.io.flush().await.context("write")?;
    let (answer, keeps) = open.answer().await.context("read")?;
    if keeps {
        *stream = Some(open);
    }
    Ok(answer)
}

impl Stream {
    fn write(&mut self, work: &Work, token: Option<&HeaderValue>) -> io::Result<()> {
        let out = &mut self.written;
        out.clear();
        io::Write::write_fmt(
            out,
            format_args!("{} {} HTTP/1.1\r\nhost: {NAME}\r\n", work.method, work.path),
        )?;
        let length = HeaderValue::from(work.body.len());
        let length = (!work.body.is_empty()).then_some((&header::CONTENT_LENGTH, &length));
        let token = token.map(|token| (&header::AUTHORIZATION, token));
        for (name, value) in work.headers.iter().chain(token).chain(length) {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&work.body);
        Ok(())
    }

    /// The answer, and whether the connection can be used again.
    async fn answer(&mut self) -> Result<(Answer, bool)> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if self.read.len() > MAX_HEAD {
                bail!("the head is too long");
            }
            self.more().await?;
        };
        let head = Head::parse(self.read.get(..end).unwrap_or_default())?;
        self.read.drain(..end);
        let bytes = match head.length {
            Length::Known(length) => self.skip(length).await?,
            Length::Chunked => self.skip_chunks().await?,
            Length::Open => loop {
                let bytes = self.read.len();
                if self.io.read_buf(&mut self.read).await? == 0 {
                    break bytes;
                }
            },
        };
        Ok((Answer { status: head.status, bytes }, head.keeps && head.length != Length::Open))
    }

    async fn more(&mut self) -> Result<()> {
        self.read.reserve(CHUNK.min(self.read.len().max(4 << 10)));
        if self.io.read_buf(&mut self.read).await? == 0 {
            bail!("the connection ended");
        }
        Ok(())
    }

    async fn skip(&mut self, length: usize) -> Result<usize> {
        let mut left = length;
        loop {
            let here = left.min(self.read.len());
            self.read.drain(..here);
            left -= here;
            if left == 0 {
                return Ok(length);
            }
            self.read.reserve(CHUNK);
            self.more().await?;
        }
    }

    async fn skip_chunks(&mut self) -> Result<usize> {
        let mut bytes = 0;
        loop {
            let line = loop {
                if let Some(at) = self.read.windows(2).position(|end| end == b"\r\n") {
                    break self.read.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.more().await?;
            };
            let size = str::from_utf8(&line)?.split(';').next().unwrap_or_default().trim();
            let size =
                usize::from_str_radix(size, 16).with_context(|| format!("`{size}` is no size of a chunk"))?;
            // Trailers are not expected: an empty line follows.
            self.skip(size + 2).await?;
            if size == 0 {
                return Ok(bytes);
            }
            bytes += size;
        }
    }
}

impl Head {
    fn parse(head: &[u8]) -> Result<Self> {
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let status = lines.next().and_then(|line| str::from_utf8(line.get(9..12)?).ok()?.parse().ok());
        let mut parsed = Self { status: status.context("no status")?, length: Length::Open, keeps: true };
        for (name, value) in
            lines.filter_map(|line| line.split_at_checked(line.iter().position(|it| *it == b':')?))
        {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                parsed.length = Length::Known(str::from_utf8(value)?.parse()?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                parsed.length = Length::Chunked;
            } else if name.eq_ignore_ascii_case(b"connection") {
                parsed.keeps = !value.eq_ignore_ascii_case(b"close");
            }
        }
        if matches!(parsed.status, 204 | 304) {
            parsed.length = Length::Known(0);
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, Length};

    #[test]
    fn heads_tell_how_their_body_ends() {
        let head = |lines: &str| {
            let head = Head::parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes()).unwrap();
            (head.length, head.keeps)
        };
        assert_eq!(head("Content-Length: 12\r\n"), (Length::Known(12), true));
        assert_eq!(head("transfer-encoding: chunked\r\nConnection: close\r\n"), (Length::Chunked, false));
        assert_eq!(head("server: x\r\n"), (Length::Open, true));
        assert!(Head::parse(b"HTTP/1.1\r\n\r\n").is_err());
    }
}
