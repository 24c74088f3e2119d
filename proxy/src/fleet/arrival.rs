//! A change as it arrives, part by part, until it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use foregate_policy::files;
use foregate_policy::fleet::{Content, Document, PolicyResponse, Resource};
use sha2::{Digest, Sha256};

/// Largest sum of all files and documents of one change, in bytes.
const MAX_BYTES: u64 = 512 << 20;
/// Most resources of one change.
const MAX_RESOURCES: usize = 100_000;
/// Files whose names end so change without the policies.
pub const ENDPOINTS: &str = ".endpoints";
/// Longest path, in bytes.
const MAX_PATH: usize = 1024;

/// What arrived is not what was announced, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    #[error("`{0}` is no path below the policies")]
    Path(String),
    #[error("`{0}` is not what its digest says")]
    Digest(String),
    #[error("`{0}` does not come in order")]
    Order(String),
    #[error("the change is larger than is taken")]
    Large,
    #[error("it cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// A resource that has arrived.
#[derive(Debug)]
pub enum Arrived {
    Document {
        version: String,
        document: Document,
    },
    /// Its content lies in a file of its own until it is put where it belongs.
    File {
        version: String,
        size: u64,
        spool: PathBuf,
    },
}

/// All that a change says.
#[derive(Debug, Default)]
pub struct Change {
    pub revision: String,
    pub changed: BTreeMap<String, Arrived>,
    pub removed: Vec<String>,
}

impl Change {
    /// Files of endpoints, by name, and where they lie for now.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.changed.iter().filter_map(|(name, arrived)| match arrived {
            Arrived::File { spool, .. } if name.ends_with(ENDPOINTS) => {
                Some((name.as_str(), spool.as_path()))
            }
            _ => None,
        })
    }
}

/// A file that is not whole yet.
#[derive(Debug)]
struct Open {
    resource: String,
    version: String,
    size: u64,
    written: u64,
    digest: Sha256,
    spool: PathBuf,
    file: File,
}

/// Collects the parts of one change.
#[derive(Debug)]
pub struct Arrival {
    folder: PathBuf,
    change: Change,
    open: Option<Open>,
    bytes: u64,
    files: usize,
}

impl Arrival {
    /// Files are collected in `folder`, which is emptied.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        files::make_folder(&folder)?;
        Ok(Self { folder, change: Change::default(), open: None, bytes: 0, files: 0 })
    }

    /// Takes one part.
    ///
    /// # Errors
    /// What is wrong with it; the change cannot be taken then.
    pub fn take(&mut self, part: PolicyResponse) -> Result<(), ArrivalError> {
        self.change.revision = part.revision;
        for name in part.removed {
            self.change.removed.push(name);
        }
        for resource in part.changed {
            self.resource(resource)?;
        }
        if self.change.changed.len() + self.change.removed.len() > MAX_RESOURCES || self.bytes > MAX_BYTES {
            return Err(ArrivalError::Large);
        }
        Ok(())
    }

    fn resource(&mut self, resource: Resource) -> Result<(), ArrivalError> {
        match resource.content {
            Some(Content::Document(document)) => {
                let Document { path, line, text } = &document;
                self.bytes += (path.len() + text.len()) as u64;
                if !is_way(path) || *line == 0 {
                    return Err(ArrivalError::Path(document.path));
                }
                if document_version(&document) != resource.version {
                    return Err(ArrivalError::Digest(resource.name));
                }
                let arrived = Arrived::Document { version: resource.version, document };
                self.change.changed.insert(resource.name, arrived);
                Ok(())
            }
            Some(Content::File(piece)) => {
                let head = (resource.name, resource.version, resource.offset, resource.size);
                self.piece(head, &piece)
            }
            None => Err(ArrivalError::Order(resource.name)),
        }
    }

    fn piece(
        &mut self,
        (name, version, offset, size): (String, String, u64, u64),
        piece: &Bytes,
    ) -> Result<(), ArrivalError> {
        self.bytes += piece.len() as u64;
        if self.bytes > MAX_BYTES || size > MAX_BYTES {
            return Err(ArrivalError::Large);
        }
        if !is_way(&name) {
            return Err(ArrivalError::Path(name));
        }
        if offset == 0 {
            if self.open.is_some() {
                return Err(ArrivalError::Order(name));
            }
            let spool = self.folder.join(self.files.to_string());
            self.files += 1;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&spool)?;
            let digest = Sha256::new();
            self.open = Some(Open { resource: name.clone(), version, size, written: 0, digest, spool, file });
        }
        let Some(open) = self.open.as_mut().filter(|open| open.resource == name && open.written == offset)
        else {
            return Err(ArrivalError::Order(name));
        };
        open.file.write_all(piece)?;
        open.digest.update(piece);
        open.written += piece.len() as u64;
        if open.written < open.size {
            return Ok(());
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        let digest = hex(&open.digest.finalize());
        if open.written != open.size || digest != open.version {
            return Err(ArrivalError::Digest(name));
        }
        let arrived = Arrived::File { version: open.version, size: open.size, spool: open.spool };
        self.change.changed.insert(name, arrived);
        Ok(())
    }

    /// The whole change, once its last part was taken.
    ///
    /// # Errors
    /// Where a file is not whole.
    pub fn finish(self) -> Result<Change, ArrivalError> {
        match self.open {
            Some(open) => Err(ArrivalError::Order(open.resource)),
            None => Ok(self.change),
        }
    }
}

