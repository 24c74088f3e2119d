//! TLS towards clients: certificates by server name, read from files.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foregate_policy::snapshot::{
    CertificateFiles, ClientAuthorities, Clients, Listener, ListenerTls, Speaks,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::identity::certificate::Facts;
use crate::identity::clients::{ClientTrust, ClientVerifier, NO_DOMAIN};
use crate::identity::set::Set;
use crate::identity::trust::{Trust, TrustBuilder, TrustError, revocations};

/// Why a certificate, key or list of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: {source}")]
    Pem { file: String, source: rustls_pki_types::pem::Error },
    #[error("{0}: no certificate or list in the file")]
    Empty(String),
    #[error("{file}: {source}")]
    File { file: String, source: io::Error },
    #[error("{file}: {source}")]
    Trust { file: String, source: TrustError },
    #[error("{file}: {source}")]
    Key { file: String, source: rustls::Error },
    #[error("the system's trusted authorities cannot be read: {0}")]
    System(io::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// TLS of one port: whose terms hold for which server name.
#[derive(Debug)]
pub struct PortTls {
    /// Exact names first, then wildcards from the longest to the shortest, then the rest.
    terms: Vec<Arc<Terms>>,
}

/// What one listener shows and asks for.
#[derive(Debug)]
pub struct Terms {
    /// As the listener has it; `None` for every name.
    pub hostname: Option<Box<str>>,
    /// `None` while this workload has no identity to show: then no handshake succeeds.
    pub config: Option<Arc<ServerConfig>>,
    /// Whose certificates clients are asked for; `None` where for none.
    pub clients: Option<ClientTrust>,
    /// Since the epoch: plain connections are taken until then.
    pub plain_until: Option<Duration>,
    /// Ports that redirected connections meant and on which plain ones are taken.
    pub plain_ports: Box<[u16]>,
    pub speaks: Speaks,
    /// When each certificate from files expires, since the epoch.
    pub expires: Vec<Duration>,
    /// A hash of the certificates shown.
    shown: [u8; 32],
}

/// Certificates of one listener, tried in order.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

/// The cryptography of this process.
///
/// Keys are agreed on by X25519 and ML-KEM-768 together where the other side can: what is recorded today is
/// not read with a quantum computer tomorrow. Of suites, those with AES-GCM and ChaCha20-Poly1305 alone.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let groups = [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() })
    });
    Arc::clone(&PROVIDER)
}

/// How signatures are verified.
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// The part of a verifier of certificates that is the same for all: the other side has the key.
macro_rules! verifies_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, signed, &$crate::tls::algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, signed, &$crate::tls::algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::tls::algorithms().supported_schemes()
        }
    };
}
pub(crate) use verifies_signatures;

/// Reads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// Names the file that is missing, malformed or does not fit. Never says anything of the key itself.
pub fn certificate(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&files.certificate)?;
    let name = files.key.display().to_string();
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::Pem { file: name.clone(), source })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Key { file: name, source })
}

/// When the leaf of a chain expires, since the epoch; never where it cannot be read.
fn expires(key: &CertifiedKey) -> Duration {
    let facts = key.end_entity_cert().ok().and_then(|leaf| Facts::read(leaf));
    facts.map_or(Duration::MAX, |facts| facts.not_after)
}

/// Every certificate in a PEM file; at least one.
///
/// # Errors
/// Names the file that is missing, malformed or empty.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = file.display().to_string();
    let pem = |source| TlsError::Pem { file: name.clone(), source };
    let chain =
        CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if chain.is_empty() { Err(TlsError::Empty(name)) } else { Ok(chain) }
}

