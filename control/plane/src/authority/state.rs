//! What an authority must know after a restart, in one file.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_policy::files;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Largest file, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Of the bundle.
    pub sequence: u64,
    pub roots: Vec<Root>,
    /// The issuer that signs.
    pub issuer: Option<Kept>,
    /// The issuer that will, and from when on, in seconds since the epoch.
    pub next: Option<(Kept, u64)>,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    pub certificate: Der,
    /// Since when, in seconds since the epoch.
    pub trusted: u64,
    /// Until when, where its end has come.
    pub leaves: Option<u64>,
}

/// An issuer; its key where it was generated here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kept {
    pub chain: Vec<Der>,
    pub key: Option<Der>,
}

/// DER, written in Base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Der(pub Zeroizing<Vec<u8>>);

impl TryFrom<String> for Der {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, base64::DecodeError> {
        STANDARD.decode(text).map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

impl From<Der> for String {
    fn from(der: Der) -> Self {
        STANDARD.encode(&*der.0)
    }
}

impl From<&CertificateDer<'_>> for Der {
    fn from(certificate: &CertificateDer<'_>) -> Self {
        Self(Zeroizing::new(certificate.to_vec()))
    }
}

impl Der {
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.0.to_vec())
    }
}

impl Kept {
    pub fn new(chain: &[CertificateDer<'_>], key: Option<&KeyPair>) -> Self {
        let key = key.map(|key| Der(Zeroizing::new(key.serialize_der())));
        Self { chain: chain.iter().map(Der::from).collect(), key }
    }

    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(Der::certificate).collect()
    }

    /// The key, where it is here and is one.
    pub fn key_pair(&self) -> Option<KeyPair> {
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.as_ref()?.0.to_vec()));
        KeyPair::try_from(&der).ok()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Root {
    pub fn new(certificate: &CertificateDer<'_>, trusted: Duration) -> Self {
        Self { certificate: certificate.into(), trusted: trusted.as_secs(), leaves: None }
    }

    /// True for the same certificate.
    pub fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        *self.certificate.0 == certificate.as_ref()
    }

    pub fn trusted(&self) -> Duration {
        Duration::from_secs(self.trusted)
    }
}

/// Reads a file that [`write`] has written; `None` where there is none.
///
/// # Errors
/// Where it cannot be read, or was written by somebody else.
pub fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> io::Result<Option<T>> {
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if opened.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it: chmod 600 mends that"));
    }
    let mut text = Zeroizing::new(Vec::new());
    opened.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Replaces a file in one step; it is for this user alone, and on disk when this returns.
///
/// # Errors
/// Where it cannot be written; the file is as it was then.
pub fn write(file: &Path, value: &impl Serialize) -> io::Result<()> {
    files::replace(file, &Zeroizing::new(serde_json::to_vec(value)?))
}

/// Makes the state folder where it is missing, for this user alone, and holds it: two processes must not share it.
///
/// # Errors
/// Where it cannot be made or entered, is open to others, or another process holds it.
pub fn hold(folder: &Path) -> io::Result<fs::File> {
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    if fs::metadata(folder)?.permissions().mode() & 0o002 != 0 {
        return Err(io::Error::other("everybody may write to it: chmod 700 mends that"));
    }
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(io::Error::other("another control plane uses it")),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}
