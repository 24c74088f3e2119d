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

use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// Sets the time for the other process to say its next word.
///
/// # Errors
/// Where it is no socket any more.
pub fn patient(stream: &UnixStream, patience: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

fn unexpected(said: &str) -> io::Error {
    io::Error::other(format!("the other process says `{said}`"))
}

/// New: asks for the sockets of the process before.
///
/// # Errors
/// Where nobody answers, or says something else.
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
///
/// # Errors
/// Where none comes in time, or something else is said.
pub fn ready(stream: &mut UnixStream) -> io::Result<Answer> {
    // Where it has closed, what it said last can still be read.
    let _ = wire::send(stream, READY, None);
    answered(wire::receive(stream).map(|message| message.name), GO)
}

/// New: says that it serves, and waits for the process before to stop, however long that takes: it has decided, or
/// will, and this one must not miss it.
///
/// # Errors
/// Where it says something else.
pub async fn relieve(stream: UnixStream) -> io::Result<Answer> {
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    let _ = stream.write_all(&wire::frame(SERVING)?).await;
    let mut said = Vec::new();
    let word = async {
        said.resize(usize::from(stream.read_u8().await?), 0);
        stream.read_exact(&mut said).await
    };
    answered(word.await.map(|_| String::from_utf8_lossy(&said).into_owned()), DRAINING)
}

fn answered(said: io::Result<String>, wanted: &str) -> io::Result<Answer> {
    match said {
        Ok(name) if name == wanted => Ok(Answer::Go),
        Ok(name) if name == LATE => Ok(Answer::Late),
        Ok(name) => Err(unexpected(&name)),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(Answer::Gone)
        }
        Err(error) => Err(error),
    }
}

/// Old: gives every socket away, and waits until the new process serves.
///
/// # Errors
/// Where it is gone, late, or says something else; it is told that it must not serve.
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

    #[tokio::test]
    async fn one_that_is_on_time_takes_over() {
        let (gives, mut new) = pair(LONG);
        assert_eq!(ready(&mut new).unwrap(), Answer::Go);
        assert_eq!(relieve(new).await.unwrap(), Answer::Go);
        gives.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_that_is_late_is_told_to_end_whatever_it_was_about_to_say() {
        let (gives, mut new) = pair(SHORT);
        assert!(gives.join().unwrap().unwrap_err().to_string().contains("late"));
        assert_eq!(ready(&mut new).unwrap(), Answer::Late, "not ready in time");
        let (gives, mut new) = pair(SHORT);
        assert_eq!(ready(&mut new).unwrap(), Answer::Go);
        assert!(gives.join().unwrap().is_err());
        assert_eq!(relieve(new).await.unwrap(), Answer::Late, "told to go, and then silent");
    }

    #[tokio::test]
    async fn one_whose_predecessor_is_gone_is_alone() {
        let (old, mut new) = UnixStream::pair().unwrap();
        patient(&new, LONG).unwrap();
        drop(old);
        assert_eq!(ready(&mut new).unwrap(), Answer::Gone);
        assert_eq!(relieve(new).await.unwrap(), Answer::Gone);
        let (gives, new) = pair(LONG);
        drop(new);
        assert!(gives.join().unwrap().is_err(), "and the old one goes on where the new one is gone");
    }
}
