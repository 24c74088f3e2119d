//! The files of a decision log: the one that is written, and those before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::decision_log::entry::{After, Chain, Entry, Found};
use crate::decision_log::keys::SealKey;
use crate::decision_log::reader::{Piece, read};

/// What entries are written to. In tests it fails and stalls at will.
pub trait Disk: Send {
    /// Writes all of it, or fails.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to this length, and goes on from there.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Disk for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Makes a file that does not exist yet, for its owner alone, and locks it.
pub fn create(path: &Path) -> io::Result<Box<dyn Disk>> {
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    file.try_lock().map_err(|_| io::Error::other("another process writes it"))?;
    Ok(Box::new(file))
}

/// Where the files before this one left off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub log: Option<String>,
    pub chain: Chain,
    /// Number of the next file.
    pub next_file: u64,
    pub after: After,
    /// Decisions found from the sequence number on that was asked about.
    pub decisions: u64,
    /// Missing decisions that gap records tell of, from the same number on.
    pub told: u64,
}

/// The path of a file that is full.
pub fn numbered(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:06}"));
    name.into()
}

/// Numbers of all full files, ascending.
pub fn numbers(path: &Path) -> io::Result<Vec<u64>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let found = entry?.file_name().to_string_lossy().into_owned();
        let number = found.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
        numbers
            .extend(number.filter(|digits| digits.len() >= 6).and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes the oldest full files, so that `keep` are left.
pub fn prune(path: &Path, keep: usize) -> io::Result<()> {
    let numbers = numbers(path)?;
    let surplus = numbers.len().saturating_sub(keep);
    numbers.iter().take(surplus).try_for_each(|number| fs::remove_file(numbered(path, *number)))
}

/// Puts the file of an earlier run aside, and finds where it left off.
///
/// # Errors
/// Where another process still writes it, or it cannot be moved.
pub fn take_over(path: &Path, key: Option<&SealKey>) -> io::Result<Left> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && !folder.is_dir()
    {
        let message = format!("{} is no folder: make it first, readable by nobody else", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let numbers = numbers(path)?;
    let highest = numbers.last().copied().unwrap_or(0);
    let left = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is not a regular file")),
        Ok(metadata) if metadata.len() == 0 => {
            fs::remove_file(path)?;
            None
        }
        Ok(_) => {
            OpenOptions::new()
                .append(true)
                .open(path)?
                .try_lock()
                .map_err(|_| io::Error::other("another process writes it"))?;
            let left = left_by(path, key, highest + 1, u64::MAX);
            let number = left.next_file.saturating_sub(1);
            let number = if numbers.contains(&number) { highest + 1 } else { number };
            fs::rename(path, numbered(path, number))?;
            Some(Left { next_file: number.max(highest) + 1, ..left })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(match left {
        Some(left) => left,
        None if highest > 0 => left_by(&numbered(path, highest), key, highest, u64::MAX),
        None => Left::behind(After::Nothing, 0),
    })
}

impl Left {
    /// Nothing of the file of this number is known: a new chain begins.
    fn behind(after: After, number: u64) -> Self {
        let next_file = number + 1;
        Self { log: None, chain: Chain::START, next_file, after, decisions: 0, told: 0 }
    }
}

/// Where this file left off; `number` is its number where it does not say it itself. Counts what it holds
/// from the sequence number `from` on.
pub fn left_by(path: &Path, key: Option<&SealKey>, number: u64, from: u64) -> Left {
    let mut sound = Sound { from, ..Sound::default() };
    let ending = read(path, key, &mut |piece| sound.take(&piece));
    let unreadable = |why: String| Left::behind(After::Unreadable { file: number, why }, number);
    let ending = match ending {
        Ok(ending) => ending,
        Err(error) => return unreadable(error.to_string()),
    };
    let Some((log, file, chain)) = sound.opened else {
        return unreadable(sound.fault.unwrap_or_else(|| "it holds no entry".to_owned()));
    };
    let after = if sound.closed && sound.fault.is_none() && ending.torn == 0 {
        After::Restart { file }
    } else {
        After::Recovery { file, torn: ending.torn, fault: sound.fault }
    };
    let (decisions, told) = (sound.decisions, sound.told);
    Left { log: Some(log), chain, next_file: file + 1, after, decisions, told }
}

/// The entries of one file that follow from each other, from its first on.
#[derive(Debug, Default)]
struct Sound {
    /// The chain's name, the file's number, and where the chain stands behind the last sound entry.
    opened: Option<(String, u64, Chain)>,
    closed: bool,
    fault: Option<String>,
    from: u64,
    decisions: u64,
    told: u64,
}

impl Sound {
    fn take(&mut self, piece: &Piece<'_>) {
        if self.fault.is_some() {
            return;
        }
        let next = self.opened.as_ref().map_or(0, |(_, _, chain)| chain.next);
        let Piece::Line(line) = piece else {
            self.fault = Some(format!("sequence {next} cannot be opened"));
            return;
        };
        let entry = Entry::parse(line, None).filter(|entry| entry.hash == entry.claimed);
        let follows = |entry: &Entry| match &self.opened {
            None => true,
            Some((_, _, chain)) => entry.seq == chain.next && entry.prev == chain.hash && !self.closed,
        };
        let Some(entry) = entry.filter(follows) else {
            self.fault = Some(format!("sequence {next} does not follow"));
            return;
        };
        self.closed = entry.closes();
        match entry.kind {
            Found::Decision if entry.seq >= self.from => self.decisions += 1,
            Found::Gap(missing) if entry.seq >= self.from => self.told += missing,
            _ => {}
        }
        let chain = Chain { next: entry.seq + 1, hash: entry.hash };
        match (&mut self.opened, entry.kind) {
            (Some((_, _, stands)), _) => *stands = chain,
            (opened, Found::Open(opening)) => *opened = Some((opening.log, opening.file, chain)),
            (None, _) => self.fault = Some("it does not begin with its opening entry".to_owned()),
        }
    }
}
