//! The name that a client asks for in TLS, read without taking a byte.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Most bytes of a first message that are looked at; with post-quantum keys it has about two thousand.
const MOST: usize = 16 * 1024;

/// Between two looks at a message that comes in parts: what was seen stays readable, and wakes nobody.
const PAUSE: Duration = Duration::from_millis(5);

/// The name, in lower case; `None` where the client asks for none. Everything stays in the socket.
///
/// # Errors
/// Where it is no TLS, or the client left. Whoever calls sets a time for it.
pub async fn server_name(stream: &TcpStream) -> io::Result<Option<Box<str>>> {
    let mut seen = vec![0; 2048];
    let mut before = 0;
    loop {
        let bytes = stream.peek(&mut seen).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes != before
            && let Hello::Whole(name) = read(seen.get(..bytes).unwrap_or_default())?
        {
            return Ok(name);
        }
        if bytes == seen.len() {
            if seen.len() >= MOST {
                return Err(io::Error::other("the first message of TLS is too long"));
            }
            seen.resize(MOST, 0);
            continue;
        }
        before = bytes;
        sleep(PAUSE).await;
    }
}

/// How much of the first message is there.
enum Hello {
    Partial,
    /// With the name that it asks for.
    Whole(Option<Box<str>>),
}

fn read(mut bytes: &[u8]) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes)?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Ok(Hello::Whole(hello.server_name().map(|name| name.to_ascii_lowercase().into())));
            }
            Ok(None) => {}
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
    Ok(Hello::Partial)
}
