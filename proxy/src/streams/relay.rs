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
use crate::streams::splice::Way;

/// Read buffer of each direction.
const BUFFER: usize = 16 * 1024;

/// Bytes that are dropped for an end that is gone, before the other one is cut off.
const MAX_DROPPED: u64 = 16 << 20;

/// Looks at a connection in the time that it may be silent: it ends between that time and an eighth more.
const LOOKS: u32 = 8;

/// What has passed one end.
#[derive(Debug, Default)]
pub struct Passed {
    pub read: AtomicU64,
    pub written: AtomicU64,
    /// This end broke.
    pub broken: AtomicBool,
    /// This end has closed: nothing more comes from it.
    said_all: AtomicBool,
    /// Bytes for it that nobody took any more.
    dropped: AtomicU64,
}

impl Passed {
    /// Notes where this end breaks.
    pub fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    /// Notes what was read of this end, nothing at its end.
    pub fn came(&self, count: usize) {
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        if count == 0 {
            self.said_all.store(true, Ordering::Relaxed);
        }
    }

    /// Notes what came of writing so many bytes to this end. One that has said all and is gone breaks nothing: what it is
    /// still told is dropped, so that all that it said reaches the other.
    pub fn wrote(&self, outcome: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match outcome {
            Ok(count) => {
                self.written.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(_) if self.said_all.load(Ordering::Relaxed) && self.drops(bytes as u64) => Ok(bytes),
            Err(error) => self.note(Err(error)),
        }
    }

    fn drops(&self, bytes: u64) -> bool {
        self.dropped.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= MAX_DROPPED
    }
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

    /// The socket, where bytes pass it as they are.
    fn plain(&mut self) -> Option<&mut TcpStream>;

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

    fn plain(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
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

    fn plain(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

/// One end, with a count of what passes.
struct Counted<'a, S> {
    stream: &'a mut S,
    passed: &'a Passed,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer));
        if outcome.is_ok() {
            self.passed.came(buffer.filled().len() - before);
        }
        Poll::Ready(self.passed.note(outcome))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes));
        Poll::Ready(self.passed.wrote(outcome, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_flush(cx));
        Poll::Ready(self.passed.note(outcome))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut *self.stream).poll_shutdown(cx));
        Poll::Ready(self.passed.note(outcome))
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
    let copying = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
    unless_silent(copying, of_client, of_upstream, silence).await
}

/// As [`relay`], between two sockets whose bytes this process need not see.
pub async fn relay_plain(
    (client, of_client): (&mut TcpStream, &Passed),
    (upstream, of_upstream): (&mut TcpStream, &Passed),
    silence: Duration,
) -> Ended {
    let ((client_reads, client_writes), (upstream_reads, upstream_writes)) =
        (client.split(), upstream.split());
    let up = Way { from: client_reads, of_from: of_client, to: upstream_writes, of_to: of_upstream };
    let down = Way { from: upstream_reads, of_from: of_upstream, to: client_writes, of_to: of_client };
    let passing = async { tokio::try_join!(up.pass(), down.pass()) };
    unless_silent(passing, of_client, of_upstream, silence).await
}

