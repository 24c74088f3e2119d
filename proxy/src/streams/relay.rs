//! Passes bytes both ways: each end closes on its own, silence ends both.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::dispatch::connect::Opened;
use crate::stream::Transport;

/// Read buffer of each direction.
const BUFFER: usize = 16 * 1024;

/// Looks at a connection in the time that it may be silent: it ends between that time and an eighth more.
const LOOKS: u32 = 8;

/// What has passed one end.
#[derive(Debug, Default)]
pub struct Passed {
    pub read: AtomicU64,
    pub written: AtomicU64,
    /// This end broke.
    pub broken: AtomicBool,
}

/// How a relay came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both ends have said all.
    Complete,
    /// An end broke; see [`Passed::broken`].
    Broken,
    /// Nothing passed for too long.
    Silent,
}

/// An end that can be cut off, so that the other side does not take it for whole.
pub trait Cut {
    fn socket(&self) -> &TcpStream;

    /// The other side meets a reset when this is dropped.
    fn cut(&self) {
        let _ = self.socket().set_zero_linger();
    }
}

impl Cut for Transport {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl Cut for Opened {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// One end, with a count of what passes.
struct Counted<'a, S> {
    stream: &'a mut S,
    passed: &'a Passed,
}

impl<S> Counted<'_, S> {
    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|_| self.passed.broken.store(true, Ordering::Relaxed))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer));
        self.passed.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(self.note(outcome))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes));
        if let Ok(written) = &outcome {
            self.passed.written.fetch_add(*written as u64, Ordering::Relaxed);
        }
        Poll::Ready(self.note(outcome))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_flush(cx));
        Poll::Ready(self.note(outcome))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_shutdown(cx));
        Poll::Ready(self.note(outcome))
    }
}

/// Passes bytes until both ends have closed, one breaks, or nothing passes for `silence`.
///
/// An end that closes is closed on the other side, and the other direction goes on (RFC 9293, section 3.6).
pub async fn relay<C, U>(
    (client, of_client): (&mut C, &Passed),
    (upstream, of_upstream): (&mut U, &Passed),
    silence: Duration,
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Counted { stream: client, passed: of_client };
    let mut upstream = Counted { stream: upstream, passed: of_upstream };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER) => {
            if copied.is_ok() { Ended::Complete } else { Ended::Broken }
        }
        () = silent(of_client, of_upstream, silence) => Ended::Silent,
    }
}

/// Waits until nothing has passed for so long. Reads no clock: it looks whether the counts still grow.
async fn silent(client: &Passed, upstream: &Passed, limit: Duration) {
    let count = || {
        let of = |passed: &Passed| {
            passed.read.load(Ordering::Relaxed).wrapping_add(passed.written.load(Ordering::Relaxed))
        };
        of(client).wrapping_add(of(upstream))
    };
    let (mut seen, mut looks) = (count(), 0);
    while looks <= LOOKS {
        sleep(limit / LOOKS).await;
        let now = count();
        looks = if now == seen { looks + 1 } else { 1 };
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, Passed, relay};
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn one_end_closes_and_the_other_goes_on() {
        let (mut near, mut client) = duplex(64);
        let (mut upstream, mut far) = duplex(64);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        let talk = async {
            near.write_all(b"question").await.unwrap();
            near.shutdown().await.unwrap();
            let mut asked = Vec::new();
            far.read_to_end(&mut asked).await.unwrap();
            assert_eq!(asked, b"question");
            far.write_all(b"an answer after the close").await.unwrap();
            drop(far);
            let mut answered = Vec::new();
            near.read_to_end(&mut answered).await.unwrap();
            assert_eq!(answered, b"an answer after the close");
        };
        let passing = relay((&mut client, &of_client), (&mut upstream, &of_upstream), Duration::from_mins(1));
        let (ended, ()) = tokio::join!(passing, talk);
        assert_eq!(ended, Ended::Complete);
        assert_eq!(
            (of_client.read.load(Ordering::Relaxed), of_client.written.load(Ordering::Relaxed)),
            (8, 25)
        );
        assert_eq!(of_upstream.read.load(Ordering::Relaxed), 25);
    }

    #[tokio::test]
    async fn silence_ends_both() {
        let (_near, mut client) = duplex(64);
        let (mut upstream, _far) = duplex(64);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        let limit = Duration::from_millis(80);
        let ended = relay((&mut client, &of_client), (&mut upstream, &of_upstream), limit).await;
        assert_eq!(ended, Ended::Silent);
    }
}
