//! The inference sidecar: one connection, kept up, on which models are asked.

mod link;
mod target;

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, io, thread};

use arc_swap::ArcSwap;
use foregate_filters::peer::PeerPattern;
use foregate_inference::remote::{Contract, Remote};
use foregate_policy::snapshot::{Shown, UpstreamTls};
use log::Level;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::identity::Identity;
use crate::rpc::endpoint::Endpoint;
use crate::sidecar::link::{Link, Opened};
use crate::sidecar::target::Target;
use crate::telemetry::event::event;

/// Calls under way at most, unless it is said otherwise: as many as a sidecar takes at once, unless it is told otherwise.
pub const CALLS: u32 = 64;
/// How often a connection on which nothing is scored is asked whether it is ready: a sidecar lets go of clients that ask
/// nothing for a minute.
const IDLE: Duration = Duration::from_secs(20);
/// A connection that stood for so long was good: the next attempt needs no pause.
const PROVEN: Duration = Duration::from_secs(1);
/// Time to connect, and for the first answer on a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause before the first attempt to connect again; it doubles with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where the sidecar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A unix socket: the files of the system say who may ask.
    Socket(PathBuf),
    /// TCP with mutual TLS.
    Tls(Endpoint),
}

/// How the sidecar is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarOptions {
    pub place: Place,
    /// Who it must be, where TLS is spoken.
    pub peer: Option<PeerPattern>,
    /// Calls under way at most. More than the sidecar takes at once (`--max-requests`) would be refused there.
    pub calls: u32,
}

/// Why options do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SidecarError {
    #[error(
        "--inference-sidecar https://.. needs --inference-sidecar-peer: the SPIFFE id that the sidecar shows"
    )]
    Peer,
    #[error("--inference-sidecar https://.. needs --identity: what this workload shows the sidecar")]
    Identity,
    #[error("--inference-sidecar-peer is for https://.. alone: on a unix socket nobody shows a certificate")]
    NoTls,
}

/// The sidecar of this process.
#[derive(Debug)]
pub struct Sidecar {
    place: Place,
    tls: Option<(UpstreamTls, Arc<Identity>)>,
    runtime: Handle,
    state: ArcSwap<State>,
    /// Counts attempts to connect.
    attempts: watch::Sender<u64>,
    room: Arc<Semaphore>,
    calls: usize,
    targets: Mutex<Vec<Weak<Target>>>,
    pub counts: Counts,
}

/// The connection.
enum State {
    Up(Link),
    /// Why there is none.
    Down(Box<str>),
}

/// What became of calls.
#[derive(Debug, Default)]
pub struct Counts {
    pub calls: AtomicU64,
    faults: [AtomicU64; Kind::ALL.len()],
}

/// Why a call gave no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There was no connection, or it broke.
    Unavailable,
    /// The deadline passed.
    Late,
    /// Too many calls were under way, here or there.
    Busy,
    /// The sidecar refused it.
    Refused,
    /// What it answered cannot be right.
    Answer,
    /// It has another bundle of the same name and version.
    Bundle,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(_) => f.write_str("Up"),
            Self::Down(why) => f.debug_tuple("Down").field(why).finish(),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    /// Reads `unix:/run/inference.sock` or `https://inference.internal:8001`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return path.starts_with('/').then(|| Self::Socket(path.into())).ok_or_else(|| {
                "a socket is named by its absolute path, such as unix:/run/inference.sock".to_owned()
            });
        }
        let expected = |_| "expected unix:SOCKET or https://HOST:PORT".to_owned();
        text.parse().map(Self::Tls).map_err(expected)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(at) => write!(f, "{at}"),
        }
    }
}

