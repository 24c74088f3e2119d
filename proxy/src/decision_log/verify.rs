//! Proves a decision log, or says what was done to it and where.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::decision_log::CAPACITY;
use crate::decision_log::entry::{After, Entry, FORMAT, Found, Hash, Opening, Signed};
use crate::decision_log::keys::{PublicKey, SealKey};
use crate::decision_log::reader::{Ending, Piece, ReadError, read};
use crate::decision_log::writer::SIGN_EVERY;

/// Most problems told of one log: what comes behind them follows from them as a rule.
const MAX_PROBLEMS: usize = 100;

/// What the files are read and proven with.
#[derive(Debug, Default)]
pub struct Keys {
    pub seal: Option<SealKey>,
    pub public: Option<PublicKey>,
}

/// What was done to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// An entry, frame or checkpoint is not as it was written.
    Changed,
    Removed,
    Reordered,
    Inserted,
    /// The end is missing.
    Truncated,
    WrongKey,
    /// No checkpoint is signed.
    SignatureMissing,
    /// The file cannot be read.
    Unreadable,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub wrong: Wrong,
    pub file: String,
    /// Line of the text, sealed or not, from 1; 0 for the file as a whole.
    pub line: u64,
    /// Sequence number, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    pub message: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub files: usize,
    pub entries: u64,
    pub decisions: u64,
    /// Decisions that the log itself says are missing.
    pub dropped: u64,
    pub checkpoints: u64,
    /// Of them, how many bear a signature that fits.
    pub signed: u64,
    /// First and last sequence number.
    pub first: u64,
    pub last: u64,
    pub problems: Vec<Problem>,
    /// What is worth knowing and nobody's fault.
    pub notes: Vec<String>,
}

/// An entry of a file, or what stands in its place.
#[derive(Debug)]
struct Seen {
    line: u64,
    /// `None` where it is no entry, or could not be opened.
    entry: Option<Entry>,
}

#[derive(Debug)]
struct Scanned {
    path: PathBuf,
    seen: Vec<Seen>,
    ending: Ending,
}

/// Entries that may follow the last signature of a file that is still written: what is signed at once, and what
/// may be written with it.
const MAX_UNCOVERED: u64 = SIGN_EVERY + CAPACITY as u64;

/// Where the walk through all files stands.
#[derive(Debug, Default)]
struct Walk {
    report: Report,
    next: Option<(u64, Hash)>,
    known: HashSet<u64>,
    log: String,
    /// What was before is not as it was written: the next entry need not follow from it.
    lenient: bool,
    /// The last entry closes its file; set at the end of each.
    closed: bool,
    /// Entries behind the last checkpoint whose signature fits.
    uncovered: u64,
    /// There is a key to prove signatures with: what none covers may be anybody's.
    proving: bool,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Truncated => "truncated",
            Self::WrongKey => "wrong key",
            Self::SignatureMissing => "signature missing",
            Self::Unreadable => "unreadable",
        })
    }
}

/// Proves files of one log, in whatever order they are given. `open`: the last file may still be written.
pub fn verify(paths: &[PathBuf], keys: &Keys, open: bool) -> Report {
    let mut walk = Walk { proving: keys.public.is_some(), ..Walk::default() };
    let mut files = Vec::new();
    for path in paths {
        match scan(path, keys) {
            Ok(scanned) => files.push(scanned),
            Err(error) => {
                let wrong =
                    if matches!(error, ReadError::OtherKey(_)) { Wrong::WrongKey } else { Wrong::Unreadable };
                walk.problem(wrong, path, 0, None, error.to_string());
            }
        }
    }
    files.sort_by_key(|file| (file.number(), file.first()));
    for (index, file) in files.iter().enumerate() {
        walk.file(file);
        let next = files.get(index + 1);
        walk.end(file, next, open && next.is_none());
    }
    walk.report
}

fn scan(path: &Path, keys: &Keys) -> Result<Scanned, ReadError> {
    let mut seen = Vec::new();
    let mut line = 0;
    let ending = read(path, keys.seal.as_ref(), &mut |piece| {
        line += 1;
        let entry = match piece {
            Piece::Line(text) => Entry::parse(text, keys.public.as_ref()),
            Piece::Closed { .. } => None,
        };
        seen.push(Seen { line, entry });
    })?;
    Ok(Scanned { path: path.to_owned(), seen, ending })
}