impl PortTls {
    /// Builds the TLS of one port from all its listeners.
    ///
    /// # Errors
    /// The first certificate or authority that cannot be used.
    pub fn new<'a>(
        listeners: impl Iterator<Item = &'a Listener>,
        identity: Option<&Set>,
    ) -> Result<Self, TlsError> {
        let mut terms = Vec::new();
        for listener in listeners {
            let hostname = listener.hostname.clone();
            terms.push(Arc::new(match &listener.tls {
                _ if listener.speaks == Speaks::Passthrough => Terms::passthrough(hostname),
                Some(tls) => Terms::new(hostname, tls, listener.speaks, identity)?,
                None => continue,
            }));
        }
        terms.sort_by_key(|terms| match terms.hostname.as_deref() {
            Some(name) if name.starts_with('*') => (1, usize::MAX - name.len()),
            Some(_) => (0, 0),
            None => (2, 0),
        });
        Ok(Self { terms })
    }

    /// The same with another identity of this workload; everything from files stays as it is.
    ///
    /// # Errors
    /// Where there is no randomness for session tickets.
    pub fn renewed(&self, identity: &Set) -> Result<Self, TlsError> {
        let terms = self.terms.iter().map(|terms| match terms.clients {
            Some(ClientTrust::Workloads(_)) => {
                let plain = (terms.plain_until, terms.plain_ports.clone());
                Terms::mesh(terms.hostname.clone(), plain, terms.speaks, Some(identity)).map(Arc::new)
            }
            _ => Ok(Arc::clone(terms)),
        });
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// The same with the terms of before where they are equal, so that sessions can be taken up again.
    #[must_use]
    pub fn keeping(&self, before: &Self) -> Self {
        let terms = self
            .terms
            .iter()
            .map(|terms| Arc::clone(before.terms.iter().find(|known| known.same_as(terms)).unwrap_or(terms)));
        Self { terms: terms.collect() }
    }

    /// True where a listener passes TLS on.
    pub fn passes_through(&self) -> bool {
        self.terms.iter().any(|terms| terms.speaks == Speaks::Passthrough)
    }

    /// True where a listener shows the identity of this workload.
    pub fn uses_identity(&self) -> bool {
        self.terms.iter().any(|terms| matches!(terms.clients, Some(ClientTrust::Workloads(_))))
    }

    /// The terms for a server name (RFC 6066, section 3); without one, those of the listener for any name,
    /// or the first.
    pub fn terms(&self, server_name: Option<&str>) -> Option<&Arc<Terms>> {
        let fits = |pattern: Option<&str>| match (pattern, server_name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(name)) => covers(pattern, name),
        };
        let found = self.terms.iter().find(|terms| fits(terms.hostname.as_deref()));
        found.or(if server_name.is_none() { self.terms.first() } else { None })
    }

    /// The terms of the listener of this hostname.
    pub fn of(&self, hostname: Option<&str>) -> Option<&Arc<Terms>> {
        self.terms.iter().find(|terms| terms.hostname.as_deref() == hostname)
    }

    /// The terms of a plain connection, where a listener still takes one; `now` is since the epoch, and `meant` the
    /// port that a redirected connection meant.
    pub fn plain(&self, now: Duration, meant: Option<u16>) -> Option<&Arc<Terms>> {
        self.terms.iter().find(|terms| terms.takes_plain(now, meant))
    }

    /// True where redirected connections that meant this port may be plain.
    pub fn takes_plain_on(&self, meant: u16) -> bool {
        self.terms.iter().any(|terms| terms.plain_ports.contains(&meant))
    }

    /// True while the listener of this hostname takes plain connections.
    pub fn plain_for(&self, hostname: Option<&str>, now: Duration, meant: Option<u16>) -> bool {
        self.terms.iter().any(|terms| terms.hostname.as_deref() == hostname && terms.takes_plain(now, meant))
    }
}

impl Terms {
    /// True where both show and ask for the same, by the same name.
    fn same_as(&self, other: &Self) -> bool {
        let clients = match (&self.clients, &other.clients) {
            (None, None) => true,
            (Some(one), Some(other)) => one.same_as(other),
            _ => false,
        };
        clients
            && self.hostname == other.hostname
            && self.config.is_some() == other.config.is_some()
            && self.plain_until == other.plain_until
            && self.plain_ports == other.plain_ports
            && self.speaks == other.speaks
            && self.shown == other.shown
    }

    fn takes_plain(&self, now: Duration, meant: Option<u16>) -> bool {
        self.plain_until.is_some_and(|until| now < until)
            || meant.is_some_and(|port| self.plain_ports.contains(&port))
    }

    /// TLS is passed on: nothing is shown, nobody is asked.
    fn passthrough(hostname: Option<Box<str>>) -> Self {
        Self {
            hostname,
            config: None,
            clients: None,
            plain_until: None,
            plain_ports: Box::default(),
            speaks: Speaks::Passthrough,
            expires: Vec::new(),
            shown: [0; 32],
        }
    }

