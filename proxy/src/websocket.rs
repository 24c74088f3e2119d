//! The client's side of a tunnel: counts bytes, knows where WebSocket frames end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// Close with code 1008, policy violation, and its reason (RFC 6455, sections 5.5.1 and 7.4.1).
const POLICY_CLOSE: &[u8] = b"\x88\x09\x03\xf0revoked";

/// Close with code 1001, going away: the connection has been silent for too long.
const IDLE_CLOSE: &[u8] = b"\x88\x06\x03\xe9idle";

/// Close with code 1001, going away, and its reason.
const AWAY_CLOSE: &[u8] = b"\x88\x0a\x03\xe9shutdown";

/// Why a tunnel is ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It is not allowed any more.
    Revoked,
    /// The process ends.
    Away,
    /// It has been silent for too long.
    Idle,
}

/// Time for a client to take the close frame and to answer it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Longest head of a frame: two bytes, a length of eight, a mask of four (RFC 6455, section 5.2).
const MAX_HEAD: usize = 14;

/// Follows the frames that go to a client.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; MAX_HEAD],
    /// Bytes of the current head that have passed.
    have: usize,
    /// Bytes of payload that are still to come.
    left: u64,
    /// A close frame has passed.
    closed: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                self.closed |= self.head.first().is_some_and(|byte| byte & 0x0f == 0x08);
                (self.have, self.left) = (0, length);
            }
        }
    }

    /// The length of the payload, once the whole head has passed.
    fn length(&self) -> Option<u64> {
        let second = *self.head.get(1).filter(|_| self.have >= 2)?;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + extended + mask {
            return None;
        }
        let bytes = self.head.get(2..2 + extended)?;
        let long = bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        Some(if extended == 0 { u64::from(second & 0x7f) } else { long })
    }

    /// True where another frame may begin.
    const fn between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

/// A client's end of a WebSocket.
#[derive(Debug)]
pub struct ClientEnd<S> {
    stream: S,
    frames: Frames,
    pub moved: Arc<Moved>,
}

/// Bytes that have passed through a tunnel.
#[derive(Debug, Default)]
pub struct Moved {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Moved {
    /// Read from the client.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Written to the client.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientEnd<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default(), moved: Arc::default() }
    }

    /// Ends the tunnel: with a close frame where the last frame has passed in full, as it is otherwise.
    pub async fn close(mut self, why: Farewell) {
        let frame = match why {
            Farewell::Revoked => POLICY_CLOSE,
            Farewell::Away => AWAY_CLOSE,
            Farewell::Idle => IDLE_CLOSE,
        };
        let farewell = async {
            if self.frames.between() && !self.frames.closed {
                self.stream.write_all(frame).await?;
            }
            self.stream.shutdown().await?;
            // Unread bytes would turn the end into a reset, and the frame would be lost on its way.
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // Taken or not, the connection ends.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientEnd<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.moved.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientEnd<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.frames.pass(bytes.get(..written).unwrap_or_default());
        self.moved.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{AWAY_CLOSE, Frames, POLICY_CLOSE};

    #[test]
    fn frames_end_where_they_say_however_they_are_cut() {
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65_536]].concat();
        let masked = [0x81, 0x82, 1, 2, 3, 4, 5, 6].to_vec();
        for frame in [
            vec![0x81, 0],
            vec![0x81, 2, b'h', b'i'],
            long,
            longer,
            masked,
            POLICY_CLOSE.to_vec(),
            AWAY_CLOSE.to_vec(),
        ] {
            for step in [1, 3, frame.len()] {
                let mut frames = Frames::default();
                let mut passed = 0;
                for piece in frame.chunks(step) {
                    assert!(passed == 0 || !frames.between(), "in the middle of {frame:?}");
                    frames.pass(piece);
                    passed += piece.len();
                }
                assert!(frames.between(), "{:?}", &frame[..2]);
                frames.pass(&[0x81]);
                assert!(!frames.between());
            }
        }
        let mut frames = Frames::default();
        frames.pass(&[0x81, 1, 0x88]);
        assert!(!frames.closed);
        frames.pass(POLICY_CLOSE);
        assert!(frames.closed && frames.between());
    }
}
