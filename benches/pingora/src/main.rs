//! Pingora's own proxy without filters: what a proxy built on it costs at least.

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::apps::HttpServerOptions;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::listeners::ListenerConfig;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::upstreams::peer::{ALPN, HttpPeer};
use pingora_proxy::{ProxyHttp, ProxyServiceBuilder, Session};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: bare-pingora ADDRESS ORIGIN MATERIALS [tls|mutual|mutual-upstream|h2c]..";
/// The name of the origin.
const NAME: &str = "svc.local";
/// Idle connections to the origin.
const POOL: usize = 512;

/// Passes everything on.
struct Proxy {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, origin, folder, kinds @ ..] = words.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    match serve(address, origin, folder, &kinds) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("bare-pingora: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves with one worker until the process is ended.
fn serve(
    address: &str,
    origin: &str,
    folder: &str,
    kinds: &[&str],
) -> std::result::Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let (mutual, h2c) = (kinds.contains(&"mutual"), kinds.contains(&"h2c"));
    let mutual_upstream = kinds.contains(&"mutual-upstream");
    let file = |name: &str| format!("{folder}/{name}");
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: POOL,
        ca_file: Some(file("ca.crt")),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut peer = HttpPeer::new(origin, mutual_upstream, NAME.into());
    if h2c {
        peer.options.alpn = ALPN::H2;
        peer.options.max_h2_streams = 100;
    }
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = ProxyServiceBuilder::new(&server.configuration, Proxy { peer }).name("bare");
    if mutual_upstream {
        let mut options = ConnectorOptions::from_server_conf(&server.configuration);
        options.cert_key_file = Some((file("client.crt"), file("client.key")));
        service = service.client_options(options);
    }
    if h2c {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        service = service.server_options(options);
    }
    let mut service = service.build();
    let mut listener = ListenerConfig::tcp(address);
    if mutual || kinds.contains(&"tls") {
        listener = listener.tls(tls(&file, mutual)?);
    }
    service.add_listener(listener);
    server.add_service(service);
    server.run(RunArgs::default());
    Err("the server ended".into())
}

fn tls(
    file: &impl Fn(&str) -> String,
    mutual: bool,
) -> std::result::Result<TlsSettings, Box<dyn std::error::Error>> {
    let mut settings = TlsSettings::intermediate(&file("server.crt"), &file("server.key"))?;
    settings.enable_h2();
    if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.crt"))?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        settings.set_client_cert_verifier(verifier);
    }
    Ok(settings)
}