/// The version of a document: where it stands is part of what it says.
pub fn document_version(document: &Document) -> String {
    let Document { path, line, text } = document;
    hex(&Sha256::digest(format!("{path}\n{line}\n{text}")))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Where it cannot be read.
pub fn file_version(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(buffer.get(..length).unwrap_or_default());
    }
}

/// Small hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// True for a relative path without hidden parts, that leads nowhere else.
fn is_way(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
    path.len() <= MAX_PATH && !path.is_empty() && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use foregate_policy::fleet::{Content, Document, PolicyResponse, Resource};
    use sha2::{Digest, Sha256};

    use super::{Arrival, ArrivalError, Arrived, document_version, hex};

    fn piece(name: &str, whole: &[u8], from: usize, to: usize) -> Resource {
        Resource {
            name: name.to_owned(),
            version: hex(&Sha256::digest(whole)),
            content: Some(Content::File(Bytes::copy_from_slice(&whole[from..to]))),
            offset: from as u64,
            size: whole.len() as u64,
        }
    }

    fn part(changed: Vec<Resource>) -> PolicyResponse {
        PolicyResponse { revision: "r".to_owned(), changed, ..PolicyResponse::default() }
    }

    #[test]
    fn a_file_in_pieces_is_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole: Vec<u8> = (0..200).collect();
        let mut arrival = Arrival::new(folder.path().join("incoming")).unwrap();
        arrival.take(part(vec![piece("a/b", &whole, 0, 120)])).unwrap();
        arrival.take(part(vec![piece("a/b", &whole, 120, 200)])).unwrap();
        let change = arrival.finish().unwrap();
        let Arrived::File { spool, size: 200, .. } = &change.changed["a/b"] else { panic!("{change:?}") };
        assert_eq!(std::fs::read(spool).unwrap(), whole);
        let refused = |parts: Vec<Resource>| {
            let mut arrival = Arrival::new(folder.path().join("incoming")).unwrap();
            arrival.take(part(parts)).and_then(|()| arrival.finish().map(drop)).unwrap_err().to_string()
        };
        assert!(refused(vec![piece("a", &whole, 0, 100)]).contains("in order"));
        assert!(refused(vec![piece("a", &whole, 0, 100), piece("a", &whole, 150, 200)]).contains("in order"));
        assert!(refused(vec![piece("a", &whole, 0, 100), piece("b", &whole, 0, 200)]).contains("in order"));
        let forged = Resource { version: "0".repeat(64), ..piece("a", &whole, 0, 200) };
        assert!(refused(vec![forged]).contains("digest"));
    }

    #[test]
    fn paths_stay_below_the_policies() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".manifest", "a/.b", "a\\b"] {
            let mut arrival = Arrival::new(folder.path().join("incoming")).unwrap();
            let file = piece(path, b"x", 0, 1);
            assert!(matches!(arrival.take(part(vec![file])), Err(ArrivalError::Path(_))), "{path}");
            let document = Document { path: path.to_owned(), line: 1, text: "a: 1".to_owned() };
            let document = Resource {
                name: "x".to_owned(),
                version: document_version(&document),
                content: Some(Content::Document(document)),
                ..Resource::default()
            };
            assert!(matches!(arrival.take(part(vec![document])), Err(ArrivalError::Path(_))), "{path}");
        }
    }
}
