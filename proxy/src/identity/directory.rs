//! An identity from a folder: as spiffe-helper, cert-manager or Kubernetes write it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use foregate_filters::peer::is_trust_domain;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::identity::set::{Parts, Set};
use crate::identity::trust::lists;
use crate::identity::{Source, SourceError};
use crate::tls::TlsError;

/// Certificate, key and bundle by the names that different writers give them.
const NAMES: [[&str; 3]; 2] =
    [["svid.pem", "svid_key.pem", "svid_bundle.pem"], ["tls.crt", "tls.key", "ca.crt"]];

/// The folder with bundles of other trust domains, `<trust domain>.pem`, and what they revoked,
/// `<trust domain>.crl`.
const FEDERATED: &str = "bundles";

/// A revocation list besides all `*.crl`.
const REVOCATIONS: &str = "crl.pem";

/// Largest file, in bytes: a revocation list of many thousand entries fits.
const MAX_FILE: u64 = 16 << 20;

/// Files of one identity: more are not one.
const MAX_FILES: usize = 256;

/// Quiet time after a change before files are read: they are written one after the other.
const QUIET: Duration = Duration::from_millis(100);

/// Looks at the folder even if nothing was told: a folder that is swapped as a whole is not watched any more.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Every file by its name within the folder.
type Files = BTreeMap<String, Vec<u8>>;

/// A watched folder.
pub struct Directory {
    folder: PathBuf,
    /// What was read last, whether it made a set or not.
    last: Option<Files>,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was read holds the private key.
        f.debug_struct("Directory").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Directory {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, last: None, watch: None }
    }

    /// Watches the folder and what is in it; where it is a link, the link too.
    fn watch(&mut self) -> Result<&mut mpsc::Receiver<()>, SourceError> {
        if self.watch.is_none() {
            let wrong = |source| SourceError::Watch { folder: self.folder.display().to_string(), source };
            let (tell, changes) = mpsc::channel(1);
            let mut watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
                // A full channel holds a change already.
                if change.map_or(true, |change| !change.kind.is_access()) {
                    let _ = tell.try_send(());
                }
            })
            .map_err(wrong)?;
            watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(wrong)?;
            if self.folder.is_symlink()
                && let Some(parent) = self.folder.parent().filter(|parent| parent.is_dir())
            {
                let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
            }
            self.watch = Some(Watch { _watcher: watcher, changes });
        }
        let unwatched = || SourceError::Directory("the folder is not watched".to_owned());
        self.watch.as_mut().map(|watch| &mut watch.changes).ok_or_else(unwatched)
    }

    /// Waits until files may have changed and no more change follows.
    async fn changed(&mut self) -> Result<(), SourceError> {
        let changes = self.watch()?;
        if timeout(LOOK_AGAIN, changes.recv()).await.is_ok() {
            loop {
                sleep(QUIET).await;
                if changes.try_recv().is_err() {
                    return Ok(());
                }
            }
        }
        // Nothing was told for long: perhaps what is watched is not there any more.
        self.watch = None;
        self.watch().map(drop)
    }

    async fn read(&self) -> Result<Files, SourceError> {
        let folder = self.folder.clone();
        let read = spawn_blocking(move || steady(&folder)).await;
        read.map_err(|_| SourceError::Directory("a defect while reading".to_owned()))?
    }
}

#[async_trait]
impl Source for Directory {
    async fn next(&mut self) -> Result<Set, SourceError> {
        if self.last.is_none() {
            // Watched before it is read: no change falls between the two.
            self.watch()?;
            let files = self.read().await?;
            return assemble(self.last.insert(files), &self.folder);
        }
        loop {
            self.changed().await?;
            let files = self.read().await?;
            if self.last.as_ref() != Some(&files) {
                return assemble(self.last.insert(files), &self.folder);
            }
        }
    }
}

/// Reads until two readings in a row agree, so that no set is of two times.
fn steady(folder: &Path) -> Result<Files, SourceError> {
    let mut before = files(folder)?;
    for _ in 0..10 {
        let again = files(folder)?;
        if again == before {
            return Ok(again);
        }
        before = again;
    }
    Err(SourceError::Directory(format!("{}: the files change all the time", folder.display())))
}

fn files(folder: &Path) -> Result<Files, SourceError> {
    let mut found = Files::new();
    let wanted = |name: &str| {
        NAMES.iter().flatten().any(|known| *known == name) || name == REVOCATIONS || ends_in(name, "crl")
    };
    collect(folder, "", &wanted, &mut found)?;
    let federated = folder.join(FEDERATED);
    if federated.is_dir() {
        collect(&federated, "bundles/", &|name| ends_in(name, "pem") || ends_in(name, "crl"), &mut found)?;
    }
    Ok(found)
}

fn ends_in(name: &str, end: &str) -> bool {
    !name.starts_with('.') && Path::new(name).extension().is_some_and(|found| found == end)
}

fn collect(
    folder: &Path,
    prefix: &str,
    wanted: &dyn Fn(&str) -> bool,
    found: &mut Files,
) -> Result<(), SourceError> {
    let unreadable = |path: &Path, source| TlsError::File { file: path.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| wanted(name)) else {
            continue;
        };
        if found.len() >= MAX_FILES {
            let message = format!("{}: more than {MAX_FILES} files are no identity", folder.display());
            return Err(SourceError::Directory(message));
        }
        let bytes = bounded(&path).map_err(|error| unreadable(&path, error))?;
        found.insert(format!("{prefix}{name}"), bytes);
    }
    Ok(())
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Makes a set of what was read.
fn assemble(files: &Files, folder: &Path) -> Result<Set, SourceError> {
    let present: Vec<_> =
        NAMES.iter().filter(|names| names.iter().any(|name| files.contains_key(*name))).collect();
    let [[chain, key, bundle]] = present.as_slice() else {
        let what = if present.is_empty() { "no identity" } else { "an identity under two sets of names" };
        let names = NAMES.map(|names| names.join(", ")).join(" or ");
        return Err(SourceError::Directory(format!("{}: {what}; expected {names}", folder.display())));
    };
    let path = |name: &str| folder.join(name).display().to_string();
    let file = |name: &str| {
        let missing = || TlsError::File { file: path(name), source: io::ErrorKind::NotFound.into() };
        files.get(name).ok_or_else(missing)
    };
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all = CertificateDer::pem_slice_iter(file(name)?).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|source| TlsError::Pem { file: path(name), source })?;
        if all.is_empty() { Err(TlsError::Empty(path(name))) } else { Ok(all) }
    };
    let key_der = PrivateKeyDer::from_pem_slice(file(key)?)
        .map_err(|source| TlsError::Pem { file: path(key), source })?;
    let (mut federated, mut revocations) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let of_other = name.strip_prefix("bundles/").and_then(|name| name.rsplit_once('.'));
        match of_other {
            Some((domain, _)) if !is_trust_domain(domain) => {
                let message = format!("{}: {domain} is no trust domain", path(name));
                return Err(SourceError::Directory(message));
            }
            Some((domain, "pem")) => federated.push((domain.to_owned(), certificates(name)?)),
            Some((domain, _)) => revocations.push((domain.to_owned(), lists(bytes, &path(name))?)),
            None if name == REVOCATIONS || ends_in(name, "crl") => {
                revocations.push((String::new(), lists(bytes, &path(name))?));
            }
            None => {}
        }
    }
    let parts = Parts {
        chain: certificates(chain)?,
        key: key_der,
        bundle: certificates(bundle)?,
        federated,
        revocations,
    };
    Ok(Set::new(parts, clock::now().unix)?)
}
