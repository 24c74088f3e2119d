//! What stands in a store under an idempotency key.

use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::idempotency::answer::Answer;
use foregate_filters::idempotency::ledger::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The first byte: what follows it may change with a later version.
const VERSION: u8 = 1;

const RUNNING: u8 = b'R';
const DONE: u8 = b'D';
const SPENT: u8 = b'S';

/// One entry, as it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A request with this fingerprint is being carried out.
    Running(Digest),
    /// It was carried out; `None` where its answer is not kept.
    Done(Digest, Option<Arc<Answer>>),
}

/// The entry of a run; `run` tells it from all others.
pub fn running(fingerprint: &Digest, run: u128) -> Vec<u8> {
    [&[VERSION, RUNNING], &fingerprint[..], &run.to_be_bytes()].concat()
}

/// The entry of what was carried out: fingerprint, status, number of fields, each name and value with its length in
/// front, body. Lengths are of two bytes, the highest first.
pub fn done(fingerprint: &Digest, answer: Option<&Answer>) -> Vec<u8> {
    let Some(answer) = answer else { return [&[VERSION, SPENT], &fingerprint[..]].concat() };
    let mut entry = Vec::with_capacity(answer.weight());
    entry.extend([VERSION, DONE]);
    entry.extend(fingerprint);
    entry.extend(answer.status.as_u16().to_be_bytes());
    // What is kept has at most 32 KiB of fields.
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    entry.extend(short(answer.headers.len()));
    for (name, value) in &answer.headers {
        for text in [name.as_str().as_bytes(), value.as_bytes()] {
            entry.extend(short(text.len()));
            entry.extend(text);
        }
    }
    entry.extend(&answer.body);
    entry
}

/// Takes bytes from the front of an entry.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }
}

/// Reads an entry; `None` where it is none, or one of another version.
pub fn read(entry: &Bytes) -> Option<Entry> {
    let mut reader = Reader(entry);
    let [VERSION, kind] = reader.take(2)? else { return None };
    let fingerprint: Digest = reader.take(32)?.try_into().ok()?;
    match *kind {
        RUNNING => Some(Entry::Running(fingerprint)),
        SPENT => Some(Entry::Done(fingerprint, None)),
        DONE => {
            let status = StatusCode::from_u16(reader.short()?).ok()?;
            let fields = usize::from(reader.short()?);
            let mut headers = HeaderMap::new();
            for _ in 0..fields {
                let name = HeaderName::from_bytes(reader.text()?).ok()?;
                headers.append(name, HeaderValue::from_bytes(reader.text()?).ok()?);
            }
            let body = entry.slice_ref(reader.0);
            Some(Entry::Done(fingerprint, Some(Arc::new(Answer { status, headers, body }))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, done, read, running};
    use bytes::Bytes;
    use foregate_filters::idempotency::answer::Answer;
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use std::sync::Arc;

    fn answer() -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-type", "a/b"), ("link", "one"), ("link", "two"), ("empty", "")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Answer { status: StatusCode::CREATED, headers, body: "body\0\r\n".into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let fingerprint = [7; 32];
        assert_eq!(read(&running(&fingerprint, 1).into()), Some(Entry::Running(fingerprint)));
        assert_ne!(running(&fingerprint, 1), running(&fingerprint, 2));
        assert_eq!(read(&done(&fingerprint, None).into()), Some(Entry::Done(fingerprint, None)));
        let kept = done(&fingerprint, Some(&answer()));
        assert_eq!(read(&kept.into()), Some(Entry::Done(fingerprint, Some(Arc::new(answer())))));
    }

    #[test]
    fn what_is_no_entry_is_not_believed() {
        let kept = done(&[7; 32], Some(&answer()));
        let head = kept.len() - answer().body.len();
        for length in 0..head {
            assert_eq!(read(&Bytes::copy_from_slice(&kept[..length])), None, "{length}");
        }
        for (at, byte) in [(0, 2), (1, b'X'), (34, 0xff), (40, 0)] {
            let mut changed = kept.clone();
            changed[at] = byte;
            assert_eq!(read(&changed.into()), None, "{at}");
        }
    }
}
