//! Trust domains and SVIDs for one test, good ones and bad ones.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::support::certificates::Leaf;

/// Both versions of TLS that are spoken.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A trust domain with one authority.
pub struct Domain {
    pub name: String,
    issuer: Issuer<'static, KeyPair>,
    pub bundle: String,
    /// Of the authority, in PEM.
    pub key: String,
}

/// A certificate of a workload.
#[derive(Clone, Debug)]
pub struct Svid {
    pub leaf: Leaf,
    serial: u64,
}

impl Domain {
    /// Its authority has a name of its own.
    pub fn new(name: &str) -> Self {
        Self::named(name, &format!("{name} {}", SERIAL.fetch_add(1, Ordering::Relaxed)))
    }

    /// The authority has this name, as it has when it changes its key.
    pub fn named(name: &str, authority: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, authority);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let bundle = params.self_signed(&key).unwrap().pem();
        let pem = key.serialize_pem();
        Self { name: name.to_owned(), issuer: Issuer::new(params, key), bundle, key: pem }
    }

    /// The id of a workload here.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.name)
    }

    /// A sound certificate for the workload at this path.
    pub fn svid(&self, path: &str) -> Svid {
        self.svid_with(&[&self.id(path)], |_| ())
    }

    /// A certificate for these URIs, changed as a test wants it.
    pub fn svid_with(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Svid {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).to_owned().try_into().unwrap())).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Svid { leaf: Leaf { certificate: certificate.pem(), key: key.serialize_pem() }, serial }
    }

    /// A certificate that ends this long after now.
    pub fn svid_for(&self, path: &str, left: Duration) -> Svid {
        let now = foregate::clock::now().unix;
        self.svid_with(&[&self.id(path)], |params| params.not_after = date_time_ymd(1970, 1, 1) + now + left)
    }

    /// The list of revoked certificates, in PEM.
    pub fn revocations(&self, revoked: &[&Svid]) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|svid| RevokedCertParams {
                    serial_number: SerialNumber::from(svid.serial),
                    revocation_time: date_time_ymd(2021, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Svid {
    /// A client that shows this certificate and does not care whom it speaks to.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        client(Some(self), alpn, &VERSIONS)
    }

    /// A server that shows this certificate, asks for one, and takes those of these domains.
    pub fn server(&self, alpn: &[&str], trusted: &[&Domain]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        for domain in trusted {
            roots.add(CertificateDer::from_pem_slice(domain.bundle.as_bytes()).unwrap()).unwrap();
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.leaf.der()], self.key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.leaf.key.as_bytes()).unwrap()
    }
}

/// The same client, which begins with a hybrid key share as browsers do.
pub fn hybrid(config: &ClientConfig) -> Arc<ClientConfig> {
    let groups = [aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
    let resolver = Arc::clone(&config.client_auth_cert_resolver);
    let mut hybrid = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(resolver);
    hybrid.alpn_protocols.clone_from(&config.alpn_protocols);
    Arc::new(hybrid)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client with or without a certificate, that does not care whom it speaks to.
pub fn client(
    svid: Option<&Svid>,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match svid {
        Some(svid) => builder.with_client_auth_cert(vec![svid.leaf.der()], svid.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Takes every server for whom it wants: these tests look at the gateway's care, not at the client's.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A folder with an identity, as spiffe-helper writes it.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    pub fn new(svid: &Svid, domain: &Domain) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.put(svid, &domain.bundle);
        this
    }

    /// Puts a certificate with its key and this bundle.
    pub fn put(&self, svid: &Svid, bundle: &str) {
        self.write("svid_bundle.pem", bundle);
        self.write("svid_key.pem", &svid.leaf.key);
        self.write("svid.pem", &svid.leaf.certificate);
    }

    /// Replaces a file in one step.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = self.0.path().join("writing.tmp");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The value of `--identity`.
    pub fn origin(&self) -> String {
        format!("dir:{}", self.0.path().display())
    }
}
