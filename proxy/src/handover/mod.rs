//! A new process takes the listening sockets of this one, which then drains.

pub mod endpoint;
pub mod talk;
pub mod until;
pub mod wire;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::handover::talk::Answer;
use crate::telemetry::event::event;

/// The name of the socket on which the next process will ask.
const NEXT: &str = "handover";

/// Where sockets are handed over, and whether this process begins with those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoverOptions {
    /// The Unix socket on which a new process asks.
    pub socket: PathBuf,
    /// True where this process is the new one.
    pub take_over: bool,
    /// Time for the other process to say its next word: for a new one to become ready, above all.
    pub patience: Duration,
}

/// Why no sockets were taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("cannot take over from the process at {0}: {1}")]
    Refused(PathBuf, io::Error),
    #[error("{0}: another process serves there; start with --upgrade to take over from it")]
    Busy(PathBuf),
    #[error("{0}: {1}")]
    Socket(PathBuf, io::Error),
    #[error("the process before serves on: this one was not ready in time (--upgrade-timeout)")]
    Late,
    #[error("the process before does not say whether this one may serve: {0}")]
    Undecided(io::Error),
}

/// Sockets that this process was given or may give away, by name.
#[derive(Debug)]
pub struct Handover {
    options: Option<HandoverOptions>,
    /// Of the process before: taken when they are wanted.
    inherited: Mutex<HashMap<String, OwnedFd>>,
    /// Copies of what is open here.
    offered: Mutex<HashMap<String, OwnedFd>>,
    /// The conversation with the process before.
    before: Mutex<Option<StdUnixStream>>,
    /// True from when this process serves.
    serving: watch::Sender<bool>,
    /// True once another process serves on these sockets.
    handed: watch::Sender<bool>,
}

/// The name of a listener's socket: what the policy asks for tells it from others.
pub fn listener_name(address: SocketAddr, port: u16) -> String {
    format!("listener {address} {port}")
}

/// The name of the socket of an admin endpoint; `what` it is for.
pub fn admin_name(what: &str, address: SocketAddr) -> String {
    format!("{what} {address}")
}

impl Handover {
    /// Takes the sockets of the process before where that is asked for. It serves on until it is told that
    /// this one does. Blocks the thread while sockets arrive.
    ///
    /// # Errors
    /// Where nobody answers at the socket, or somebody does who should not.
    pub fn begin(options: Option<HandoverOptions>) -> Result<Self, HandoverError> {
        let mut inherited = HashMap::new();
        let mut before = None;
        if let Some(HandoverOptions { socket, take_over, patience }) = &options {
            if *take_over {
                let refused = |error| HandoverError::Refused(socket.clone(), error);
                let (stream, sockets) = talk::take(socket, *patience).map_err(refused)?;
                (before, inherited) = (Some(stream), sockets);
            } else if StdUnixStream::connect(socket).is_ok() {
                return Err(HandoverError::Busy(socket.clone()));
            }
        }
        let begins = before.is_none();
        Ok(Self {
            options,
            inherited: Mutex::new(inherited),
            offered: Mutex::default(),
            before: Mutex::new(before),
            serving: watch::channel(begins).0,
            handed: watch::channel(false).0,
        })
    }

    /// True while the process before still serves on the sockets that this one was given.
    pub fn is_taking_over(&self) -> bool {
        !*self.serving.borrow()
    }