    fn new(
        hostname: Option<Box<str>>,
        tls: &ListenerTls,
        speaks: Speaks,
        identity: Option<&Set>,
    ) -> Result<Self, TlsError> {
        let clients = match &tls.clients {
            Clients::Unasked => None,
            Clients::Authorities(said) => Some(authorities(said)?),
            Clients::Workloads { plain_until, plain_ports } => {
                return Self::mesh(hostname, (*plain_until, plain_ports.clone()), speaks, identity);
            }
        };
        let keys = tls.certificates.iter().map(|files| certificate(files).map(Arc::new));
        let keys = Certificates(keys.collect::<Result<Vec<_>, _>>()?);
        let (expires, shown) = (keys.0.iter().map(|key| expires(key)).collect(), keys.hash());
        let config = Some(server(keys, clients.clone(), speaks)?);
        let plain_ports = Box::default();
        Ok(Self { hostname, config, clients, plain_until: None, plain_ports, speaks, expires, shown })
    }

    /// The terms of a listener with the identity of this workload.
    fn mesh(
        hostname: Option<Box<str>>,
        (plain_until, plain_ports): (Option<Duration>, Box<[u16]>),
        speaks: Speaks,
        identity: Option<&Set>,
    ) -> Result<Self, TlsError> {
        let trust = identity.map_or_else(|| Arc::new(Trust::nobody()), |set| Arc::clone(&set.trust));
        let clients = ClientTrust::Workloads(trust);
        let keys = Certificates(identity.iter().map(|set| Arc::clone(&set.key)).collect());
        let shown = keys.hash();
        let config = identity.map(|_| server(keys, Some(clients.clone()), speaks)).transpose()?;
        let (clients, expires) = (Some(clients), Vec::new());
        Ok(Self { hostname, config, clients, plain_until, plain_ports, speaks, expires, shown })
    }
}

/// The configuration of a listener. Tickets are sealed with a key of its own: no session is taken up again
/// with another listener, nor after certificates or authorities changed; after other changes it is.
fn server(
    keys: Certificates,
    clients: Option<ClientTrust>,
    speaks: Speaks,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(ClientVerifier(clients))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(keys));
    if matches!(speaks, Speaks::Http | Speaks::Inbound) {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Reads the authorities whose clients are let in, and what they revoked.
fn authorities(said: &ClientAuthorities) -> Result<ClientTrust, TlsError> {
    let mut trust = TrustBuilder::default();
    for file in &said.certificates {
        trust.authorities(NO_DOMAIN, certificates(file)?);
    }
    // One that cannot be looked at is an error when it is read, not a list that is not there.
    for file in said.revocations.iter().filter(|file| !file.try_exists().is_ok_and(|there| !there)) {
        trust.revocations(NO_DOMAIN, revocations(file)?);
    }
    let file = || said.certificates.first().map(|file| file.display().to_string()).unwrap_or_default();
    let trust = trust.build().map_err(|source| TlsError::Trust { file: file(), source })?;
    Ok(ClientTrust::Authorities { trust: Arc::new(trust), required: said.required })
}

/// True where a listener's hostname covers a server name; `*.` stands for one or more labels, as in Gateway API.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            name.len() > suffix.len()
                && name.get(name.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => pattern.eq_ignore_ascii_case(name),
    }
}

impl Certificates {
    /// A hash of every chain, and so of the keys that fit them.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for key in &self.0 {
            hash.update(key.cert.len().to_be_bytes());
            for certificate in &key.cert {
                hash.update(certificate.len().to_be_bytes());
                hash.update(certificate);
            }
        }
        hash.finalize().into()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first();
        let (Some(name), true) = (hello.server_name(), self.0.len() > 1) else { return first.cloned() };
        let name = ServerName::try_from(name).ok()?;
        let fitting = self.0.iter().find(|key| {
            key.end_entity_cert()
                .and_then(ParsedCertificate::try_from)
                .and_then(|leaf| rustls::client::verify_server_name(&leaf, &name))
                .is_ok()
        });
        fitting.or(first).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn wildcards_cover_names_below_them_only() {
        for (pattern, name, want) in [
            ("crm.example", "CRM.example", true),
            ("crm.example", "a.crm.example", false),
            ("*.example", "crm.example", true),
            ("*.example", "a.crm.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "crmexample", false),
        ] {
            assert_eq!(covers(pattern, name), want, "{pattern} {name}");
        }
    }
}
