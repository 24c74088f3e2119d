//! The certificate of the webhooks: kept in a Secret that replicas share, renewed in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::clock;
use crate::event::event;
use crate::kubernetes::certificates::fits;
use crate::process::Shutdown;

/// How long the authority is good for.
const AUTHORITY: Duration = Duration::from_hours(10 * 365 * 24);
/// How long a certificate is good for; it is renewed once a third of that is left.
const LIFETIME: Duration = Duration::from_hours(30 * 24);
/// How far clocks may go wrong.
const SKEW: Duration = Duration::from_hours(1);
/// Between two looks at the Secret, and after a fault.
const LOOK: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_secs(2);

/// Where the certificate is kept, and for which names.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub secret: String,
    /// DNS names, such as `foregate-control.foregate.svc`.
    pub names: Vec<String>,
}

/// What is served with at the moment.
#[derive(Debug, Default)]
pub struct Served(Mutex<Option<Arc<CertifiedKey>>>);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("it cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("it cannot be kept: {0}")]
    Keep(#[from] kube::Error),
    #[error("it cannot be served: {0}")]
    Serve(String),
    #[error("the API server did not answer in time")]
    Late,
}

/// Everything that the Secret holds, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    pub authority: String,
    authority_key: String,
    chain: String,
    key: String,
    /// Since the Unix epoch, in seconds.
    ends: u64,
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Served {
    fn serve(&self, material: &Material) -> Result<(), CertificateError> {
        let wrong = |why: String| CertificateError::Serve(why);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(material.chain.as_bytes()).collect();
        let chain = chain.map_err(|error| wrong(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(material.key.as_bytes())
            .map_err(|error| wrong(error.to_string()))?;
        let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let pair = pair.map_err(|error| wrong(error.to_string()))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }
}

impl Material {
    /// A new authority, and a certificate of it.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn make(names: &[String], now: Duration) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "foregate webhooks");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        lasts(&mut params, now, AUTHORITY);
        let authority = params.self_signed(&key)?.pem();
        Self {
            authority,
            authority_key: key.serialize_pem(),
            chain: String::new(),
            key: String::new(),
            ends: 0,
        }
        .renewed(names, now)
    }

    /// The same authority, with a certificate that begins now.
    ///
    /// # Errors
    /// Where the authority cannot be used, or no key can be made.
    pub fn renewed(&self, names: &[String], now: Duration) -> Result<Self, CertificateError> {
        let issuer = Issuer::from_ca_cert_pem(&self.authority, KeyPair::from_pem(&self.authority_key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "foregate-control");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        lasts(&mut params, now, LIFETIME);
        let chain = params.signed_by(&key, &issuer)?.pem();
        let ends = (now + LIFETIME).as_secs();
        Ok(Self { chain, key: key.serialize_pem(), ends, ..self.clone() })
    }

    /// True where it can be served with under these names, and need not be renewed yet.
    fn is_fresh(&self, names: &[String], now: Duration) -> bool {
        let fits = fits(self.chain.as_bytes(), self.key.as_bytes()).is_ok() && self.is_for(names);
        let left = Duration::from_secs(self.ends).saturating_sub(now);
        fits && left > LIFETIME / 3 && left <= LIFETIME + SKEW
    }

    /// True where these are the names of its certificate.
    fn is_for(&self, names: &[String]) -> bool {
        let Ok(leaf) = CertificateDer::from_pem_slice(self.chain.as_bytes()) else { return false };
        let Ok((_, leaf)) = parse_x509_certificate(&leaf) else { return false };
        let Ok(Some(found)) = leaf.subject_alternative_name() else { return false };
        let found: BTreeSet<&str> = found
            .value
            .general_names
            .iter()
            .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None })
            .collect();
        found == names.iter().map(String::as_str).collect()
    }

    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        Some(Self {
            authority: text("ca.crt")?,
            authority_key: text("ca.key")?,
            chain: text("tls.crt")?,
            key: text("tls.key")?,
            ends: text("ends")?.parse().ok()?,
        })
    }

    /// The Secret that it is kept in.
    pub fn secret(&self, name: &str) -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some("Opaque".to_owned()),
            data: Some(self.keys()),
            ..Secret::default()
        }
    }

    fn keys(&self) -> BTreeMap<String, ByteString> {
        let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
        [
            entry("ca.crt", &self.authority),
            entry("ca.key", &self.authority_key),
            entry("tls.crt", &self.chain),
            entry("tls.key", &self.key),
            entry("ends", &self.ends.to_string()),
        ]
        .into()
    }
}

