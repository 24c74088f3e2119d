//! A new process takes the listening sockets of this one, which then drains.

pub mod endpoint;
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

use crate::telemetry::event::event;

/// The first words of a new process; the number changes with what is said.
const HELLO: &str = "foregate handover 1";
/// Behind the last socket.
const END: &str = "end";
/// The new process serves.
const SERVING: &str = "serving";
/// The old process accepts no more.
const DRAINING: &str = "draining";
/// The name of the socket on which the next process will ask.
const NEXT: &str = "handover";

/// Time for the other process to say its next word.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sockets that one process may hand over.
const MAX_SOCKETS: usize = 4096;

/// Where sockets are handed over, and whether this process begins with those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoverOptions {
    /// The Unix socket on which a new process asks.
    pub socket: PathBuf,
    /// True where this process is the new one.
    pub take_over: bool,
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

/// The name of the admin endpoint's socket.
pub fn admin_name(address: SocketAddr) -> String {
    format!("admin {address}")
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
        if let Some(HandoverOptions { socket, take_over }) = &options {
            if *take_over {
                let refused = |error| HandoverError::Refused(socket.clone(), error);
                let (stream, sockets) = take(socket).map_err(refused)?;
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
    /// Where the socket cannot be opened.
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
            let told = spawn_blocking(move || relieve(stream)).await;
            let outcome = told.unwrap_or_else(|_| Err(io::Error::other("a defect")));
            match outcome {
                Ok(()) => event(Level::Info, "took over", &[]),
                Err(error) => event(Level::Warn, "took over", &[("error", error.to_string().into())]),
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
            let handover = Arc::clone(&self);
            let socket = options.socket.clone();
            let outcome = match may_ask(&stream, &socket).and_then(|()| stream.into_std()) {
                Ok(stream) => spawn_blocking(move || handover.give(stream)).await,
                Err(error) => Ok(Err(error)),
            };
            match outcome.unwrap_or_else(|_| Err(io::Error::other("a defect"))) {
                Ok(()) => return Ok(()),
                Err(error) => event(Level::Warn, "handover failed", &[("error", error.to_string().into())]),
            }
        }
    }

    /// Gives every socket to a new process, and waits until it serves.
    fn give(&self, mut stream: StdUnixStream) -> io::Result<()> {
        patient(&stream)?;
        if wire::receive(&mut stream)?.name != HELLO {
            return Err(io::Error::other("the other process speaks another version"));
        }
        let offered = {
            let offered = lock(&self.offered);
            let copies =
                offered.iter().map(|(name, socket)| socket.try_clone().map(|copy| (name.clone(), copy)));
            copies.collect::<io::Result<Vec<_>>>()?
        };
        for (name, socket) in &offered {
            wire::send(&mut stream, name, Some(socket.as_fd()))?;
        }
        wire::send(&mut stream, END, None)?;
        event(Level::Info, "sockets given", &[("sockets", offered.len().into())]);
        drop(offered);
        if wire::receive(&mut stream)?.name != SERVING {
            return Err(io::Error::other("the other process does not serve"));
        }
        self.handed.send_replace(true);
        self.withdraw_all();
        // The other side serves whether it reads this or not.
        let _ = wire::send(&mut stream, DRAINING, None);
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

fn patient(stream: &StdUnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Asks the process before for its sockets.
fn take(path: &Path) -> io::Result<(StdUnixStream, HashMap<String, OwnedFd>)> {
    let mut stream = StdUnixStream::connect(path)?;
    patient(&stream)?;
    wire::send(&mut stream, HELLO, None)?;
    let mut sockets = HashMap::new();
    while sockets.len() < MAX_SOCKETS {
        let wire::Message { name, socket } = wire::receive(&mut stream)?;
        match socket {
            Some(socket) => drop(sockets.insert(name, socket)),
            None if name == END => return Ok((stream, sockets)),
            None => return Err(io::Error::other("a name without a socket")),
        }
    }
    Err(io::Error::other("too many sockets"))
}

/// Tells the process before that it is not needed any more.
fn relieve(mut stream: StdUnixStream) -> io::Result<()> {
    wire::send(&mut stream, SERVING, None)?;
    match wire::receive(&mut stream)?.name.as_str() {
        DRAINING => Ok(()),
        _ => Err(io::Error::other("the process before says nothing of a drain")),
    }
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
