//! An authority that others made: three files, looked at again and again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::Level;
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::authority::certificate::Facts;
use crate::authority::signer::{Signer, SignerError};
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use crate::config::authority::AuthorityFiles;
use crate::event::event;
use crate::process::Shutdown;

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Most roots, and most certificates of an issuer.
const MAX_CERTIFICATES: usize = 64;

/// How often files and times are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the files hold, once all of it fits together.
#[derive(Debug)]
pub struct Material {
    pub roots: Vec<CertificateDer<'static>>,
    pub signer: Arc<Signer>,
    /// Equal for equal files.
    pub mark: [u8; 32],
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{file}: {source}")]
    Pem { file: String, source: rustls::pki_types::pem::Error },
    #[error("{file}: there are {found} certificates, and 1 to {MAX_CERTIFICATES} are wanted")]
    Count { file: String, found: usize },
    #[error(
        "{file}: certificate {number} is no root: it must be that of an authority and name itself as its issuer"
    )]
    Root { file: String, number: usize },
    #[error(
        "{0}: others on this machine may read the key; chmod 600, or defaultMode: 0440 of a volume, mends that, and \
         insecure.readableKeys: true takes it"
    )]
    Readable(String),
    #[error("{file}: {source}")]
    Key { file: String, source: rcgen::Error },
    #[error("{file}: {source}")]
    Signer { file: String, source: SignerError },
}

/// Bytes of the three files.
struct Bytes([Zeroizing<Vec<u8>>; 3]);

impl Material {
    /// Reads the files and puts them together.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(files: &AuthorityFiles, readable_keys: bool, now: Duration) -> Result<Self, FileError> {
        Bytes::read(files, readable_keys)?.material(files, now)
    }
}

impl Bytes {
    fn read(files: &AuthorityFiles, readable_keys: bool) -> Result<Self, FileError> {
        let key = bounded(&files.key, !readable_keys)?;
        Ok(Self([bounded(&files.roots, false)?, bounded(&files.issuer, false)?, key]))
    }

    fn material(&self, files: &AuthorityFiles, now: Duration) -> Result<Material, FileError> {
        let Self([roots, issuer, key]) = self;
        let roots = certificates(roots, &files.roots)?;
        for (number, root) in (1..).zip(&roots) {
            let facts = Facts::read(root);
            if !facts.is_some_and(|facts| facts.authority && facts.self_issued) {
                return Err(FileError::Root { file: files.roots.display().to_string(), number });
            }
        }
        let chain = certificates(issuer, &files.issuer)?;
        let file = files.key.display().to_string();
        let key_der = PrivateKeyDer::from_pem_slice(key)
            .map_err(|source| FileError::Pem { file: file.clone(), source })?;
        let pair = KeyPair::try_from(&key_der).map_err(|source| FileError::Key { file, source })?;
        let signer = Signer::new(chain, pair, &roots, now).map_err(|source| {
            let at_key = matches!(source, SignerError::Algorithm | SignerError::OtherKey);
            let file = if at_key { &files.key } else { &files.issuer };
            FileError::Signer { file: file.display().to_string(), source }
        })?;
        Ok(Material { roots, signer: Arc::new(signer), mark: self.mark() })
    }

    fn mark(&self) -> [u8; 32] {
        let mut mark = Sha256::new();
        for part in &self.0 {
            mark.update(Sha256::digest(part));
        }
        mark.finalize().into()
    }
}

fn bounded(file: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let name = || file.display().to_string();
    let wrong = |source| FileError::Read { file: name(), source };
    let opened = File::open(file).map_err(wrong)?;
    // Permissions of what was opened, whatever takes its name meanwhile.
    let found = opened.metadata().map_err(wrong)?;
    if !found.is_file() {
        return Err(wrong(io::Error::other("not a regular file")));
    }
    if secret && found.permissions().mode() & 0o007 != 0 {
        return Err(FileError::Readable(name()));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > MAX_FILE { Err(wrong(io::ErrorKind::FileTooLarge.into())) } else { Ok(bytes) }
}

fn certificates(bytes: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let name = || file.display().to_string();
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|source| FileError::Pem { file: name(), source })?;
    if (1..=MAX_CERTIFICATES).contains(&all.len()) {
        Ok(all)
    } else {
        Err(FileError::Count { file: name(), found: all.len() })
    }
}

/// Takes up files that change, and does what its time has come for, until the process ends.
pub async fn keep(
    authority: Arc<Authority>,
    files: Option<AuthorityFiles>,
    readable_keys: bool,
    shutdown: Shutdown,
) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.begun() => return,
        }
        let (authority, files) = (Arc::clone(&authority), files.clone());
        let looked = spawn_blocking(move || look(&authority, files.as_ref(), readable_keys)).await;
        let fault = match looked {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a defect while reading".to_owned(),
        };
        // The same fault is told once.
        if !fault.is_empty() && fault != said {
            event(Level::Error, "authority not changed", &[("error", fault.as_str().into())]);
        }
        said = fault;
    }
}

fn look(
    authority: &Authority,
    files: Option<&AuthorityFiles>,
    readable_keys: bool,
) -> Result<(), AuthorityError> {
    let now = clock::now().unix;
    // What has its time goes on, whatever the files are like.
    authority.advance(now)?;
    let Some(files) = files else { return Ok(()) };
    let bytes = Bytes::read(files, readable_keys)?;
    if authority.mark() == Some(bytes.mark()) {
        return Ok(());
    }
    authority.adopt(bytes.material(files, now)?, now)
}
