//! TLS of the server: its certificate, and those of clients, read anew when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connections::Protocol;

/// Between two looks whether files have changed.
const LOOK: Duration = Duration::from_secs(1);

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", .file.display())]
    Pem { file: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{}: no certificate in it", .0.display())]
    Empty(PathBuf),
    #[error("{}: {source}", .file.display())]
    Certificate { file: PathBuf, source: rustls::Error },
    #[error("{}: {source}", .file.display())]
    Clients { file: PathBuf, source: VerifierBuilderError },
}

/// Where certificates are.
#[derive(Clone, Debug)]
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub clients: Option<PathBuf>,
}

/// What clients are shown and asked for.
#[derive(Clone, Debug)]
struct Terms {
    config: ServerConfig,
}

/// The terms that hold for handshakes from now on, by protocol.
#[derive(Debug)]
pub struct LiveTerms {
    files: Files,
    rest: ArcSwap<ServerConfig>,
    grpc: ArcSwap<ServerConfig>,
}

/// Number, length and time of each file, links followed: one that is put in the place of another is seen.
type Stamps = Vec<Option<(u64, u64, i64, i64)>>;

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |source| TlsError::Pem { file: file.to_owned(), source };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(fault)?.collect();
    let chain = chain.map_err(fault)?;
    if chain.is_empty() { Err(TlsError::Empty(file.to_owned())) } else { Ok(chain) }
}

impl Terms {
    /// Reads a chain and its key; where there are authorities, clients must show a certificate of theirs.
    fn read(files: &Files) -> Result<Self, TlsError> {
        let Files { chain, key, clients } = files;
        let provider = Arc::new(default_provider());
        let certificates_of_server = certificates(chain)?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|source| TlsError::Pem { file: key.clone(), source })?;
        let refused = |source| TlsError::Certificate { file: chain.clone(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(file)? {
                    roots
                        .add(authority)
                        .map_err(|source| TlsError::Certificate { file: file.clone(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|source| TlsError::Clients { file: file.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(certificates_of_server, secret).map_err(refused)?;
        Ok(Self { config })
    }

    /// The same for one of the two ports.
    fn of(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![match protocol {
            Protocol::Rest => b"http/1.1".to_vec(),
            Protocol::Grpc => b"h2".to_vec(),
        }];
        Arc::new(config)
    }
}

impl Files {
    fn stamps(&self) -> Stamps {
        let Self { chain, key, clients } = self;
        let stamp = |file: &PathBuf| {
            let found = fs::metadata(file).ok()?;
            Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        };
        [chain, key].into_iter().chain(clients).map(stamp).collect()
    }
}

impl LiveTerms {
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let terms = Terms::read(&files)?;
        let of = |protocol| ArcSwap::new(terms.of(protocol));
        Ok(Self { rest: of(Protocol::Rest), grpc: of(Protocol::Grpc), files })
    }

    /// For the next handshake. Connections that stand go on.
    pub fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let config = match protocol {
            Protocol::Rest => &self.rest,
            Protocol::Grpc => &self.grpc,
        };
        TlsAcceptor::from(config.load_full())
    }

    fn reload(&self) -> Result<(), TlsError> {
        let terms = Terms::read(&self.files)?;
        self.rest.store(terms.of(Protocol::Rest));
        self.grpc.store(terms.of(Protocol::Grpc));
        Ok(())
    }

    /// Reads the files anew whenever one of them has changed, and whenever it is `asked` to. Where they do not fit together,
    /// as while they are being replaced, the old terms stay and the files are read again; `tell` hears of it once.
    pub async fn keep(&self, asked: &Notify, tell: &(dyn Fn(&str) + Send + Sync)) {
        // Those of the terms that hold are not known: the files may have changed since they were read.
        let (mut held, mut told) = (Stamps::new(), String::new());
        loop {
            let asked = timeout(LOOK, asked.notified()).await.is_ok();
            let now = self.files.stamps();
            if now == held && !asked {
                continue;
            }
            let first = held.is_empty() && !asked;
            match self.reload() {
                Ok(()) => {
                    held = now;
                    told.clear();
                    if !first {
                        tell("certificates read anew");
                    }
                }
                Err(error) => {
                    let error = format!("certificates not read, the old ones stay: {error}");
                    if error != told || asked {
                        tell(&error);
                    }
                    told = error;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use rcgen::generate_simple_self_signed;
    use tokio::sync::{Notify, mpsc};

    use super::{Files, LiveTerms};

    #[tokio::test]
    async fn files_that_do_not_fit_together_leave_the_old_terms() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            Files { chain: folder.path().join("tls.crt"), key: folder.path().join("tls.key"), clients: None };
        let made = [0, 1].map(|_| generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let put = |chain: usize, key: usize| {
            fs::write(&files.chain, made[chain].cert.pem()).unwrap();
            fs::write(&files.key, made[key].signing_key.serialize_pem()).unwrap();
        };
        put(0, 0);
        let live = LiveTerms::open(files.clone()).unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let (asked, tell) = (Notify::new(), |line: &str| drop(tell.send(line.to_owned())));
        let keep = live.keep(&asked, &tell);
        let test = async {
            asked.notify_one();
            assert_eq!(told.recv().await.unwrap(), "certificates read anew");
            let good = live.rest.load_full();
            put(1, 0);
            asked.notify_one();
            let why = told.recv().await.unwrap();
            assert!(why.starts_with("certificates not read, the old ones stay: "), "{why}");
            assert!(Arc::ptr_eq(&good, &live.rest.load_full()));
            // Nobody says that this has changed.
            put(1, 1);
            while told.recv().await.unwrap() != "certificates read anew" {}
            assert!(!Arc::ptr_eq(&good, &live.rest.load_full()));
        };
        tokio::select! {
            () = keep => {}
            () = test => {}
        }
    }
}
