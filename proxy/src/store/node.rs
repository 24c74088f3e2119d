//! One server of a store: a connection kept up, and a circuit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use foregate_filters::secret::Secret;
use foregate_policy::snapshot::Endpoint;
use futures_util::FutureExt;
use log::Level;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::store::error::StoreError;
use crate::store::link::{self, Link, Task};
use crate::store::settings::Settings;
use crate::telemetry::event::event;

/// For a connection to stand, scripts included. No request waits for so long.
const CONNECT: Duration = Duration::from_secs(2);

/// Between two attempts to connect: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A connection that broke sooner says that the next one will, too.
const PROVEN: Duration = Duration::from_secs(1);

/// Requests that fail one after another until the circuit opens.
const FAILURES: u32 = 5;

/// How often it is looked whether the password has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// It is being connected to for the first time, or again after a connection that served well: requests
    /// wait, within their timeout.
    Connecting,
    /// It is asked.
    Closed,
    /// It is not asked: requests are answered at once.
    Open,
    /// As open, while one attempt is made.
    HalfOpen,
}

/// A server, by one address, or by several of which the first that can be written to is used.
#[derive(Debug)]
pub struct Node {
    state: Arc<State>,
    _keeper: Task,
}

#[derive(Debug)]
struct State {
    settings: Arc<Settings>,
    servers: Vec<Endpoint>,
    link: ArcSwapOption<Link>,
    circuit: watch::Sender<Circuit>,
    /// Requests that failed since the last one that did not.
    failures: AtomicU32,
    /// The connection is not to be used any more.
    broken: Notify,
    /// Why the circuit is open.
    cause: ArcSwap<Box<str>>,
}

/// Why a connection was given up.
enum Loss {
    /// It ended.
    Ended,
    /// It does not serve.
    Failing,
    /// Another password: a new one stands already.
    Replaced(Box<Link>),
}

impl Circuit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Node {
    /// Begins to connect at once.
    pub(super) fn new(settings: Arc<Settings>, servers: Vec<Endpoint>, runtime: &Handle) -> Self {
        let state = Arc::new(State::new(settings, servers));
        let keeper = Task(runtime.spawn(Arc::clone(&state).keep()));
        Self { state, _keeper: keeper }
    }

    pub fn circuit(&self) -> Circuit {
        *self.state.circuit.borrow()
    }

    /// The server, as it is written.
    pub(super) fn address(&self) -> String {
        self.state.servers.first().map(written).unwrap_or_default()
    }

    pub(super) fn server(&self) -> Option<&Endpoint> {
        self.state.servers.first()
    }

    /// One command, answered before `until`, a monotonic time.
    pub(super) async fn ask(&self, command: &Cmd, until: Duration) -> Result<Value, Refused> {
        let link = self.link(until).await?;
        let mut connection = link.connection.clone();
        let answer = before(until, link::ask(&mut connection, command)).await;
        self.judge(&link, answer)
    }

    /// Several commands on one connection, one after another; gives the last answer.
    pub(super) async fn ask_all(&self, commands: &Pipeline, until: Duration) -> Result<Value, Refused> {
        let link = self.link(until).await?;
        let mut connection = link.connection.clone();
        let count = commands.len();
        let answers = before(until, connection.send_packed_commands(commands, 0, count)).await;
        let last = |mut answers: Vec<Value>| answers.pop().unwrap_or(Value::Nil).extract_error();
        self.judge(&link, answers.map(|answers| answers.and_then(last)))
    }

    async fn link(&self, until: Duration) -> Result<Arc<Link>, StoreError> {
        let state = &self.state;
        if let Some(link) = state.link.load_full() {
            return Ok(link);
        }
        let mut circuit = state.circuit.subscribe();
        let connected = circuit.wait_for(|circuit| *circuit != Circuit::Connecting);
        // The sender lives in the state.
        let _ = before(until, connected).await.ok_or(StoreError::Timeout)?;
        let link = state.link.load_full();
        link.ok_or_else(|| StoreError::Open(Box::clone(&state.cause.load())))
    }

    /// What an answer says of its connection; `None` where none came in time.
    fn judge(&self, link: &Arc<Link>, answer: Option<RedisResult<Value>>) -> Result<Value, Refused> {
        let state = &self.state;
        match answer {
            None => {
                state.fail(link, &StoreError::Timeout, false);
                Err(StoreError::Timeout.into())
            }
            Some(Ok(value)) => {
                state.serves(link);
                Ok(value)
            }
            Some(Err(error)) => {
                let why = StoreError::from(error.clone());
                match &why {
                    // The connection tells of its end itself.
                    StoreError::Connection(_) => {}
                    StoreError::ReadOnly | StoreError::Denied(_) => state.fail(link, &why, true),
                    StoreError::Cluster(_) | StoreError::Server(_) if is_out_of_order(&error) => {
                        state.fail(link, &why, false);
                    }
                    // It was answered: the server is well.
                    _ => state.serves(link),
                }
                Err(Refused { why, error: Some(error) })
            }
        }
    }
}