    /// The socket of this name that the process before had, if it had one.
    pub fn take(&self, name: &str) -> Option<io::Result<TcpListener>> {
        let socket = lock(&self.inherited).remove(name)?;
        let listener = StdTcpListener::from(socket);
        Some(listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)))
    }

    /// Keeps a copy of a listening socket for the next process.
    pub fn offer(&self, name: String, socket: &impl AsFd) {
        if self.options.is_none() {
            return;
        }
        match socket.as_fd().try_clone_to_owned() {
            Ok(copy) => drop(lock(&self.offered).insert(name, copy)),
            Err(error) => {
                let fields = [("socket", name.into()), ("error", error.to_string().into())];
                event(Level::Error, "socket not offered", &fields);
            }
        }
    }

    /// The socket is closed: nobody shall hold it open.
    pub fn withdraw(&self, name: &str) {
        lock(&self.offered).remove(name);
    }

    /// Nothing is accepted any more: every copy is closed.
    pub fn withdraw_all(&self) {
        lock(&self.offered).clear();
    }

    /// Asks the process before, where there is one, whether this one may serve. Before it does not accept: one that
    /// comes too late would serve beside the old one for ever.
    ///
    /// # Errors
    /// `Late` where it may not, `Undecided` where nothing is said.
    pub async fn confirmed(&self) -> Result<(), HandoverError> {
        let before = lock(&self.before).take();
        let Some(mut stream) = before else { return Ok(()) };
        let asked = spawn_blocking(move || talk::ready(&mut stream).map(|answer| (answer, stream))).await;
        match asked.unwrap_or_else(|_| Err(io::Error::other("a defect"))) {
            Ok((Answer::Go, stream)) => *lock(&self.before) = Some(stream),
            Ok((Answer::Gone, _)) => event(Level::Warn, "the process before is gone", &[]),
            Ok((Answer::Late, _)) => return Err(HandoverError::Late),
            Err(error) => return Err(HandoverError::Undecided(error)),
        }
        Ok(())
    }

    /// From now on this process serves.
    pub fn serve(&self) {
        self.serving.send_replace(true);
    }

    /// Waits until this process serves.
    pub async fn served(&self) {
        let _ = self.serving.subscribe().wait_for(|serving| *serving).await;
    }

    /// Waits until another process serves on these sockets.
    pub async fn handed(&self) {
        if self.handed.subscribe().wait_for(|handed| *handed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// True once another process serves on these sockets.
    pub fn is_handed(&self) -> bool {
        *self.handed.borrow()
    }

    /// Tells the process before that this one serves, then waits for the next.
    ///
    /// # Errors
    /// Where the socket cannot be opened, or the process before serves on.
    pub async fn run(self: Arc<Self>) -> Result<(), HandoverError> {
        let Some(options) = self.options.clone() else { return Ok(()) };
        let inherited = lock(&self.inherited).remove(NEXT);
        let listener = match inherited {
            Some(socket) => adopted(socket),
            None => open(&options.socket),
        };
        let fault = |error| HandoverError::Socket(options.socket.clone(), error);
        let listener = listener.map_err(fault)?;
        self.offer(NEXT.to_owned(), &listener);
        self.served().await;
        let before = lock(&self.before).take();
        if let Some(stream) = before {
            match talk::relieve(stream).await {
                Ok(Answer::Go) => event(Level::Info, "took over", &[]),
                Ok(Answer::Gone) => event(Level::Warn, "the process before is gone", &[]),
                Ok(Answer::Late) => return Err(self.give_back(HandoverError::Late)),
                Err(error) => return Err(self.give_back(HandoverError::Undecided(error))),
            }
        }
        // What nobody wanted is closed: connections to it would wait for an accept that never comes.
        lock(&self.inherited).clear();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    event(Level::Warn, "handover failed", &[("error", error.to_string().into())]);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let (handover, patience) = (Arc::clone(&self), options.patience);
            let outcome = match may_ask(&stream, &options.socket).and_then(|()| stream.into_std()) {
                Ok(stream) => spawn_blocking(move || handover.give(stream, patience)).await,
                Err(error) => Ok(Err(error)),
            };
            match outcome.unwrap_or_else(|_| Err(io::Error::other("a defect"))) {
                Ok(()) => return Ok(()),
                Err(error) => event(Level::Warn, "handover failed", &[("error", error.to_string().into())]),
            }
        }
    }

    /// The sockets are those of the process before, which serves on: this one stops accepting and ends.
    fn give_back(&self, why: HandoverError) -> HandoverError {
        self.handed.send_replace(true);
        self.withdraw_all();
        why
    }

    /// Gives every socket to a new process, and waits until it serves.
    fn give(&self, mut stream: StdUnixStream, patience: Duration) -> io::Result<()> {
        let offered = {
            let offered = lock(&self.offered);
            let copies =
                offered.iter().map(|(name, socket)| socket.try_clone().map(|copy| (name.clone(), copy)));
            copies.collect::<io::Result<Vec<_>>>()?
        };
        let given = || event(Level::Info, "sockets given", &[("sockets", offered.len().into())]);
        talk::give(&mut stream, &offered, given, patience)?;
        drop(offered);
        self.handed.send_replace(true);
        self.withdraw_all();
        talk::stopped(&mut stream);
        Ok(())
    }

    /// Removes the socket from the file system where this process is the last to have it.
    pub fn close(&self) {
        if let Some(options) = &self.options
            && !*self.handed.borrow()
            && !self.is_taking_over()
        {
            let _ = fs::remove_file(&options.socket);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the socket for this user alone. Under another name first: it is never there with other permissions.
fn open(path: &Path) -> io::Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let listener = StdUnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn adopted(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = StdUnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Only the user of this process and root may ask.
fn may_ask(stream: &UnixStream, socket: &Path) -> io::Result<()> {
    let asks = stream.peer_cred()?.uid();
    if asks == 0 || asks == fs::metadata(socket)?.uid() {
        return Ok(());
    }
    Err(io::Error::other("another user asked for the sockets"))
}
