//! The first record of TLS, waited for in as little memory as it has.

use std::io;

use rustls::server::Acceptor;
use tokio::net::TcpStream;

use crate::handshake::TLS_RECORD;

/// Bytes of a record before its content: kind, version, length (RFC 8446, section 5.1).
const HEAD: usize = 5;

/// Bytes that are waited for at most: a `ClientHello` with hybrid key shares has about 1,900.
const MOST: usize = 4_096;

/// Bytes read at once.
const PIECE: usize = 1_024;

/// Begins to accept once all of the first record is there but its last byte, which wakes whoever goes on. Who opens
/// connections and stops in the middle holds a few bytes here, and not the buffers of a handshake. `spoke` is set with
/// the first byte.
///
/// # Errors
/// Where the client leaves before.
pub async fn begun(stream: &TcpStream, spoke: &mut bool) -> io::Result<Acceptor> {
    let mut have = Vec::new();
    loop {
        stream.readable().await?;
        let left = awaited(&have).saturating_sub(have.len());
        if left == 0 {
            break;
        }
        match piece(stream, left, &mut have) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => *spoke = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut acceptor = Acceptor::default();
    let mut bytes = &have[..];
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes)?;
    }
    Ok(acceptor)
}

/// Apart, so that its room is not part of what waits.
fn piece(stream: &TcpStream, left: usize, have: &mut Vec<u8>) -> io::Result<usize> {
    let mut room = [0; PIECE];
    let room = room.get_mut(..left.min(PIECE)).unwrap_or_default();
    let read = stream.try_read(room)?;
    have.extend_from_slice(room.get(..read).unwrap_or_default());
    Ok(read)
}

/// How many bytes to have before the handshake begins.
fn awaited(have: &[u8]) -> usize {
    match have {
        [first, ..] if *first != TLS_RECORD => 0,
        [_, _, _, high, low, ..] => {
            (HEAD + usize::from(u16::from_be_bytes([*high, *low]))).saturating_sub(1).min(MOST)
        }
        _ => HEAD,
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, awaited};

    #[test]
    fn all_but_the_last_byte_of_a_record_is_awaited_within_bounds() {
        assert_eq!(awaited(&[]), 5);
        assert_eq!(awaited(&[0x16, 3, 1, 2]), 5);
        assert_eq!(awaited(&[0x16, 3, 1, 2, 0]), 5 + 512 - 1);
        assert_eq!(awaited(&[0x16, 3, 1, 0xff, 0xff]), MOST);
        // Not worth waiting for: the handshake says what is wrong with it.
        assert_eq!(awaited(b"GET /"), 0);
        assert_eq!(awaited(&[0x16, 3, 1, 0, 0]), 4);
    }
}
