//! Load: what is sent, in which manner, and what came of it.

mod h1;
mod h2;
mod tally;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rustls::ClientConfig;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinSet, LocalSet};

use crate::load::h1::Stream;
use crate::load::tally::Tally;
use crate::measure::now;
use crate::tls::{self, Shows};

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Each connection or stream sends its next request when it has the answer.
    Closed,
    /// Requests have their times, whatever became of those before; waiting counts.
    Open,
    /// Each request on a connection of its own.
    Handshakes,
    /// One request on each connection, which then stays open.
    Idle,
}

/// What to send, and how.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Load {
    #[arg(value_enum)]
    mode: Mode,
    address: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Streams of each connection of HTTP/2 at once.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// Seconds before it counts.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests a second, where open.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    #[arg(long, default_value = "/")]
    path: String,
    /// A body to post.
    #[arg(long)]
    body: Option<PathBuf>,
    /// `name: value`. Repeatable.
    #[arg(long)]
    header: Vec<String>,
    /// Bearer tokens, one a line, which take turns.
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// Each token is sent once: the run ends with them.
    #[arg(long, requires = "tokens")]
    once: bool,
    /// The folder with the authority: speaks TLS.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Shows a certificate.
    #[arg(long, requires = "tls")]
    mutual: bool,
    /// HTTP/2, chosen by ALPN or with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// An answer counts where its trailer `grpc-status` is 0.
    #[arg(long, requires = "http2")]
    grpc: bool,
    /// Never sleeps, so that nobody pays for waking it.
    #[arg(long)]
    spin: bool,
}

/// Where to, and the messages.
struct Work {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    http2: bool,
    grpc: bool,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    tokens: Vec<HeaderValue>,
    once: bool,
    next: Cell<usize>,
    tally: RefCell<Tally>,
}

/// A connection of HTTP/1.1, or a stream of HTTP/2, that carries one request after another.
enum Lane {
    H1(Option<Stream>),
    H2(h2::Sender),
}

type Arrivals = Rc<Mutex<mpsc::UnboundedReceiver<Instant>>>;

/// Keeps a thread awake: senders to a thread that sleeps pay for waking it.
pub async fn spin() {
    loop {
        thread::yield_now();
        tokio::task::yield_now().await;
    }
}

impl Load {
    /// Warms, waits for a line, runs.
    pub fn run<W: Write>(self, out: &mut W) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Rc::new(self.work()?);
        LocalSet::new().block_on(&runtime, async {
            if self.spin {
                tokio::task::spawn_local(spin());
            }
            let mut lanes = self.lanes(&work).await?;
            if self.mode == Mode::Idle {
                lanes = single(&work, lanes).await?;
            } else {
                lanes = self.phase(&work, lanes, self.warm).await?;
            }
            writeln!(out, "{}", work.tally.take().told(self.warm))?;
            out.flush()?;
            std::io::stdin().lock().read_line(&mut String::new())?;
            if self.mode != Mode::Idle {
                let began = now();
                lanes = self.phase(&work, lanes, self.seconds).await?;
                writeln!(out, "{}", work.tally.take().told(began.elapsed().as_secs_f64()))?;
                out.flush()?;
                // Connections stay until the other side has looked at its clocks.
                std::io::stdin().lock().read_line(&mut String::new())?;
            }
            drop(lanes);
            Ok(())
        })
    }

    fn work(&self) -> Result<Work> {
        let shows = if self.mutual { Shows::Both } else { Shows::Server };
        let protocol: &[u8] = if self.http2 { b"h2" } else { b"http/1.1" };
        let tls = self.tls.as_ref().map(|folder| tls::client(folder, shows, protocol, false)).transpose()?;
        let body = self.body.as_ref().map(fs::read).transpose().context("no body")?;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("foregate-benches"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        for line in &self.header {
            let (name, value) =
                line.split_once(": ").with_context(|| format!("`{line}` is not `name: value`"))?;
            headers.insert(name.parse::<HeaderName>()?, value.parse()?);
        }
        let tokens = match &self.tokens {
            Some(file) => fs::read_to_string(file).with_context(|| file.display().to_string())?,
            None => String::new(),
        };
        let tokens =
            tokens.lines().map(|token| Ok(format!("Bearer {token}").parse()?)).collect::<Result<_>>()?;
        Ok(Work {
            address: self.address,
            tls,
            http2: self.http2,
            grpc: self.grpc,
            method: if body.is_some() { Method::POST } else { Method::GET },
            path: self.path.clone(),
            headers,
            body: body.unwrap_or_default().into(),
            tokens,
            once: self.once,
            next: Cell::new(0),
            tally: RefCell::default(),
        })
    }

    async fn lanes(&self, work: &Work) -> Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        for _ in 0..self.connections {
            if !work.http2 {
                lanes.push(Lane::H1(None));
                continue;
            }
            let sender = h2::connect(work).await?;
            let streams = if self.mode == Mode::Idle { 1 } else { self.streams };
            lanes.extend((0..streams).map(|_| Lane::H2(sender.clone())));
        }
        Ok(lanes)
    }

    /// Sends for so many seconds, then waits for the answers.
    async fn phase(&self, work: &Rc<Work>, lanes: Vec<Lane>, seconds: f64) -> Result<Vec<Lane>> {
        let until = now() + Duration::from_secs_f64(seconds);
        let arrivals = (self.mode == Mode::Open).then(|| arrivals(self.rate, until));
        let mut tasks = JoinSet::new();
        for lane in lanes {
            let (work, arrivals, fresh) = (Rc::clone(work), arrivals.clone(), self.mode == Mode::Handshakes);
            tasks.spawn_local(async move {
                match arrivals {
                    Some(arrivals) => work.open(lane, &arrivals).await,
                    None => work.closed(lane, until, fresh).await,
                }
            });
        }
        let lanes = tasks.join_all().await;
        if work.tally.borrow().requests() == 0 {
            bail!("nothing was answered: {}", work.tally.borrow().told(seconds));
        }
        Ok(lanes)
    }
}