/// What comes before `until`, a monotonic time.
pub(super) async fn before<T>(until: Duration, coming: impl Future<Output = T>) -> Option<T> {
    timeout(until.saturating_sub(clock::monotonic()), coming).await.ok()
}

/// A request that failed, with what the server said of it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: StoreError,
    pub(super) error: Option<RedisError>,
}

impl From<StoreError> for Refused {
    fn from(why: StoreError) -> Self {
        Self { why, error: None }
    }
}

/// True for answers that say that the server serves nobody for now.
fn is_out_of_order(error: &RedisError) -> bool {
    matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" | "MISCONF" | "NOREPLICAS"))
}

pub(super) fn written(server: &Endpoint) -> String {
    if server.host.contains(':') {
        format!("[{}]:{}", server.host, server.port)
    } else {
        format!("{}:{}", server.host, server.port)
    }
}

impl State {
    fn new(settings: Arc<Settings>, servers: Vec<Endpoint>) -> Self {
        Self {
            settings,
            servers,
            link: ArcSwapOption::empty(),
            circuit: watch::Sender::new(Circuit::Connecting),
            failures: AtomicU32::new(0),
            broken: Notify::new(),
            cause: ArcSwap::from_pointee("not yet".into()),
        }
    }

    /// True where this is the connection that requests go to now. What befalls an earlier one says nothing of it.
    fn is_current(&self, link: &Arc<Link>) -> bool {
        self.link.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
    }

