//! What the old and the new process say to each other; the old one decides.
//!
//! The new one asks, is given the sockets, and says when it is ready. The old one says go, unless it was too long
//! a time: then it says so, and the new one ends. Having been told to go, the new one accepts and says that it
//! serves; only then does the old one stop. Whatever is missing, at any word: the old one serves on. Where the old
//! one is gone, the new one serves.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::handover::wire::{self, Message};

/// The first words of a new process; the number changes with what is said.
const HELLO: &str = "foregate handover 2";
/// Behind the last socket.
const END: &str = "end";
/// The new process could serve.
const READY: &str = "ready";
/// The old process waits for it to serve.
const GO: &str = "go";
/// The new process serves.
const SERVING: &str = "serving";
/// The old process accepts no more.
const DRAINING: &str = "draining";
/// The old process serves on, and the new one is to end.
const LATE: &str = "late";

/// Sockets that one process may hand over.
const MAX_SOCKETS: usize = 4096;

/// What the old process says of the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may serve, or serves alone.
    Go,
    /// Nothing: it is gone.
    Gone,
    /// The new one is to end.
    Late,
}

/// Time for the other process to say its next word.
pub fn patient(stream: &UnixStream, patience: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

fn unexpected(said: &str) -> io::Error {
    io::Error::other(format!("the other process says `{said}`"))
}

/// New: asks for the sockets of the process before.
pub fn take(path: &Path, patience: Duration) -> io::Result<(UnixStream, HashMap<String, OwnedFd>)> {
    let mut stream = UnixStream::connect(path)?;
    patient(&stream, patience)?;
    wire::send(&mut stream, HELLO, None)?;
    let mut sockets = HashMap::new();
    while sockets.len() < MAX_SOCKETS {
        let Message { name, socket } = wire::receive(&mut stream)?;
        match socket {
            Some(socket) => drop(sockets.insert(name, socket)),
            None if name == END => return Ok((stream, sockets)),
            None => return Err(io::Error::other("a name without a socket")),
        }
    }
    Err(io::Error::other("too many sockets"))
}

/// New: says that it could serve, and waits for the answer.
pub fn ready(stream: &mut UnixStream) -> io::Result<Answer> {
    ask(stream, READY, GO)
}

/// New: says that it serves, and waits for the process before to stop.
pub fn relieve(stream: &mut UnixStream, patience: Duration) -> io::Result<Answer> {
    // The process before decides within its own patience.
    patient(stream, patience.saturating_mul(2))?;
    ask(stream, SERVING, DRAINING)
}

fn ask(stream: &mut UnixStream, word: &str, wanted: &str) -> io::Result<Answer> {
    // Where it has closed, what it said last can still be read.
    let _ = wire::send(stream, word, None);
    match wire::receive(stream) {
        Ok(Message { name, .. }) if name == wanted => Ok(Answer::Go),
        Ok(Message { name, .. }) if name == LATE => Ok(Answer::Late),
        Ok(Message { name, .. }) => Err(unexpected(&name)),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(Answer::Gone)
        }
        Err(error) => Err(error),
    }
}

/// Old: gives every socket away, and waits until the new process serves.
pub fn give(
    stream: &mut UnixStream,
    sockets: &[(String, OwnedFd)],
    given: impl FnOnce(),
    patience: Duration,
) -> io::Result<()> {
    patient(stream, patience)?;
    if wire::receive(stream)?.name != HELLO {
        return Err(io::Error::other("the other process speaks another version"));
    }
    for (name, socket) in sockets {
        wire::send(stream, name, Some(socket.as_fd()))?;
    }
    wire::send(stream, END, None)?;
    given();
    let outcome = wait(stream, READY).and_then(|()| {
        wire::send(stream, GO, None)?;
        wait(stream, SERVING)
    });
    // Whether it is gone or only slow: it must not serve beside this process.
    outcome.inspect_err(|_| drop(wire::send(stream, LATE, None)))
}

/// Old: accepts no more. The other side serves whether it reads this or not.
pub fn stopped(stream: &mut UnixStream) {
    let _ = wire::send(stream, DRAINING, None);
}

fn wait(stream: &mut UnixStream, word: &str) -> io::Result<()> {
    let late = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::other("the other process is late"),
        _ => error,
    };
    let said = wire::receive(stream).map_err(late)?.name;
    if said == word { Ok(()) } else { Err(unexpected(&said)) }
}

#[cfg(test)]
mod tests {
    use super::{Answer, give, patient, ready, relieve, stopped};
    use crate::handover::wire;
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    /// The old side, with this patience, and the new side once it was given everything.
    fn pair(patience: Duration) -> (thread::JoinHandle<io::Result<()>>, UnixStream) {
        let (mut old, mut new) = UnixStream::pair().unwrap();
        let gives = thread::spawn(move || give(&mut old, &[], || (), patience).map(|()| stopped(&mut old)));
        patient(&new, LONG).unwrap();
        wire::send(&mut new, super::HELLO, None).unwrap();
        assert_eq!(wire::receive(&mut new).unwrap().name, super::END);
        (gives, new)
    }

    #[test]
    fn one_that_is_on_time_takes_over() {
        let (gives, mut new) = pair(LONG);
        assert_eq!(ready(&mut new).unwrap(), Answer::Go);
        assert_eq!(relieve(&mut new, LONG).unwrap(), Answer::Go);
        gives.join().unwrap().unwrap();
    }

    #[test]
    fn one_that_is_late_is_told_to_end_whatever_it_was_about_to_say() {
        let (gives, mut new) = pair(SHORT);
        assert!(gives.join().unwrap().unwrap_err().to_string().contains("late"));
        assert_eq!(ready(&mut new).unwrap(), Answer::Late, "not ready in time");
        let (gives, mut new) = pair(SHORT);
        assert_eq!(ready(&mut new).unwrap(), Answer::Go);
        assert!(gives.join().unwrap().is_err());
        assert_eq!(relieve(&mut new, LONG).unwrap(), Answer::Late, "told to go, and then silent");
    }

    #[test]
    fn one_whose_predecessor_is_gone_is_alone() {
        let (old, mut new) = UnixStream::pair().unwrap();
        patient(&new, LONG).unwrap();
        drop(old);
        assert_eq!(ready(&mut new).unwrap(), Answer::Gone);
        let (gives, new) = pair(LONG);
        drop(new);
        assert!(gives.join().unwrap().is_err(), "and the old one goes on where the new one is gone");
    }
}
