//! An origin that answers every request with 1 KiB, and costs little itself.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of an answer.
const SIZE: usize = 1_024;
/// Bytes of a request at most.
const MAX_REQUEST: usize = 64 << 10;

/// Serves HTTP/1.1 on this address, on this thread, until the process is ended.
pub fn run(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream));
        }
    })
}

/// One connection: what is asked does not matter, where it ends does.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\n\
         content-length: {SIZE}\r\n\r\n{}",
        "x".repeat(SIZE)
    );
    let mut asked = Vec::with_capacity(4 << 10);
    loop {
        while let Some(end) = end_of(&asked) {
            asked.drain(..end);
            stream.write_all(answer.as_bytes()).await?;
        }
        if asked.len() > MAX_REQUEST || stream.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
}

/// Where the first request ends, by the length that it tells; `None` where not all of it is there.
fn end_of(asked: &[u8]) -> Option<usize> {
    let head = asked.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let lines = asked.get(..head)?.split(|byte| *byte == b'\n');
    let length = lines.filter_map(|line| line.split_at_checked(15)).find_map(|(name, value)| {
        let value = name.eq_ignore_ascii_case(b"content-length:").then(|| str::from_utf8(value).ok())??;
        value.trim().parse::<usize>().ok()
    });
    let end = head.checked_add(length.unwrap_or_default())?;
    (end <= asked.len()).then_some(end)
}