async fn unless_silent<T>(
    passing: impl Future<Output = io::Result<T>>,
    client: &Passed,
    upstream: &Passed,
    limit: Duration,
) -> Ended {
    tokio::select! {
        passed = passing => if passed.is_ok() { Ended::Complete } else { Ended::Broken },
        () = silent(client, upstream, limit) => Ended::Silent,
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
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Ended, Passed, relay, relay_plain};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

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

    /// Bytes none of which is where a lost or repeated piece would leave it.
    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes / 4).flat_map(|number| u32::try_from(number).unwrap().to_le_bytes()).collect()
    }

    #[tokio::test]
    async fn sockets_pass_little_and_much_at_once_both_ways_and_close_on_their_own() {
        let ((near, mut client), (mut upstream, far)) = (pair().await, pair().await);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        let (up, down) = (content(20 << 20), content(8 << 20));
        let ((mut near_reads, mut near_writes), (mut far_reads, mut far_writes)) =
            (near.into_split(), far.into_split());
        let talk = async {
            near_writes.write_all(b"question").await.unwrap();
            let mut question = [0; 8];
            far_reads.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"question");
            let sends = async {
                near_writes.write_all(&up).await.unwrap();
                near_writes.shutdown().await.unwrap();
            };
            let answers = async { far_writes.write_all(&down).await.unwrap() };
            let mut seen = (Vec::new(), vec![0; down.len()]);
            let reads = async { far_reads.read_to_end(&mut seen.0).await.unwrap() };
            let gets = async { near_reads.read_exact(&mut seen.1).await.unwrap() };
            tokio::join!(sends, answers, reads, gets);
            assert!(seen.0 == up && seen.1 == down, "{} and {} bytes", seen.0.len(), seen.1.len());
            far_writes.write_all(b"after the close").await.unwrap();
            drop((far_reads, far_writes));
            let mut last = Vec::new();
            near_reads.read_to_end(&mut last).await.unwrap();
            assert_eq!(last, b"after the close");
        };
        let passing =
            relay_plain((&mut client, &of_client), (&mut upstream, &of_upstream), Duration::from_mins(1));
        let (ended, ()) = tokio::join!(passing, talk);
        assert_eq!(ended, Ended::Complete);
        let all = |count: usize| u64::try_from(count).unwrap();
        let read = |passed: &Passed| passed.read.load(Ordering::Relaxed);
        let written = |passed: &Passed| passed.written.load(Ordering::Relaxed);
        assert_eq!((read(&of_client), written(&of_upstream)), (all(up.len() + 8), all(up.len() + 8)));
        assert_eq!((read(&of_upstream), written(&of_client)), (all(down.len() + 15), all(down.len() + 15)));
    }

    #[tokio::test]
    async fn a_socket_that_breaks_is_the_one_that_is_told() {
        let ((near, mut client), (mut upstream, far)) = (pair().await, pair().await);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        far.set_zero_linger().unwrap();
        drop(far);
        let ended =
            relay_plain((&mut client, &of_client), (&mut upstream, &of_upstream), Duration::from_mins(1))
                .await;
        assert_eq!(ended, Ended::Broken);
        assert!(of_upstream.broken.load(Ordering::Relaxed) && !of_client.broken.load(Ordering::Relaxed));
        drop(near);
    }

    #[tokio::test]
    async fn sockets_that_are_silent_end_also_where_one_takes_nothing() {
        let ((mut near, mut client), (mut upstream, _far)) = (pair().await, pair().await);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        let limit = Duration::from_millis(80);
        let passing = relay_plain((&mut client, &of_client), (&mut upstream, &of_upstream), limit);
        // Nobody reads what is sent: once all buffers are full, nothing passes.
        let much = content(1 << 20);
        let sends = async { while near.write_all(&much).await.is_ok() {} };
        let ended = tokio::select! {
            ended = passing => ended,
            () = sends => panic!("the relay ended without a word"),
        };
        assert_eq!(ended, Ended::Silent);
        assert!(of_upstream.written.load(Ordering::Relaxed) > 0);
    }

    /// An upstream that has said all and is gone, while its client still says farewell, has broken nothing.
    #[tokio::test]
    async fn a_farewell_to_who_is_gone_breaks_nothing() {
        let ((mut near, mut client), (mut upstream, mut far)) = (pair().await, pair().await);
        let (of_client, of_upstream) = (Passed::default(), Passed::default());
        let talk = async {
            far.write_all(b"all").await.unwrap();
            drop(far);
            let mut told = Vec::new();
            near.read_to_end(&mut told).await.unwrap();
            assert_eq!(told, b"all");
            near.write_all(b"farewell").await.unwrap();
            while of_upstream.written.load(Ordering::Relaxed) < 8 {
                tokio::task::yield_now().await;
            }
            near.shutdown().await.unwrap();
        };
        let passing =
            relay_plain((&mut client, &of_client), (&mut upstream, &of_upstream), Duration::from_mins(1));
        let (ended, ()) = tokio::join!(passing, talk);
        assert_eq!(ended, Ended::Complete);
    }

    /// Nor where it goes on talking, before it has read all.
    #[tokio::test]
    async fn many_farewells_to_who_is_gone_break_nothing() {
        for plain in [true, false] {
            let ((mut near, mut client), (mut upstream, mut far)) = (pair().await, pair().await);
            let (of_client, of_upstream) = (Passed::default(), Passed::default());
            let all = content(64 << 10);
            let talk = async {
                far.write_all(&all).await.unwrap();
                drop(far);
                while of_upstream.dropped.load(Ordering::Relaxed) == 0 {
                    near.write_all(b"farewell").await.unwrap();
                    tokio::task::yield_now().await;
                }
                near.shutdown().await.unwrap();
                let mut told = Vec::new();
                near.read_to_end(&mut told).await.unwrap();
                assert!(told == all, "{} bytes", told.len());
            };
            let (client, upstream) = ((&mut client, &of_client), (&mut upstream, &of_upstream));
            let (ended, ()) = if plain {
                tokio::join!(relay_plain(client, upstream, Duration::from_mins(1)), talk)
            } else {
                tokio::join!(relay(client, upstream, Duration::from_mins(1)), talk)
            };
            assert_eq!(ended, Ended::Complete);
            assert!(!of_upstream.broken.load(Ordering::Relaxed));
        }
    }

    /// Who talks without end to who is gone is cut off.
    #[test]
    fn not_everything_is_dropped() {
        let gone = || Err(std::io::ErrorKind::BrokenPipe.into());
        let passed = Passed::default();
        assert!(passed.wrote(gone(), 1).is_err(), "it had more to say");
        let passed = Passed::default();
        passed.came(0);
        assert_eq!(passed.wrote(gone(), 1 << 20).unwrap(), 1 << 20);
        assert!(!passed.broken.load(Ordering::Relaxed));
        assert!((0..16).any(|_| passed.wrote(gone(), 1 << 20).is_err()));
        assert!(passed.broken.load(Ordering::Relaxed));
    }
}