impl Scanned {
    fn opening(&self) -> Option<&Opening> {
        self.seen.first().and_then(|seen| seen.entry.as_ref()).and_then(|entry| match &entry.kind {
            Found::Open(opening) => Some(opening),
            _ => None,
        })
    }

    /// By its opening entry; files without one come last.
    fn number(&self) -> u64 {
        self.opening().map_or(u64::MAX, |opening| opening.file)
    }

    fn first(&self) -> u64 {
        self.seen.iter().find_map(|seen| seen.entry.as_ref()).map_or(u64::MAX, |entry| entry.seq)
    }
}

impl Walk {
    fn problem(
        &mut self,
        wrong: Wrong,
        path: &Path,
        line: u64,
        sequence: Option<u64>,
        message: impl Into<String>,
    ) {
        if self.report.problems.len() < MAX_PROBLEMS {
            let (file, message) = (path.display().to_string(), message.into());
            self.report.problems.push(Problem { wrong, file, line, sequence, message });
        }
    }

    fn file(&mut self, file: &Scanned) {
        self.report.files += 1;
        self.opening(file);
        self.closed = false;
        let later: HashSet<u64> =
            file.seen.iter().filter_map(|seen| seen.entry.as_ref()).map(|entry| entry.seq).collect();
        let before = (self.report.signed, self.report.problems.len());
        for seen in &file.seen {
            if let Some(entry) = &seen.entry {
                self.entry(file, seen.line, entry, &later);
            } else {
                let sequence = self.next.map(|(next, _)| next);
                self.problem(Wrong::Changed, &file.path, seen.line, sequence, "this is no entry any more");
                self.lenient = true;
            }
        }
        let unsigned = self.report.signed == before.0 && self.report.problems.len() == before.1;
        if self.proving && unsigned && self.closed {
            let message = "no checkpoint of this file is signed: anybody could have written it";
            self.problem(Wrong::SignatureMissing, &file.path, 0, None, message);
        }
    }

    fn opening(&mut self, file: &Scanned) {
        let Some(opening) = file.opening() else {
            if !file.seen.is_empty() && file.seen.first().is_some_and(|seen| seen.entry.is_some()) {
                self.problem(Wrong::Removed, &file.path, 1, None, "the opening entry of the file is missing");
            }
            return;
        };
        let path = file.path.display();
        if opening.format != FORMAT {
            let message = format!("format {} is not known here", opening.format);
            self.problem(Wrong::Unreadable, &file.path, 1, None, message);
        }
        match &opening.after {
            After::Unreadable { file: number, why } => {
                let why: String = why.chars().take(200).collect();
                self.report
                    .notes
                    .push(format!("{path}: a new chain: file {number} could not be read ({why})"));
            }
            After::Recovery { file: number, torn, fault } => {
                let sequence = file.first().saturating_sub(1);
                let torn = if *torn > 0 { format!(", {torn} bytes behind it torn") } else { String::new() };
                let fault: String = fault.iter().flat_map(|fault| fault.chars().take(200)).collect();
                let fault = if fault.is_empty() { fault } else { format!("; {fault}") };
                let note =
                    format!("{path}: file {number} ended uncleanly behind sequence {sequence}{torn}{fault}");
                self.report.notes.push(note);
            }
            After::Nothing | After::Rotation { .. } | After::Restart { .. } => {}
        }
        if self.log != opening.log {
            if self.next.is_none() && file.first() > 1 {
                self.report.notes.push(format!("{path}: begins at sequence {}", file.first()));
            } else if self.next.is_some()
                && !matches!(opening.after, After::Unreadable { .. } | After::Nothing)
            {
                self.problem(Wrong::Inserted, &file.path, 1, None, "the file belongs to another log");
            }
            // Another chain has numbers of its own.
            (self.next, self.lenient) = (None, false);
            self.known.clear();
            self.log.clone_from(&opening.log);
        }
    }