impl SidecarOptions {
    /// What TLS shows and asks for; `None` for a unix socket.
    fn tls(
        &self,
        identity: Option<&Arc<Identity>>,
    ) -> Result<Option<(UpstreamTls, Arc<Identity>)>, SidecarError> {
        match (&self.place, &self.peer, identity) {
            (Place::Socket(_), None, _) => Ok(None),
            (Place::Socket(_), Some(_), _) => Err(SidecarError::NoTls),
            (Place::Tls(_), None, _) => Err(SidecarError::Peer),
            (Place::Tls(_), _, None) => Err(SidecarError::Identity),
            (Place::Tls(_), Some(peer), Some(identity)) => {
                let shown = Shown::Workload { peers: vec![peer.clone()] };
                let (server_name, ca_files, alt_names) = Default::default();
                let tls = UpstreamTls { server_name, ca_files, alt_names, shown };
                Ok(Some((tls, Arc::clone(identity))))
            }
        }
    }
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Unavailable, Self::Late, Self::Busy, Self::Refused, Self::Answer, Self::Bundle];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Answer => "answer",
            Self::Bundle => "bundle",
        }
    }
}

impl Counts {
    fn note(&self, kind: Kind) {
        if let Some(count) = self.faults.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn faults(&self, kind: Kind) -> u64 {
        self.faults.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Sidecar {
    /// Starts a thread that keeps the connection up as long as the process lives.
    ///
    /// # Errors
    /// Where options do not fit together, or the system lends no thread.
    pub fn start(options: SidecarOptions, identity: Option<&Arc<Identity>>) -> io::Result<Arc<Self>> {
        let tls = options.tls(identity).map_err(io::Error::other)?;
        // A thread of its own: whatever else is slow in the background delays no score.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let calls = usize::try_from(options.calls).unwrap_or(usize::MAX);
        let sidecar = Arc::new(Self {
            place: options.place,
            tls,
            runtime: runtime.handle().clone(),
            state: ArcSwap::from_pointee(State::Down("the sidecar is not connected yet".into())),
            attempts: watch::channel(0).0,
            room: Arc::new(Semaphore::new(calls)),
            calls,
            targets: Mutex::default(),
            counts: Counts::default(),
        });
        let kept = Arc::clone(&sidecar);
        let keep = move || runtime.block_on(kept.keep());
        thread::Builder::new().name("sidecar".to_owned()).spawn(keep)?;
        Ok(sidecar)
    }

    /// Whom to ask for the model of a bundle.
    pub fn target(self: &Arc<Self>, contract: Contract) -> Arc<dyn Remote> {
        let target = Arc::new(Target::new(Arc::clone(self), contract));
        let mut targets = self.targets();
        targets.retain(|target| target.strong_count() > 0);
        targets.push(Arc::downgrade(&target));
        drop(targets);
        if let State::Up(link) = &**self.state.load() {
            self.runtime.spawn(check(Arc::clone(&target), link.clone()));
        }
        target
    }

    /// Ends once the first attempt to connect has ended, within [`CONNECT`].
    pub async fn tried(&self) {
        // The sender is a part of this.
        let _ = self.attempts.subscribe().wait_for(|attempts| *attempts > 0).await;
    }

    pub fn is_connected(&self) -> bool {
        matches!(&**self.state.load(), State::Up(_))
    }

    pub fn under_way(&self) -> usize {
        self.calls.saturating_sub(self.room.available_permits())
    }

    fn targets(&self) -> MutexGuard<'_, Vec<Weak<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut renewed = self.tls.as_ref().map(|(_, identity)| identity.changes());
        loop {
            match timeout(CONNECT, self.connect()).await.unwrap_or(Err("no answer in time".to_owned())) {
                Ok(Opened { link, connection }) => {
                    let since = clock::monotonic();
                    self.up(&link);
                    tokio::select! {
                        never = keep_awake(link) => match never {},
                        ended = connection => {
                            let why = ended.unwrap_or_else(|error| error.to_string());
                            self.down(format!("the sidecar's connection is lost: {why}"));
                        }
                        // What is under way ends on the old connection; the next one shows the new certificate.
                        () = another(&mut renewed) => continue,
                    }
                    if clock::monotonic().saturating_sub(since) >= PROVEN {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                }
                Err(why) => self.down(format!("the sidecar is not connected: {why}")),
            }
            self.attempts.send_modify(|attempts| *attempts += 1);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Opens a connection; the sidecar must answer on it: a process that is stopped accepts as well.
    async fn connect(&self) -> Result<Opened, String> {
        let opened = match (&self.place, &self.tls) {
            (Place::Socket(path), _) => link::unix(path).await,
            (Place::Tls(at), Some((tls, identity))) => {
                link::tls(at, tls, identity.current().as_deref()).await
            }
            (Place::Tls(_), None) => Err(SidecarError::Identity.to_string()),
        }?;
        match opened.link.is_ready().await {
            Ok(true) => Ok(opened),
            Ok(false) => Err("it is not ready".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn up(&self, link: &Link) {
        self.state.store(Arc::new(State::Up(link.clone())));
        self.attempts.send_modify(|attempts| *attempts += 1);
        let place = ("sidecar", self.place.to_string().into());
        event(Level::Info, "inference sidecar connected", &[place]);
        for target in self.targets().iter().filter_map(Weak::upgrade) {
            self.runtime.spawn(check(target, link.clone()));
        }
    }

    /// Tells of it once, however often it is tried again.
    fn down(&self, why: String) {
        let before = self.state.swap(Arc::new(State::Down(why.as_str().into())));
        let known = matches!(&*before, State::Down(before) if **before == *why);
        if !known {
            let fields = [("sidecar", self.place.to_string().into()), ("error", why.into())];
            event(Level::Warn, "inference sidecar unavailable", &fields);
        }
    }
}

/// Asks the sidecar whether it has what a bundle expects, and tells the operator once where it has not.
async fn check(target: Arc<Target>, link: Link) {
    let checked = timeout(CONNECT, target.check(&link)).await;
    // Where the connection breaks meanwhile, the next one asks again.
    if let Ok(Some(fault)) = checked {
        tell_misfit(target.contract(), &fault);
    }
}

fn tell_misfit(contract: &Contract, fault: &str) {
    let Contract { name, version, .. } = contract;
    let fields =
        [("model", name.as_ref().into()), ("version", version.as_ref().into()), ("error", fault.into())];
    event(Level::Warn, "inference sidecar does not fit", &fields);
}

/// Asks now and then. What comes of it is seen by who scores, and by the pings of the connection.
async fn keep_awake(link: Link) -> Infallible {
    loop {
        sleep(IDLE).await;
        let _ = timeout(CONNECT, link.is_ready()).await;
    }
}

/// Waits for another identity; forever where there is none.
async fn another(identity: &mut Option<watch::Receiver<u64>>) {
    if let Some(identity) = identity
        && identity.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Place, SidecarError, SidecarOptions};
    use foregate_filters::peer::PeerPattern;

    #[test]
    fn a_place_is_a_socket_or_a_port_with_tls() {
        let socket = |path: &str| Ok(Place::Socket(path.into()));
        let tls = |host: &str, port| Ok(Place::Tls(Endpoint { host: host.to_owned(), port }));
        assert_eq!("unix:/run/i.sock".parse(), socket("/run/i.sock"));
        assert_eq!("unix:///run/i.sock".parse(), socket("/run/i.sock"));
        assert_eq!("https://inference.internal:8001".parse(), tls("inference.internal", 8001));
        assert_eq!("https://[::1]:8001".parse(), tls("::1", 8001));
        for bad in
            ["", "unix:", "unix:i.sock", "http://a:1", "https://a", "https://a:0", "https://a@b:1", "a:1"]
        {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        for text in ["unix:/run/i.sock", "https://a.b:1", "https://[::1]:8001"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn tls_needs_both_who_we_are_and_who_the_sidecar_is() {
        let refused = |place: &str, peer: Option<&str>| {
            let peer = peer.map(|peer| PeerPattern::parse(peer).unwrap());
            SidecarOptions { place: place.parse().unwrap(), peer, calls: 1 }.tls(None).map(|_| ())
        };
        let peer = Some("spiffe://corp.example/ns/x/sa/inference");
        assert_eq!(refused("https://a:1", None), Err(SidecarError::Peer));
        assert_eq!(refused("https://a:1", peer), Err(SidecarError::Identity));
        assert_eq!(refused("unix:/run/i.sock", peer), Err(SidecarError::NoTls));
        assert_eq!(refused("unix:/run/i.sock", None), Ok(()));
    }
}
