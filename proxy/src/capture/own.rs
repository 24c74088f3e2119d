//! Connections of our own that the kernel redirects to us: told, and refused.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::clock;

/// How long both ends of a connection are looked for: one is accepted as soon as a thread has time.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Most connections that are remembered of each end; the oldest is forgotten first.
const MOST: usize = 65_536;

/// What is said of such a connection.
pub const DETAIL: &str = "the connection is one of our own, redirected to us: `foregate init --proxy-uid` must name the user \
                          that this process runs as";

/// From where and where to: no two connections have both at one time.
type Ends = (SocketAddr, SocketAddr);

/// Connections of the last seconds.
#[derive(Debug, Default)]
struct Recent {
    in_order: VecDeque<(Duration, Ends)>,
    /// When each was noted last.
    all: HashMap<Ends, Duration>,
}

/// What was opened, and what was redirected here.
#[derive(Debug, Default)]
struct Both {
    opened: Recent,
    arrived: Recent,
}

static BOTH: LazyLock<Mutex<Both>> = LazyLock::new(Mutex::default);
/// True once something was redirected here: nobody else pays for it.
static REDIRECTED: AtomicBool = AtomicBool::new(false);

impl Recent {
    fn note(&mut self, ends: Ends, now: Duration) {
        while let Some((then, old)) = self.in_order.front().copied()
            && (now.saturating_sub(then) > REMEMBERED || self.in_order.len() >= MOST)
        {
            self.in_order.pop_front();
            // Ports are used again: it may have been noted since.
            if self.all.get(&old) == Some(&then) {
                self.all.remove(&old);
            }
        }
        if self.all.insert(ends, now) != Some(now) {
            self.in_order.push_back((now, ends));
        }
    }

    /// Whatever is still there: notes are removed by later ones alone.
    fn has(&self, ends: Ends, now: Duration) -> bool {
        self.all.get(&ends).is_some_and(|then| now.saturating_sub(*then) <= REMEMBERED)
    }
}

impl Both {
    /// Each end notes itself before it looks for the other: whichever comes later sees both.
    fn opened(&mut self, ends: Ends, now: Duration) -> bool {
        self.opened.note(ends, now);
        self.arrived.has(ends, now)
    }

    fn arrived(&mut self, ends: Ends, now: Duration) -> bool {
        self.arrived.note(ends, now);
        self.opened.has(ends, now)
    }
}

/// Takes note of a connection that was opened here.
///
/// # Errors
/// Where it was redirected to this process.
pub fn opened(stream: &TcpStream) -> io::Result<()> {
    if !REDIRECTED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let ends = (canonical(stream.local_addr()?), canonical(stream.peer_addr()?));
    if BOTH.lock().unwrap_or_else(PoisonError::into_inner).opened(ends, clock::monotonic()) {
        return Err(io::Error::other(DETAIL));
    }
    Ok(())
}

/// Takes note of a connection that was redirected here; true where this process opened it.
pub fn arrived(peer: SocketAddr, meant: SocketAddr) -> bool {
    REDIRECTED.store(true, Ordering::Relaxed);
    let ends = (canonical(peer), canonical(meant));
    BOTH.lock().unwrap_or_else(PoisonError::into_inner).arrived(ends, clock::monotonic())
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Both, Ends, MOST, Recent};

    fn ends(port: u16) -> Ends {
        ("10.0.0.1:1000".parse().unwrap(), ([10, 0, 0, 2], port).into())
    }

    #[test]
    fn whichever_end_comes_later_sees_both() {
        let (mut both, now) = (Both::default(), Duration::from_secs(9));
        assert!(!both.opened(ends(1), now) && both.arrived(ends(1), now));
        assert!(!both.arrived(ends(2), now) && both.opened(ends(2), now));
        assert!(!both.arrived(ends(3), now), "somebody else's");
    }

    #[test]
    fn what_was_long_ago_is_another_connection_with_the_same_ports() {
        let (mut both, now) = (Both::default(), Duration::from_secs(9));
        let later = now + Duration::from_secs(6);
        assert!(!both.opened(ends(1), now) && !both.arrived(ends(1), later));
        assert!(!both.arrived(ends(2), now) && !both.opened(ends(2), later));
        // Noted again, it is remembered from then on.
        both = Both::default();
        assert!(!both.opened(ends(3), now) && !both.opened(ends(3), now + Duration::from_secs(4)));
        assert!(!both.opened(ends(4), later) && both.arrived(ends(3), later));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut recent = Recent::default();
        for port in 0..=u16::MAX {
            recent.note(ends(port), Duration::ZERO);
            recent.note((ends(port).1, ends(port).0), Duration::ZERO);
        }
        assert_eq!((recent.in_order.len(), recent.all.len()), (MOST, MOST));
    }
}
