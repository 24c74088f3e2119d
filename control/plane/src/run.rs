//! `foregate-control run`: the control plane, until it is told to end.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use log::Level;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;

use crate::admin;
use crate::attest::join::{CreateError, Tokens};
use crate::attest::review::{ApiServer, ReviewError, Reviews};
use crate::authority::files::{FileError, Material};
use crate::authority::{Authority, AuthorityError, Terms, files, state};
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::distribution::{Distribution, DistributionError};
use crate::event::{self, event};
use crate::fleet::identity::identity_server::IdentityServer;
use crate::fleet::policies::policies_server::PoliciesServer;
use crate::identity::{self, Issuance, MAX_REQUEST};
use crate::kubernetes::part::PartError;
use crate::operate::{self, Operated};
use crate::process::Process;
use crate::rollout;
use crate::serve;
use crate::serve::accept::Door;
use crate::serve::own::{self, OwnError};
use crate::serve::tls::{self, Shown};
use crate::sources::kubernetes::KubernetesSource;
use crate::stream::acknowledged;
use crate::stream::session::PolicyStreams;
use crate::withdrawn::Withdrawn;

/// Configuration refused, as `foregate` has it.
const REFUSED: u8 = 3;

/// Largest message of a proxy, in bytes: all that it has, by name and version.
const MAX_REPORT: usize = 8 << 20;

/// What readiness waits for here.
const PORT: &str = "the port for proxies";

/// Serves policies and identities to proxies. Exit codes: 0 told to end; 1 the run failed; 2 usage; 3 configuration
/// refused.
#[derive(Debug, Args)]
pub struct Run {
    /// What it is told; control/plane/README.md lists all settings.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error("authority: {0}")]
    File(#[from] FileError),
    #[error("stateDir {folder}: {source}")]
    State { folder: String, source: io::Error },
    #[error("joinTokens: {0}")]
    Tokens(#[from] CreateError),
    #[error("tokenReview: {0}")]
    Review(#[from] ReviewError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error("{what} {address}: {source}")]
    Listen { what: &'static str, address: String, source: io::Error },
    #[error("identity.withdrawn: {0}")]
    Withdrawn(String),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Distribution(#[from] DistributionError),
    #[error("kubernetes: {0}")]
    Kubernetes(#[from] PartError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Run {
    pub fn run(self) -> ExitCode {
        event::install();
        // Libraries that make no choice of their own use the same cryptography.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let outcome = Config::load(&self.config).map_err(RunError::from).and_then(|config| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(Box::pin(run(config)))
        });
        let Err(error) = outcome else { return ExitCode::SUCCESS };
        let _ = writeln!(io::stderr(), "foregate-control: {error}");
        if matches!(error, RunError::Config(_)) { ExitCode::from(REFUSED) } else { ExitCode::FAILURE }
    }
}

async fn run(config: Config) -> Result<(), RunError> {
    let config = Arc::new(config);
    let (process, trigger) = Process::new();
    process.readiness.await_arrival(PORT);
    let folder = |source| RunError::State { folder: config.state_dir.display().to_string(), source };
    let _held = state::hold(&config.state_dir).map_err(folder)?;
    let authority = Arc::new(authority(&config)?);
    let tokens = config.join_tokens.clone().map(|bounds| Tokens::open(&config.state_dir, bounds));
    let tokens = tokens.transpose()?.map(Arc::new);
    let reviews: Option<Arc<dyn Reviews>> = match &config.token_review {
        Some(settings) => Some(Arc::new(ApiServer::new(settings).await?)),
        None => None,
    };
    let shown = Arc::new(Shown::default());
    let life = own::renew(&authority, &config, &shown)?;
    let tls = TlsAcceptor::from(tls::config(Arc::clone(&shown), authority.bundles())?);

    let admin = listen("admin", config.admin).await?;
    let listener = listen("listen", config.listen).await?;
    let socket = operate::socket::open(&config.state_dir).map_err(folder)?;
    let bound = [("admin listening", admin.local_addr()?), ("listening", listener.local_addr()?)];
    let terms = terms(&config)?;
    let issuance = Issuance::new(Arc::clone(&authority), tokens.clone(), reviews, terms, &process);
    let cluster = match config.kubernetes.clone() {
        Some(part) => Some(part.start(&process, operate::follow_roots(&authority)).await?),
        None => None,
    };
    let objects = cluster.as_ref().map(|cluster| KubernetesSource::new(cluster.tree.clone()));
    let distribution = Arc::new(Distribution::start(&config, objects, &process).await?);
    if let Some(cluster) = &cluster {
        let (proxies, told) = (Arc::clone(&distribution.proxies), cluster.acknowledged.clone());
        tokio::spawn(acknowledged::tell(proxies, told, process.shutdown.clone()));
    }
    let streams = PolicyStreams {
        offering: Arc::clone(&distribution.offering),
        proxies: Arc::clone(&distribution.proxies),
        shutdown: process.shutdown.clone(),
    };
    let operators = operate::routes(Operated { authority: Arc::clone(&authority), tokens });
    let operators = operators.merge(rollout::routes::routes(Arc::clone(&distribution)));
    let routes = Routes::new(IdentityServer::new(issuance).max_decoding_message_size(MAX_REQUEST))
        .add_service(PoliciesServer::new(streams).max_decoding_message_size(MAX_REPORT));

    let shutdown = &process.shutdown;
    let readable = config.insecure.readable_keys;
    tokio::spawn(files::keep(Arc::clone(&authority), config.authority.files(), readable, shutdown.clone()));
    tokio::spawn(own::keep(Arc::clone(&authority), Arc::clone(&config), shown, life, shutdown.clone()));
    tokio::spawn(operate::socket::serve(socket, operators, shutdown.clone()));
    let admin = tokio::spawn(admin::serve(admin, process.clone()));
    let door = Door::new(listener, tls, authority.bundles(), config.connections.limit, &process);
    let serving = tokio::spawn(serve::serve(door, routes, config.connections.calls, shutdown.clone()));

    process.readiness.arrived(PORT);
    for (name, address) in bound {
        event(Level::Info, name, &[("address", address.to_string().into())]);
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    event(Level::Info, "ending", &[]);
    trigger.begin();
    let _ = tokio::join!(serving, admin);
    if let Some(cluster) = cluster {
        // The Lease is given away before the process goes.
        let _ = cluster.ended.await;
    }
    Ok(())
}

fn terms(config: &Config) -> Result<identity::Terms, RunError> {
    let withdrawn = Withdrawn::new(&config.identity.withdrawn, &config.trust_domain);
    let withdrawn = withdrawn.map_err(RunError::Withdrawn)?;
    Ok(identity::Terms { reattest: config.identity.reattest, withdrawn })
}

fn authority(config: &Config) -> Result<Authority, RunError> {
    let now = clock::now().unix;
    let files = config.authority.files();
    let material = files.map(|files| Material::read(&files, config.insecure.readable_keys, now));
    let terms = Terms {
        trust_domain: config.trust_domain.as_str().into(),
        lifetime: config.authority.lifetime.0,
        overlap: config.authority.overlap(),
    };
    Ok(Authority::open(terms, &config.state_dir, material.transpose()?, now)?)
}

async fn listen(what: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    let wrong = |source| RunError::Listen { what, address: address.to_string(), source };
    TcpListener::bind(address).await.map_err(wrong)
}
