//! Passes bytes between two plain sockets without a copy of them in this process (splice(2)).

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::coop::{consume_budget, unconstrained};
use tokio::task::yield_now;

use crate::places::{Place, Places};
use crate::streams::relay::Passed;

/// Bytes that one call moves at most, and room of a pipe where the system gives that much.
const MOST: usize = 256 * 1024;

/// Bytes that are copied at a time.
const PIECE: usize = 16 * 1024;

/// Bytes after which others on this thread have their turn.
const TURN: usize = 1 << 20;

/// Empty pipes that a thread keeps, while at least half of the places are free; what holds nothing needs none.
const MAX_KEPT: usize = 16;

/// Pipes of the process at once.
const MAX_OPEN: usize = 256;

/// Each takes two files of the process and up to 256 KiB of the kernel. Beyond them bytes are copied.
static OPEN: Places = Places::new(MAX_OPEN);

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Set once the system has refused to move bytes so: a filter of system calls, or a kernel of another kind.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Bytes on their way, in the kernel.
#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
    _place: Place,
}

impl Pipe {
    /// `None` where there are enough, the process may open no more files, or the system moves no bytes so.
    fn take() -> Option<Self> {
        if REFUSED.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        let place = OPEN.take()?;
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Where users have too many of them, it stays smaller.
        let _ = fcntl_setpipe_size(&into, MOST);
        Some(Self { out, into, held: 0, _place: place })
    }

    /// Keeps it for the next that has something to move.
    fn put(self) {
        if self.held == 0 {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < MAX_KEPT && OPEN.free() >= MAX_OPEN / 2 {
                    pipes.push(self);
                }
            });
        }
    }

    /// Takes what a socket has; 0 at its end.
    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let moved = splice(from, None, &self.into, None, MOST, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives a socket what it takes.
    fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = splice(&self.out, None, to, None, self.held, flags)?;
        self.held = self.held.saturating_sub(moved);
        if moved == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(moved) }
    }
}

/// True for an error that is the system's, and not the connection's.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::PERM))
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Way<'a> {
    pub from: ReadHalf<'a>,
    pub of_from: &'a Passed,
    pub to: WriteHalf<'a>,
    pub of_to: &'a Passed,
}

impl Way<'_> {
    /// Passes bytes until `from` has closed, and closes `to`.
    ///
    /// # Errors
    /// What the system says; the end at fault is marked as broken.
    pub async fn pass(mut self) -> io::Result<()> {
        let (mut moved, mut large) = (0, false);
        loop {
            consume_budget().await;
            self.of_from.note(self.from.readable().await)?;
            // Little is copied: a system call for each side, as well, and a thread holds few pipes.
            let pipe = if large { Pipe::take() } else { None };
            let spliced = match pipe {
                Some(pipe) => self.splice(pipe).await?,
                None => Some(0),
            };
            // The end, or what cannot be moved so: a read tells which.
            let passed = if spliced == Some(0) { self.copy().await? } else { spliced };
            let Some(count) = passed else { continue };
            if count == 0 {
                return self.close();
            }
            large = count >= PIECE;
            moved += count;
            if moved >= TURN {
                moved = 0;
                yield_now().await;
            }
        }
    }

    /// Moves what is there, `None` where that is nothing yet; 0 at the end, and where it cannot be moved so.
    async fn splice(&self, mut pipe: Pipe) -> io::Result<Option<usize>> {
        let (from, to): (&TcpStream, &TcpStream) = (self.from.as_ref(), self.to.as_ref());
        let count = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(count) => Some(count),
            Err(error) if is_refusal(&error) => {
                REFUSED.store(true, Ordering::Relaxed);
                return Ok(Some(0));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => return self.of_from.note(Err(error)),
        };
        let Some(count) = count.filter(|count| *count > 0) else {
            pipe.put();
            return Ok(count);
        };
        self.of_from.came(count);
        let mut left = count;
        while left > 0 {
            let given = to.async_io(Interest::WRITABLE, || pipe.drain(to)).await;
            left = left.saturating_sub(self.of_to.wrote(given, left)?);
        }
        pipe.put();
        Ok(Some(count))
    }

    /// The same, through this process; 0 at the end.
    async fn copy(&mut self) -> io::Result<Option<usize>> {
        let mut piece = vec![0; PIECE];
        // One look: who waits for more holds no buffer.
        let Some(read) = unconstrained(self.from.read(&mut piece)).now_or_never() else { return Ok(None) };
        let count = self.of_from.note(read)?;
        self.of_from.came(count);
        let mut left = piece.get(..count).unwrap_or_default();
        while !left.is_empty() {
            let to: &TcpStream = self.to.as_ref();
            let given = to.async_io(Interest::WRITABLE, || to.try_write(left)).await;
            left = left.get(self.of_to.wrote(given, left.len())?..).unwrap_or_default();
        }
        Ok(Some(count))
    }

    /// Says that nothing more comes. An end that has closed altogether knows.
    fn close(&self) -> io::Result<()> {
        let to: &TcpStream = self.to.as_ref();
        match shutdown(to, Shutdown::Write) {
            Err(error) if error != Errno::NOTCONN => self.of_to.note(Err(error.into())),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
