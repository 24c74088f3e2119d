//! How far a run came, beside its output, so that it can be resumed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Tally;
use super::rows::Place;
use crate::bundle::hex;
use crate::put::put;

/// The form of the file.
const VERSION: u32 = 1;
/// Bytes of the file at most.
const MAX_SIZE: u64 = 64 << 10;

/// What belongs together: the same run of the same bundle over the same input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    version: u32,
    /// Digest of the manifest, which has those of the other files.
    pub bundle: String,
    pub format: String,
    /// The moment that dates are held against, in microseconds since the Unix epoch.
    pub now: u64,
    /// Bytes and lines of the input that were scored, and their digest.
    input: u64,
    line: u64,
    sha256: String,
    /// Bytes of the output that belong to them.
    pub output: u64,
    pub rows: u64,
    pub bad: u64,
}

/// Why a run cannot be resumed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", .file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("{}: it is no checkpoint of this version", .0.display())]
    Malformed(PathBuf),
    #[error("{}: the input is not the one that was scored so far", .0.display())]
    Input(PathBuf),
}

/// Where the checkpoint of an output lies.
pub fn beside(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".checkpoint");
    name.into()
}

impl Checkpoint {
    pub fn new(bundle: &str, format: &str, now: u64) -> Self {
        Self {
            version: VERSION,
            bundle: bundle.to_owned(),
            format: format.to_owned(),
            now,
            input: 0,
            line: 0,
            sha256: String::new(),
            output: 0,
            rows: 0,
            bad: 0,
        }
    }

    /// The same run, further on.
    pub fn at(&self, place: &Place, output: u64, tally: Tally) -> Self {
        Self {
            input: place.offset,
            line: place.line,
            sha256: hex(&place.digest.clone().finalize()),
            output,
            rows: tally.rows,
            bad: tally.bad,
            ..self.clone()
        }
    }

    /// Reads a checkpoint; `None` where there is none.
    pub fn read(file: &Path) -> Result<Option<Self>, CheckpointError> {
        let fault = |source| CheckpointError::File { file: file.to_owned(), source };
        let opened = match File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        let mut text = Vec::new();
        opened.take(MAX_SIZE).read_to_end(&mut text).map_err(fault)?;
        let read: Option<Self> = serde_json::from_slice(&text).ok();
        let malformed = || CheckpointError::Malformed(file.to_owned());
        read.filter(|read| read.version == VERSION).map(Some).ok_or_else(malformed)
    }

    /// Writes it in one step: a crash leaves this one or the one before.
    pub fn write(&self, file: &Path) -> Result<(), CheckpointError> {
        let fault = |source| CheckpointError::File { file: file.to_owned(), source };
        let mut fresh = file.as_os_str().to_owned();
        fresh.push(".new");
        let text = serde_json::to_vec(self).map_err(|error| fault(error.into()))?;
        fs::write(&fresh, &text).and_then(|()| put(fresh.as_ref(), file)).map_err(fault)
    }

    /// Reads the input up to where the run came, and makes sure that it is what was scored.
    pub fn resume(&self, input: &mut File, path: &Path) -> Result<Place, CheckpointError> {
        let fault = |source| CheckpointError::File { file: path.to_owned(), source };
        let mut digest = Sha256::new();
        if self.input > 0 {
            let mut head = Read::by_ref(input).take(self.input);
            let mut buffer = vec![0; 256 << 10];
            loop {
                let count = head.read(&mut buffer).map_err(fault)?;
                if count == 0 {
                    break;
                }
                digest.update(buffer.get(..count).unwrap_or_default());
            }
            if hex(&digest.clone().finalize()) != self.sha256 {
                return Err(CheckpointError::Input(path.to_owned()));
            }
        }
        Ok(Place { offset: self.input, line: self.line, digest })
    }
}
