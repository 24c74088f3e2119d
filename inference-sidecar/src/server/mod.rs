//! The inference server: models of a folder over REST and gRPC.

mod access;
mod body;
mod complaints;
mod connections;
mod fault;
mod grpc;
mod listener;
mod metrics;
mod repository;
mod rest;
mod served;
mod statistics;
mod streams;
mod tensors;
mod tls;
mod traffic;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use self::access::{Access, AccessError};
use self::complaints::Complaints;
use self::connections::{Doors, Protocol};
use self::fault::{Fault, Kind};
use self::listener::{Listener, Socket};
use self::metrics::Metrics;
use self::repository::{Repository, RepositoryError};
use self::served::{Ask, Served};
use self::tensors::Tensor;
use self::tls::{Files, LiveTerms, TlsError};

/// Name of the server in its metadata.
const NAME: &str = "foregate-inference";
/// Extensions of the protocol that are spoken, as Triton names them.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_repository", "statistics", "parameters"];

/// Time beyond the deadline of a request for the model itself to say, and to count, that it was late.
const GRACE: Duration = Duration::from_millis(250);

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder with bundles.
    pub models: PathBuf,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// A unix socket for gRPC besides, of this user alone.
    pub grpc_socket: Option<PathBuf>,
    /// Certificate chain and key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Authorities of client certificates, PEM; where set, clients must show one.
    pub client_ca: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    /// Takes requests without TLS from other machines.
    pub insecure_plaintext: bool,
    /// Takes requests of anybody from other machines.
    pub insecure_unauthenticated: bool,
    /// True where clients may load and unload models.
    pub controlled: bool,
    /// Threads of each model that is not cheap.
    pub model_threads: usize,
    pub limits: Limits,
    /// Time to finish what is under way.
    pub drain: Duration,
}

/// What one request, and all together, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body, as it comes and once decoded.
    pub body: usize,
    /// Rows of a request.
    pub rows: usize,
    /// Requests at once.
    pub requests: usize,
    /// Connections at once, for each port and socket.
    pub connections: usize,
    /// Time for a request, from its head to its answer.
    pub deadline: Duration,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0} is reached from other machines: give --tls-cert and --tls-key, or say --insecure-plaintext")]
    Plaintext(SocketAddr),
    #[error(
        "{0} is reached from other machines: give --token-file or --client-ca, or say --insecure-unauthenticated"
    )]
    Unauthenticated(SocketAddr),
    #[error("--client-ca needs --tls-cert and --tls-key: client certificates are part of TLS")]
    ClientsWithoutTls,
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{}: {source}", .path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("the address of a socket cannot be told: {0}")]
    Address(io::Error),
    #[error("signals cannot be waited for: {0}")]
    Signals(io::Error),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    repository: Arc<Repository>,
    access: Access,
    limits: Limits,
    metrics: Metrics,
    open: Arc<Semaphore>,
    draining: AtomicBool,
}

/// A server that listens, and serves once it is run.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    http: Listener,
    grpc: Listener,
    socket: Option<Socket>,
    tls: Option<Arc<LiveTerms>>,
    drain: Duration,
}

impl Options {
    /// Refuses what is reached from other machines without TLS, or by anybody.
    fn check(&self) -> Result<(), ServeError> {
        if self.client_ca.is_some() && self.certificate.is_none() {
            return Err(ServeError::ClientsWithoutTls);
        }
        let known = self.token_file.is_some() || self.client_ca.is_some();
        for address in [self.http, self.grpc] {
            if address.ip().to_canonical().is_loopback() {
                continue;
            }
            if self.certificate.is_none() && !self.insecure_plaintext {
                return Err(ServeError::Plaintext(address));
            }
            if !known && !self.insecure_unauthenticated {
                return Err(ServeError::Unauthenticated(address));
            }
        }
        Ok(())
    }
}

