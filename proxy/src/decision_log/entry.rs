//! Entries of the decision log: one line each, chained by hash, signed at checkpoints.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::decision_log::keys::{PublicKey, SigningKey};
use crate::telemetry::json::{self, Timestamp};
use crate::telemetry::record::Record;

/// The SHA-256 of an entry.
pub type Hash = [u8; 32];

/// The version of the format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// What is signed begins with these words, so that no signature made here means anything elsewhere.
const SIGNED: &[u8] = b"foregate decision log checkpoint 1\n";

const HASH_MARK: &[u8] = b",\"hash\":\"";
const SIGNATURE_MARK: &[u8] = b",\"signature\":\"";
/// Bytes of `,"hash":"<64 digits>"}`.
const TAIL: usize = HASH_MARK.len() + 64 + 2;

/// Where the chain stands: the next entry follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of the next entry, from 1.
    pub next: u64,
    /// Hash of the entry before; zeros at the very beginning.
    pub hash: Hash,
}

/// The first entry of every file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    pub format: u32,
    /// The same in all files of one chain.
    pub log: String,
    /// Number of the file, from 1.
    pub file: u64,
    pub after: After,
}

/// What stands before the first entry of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "lowercase", deny_unknown_fields)]
pub enum After {
    /// Nothing: the chain begins.
    Nothing,
    /// The file before was full.
    Rotation { file: u64 },
    /// The process was ended in order and started again.
    Restart { file: u64 },
    /// The file before ended without its closing checkpoint. The last entry that was found sound there is
    /// the one before this entry; `torn` bytes behind it are none.
    Recovery { file: u64, torn: u64, fault: Option<String> },
    /// The file before cannot be read, so that a new chain begins.
    Unreadable { file: u64, why: String },
}

/// Why a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// So many entries, or so much time, since the last.
    Interval,
    /// The file is full: nothing may follow in it.
    Rotation,
    /// The process ends: nothing may follow in it.
    End,
}

/// What an entry says.
#[derive(Debug)]
pub enum Content<'a> {
    Open(&'a Opening),
    Decision(&'a Record),
    /// So many decisions are missing here: the queue was full, or they could not be written.
    Gap(u64),
    Checkpoint(Occasion, Option<&'a SigningKey>),
}

impl Chain {
    pub const START: Self = Self { next: 1, hash: [0; 32] };

    /// Appends the next entry as a line, and steps on. A record that cannot be written leaves nothing behind.
    pub fn append(&mut self, at: Duration, content: &Content<'_>, lines: &mut Vec<u8>) -> bool {
        let start = lines.len();
        if self.write(at, content, lines, start).is_err() {
            lines.truncate(start);
            return false;
        }
        let hash = sha256(lines.get(start..).unwrap_or_default());
        lines.extend_from_slice(HASH_MARK);
        lines.extend_from_slice(hex(&hash).as_bytes());
        lines.extend_from_slice(b"\"}\n");
        *self = Self { next: self.next + 1, hash };
        true
    }

    fn write(
        self,
        at: Duration,
        content: &Content<'_>,
        lines: &mut Vec<u8>,
        start: usize,
    ) -> serde_json::Result<()> {
        let kind = content.kind();
        let head = format!(
            "{{\"seq\":{},\"prev\":\"{}\",\"at\":\"{}\",\"kind\":\"{kind}\",\"{kind}\":",
            self.next,
            hex(&self.hash),
            Timestamp(at)
        );
        lines.extend_from_slice(head.as_bytes());
        match content {
            Content::Open(opening) => json::write(opening, lines)?,
            Content::Decision(record) => json::write(record, lines)?,
            Content::Gap(dropped) => {
                lines.extend_from_slice(format!("{{\"dropped\":{dropped}}}").as_bytes());
            }
            Content::Checkpoint(occasion, key) => {
                lines.extend_from_slice(b"{\"occasion\":");
                json::write(occasion, lines)?;
                if let Some(key) = key {
                    lines.extend_from_slice(format!(",\"key\":\"{}\"", key.id()).as_bytes());
                    let signature = key.sign(&[SIGNED, lines.get(start..).unwrap_or_default()].concat());
                    lines.extend_from_slice(SIGNATURE_MARK);
                    lines.extend_from_slice(STANDARD.encode(signature).as_bytes());
                    lines.push(b'"');
                }
                lines.push(b'}');
            }
        }
        Ok(())
    }
}

impl Content<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Decision(_) => "decision",
            Self::Gap(_) => "gap",
            Self::Checkpoint(..) => "checkpoint",
        }
    }
}

/// An entry as it was found, its hash computed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub prev: Hash,
    /// As the line has it.
    pub claimed: Hash,
    /// As the line is.
    pub hash: Hash,
    pub kind: Found,
}

/// What an entry was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Open(Opening),
    Decision,
    Gap(u64),
    Checkpoint(Occasion, Signed),
}

/// How a checkpoint is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    No,
    /// By a key, and nobody asked whether the signature fits.
    Unchecked,
    Good,
    /// By the key that was given, and it does not fit.
    Bad,
    /// By a key of this id, which is not the one given.
    Other(String),
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    prev: String,
    open: Option<Opening>,
    gap: Option<Gap>,
    checkpoint: Option<Checkpoint>,
    decision: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Gap {
    dropped: u64,
}

