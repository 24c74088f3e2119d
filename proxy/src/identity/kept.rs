//! Certificate, key and roots on disk, so that a start needs no control plane.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_policy::files;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Its file in the state folder.
const FILE: &str = "identity.json";

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a control plane has given.
pub struct Kept {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8 in DER.
    pub key: Zeroizing<Vec<u8>>,
    pub roots: Vec<CertificateDer<'static>>,
    /// When the next certificate is asked for, since the epoch.
    pub renew: Duration,
    /// Until when it is given without a token, since the epoch, where that is known.
    pub attested_until: Option<Duration>,
}

/// The file: DER in Base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    chain: Vec<String>,
    key: String,
    roots: Vec<String>,
    /// In seconds since the epoch.
    renew: u64,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attested_until: Option<u64>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// What the folder holds; `None` where there is nothing.
///
/// # Errors
/// Where it cannot be read, is open to others, or is no file of ours.
pub fn read(folder: &Path) -> io::Result<Option<Kept>> {
    let file = match File::open(folder.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it: chmod 600 mends that"));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let Written { chain, key, roots, renew, attested_until } = serde_json::from_slice(&text)?;
    let key = Zeroizing::new(key);
    let der = |text: &str| STANDARD.decode(text).map_err(io::Error::other);
    let all = |texts: Vec<String>| texts.iter().map(|text| Ok(CertificateDer::from(der(text)?))).collect();
    let (chain, roots): (io::Result<Vec<_>>, io::Result<Vec<_>>) = (all(chain), all(roots));
    let (renew, attested_until) = (Duration::from_secs(renew), attested_until.map(Duration::from_secs));
    Ok(Some(Kept { chain: chain?, key: Zeroizing::new(der(&key)?), roots: roots?, renew, attested_until }))
}

/// Replaces what the folder holds, in one step. The file is for this user alone.
///
/// # Errors
/// Where it cannot be written; it is as it was then.
pub fn write(folder: &Path, kept: &Kept) -> io::Result<()> {
    files::make_folder(folder)?;
    let all = |all: &[CertificateDer<'_>]| all.iter().map(|der| STANDARD.encode(der)).collect();
    let key = STANDARD.encode(&*kept.key);
    let (renew, attested_until) = (kept.renew.as_secs(), kept.attested_until.map(|until| until.as_secs()));
    let (chain, roots) = (all(&kept.chain), all(&kept.roots));
    let mut written = Written { chain, key, roots, renew, attested_until };
    let text = serde_json::to_vec(&written).map(Zeroizing::new);
    written.key.zeroize();
    let text = text?;
    files::replace(&folder.join(FILE), &text)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::time::Duration;

    use rustls_pki_types::CertificateDer;
    use zeroize::Zeroizing;

    use super::{FILE, Kept, read, write};

    #[test]
    fn what_is_kept_is_for_this_user_alone_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let certificate = |byte: u8| CertificateDer::from(vec![byte; 100]);
        let kept = Kept {
            chain: vec![certificate(1), certificate(2)],
            key: Zeroizing::new(vec![3; 50]),
            roots: vec![certificate(4)],
            renew: Duration::from_secs(5),
            attested_until: Some(Duration::from_secs(9)),
        };
        write(folder.path(), &kept).unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let again = read(folder.path()).unwrap().unwrap();
        assert_eq!((again.chain, again.roots, &*again.key), (kept.chain, kept.roots, &*kept.key));
        assert_eq!((again.renew, again.attested_until), (kept.renew, kept.attested_until));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        assert!(read(folder.path()).is_err());
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "{}").unwrap();
        assert!(read(folder.path()).is_err());
    }
}
