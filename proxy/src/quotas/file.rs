//! The file that quotas are kept in, and its format.

use foregate_filters::rate_limit::calendar::Period;
use foregate_filters::rate_limit::windows::{Window, Windows};
use sha2::{Digest, Sha256};

/// The format, and its version.
const MAGIC: &[u8; 16] = b"foregate quota 1";
/// Bytes of the digest at the end.
const DIGEST: usize = 32;
/// Longest name of a quota or of a time zone.
const MAX_NAME: usize = 1_024;

/// A quota: its name, and whose calendar it is counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// `policy/rule`.
    pub name: String,
    pub period: Period,
    pub zone: String,
}

/// A key by both halves of its salted hash, and what it has used.
pub type Entry = ([u64; 2], Windows);

/// Everything that a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Keys are hashed with it: a file names nobody.
    pub salt: [u8; 16],
    /// The process that wrote it.
    pub writer: [u8; 16],
    pub quotas: Vec<(Id, Vec<Entry>)>,
}

impl State {
    /// Bytes that it takes in a file.
    pub fn length(&self) -> u64 {
        let quota = |(id, entries): &(Id, Vec<Entry>)| {
            // Three numbers and the letter of the period.
            3 * size_of::<u32>() + 1 + id.name.len() + id.zone.len() + entries.len() * size_of::<Entry>()
        };
        let head = MAGIC.len() + self.salt.len() + self.writer.len() + size_of::<u32>();
        (head + self.quotas.iter().map(quota).sum::<usize>() + DIGEST) as u64
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(self.length()).unwrap_or_default());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.writer);
        number(&mut out, self.quotas.len());
        for (id, entries) in &self.quotas {
            text(&mut out, &id.name);
            out.push(match id.period {
                Period::Day => b'd',
                Period::Month => b'm',
            });
            text(&mut out, &id.zone);
            number(&mut out, entries.len());
            for ([one, two], windows) in entries {
                out.extend_from_slice(&one.to_le_bytes());
                out.extend_from_slice(&two.to_le_bytes());
                for window in windows {
                    out.extend_from_slice(&window.start.to_le_bytes());
                    out.extend_from_slice(&window.used.to_le_bytes());
                }
            }
        }
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// What such bytes hold; why they are refused otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (content, digest) = bytes
            .len()
            .checked_sub(DIGEST)
            .and_then(|end| bytes.split_at_checked(end))
            .ok_or("it is cut off")?;
        let mut rest =
            content.strip_prefix(MAGIC).ok_or("it is no file of quotas, or one of another version")?;
        if Sha256::digest(content).as_slice() != digest {
            return Err("it is damaged: its digest is another");
        }
        Self::read(&mut rest).filter(|_| rest.is_empty()).ok_or("it is damaged")
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        let (salt, writer) = (take(rest)?, take(rest)?);
        let mut quotas = Vec::new();
        for _ in 0..u32::from_le_bytes(take(rest)?) {
            let name = name(rest)?;
            let period = match take::<1>(rest)? {
                [b'd'] => Period::Day,
                [b'm'] => Period::Month,
                _ => return None,
            };
            let id = Id { name, period, zone: self::name(rest)? };
            let mut entries = Vec::new();
            for _ in 0..u32::from_le_bytes(take(rest)?) {
                entries.push(entry(rest)?);
            }
            quotas.push((id, entries));
        }
        Some(Self { salt, writer, quotas })
    }
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn name(rest: &mut &[u8]) -> Option<String> {
    let length =
        usize::try_from(u32::from_le_bytes(take(rest)?)).ok().filter(|length| *length <= MAX_NAME)?;
    let (name, left) = rest.split_at_checked(length)?;
    *rest = left;
    String::from_utf8(name.to_vec()).ok()
}

fn entry(rest: &mut &[u8]) -> Option<Entry> {
    let key = [u64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?)];
    let mut window = || {
        let start = u32::from_le_bytes(take(rest)?);
        Some(Window { start, used: u32::from_le_bytes(take(rest)?) })
    };
    Some((key, [window()?, window()?]))
}

#[cfg(test)]
mod tests {
    use foregate_filters::rate_limit::calendar::Period;
    use foregate_filters::rate_limit::windows::Window;

    use super::{Id, State};

    fn state() -> State {
        let id = Id { name: "crm/daily".into(), period: Period::Month, zone: "Europe/Berlin".into() };
        let windows = [Window { start: 29_000_000, used: 17 }, Window { start: 28_998_560, used: 3 }];
        let empty = Id { name: "crm/other".into(), period: Period::Day, zone: "UTC".into() };
        State {
            salt: [7; 16],
            writer: [9; 16],
            quotas: vec![(id, vec![([1, u64::MAX], windows); 3]), (empty, Vec::new())],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = state().encode();
        assert_eq!(State::decode(&bytes), Ok(state()));
        assert_eq!(bytes.len() as u64, state().length());
    }

    #[test]
    fn every_other_byte_or_length_is_refused() {
        let bytes = state().encode();
        for length in 0..bytes.len() {
            assert!(State::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 0x10;
            assert!(State::decode(&other).is_err(), "byte {place}");
        }
        assert!(State::decode(b"GIF89a, and then far more than a digest would be long").is_err());
    }
}