#[derive(Deserialize)]
struct Checkpoint {
    occasion: Occasion,
    key: Option<String>,
    signature: Option<String>,
}

impl Entry {
    /// Reads a line without its end; `None` where it is no entry.
    pub fn parse(line: &[u8], key: Option<&PublicKey>) -> Option<Self> {
        let body = line.get(..line.len().checked_sub(TAIL)?)?;
        let claimed = line.get(body.len()..)?.strip_prefix(HASH_MARK)?.strip_suffix(b"\"}")?;
        // The members of the line are read from the very bytes that are hashed.
        let read: Line = serde_json::from_slice(&[body, b"}"].concat()).ok()?;
        let kind = match (read.open, read.gap, read.checkpoint, read.decision) {
            (Some(opening), None, None, None) => Found::Open(opening),
            (None, Some(gap), None, None) => Found::Gap(gap.dropped),
            (None, None, Some(checkpoint), None) => {
                Found::Checkpoint(checkpoint.occasion, signed(&checkpoint, body, key))
            }
            (None, None, None, Some(_)) => Found::Decision,
            _ => return None,
        };
        let claimed = unhex(claimed)?;
        Some(Self { seq: read.seq, prev: unhex(read.prev.as_bytes())?, claimed, hash: sha256(body), kind })
    }

    /// True where nothing may follow in the same file.
    pub fn closes(&self) -> bool {
        matches!(self.kind, Found::Checkpoint(Occasion::Rotation | Occasion::End, _))
    }
}

fn signed(checkpoint: &Checkpoint, body: &[u8], key: Option<&PublicKey>) -> Signed {
    let (Some(id), Some(signature)) = (&checkpoint.key, &checkpoint.signature) else { return Signed::No };
    let Some(key) = key else { return Signed::Unchecked };
    if *id != key.id() {
        return Signed::Other(id.chars().take(64).collect());
    }
    let tail = SIGNATURE_MARK.len() + signature.len() + 2;
    let message = body.len().checked_sub(tail).and_then(|end| body.get(..end)).unwrap_or_default();
    let signature = STANDARD.decode(signature).unwrap_or_default();
    if key.verifies(&[SIGNED, message].concat(), &signature) { Signed::Good } else { Signed::Bad }
}

pub fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |number: u8| char::from_digit(u32::from(number), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// 64 lower-case hexadecimal digits.
fn unhex(digits: &[u8]) -> Option<Hash> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::{After, Chain, Content, Entry, FORMAT, Found, Occasion, Opening, Signed};
    use crate::decision_log::keys::SigningKey;
    use crate::telemetry::testing::full_record;
    use std::time::Duration;

    const AT: Duration = Duration::from_secs(1_790_000_000);

    fn opening() -> Opening {
        Opening { format: FORMAT, log: "l".to_owned(), file: 1, after: After::Nothing }
    }

    #[test]
    fn what_is_appended_is_read_back_and_follows_from_what_was_before() {
        let (key, record, opening) = (SigningKey::generate().unwrap().0, full_record(), opening());
        let (mut chain, mut lines) = (Chain::START, Vec::new());
        for content in [
            Content::Open(&opening),
            Content::Decision(&record),
            Content::Gap(7),
            Content::Checkpoint(Occasion::Interval, None),
            Content::Checkpoint(Occasion::End, Some(&key)),
        ] {
            assert!(chain.append(AT, &content, &mut lines));
        }
        let public = key.public();
        let entries: Vec<Entry> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| Entry::parse(line, Some(&public)).unwrap())
            .collect();
        let mut before = [0; 32];
        for (entry, seq) in entries.iter().zip(1..) {
            assert_eq!((entry.seq, entry.prev, entry.hash), (seq, before, entry.claimed));
            before = entry.hash;
        }
        assert_eq!(chain, Chain { next: 6, hash: before });
        let kinds: Vec<Found> = entries.into_iter().map(|entry| entry.kind).collect();
        let signed = Found::Checkpoint(Occasion::End, Signed::Good);
        let unsigned = Found::Checkpoint(Occasion::Interval, Signed::No);
        assert_eq!(kinds, [Found::Open(opening), Found::Decision, Found::Gap(7), unsigned, signed]);
    }

    #[test]
    fn a_changed_line_has_another_hash_and_a_changed_checkpoint_no_signature() {
        let key = SigningKey::generate().unwrap().0;
        let mut lines = Vec::new();
        let mut chain = Chain { next: 9, hash: [7; 32] };
        chain.append(AT, &Content::Checkpoint(Occasion::End, Some(&key)), &mut lines);
        lines.pop();
        let text = String::from_utf8(lines).unwrap();
        let changed = text.replace("\"seq\":9", "\"seq\":8");
        let entry = Entry::parse(changed.as_bytes(), Some(&key.public())).unwrap();
        assert_ne!(entry.hash, entry.claimed);
        assert_eq!(entry.kind, Found::Checkpoint(Occasion::End, Signed::Bad));
        let other = SigningKey::generate().unwrap().0.public();
        let entry = Entry::parse(text.as_bytes(), Some(&other)).unwrap();
        assert_eq!(entry.kind, Found::Checkpoint(Occasion::End, Signed::Other(key.id().to_owned())));
        for nonsense in ["", "{}", "{\"seq\":1}", &text[1..], &text[..text.len() - 1]] {
            assert_eq!(Entry::parse(nonsense.as_bytes(), None), None, "{nonsense}");
        }
    }
}