    fn entry(&mut self, file: &Scanned, line: u64, entry: &Entry, later: &HashSet<u64>) {
        let at = (&*file.path, line, Some(entry.seq));
        let (next, hash) = self.next.unwrap_or((entry.seq, entry.prev));
        let lenient = std::mem::take(&mut self.lenient);
        if self.closed {
            self.problem(Wrong::Inserted, at.0, at.1, at.2, "it stands behind the closing checkpoint");
            return;
        }
        if entry.seq < next {
            let (wrong, message) = if self.known.contains(&entry.seq) {
                (Wrong::Inserted, "there is an entry of this number already")
            } else {
                (Wrong::Reordered, "it stands behind entries that came later")
            };
            self.lenient = lenient;
            return self.problem(wrong, at.0, at.1, at.2, message);
        }
        // One that is no entry any more may have been the one that is missing.
        let missing = if lenient { next + 1..entry.seq } else { next..entry.seq };
        if let Some(first) = missing.clone().next() {
            let list = if entry.seq - first == 1 {
                format!("entry {first} is missing before it")
            } else {
                format!("entries {first} to {} are missing before it", entry.seq - 1)
            };
            if !missing.clone().all(|seq| later.contains(&seq)) {
                self.problem(Wrong::Removed, at.0, at.1, at.2, list);
            }
        } else if !lenient && entry.prev != hash {
            self.problem(Wrong::Inserted, at.0, at.1, at.2, "it does not follow from the entry before it");
        }
        if entry.hash != entry.claimed {
            self.problem(Wrong::Changed, at.0, at.1, at.2, "its content does not have its hash");
            self.lenient = true;
        }
        self.known.insert(entry.seq);
        self.next = Some((entry.seq + 1, entry.claimed));
        self.count(file, line, entry);
    }

    fn count(&mut self, file: &Scanned, line: u64, entry: &Entry) {
        if self.report.entries == 0 {
            self.report.first = entry.seq;
        }
        (self.report.entries, self.report.last) = (self.report.entries + 1, entry.seq);
        self.uncovered += 1;
        self.closed = entry.closes();
        match &entry.kind {
            Found::Open(_) => {}
            Found::Decision => self.report.decisions += 1,
            Found::Gap(dropped) => self.report.dropped = self.report.dropped.saturating_add(*dropped),
            Found::Checkpoint(_, signed) => {
                self.report.checkpoints += 1;
                let (path, sequence) = (&*file.path, Some(entry.seq));
                match signed {
                    Signed::Good => (self.report.signed, self.uncovered) = (self.report.signed + 1, 0),
                    Signed::No | Signed::Unchecked => {}
                    Signed::Bad => {
                        let message = "the signature does not fit: entries before it are not what was signed";
                        self.problem(Wrong::Changed, path, line, sequence, message);
                    }
                    Signed::Other(id) => {
                        let message = format!("the checkpoint is signed by another key, {id}");
                        self.problem(Wrong::WrongKey, path, line, sequence, message);
                    }
                }
            }
        }
    }

    /// The end of a file: closed, stated by the next file, or cut.
    fn end(&mut self, file: &Scanned, next: Option<&Scanned>, open: bool) {
        let path = file.path.display();
        if file.ending.torn > 0 {
            let torn = file.ending.torn;
            self.report
                .notes
                .push(format!("{path}: the last {torn} bytes are half an entry: an unclean end"));
        }
        let last = self.next.map_or(0, |(next, _)| next.saturating_sub(1));
        let allowed = if self.closed { 0 } else { MAX_UNCOVERED };
        // Where something is wrong before it, that is why.
        let told =
            self.report.problems.last().is_some_and(|one| *one.file == *file.path.display().to_string());
        if self.proving && self.uncovered > allowed && (self.closed || open) && !told {
            let message =
                format!("no signature covers the last {} entries: they may be anybody's", self.uncovered);
            self.problem(Wrong::SignatureMissing, &file.path, 0, Some(last), message);
        }
        if self.closed {
            return;
        }
        let stated = next.and_then(Scanned::opening).is_some_and(|opening| {
            matches!(opening.after, After::Recovery { .. } | After::Unreadable { .. })
        });
        // Where entries between this file and the next are missing, that is told there.
        if stated || next.is_some_and(|next| next.first() > last + 1) {
            return;
        }
        if open {
            if self.report.signed > 0 && self.uncovered > 0 {
                let note = format!("{path}: no signature covers the last {} entries yet", self.uncovered);
                self.report.notes.push(note);
            }
            self.report.notes.push(format!("{path}: still open behind sequence {last}"));
        } else {
            let message = "no closing checkpoint: cut, ended uncleanly, or still being written (see --open)";
            self.problem(Wrong::Truncated, &file.path, 0, Some(last), message);
        }
    }
}