/// One request on each lane, one after another.
async fn single(work: &Work, lanes: Vec<Lane>) -> Result<Vec<Lane>> {
    let mut open = Vec::with_capacity(lanes.len());
    for mut lane in lanes {
        let began = now();
        work.ask(&mut lane, began).await;
        open.push(lane);
    }
    Ok(open)
}

/// The times at which requests come: half to one and a half of the mean apart.
fn arrivals(rate: f64, until: Instant) -> Arrivals {
    let (tell, told) = mpsc::unbounded_channel();
    // A thread of its own: it sleeps to the microsecond, timers of the runtime to the millisecond.
    thread::spawn(move || {
        let (mut next, mut state) = (now(), 1_u32);
        while next < until {
            thread::sleep(next.saturating_duration_since(now()));
            if tell.send(next).is_err() {
                return;
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let share = 0.5 + f64::from(state >> 8) / f64::from(1 << 24);
            next += Duration::from_secs_f64(share / rate);
        }
    });
    Rc::new(Mutex::new(told))
}

impl Work {
    async fn closed(&self, mut lane: Lane, until: Instant, fresh: bool) -> Lane {
        loop {
            let began = now();
            if began >= until || !self.ask(&mut lane, began).await {
                return lane;
            }
            if fresh && let Lane::H1(stream) = &mut lane {
                *stream = None;
            }
        }
    }

    async fn open(&self, mut lane: Lane, arrivals: &Arrivals) -> Lane {
        loop {
            let Some(came) = arrivals.lock().await.recv().await else { return lane };
            if !self.ask(&mut lane, came).await {
                return lane;
            }
        }
    }

    /// Sends one request and counts what came of it; false where there is nothing more to send.
    async fn ask(&self, lane: &mut Lane, began: Instant) -> bool {
        let ControlFlow::Continue(token) = self.token() else { return false };
        let answer = match lane {
            Lane::H1(stream) => h1::ask(self, stream, token).await,
            Lane::H2(sender) => h2::ask(self, sender, token).await,
        };
        match answer {
            Ok(answer) => self.tally.borrow_mut().answered(&answer, began.elapsed()),
            Err(error) => {
                self.tally.borrow_mut().failed(&error);
                // A server that is gone is not asked a million times.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        true
    }

    /// The next token, if requests have one; ends where all were sent.
    fn token(&self) -> ControlFlow<(), Option<&HeaderValue>> {
        if self.tokens.is_empty() {
            return ControlFlow::Continue(None);
        }
        let number = self.next.replace(self.next.get() + 1);
        if self.once && number >= self.tokens.len() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(self.tokens.get(number % self.tokens.len()))
    }
}
