//! What a client speaks, told by its first bytes, which stay where they are.

use std::io;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::stream::Transport;

/// Bytes that are looked at: a method and the beginning of a target fit.
const LOOK: usize = 48;

/// Longest method that is taken for one; `BASELINE-CONTROL` has 16 letters.
const MAX_METHOD: usize = 24;

/// Between two looks at a beginning that comes in parts: what was seen stays readable, and wakes nobody.
const PAUSE: Duration = Duration::from_millis(5);

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    Tls,
    /// Anything else, or nothing before the server speaks.
    #[default]
    Opaque,
}

/// Looks until it is clear what is spoken, at most for so long. What began as a request and did not go on is taken for
/// one: nobody leaves the rules of requests behind by pausing.
///
/// # Errors
/// Where the client left.
pub async fn spoken(stream: &TcpStream, within: Duration) -> io::Result<Spoken> {
    let mut so_far = Spoken::Opaque;
    let look = async {
        let mut seen = [0; LOOK];
        loop {
            let bytes = stream.peek(&mut seen).await?;
            if bytes == 0 {
                return Ok(Spoken::Opaque);
            }
            let seen = seen.get(..bytes).unwrap_or_default();
            if let Some(spoken) = judge(seen) {
                return Ok(spoken);
            }
            so_far = undecided(seen);
            sleep(PAUSE).await;
        }
    };
    let looked = timeout(within, look).await;
    looked.unwrap_or(Ok(so_far))
}

/// The same inside of TLS, by the first record alone: what is in it stays unread.
///
/// # Errors
/// Where the client left.
pub async fn spoken_in_tls(transport: &mut Transport, within: Duration) -> io::Result<Spoken> {
    let Transport::Tls(stream) = transport else { return Ok(Spoken::Opaque) };
    match timeout(within, stream.fill_buf()).await {
        Ok(bytes) => {
            let bytes = bytes?;
            Ok(judge(bytes).unwrap_or_else(|| undecided(bytes)))
        }
        Err(_) => Ok(Spoken::Opaque),
    }
}

/// What a beginning is taken for that may become a request, where no more of it comes.
fn undecided(bytes: &[u8]) -> Spoken {
    match bytes.first() {
        None | Some(0x16) => Spoken::Opaque,
        Some(_) => Spoken::Http,
    }
}

/// `None` while more bytes may tell.
fn judge(bytes: &[u8]) -> Option<Spoken> {
    // Servers pass over empty lines before a request (RFC 9112, section 2.2).
    let lines = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = bytes.get(lines..).unwrap_or_default();
    if bytes.is_empty() {
        // Nothing else than empty lines is more of them than any client sends.
        return (lines == LOOK).then_some(Spoken::Http);
    }
    // A record of a handshake (RFC 8446, section 5.1), of any version.
    match bytes {
        [0x16] => return None,
        [0x16, 0x03, ..] => return Some(Spoken::Tls),
        _ => {}
    }
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    if method == 0 || method > MAX_METHOD {
        return Some(Spoken::Opaque);
    }
    let (method, rest) = bytes.split_at(method);
    match rest.split_first() {
        None => None,
        // Also the preface of HTTP/2: no method of HTTP/1 is called so (RFC 9113, section 11.6).
        Some((b' ', _)) if method == b"PRI" || method == b"CONNECT" => Some(Spoken::Http),
        // The forms of a target (RFC 9112, section 3.2).
        Some((b' ', target)) => begins(target, &[b"/", b"* ", b"http://", b"https://"]),
        Some(_) => Some(Spoken::Opaque),
    }
}

/// HTTP where the bytes begin with one of these; `None` while they may.
fn begins(bytes: &[u8], forms: &[&[u8]]) -> Option<Spoken> {
    if forms.iter().any(|form| bytes.starts_with(form)) {
        return Some(Spoken::Http);
    }
    if forms.iter().any(|form| form.starts_with(bytes)) { None } else { Some(Spoken::Opaque) }
}

#[cfg(test)]
mod tests {
    use super::{Spoken, judge, undecided};

    #[test]
    fn what_may_become_a_request_and_stops_is_one() {
        for text in [&b"G"[..], b"GET htt", b"\r\n", b"\nPOST"] {
            assert_eq!((judge(text), undecided(text)), (None, Spoken::Http), "{text:?}");
        }
        assert_eq!((undecided(b""), undecided(b"\x16")), (Spoken::Opaque, Spoken::Opaque));
    }

    #[test]
    fn first_bytes_tell_what_is_spoken_as_soon_as_they_can() {
        for (text, spoken) in [
            (&b"GET / HTTP/1.1"[..], Some(Spoken::Http)),
            (b"BASELINE-CONTROL /x", Some(Spoken::Http)),
            (b"OPTIONS * HTTP/1.1", Some(Spoken::Http)),
            (b"\r\n\nGET / HTTP/1.1", Some(Spoken::Http)),
            (b"\r\n", None),
            (b"\nquit", Some(Spoken::Opaque)),
            (&[b'\n'; super::LOOK], Some(Spoken::Http)),
            (b"GET http://a/", Some(Spoken::Http)),
            (b"CONNECT a:443 HTTP/1.1", Some(Spoken::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http)),
            (b"\x16\x03\x01\x02\x00", Some(Spoken::Tls)),
            (b"\x16", None),
            (b"\x16\x02", Some(Spoken::Opaque)),
            (b"GET", None),
            (b"GET ", None),
            (b"GET htt", None),
            (b"GET key", Some(Spoken::Opaque)),
            (b"EHLO mail.example.com", Some(Spoken::Opaque)),
            (b"EHLO host.example.com", Some(Spoken::Opaque)),
            (b"get / HTTP/1.1", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Opaque)),
            (b"SSH-2.0-OpenSSH", Some(Spoken::Opaque)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Spoken::Opaque)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Opaque)),
        ] {
            assert_eq!(judge(text), spoken, "{:?}", String::from_utf8_lossy(text));
            for cut in 1..text.len() {
                let early = judge(&text[..cut]);
                assert!(early.is_none() || early == spoken, "{text:?} at {cut}: {early:?}");
            }
        }
    }
}