impl Server {
    /// Loads all models and listens.
    pub async fn open(options: Options) -> Result<Self, ServeError> {
        options.check()?;
        let access = options.token_file.as_deref().map(Access::read).transpose()?.unwrap_or_default();
        let files = |(chain, key)| Files { chain, key, clients: options.client_ca.clone() };
        let tls = options.certificate.clone().map(files).map(LiveTerms::open).transpose()?.map(Arc::new);
        let Options { models, model_threads, controlled, limits, drain, .. } = options;
        let repository =
            tokio::task::block_in_place(|| Repository::open(&models, model_threads, controlled))?;
        let shared = Arc::new(Shared {
            repository: Arc::new(repository),
            access,
            limits,
            metrics: Metrics::default(),
            open: Arc::new(Semaphore::new(limits.requests)),
            draining: AtomicBool::new(false),
        });
        let (http, grpc) = (listen(options.http).await?, listen(options.grpc).await?);
        let open = |path: &PathBuf| {
            Socket::open(path).map_err(|source| ServeError::Socket { path: path.clone(), source })
        };
        let socket = options.grpc_socket.as_ref().map(open).transpose()?;
        Ok(Self { shared, http, grpc, socket, tls, drain })
    }

    /// Where REST and gRPC are served; the ports that were taken where 0 was asked for.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), ServeError> {
        let address = |listener: &Listener| listener.address().map_err(ServeError::Address);
        Ok((address(&self.http)?, address(&self.grpc)?))
    }

    /// The unix socket where gRPC is served.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(Socket::path)
    }

    /// Lines about each model, for people.
    pub fn models(&self) -> Vec<String> {
        let loaded = self.shared.repository.loaded();
        let line = |served: &Arc<Served>| format!("{} {} ({})", served.name, served.version, served.engine);
        loaded.values().flatten().map(line).collect()
    }

    /// Serves until SIGTERM or SIGINT, then finishes what is under way; false where that took too long. Certificates are
    /// read anew when they change, and at SIGHUP; `tell` hears of that, and of connections that could not be had.
    pub async fn run(self, tell: fn(&str)) -> Result<bool, ServeError> {
        let Self { shared, http, grpc, socket, tls, drain } = self;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
        let (close, closing) = watch::channel(false);
        let complaints = Arc::new(Complaints::new(tell));
        let doors = |listener, protocol| Doors {
            // Who reaches a unix socket is this user: files of the system say so, and no certificate.
            tls: tls.clone().filter(|_| !matches!(listener, Listener::Unix(_))),
            listener,
            protocol,
            shared: Arc::clone(&shared),
            complaints: Arc::clone(&complaints),
            closing: closing.clone(),
        };
        let mut rest = tokio::spawn(doors(http, Protocol::Rest).serve());
        let mut rpc = tokio::spawn(doors(grpc, Protocol::Grpc).serve());
        let near = socket.map(|socket| doors(Listener::Unix(socket), Protocol::Grpc).serve());
        let mut near = tokio::spawn(async {
            if let Some(near) = near {
                near.await;
            }
        });
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = keep(tls.as_deref(), &mut hangup, tell) => {}
        }
        shared.draining.store(true, Ordering::Relaxed);
        // The doors hold receivers as long as they serve.
        let _ = close.send(true);
        let all = async { (&mut rest).await.is_ok() & (&mut rpc).await.is_ok() & (&mut near).await.is_ok() };
        let done = tokio::time::timeout(drain, all).await.unwrap_or(false);
        rest.abort();
        rpc.abort();
        near.abort();
        Ok(done)
    }
}

/// Keeps certificates current; never ends. Without any, there is nothing that SIGHUP would read.
async fn keep(tls: Option<&LiveTerms>, hangup: &mut Signal, tell: fn(&str)) {
    let asked = Notify::new();
    let hung_up = async {
        while hangup.recv().await.is_some() {
            asked.notify_one();
        }
        std::future::pending::<()>().await;
    };
    match tls {
        Some(terms) => tokio::select! {
            () = terms.keep(&asked, &tell) => {}
            () = hung_up => {}
        },
        None => hung_up.await,
    }
}

async fn listen(address: SocketAddr) -> Result<Listener, ServeError> {
    Listener::tcp(address).await.map_err(|source| ServeError::Listen { address, source })
}

impl Shared {
    /// True where requests should be sent here.
    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    /// Room for one request; it is kept until the answer has left.
    fn admit(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.open).try_acquire_owned().map_err(|_| {
            Fault::new(
                Kind::Busy,
                format!("{} requests are under way; try again later", self.limits.requests),
            )
        })
    }

    async fn infer(&self, served: &Arc<Served>, ask: Ask) -> Result<Vec<Tensor>, Fault> {
        let rows = ask.input.rows();
        let tensors = served.infer(ask).await?;
        self.metrics.scored(&served.name, rows);
        Ok(tensors)
    }
}