fn lasts(params: &mut CertificateParams, now: Duration, time: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + (now + time);
}

/// Keeps the Secret, and what is served, fresh.
#[derive(Debug)]
pub struct Keeper {
    api: Api<Secret>,
    settings: Settings,
    served: Arc<Served>,
    /// The authority in PEM, once there is one.
    authority: watch::Sender<Option<String>>,
}

impl Keeper {
    pub fn new(client: Client, settings: Settings) -> (Self, Arc<Served>, watch::Receiver<Option<String>>) {
        let (authority, receiver) = watch::channel(None);
        let served = Arc::new(Served::default());
        let api = Api::namespaced(client, &settings.namespace);
        (Self { api, settings, served: Arc::clone(&served), authority }, served, receiver)
    }

    /// Runs until the process begins to end.
    pub async fn run(self, shutdown: Shutdown) {
        let mut current = None;
        loop {
            let limit = tokio::time::timeout(LOOK / 4, self.look());
            let outcome = tokio::select! {
                outcome = limit => outcome.unwrap_or(Err(CertificateError::Late)),
                () = shutdown.begun() => return,
            };
            let wait = match outcome {
                Ok(material) if current.as_ref() == Some(&material) => LOOK,
                Ok(material) => match self.served.serve(&material) {
                    Ok(()) => {
                        self.authority.send_replace(Some(material.authority.clone()));
                        current = Some(material);
                        LOOK
                    }
                    Err(error) => told(&error),
                },
                Err(error) => told(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// What the Secret holds; made or renewed where it has to be. Of several replicas one succeeds, and all take its.
    async fn look(&self) -> Result<Material, CertificateError> {
        let name = &self.settings.secret;
        loop {
            let now = clock::now().unix;
            let found = self.api.get_opt(name).await?;
            let read = found.as_ref().and_then(Material::read);
            if let Some(material) =
                read.as_ref().filter(|material| material.is_fresh(&self.settings.names, now))
            {
                return Ok(material.clone());
            }
            let material = match read {
                Some(old) => old
                    .renewed(&self.settings.names, now)
                    .or_else(|_| Material::make(&self.settings.names, now))?,
                None => Material::make(&self.settings.names, now)?,
            };
            let mut secret = material.secret(name);
            if let Some(found) = &found {
                secret.metadata = found.metadata.clone();
            }
            let params = PostParams::default();
            let outcome = match found {
                Some(_) => self.api.replace(name, &params, &secret).await,
                None => self.api.create(&params, &secret).await,
            };
            match outcome {
                Ok(_) => return Ok(material),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn told(error: &CertificateError) -> Duration {
    event(log::Level::Error, "webhook certificate", &[("error", error.to_string().into())]);
    PAUSE
}

#[cfg(test)]
mod tests {
    use super::{LIFETIME, Material, Served};
    use std::time::Duration;

    #[test]
    fn a_certificate_is_renewed_by_the_same_authority_before_it_ends() {
        let now = Duration::from_hours(500_000);
        let names = vec!["foregate-control.foregate.svc".to_owned()];
        let first = Material::make(&names, now).unwrap();
        Served::default().serve(&first).unwrap();
        assert!(first.is_fresh(&names, now) && first.is_fresh(&names, now + LIFETIME / 2));
        assert!(!first.is_fresh(&names, now + LIFETIME * 3 / 4), "a third is left");
        assert!(!first.is_fresh(&names, now.checked_sub(LIFETIME).unwrap()), "it is from a time to come");
        let others = [&names[..], &["foregate-control.mesh.svc".to_owned()]].concat();
        assert!(!first.is_fresh(&others, now), "a name is missing");
        assert!(first.renewed(&others, now).unwrap().is_fresh(&others, now));
        let later = now + LIFETIME * 3 / 4;
        let second = first.renewed(&names, later).unwrap();
        assert_eq!(second.authority, first.authority);
        assert_ne!(second.key, first.key);
        assert!(second.is_fresh(&names, later));
        Served::default().serve(&second).unwrap();
    }
}
