//! `foregate-inference serve`: the inference server, until it is told to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use foregate_filters::units::{ByteSize, TimeSpan};
use tokio::runtime::Builder;

use super::pages::UNITS;
use super::{error, line};
use crate::pool::default_threads;
use crate::server::{Limits, Options, ServeError, Server};

#[derive(Debug, Args)]
#[command(after_help = UNITS)]
pub(super) struct Serve {
    /// Folder with bundles: folders that hold a `model.yaml`, or folders of such.
    #[arg(long, value_name = "FOLDER")]
    models: PathBuf,
    /// Where REST, health and metrics are served; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    http: SocketAddr,
    /// Where gRPC is served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    grpc: SocketAddr,
    /// Unix socket where gRPC is served besides, without TLS: for processes of this user alone.
    #[arg(long, value_name = "FILE")]
    grpc_socket: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    /// Whether clients may load and unload models.
    #[arg(long, value_name = "MODE", default_value = "none")]
    model_control: ModelControl,
    #[command(flatten)]
    limits: LimitArgs,
    /// Threads that serve connections, 1 to 256 [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Threads of each model that is too dear for those, 1 to 256; whoever serves connections goes before them [default: half of the
    /// processors, one at least].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    model_threads: Option<u16>,
    /// Longest time to finish what is under way, after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_timeout: TimeSpan,
}

/// Who may ask.
#[derive(Debug, Args)]
struct AccessArgs {
    /// Certificate chain of the server, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities, PEM: clients must show a certificate of theirs.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Bearer tokens, one a line: clients must send one of them. Health needs none.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Takes requests of other machines without TLS.
    #[arg(long)]
    insecure_plaintext: bool,
    /// Takes requests of other machines without token and client certificate.
    #[arg(long)]
    insecure_unauthenticated: bool,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// Size of a body at most, as it comes and once decoded, up to 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = parse_body)]
    max_body: ByteSize,
    /// Rows of a request at most, 1 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_rows: u32,
    /// Requests at once, 1 to 100000; more are refused.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_requests: u32,
    /// Connections at once of each port, 1 to 100000; more wait.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_connections: u32,
    /// Time for a request; clients may ask for less.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    request_timeout: TimeSpan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModelControl {
    /// What lies in the folder at the start is served.
    None,
    /// Clients load and unload models of the folder.
    Explicit,
}

fn parse_body(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|_| format!("`{text}` is no size such as 8MiB"))?;
    if (1..=1 << 30).contains(&size.0) { Ok(size) } else { Err("it must be from 1B to 1GiB".to_owned()) }
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        let mut runtime = Builder::new_multi_thread();
        runtime.enable_all().thread_name("serve");
        if let Some(threads) = self.threads {
            runtime.worker_threads(usize::from(threads));
        }
        let runtime = match runtime.build() {
            Ok(runtime) => runtime,
            Err(fault) => {
                error(&format!("no threads: {fault}"));
                return ExitCode::FAILURE;
            }
        };
        let ended = runtime.block_on(async { tokio::spawn(serve(self.options())).await });
        // What the drain left behind ends with the process.
        runtime.shutdown_background();
        match ended {
            Ok(Ok(true)) => ExitCode::SUCCESS,
            Ok(Ok(false)) => {
                error("requests were still under way when the time to finish them had passed");
                ExitCode::FAILURE
            }
            Ok(Err(fault)) => {
                error(&fault.to_string());
                ExitCode::FAILURE
            }
            Err(fault) => {
                error(&fault.to_string());
                ExitCode::FAILURE
            }
        }
    }

    fn options(self) -> Options {
        let LimitArgs { max_body, max_rows, max_requests, max_connections, request_timeout } = self.limits;
        let limits = Limits {
            body: usize::try_from(max_body.0).unwrap_or(usize::MAX),
            rows: max_rows as usize,
            requests: max_requests as usize,
            connections: max_connections as usize,
            deadline: request_timeout.0,
        };
        Options {
            models: self.models,
            http: self.http,
            grpc: self.grpc,
            grpc_socket: self.grpc_socket,
            certificate: self.access.tls_cert.zip(self.access.tls_key),
            client_ca: self.access.client_ca,
            token_file: self.access.token_file,
            insecure_plaintext: self.access.insecure_plaintext,
            insecure_unauthenticated: self.access.insecure_unauthenticated,
            controlled: self.model_control == ModelControl::Explicit,
            model_threads: self.model_threads.map_or_else(default_threads, usize::from),
            limits,
            drain: self.drain_timeout.0,
        }
    }
}

async fn serve(options: Options) -> Result<bool, ServeError> {
    let server = Server::open(options).await?;
    let (http, grpc) = server.addresses()?;
    for model in server.models() {
        line(&format!("model {model}"));
    }
    line(&format!("http {http}"));
    line(&format!("grpc {grpc}"));
    if let Some(socket) = server.socket() {
        line(&format!("grpc-socket {}", socket.display()));
    }
    line("ready");
    server.run(error).await
}