    /// A request was answered.
    fn serves(&self, link: &Arc<Link>) {
        if self.is_current(link) {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed; where that says enough, or too many did, the circuit opens.
    fn fail(&self, link: &Arc<Link>, why: &StoreError, at_once: bool) {
        if !self.is_current(link) {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if at_once || failures >= FAILURES {
            self.cause.store(Arc::new(why.to_string().into()));
            self.broken.notify_one();
        }
    }

    /// Keeps one connection; never ends by itself.
    async fn keep(self: Arc<Self>) {
        let (first, longest) = PAUSES;
        let (mut pause, mut turn) = (first, 0_usize);
        loop {
            let server = self.servers.get(turn % self.servers.len().max(1));
            let attempt = async {
                let server = server.ok_or(StoreError::Connection("no server".into()))?;
                link::open(&self.settings, server).await
            };
            match timeout(CONNECT, Box::pin(attempt)).await.unwrap_or(Err(StoreError::Timeout)) {
                Ok(link) => {
                    let mut link = Box::new(link);
                    let began = clock::monotonic();
                    let loss = loop {
                        self.closed(*link, server);
                        match self.until_lost(server).await {
                            Loss::Replaced(new) => link = new,
                            loss => break loss,
                        }
                    };
                    self.link.store(None);
                    let proven = clock::monotonic().saturating_sub(began) >= PROVEN;
                    if proven {
                        pause = first;
                    }
                    if matches!(loss, Loss::Ended) {
                        self.cause.store(Arc::new("the connection ended".into()));
                        if proven {
                            self.circuit.send_replace(Circuit::Connecting);
                            continue;
                        }
                    }
                    self.opened(server);
                }
                Err(error) => {
                    self.cause.store(Arc::new(error.to_string().into()));
                    self.opened(server);
                }
            }
            turn = turn.wrapping_add(1);
            // Those that are written one after another are tried one after another.
            if turn.is_multiple_of(self.servers.len().max(1)) {
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(longest);
            }
            self.circuit.send_replace(Circuit::HalfOpen);
        }
    }

    fn closed(&self, link: Link, server: Option<&Endpoint>) {
        self.link.store(Some(Arc::new(link)));
        // What was said of the connection before says nothing of this one.
        self.failures.store(0, Ordering::Relaxed);
        let _ = self.broken.notified().now_or_never();
        let before = self.circuit.send_replace(Circuit::Closed);
        if before != Circuit::Closed {
            self.tell(Level::Info, "store connected", server, None);
        }
    }

    fn opened(&self, server: Option<&Endpoint>) {
        let before = self.circuit.send_replace(Circuit::Open);
        // Further attempts that fail say nothing new.
        if matches!(before, Circuit::Connecting | Circuit::Closed) {
            let cause = Box::clone(&self.cause.load());
            self.tell(Level::Warn, "store lost", server, Some(&cause));
        }
    }

    fn tell(&self, level: Level, name: &str, server: Option<&Endpoint>, error: Option<&str>) {
        let server = server.map(written).unwrap_or_default();
        let mut fields = vec![("store", self.settings.name.as_ref().into()), ("server", server.into())];
        fields.extend(error.map(|error| ("error", error.into())));
        event(level, name, &fields);
    }

    /// Waits until the connection is not to be used any more.
    async fn until_lost(&self, server: Option<&Endpoint>) -> Loss {
        let mut refused: Option<Arc<Secret>> = None;
        loop {
            let Some(link) = self.link.load_full() else { return Loss::Failing };
            tokio::select! {
                () = link.ended() => return Loss::Ended,
                () = self.broken.notified() => return Loss::Failing,
                () = sleep(LOOK) => {}
            }
            let Some(current) = self.settings.password.as_ref().map(|password| password.current()) else {
                continue;
            };
            let mut known = link.secret.iter().chain(&refused);
            if known.any(|secret| Arc::ptr_eq(secret, &current)) {
                continue;
            }
            let Some(server) = server else { continue };
            match timeout(CONNECT, Box::pin(link::open(&self.settings, server))).await {
                Ok(Ok(new)) => return Loss::Replaced(Box::new(new)),
                outcome => {
                    let error =
                        outcome.map_or(StoreError::Timeout, |new| new.err().unwrap_or(StoreError::Timeout));
                    let told = error.to_string();
                    self.tell(Level::Warn, "store password refused", Some(server), Some(&told));
                    // Only an answer is final: a server that was not there is asked again.
                    if matches!(error, StoreError::Denied(_)) {
                        refused = Some(current);
                    }
                }
            }
        }
    }
}

/// Up to a half less, so that processes do not come all at once.
fn jittered(pause: Duration) -> Duration {
    let nanos = u64::from(clock::now().unix.subsec_nanos());
    let half = u64::try_from(pause.as_nanos() / 2).unwrap_or(1).max(1);
    pause.saturating_sub(Duration::from_nanos(nanos % half))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use foregate_policy::redis_store::RedisStore;
    use foregate_policy::snapshot::Endpoint;
    use futures_util::FutureExt;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Circuit, FAILURES, State};
    use crate::store::error::StoreError;
    use crate::store::link::{self, Link};
    use crate::store::settings::Settings;

    /// Agrees to every command (RESP2), until the connection ends.
    async fn agree(stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let words: u32 = line.trim().trim_start_matches('*').parse().unwrap();
            for _ in 0..words {
                let mut line = String::new();
                stream.read_line(&mut line).await?;
                let length: usize = line.trim().trim_start_matches('$').parse().unwrap();
                stream.read_exact(&mut vec![0; length + 2]).await?;
            }
            stream.write_all(b"+OK\r\n").await?;
        }
    }

    async fn state() -> State {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(agree(stream));
            }
        });
        let spec = RedisStore {
            name: "redis".into(),
            servers: vec![Endpoint::parse(&address.to_string()).unwrap()],
            cluster: false,
            tls: None,
            username: None,
            password: None,
            database: 0,
            timeout: Duration::from_secs(5),
            prefix: "test".into(),
        };
        let settings = Settings::new(&spec, None, None);
        State::new(Arc::new(settings), spec.servers)
    }

    /// Puts a new connection into use.
    async fn connect(state: &State) -> Arc<Link> {
        let server = state.servers.first().unwrap();
        let link = link::open(&state.settings, server).await.unwrap();
        state.closed(link, Some(server));
        state.link.load_full().unwrap()
    }

    fn is_broken(state: &State) -> bool {
        state.broken.notified().now_or_never().is_some()
    }

    #[tokio::test]
    async fn what_befalls_a_connection_that_was_replaced_says_nothing_of_the_new_one() {
        let state = state().await;
        let old = connect(&state).await;
        for _ in 1..FAILURES {
            state.fail(&old, &StoreError::Timeout, false);
        }
        assert_eq!(state.failures.load(Ordering::Relaxed), FAILURES - 1);
        let new = connect(&state).await;
        for _ in 0..2 * FAILURES {
            state.fail(&old, &StoreError::Timeout, false);
        }
        state.fail(&old, &StoreError::ReadOnly, true);
        assert_eq!(state.failures.load(Ordering::Relaxed), 0);
        assert!(!is_broken(&state) && *state.circuit.borrow() == Circuit::Closed);
        for _ in 1..FAILURES {
            state.fail(&new, &StoreError::Timeout, false);
        }
        // A late answer on the old one does not make good what the new one owes.
        state.serves(&old);
        assert!(!is_broken(&state));
        state.fail(&new, &StoreError::Timeout, false);
        assert!(is_broken(&state));
    }
}
