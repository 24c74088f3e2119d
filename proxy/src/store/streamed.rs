//! A stream of a store, read in parts: what was added behind an entry.

use bytes::Bytes;
use foregate_inference::store::stream::EntryId;
use redis::Value;

use crate::store::error::StoreError;
use crate::store::script::{self, Argument};
use crate::store::{MAX_KEY, Store};

/// Text that is read at once, in bytes; an entry more may come with it.
const MAX_READ: u64 = 256 * 1024;
/// Longest text of an entry, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// What a stream holds behind an entry, or the first part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The last entry that was added, whether or not it is still there.
    pub last: EntryId,
    /// Entries that were ever added, where the server counts them: Redis does from 7.0 on.
    pub added: Option<u64>,
    /// Entries that there are.
    pub length: u64,
    /// The first of them.
    pub first: Option<EntryId>,
    /// True where more can be read at once.
    pub more: bool,
    pub entries: Vec<Entry>,
}

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    /// `None` where it has other fields than one `update`, or is over [`MAX_TEXT`].
    pub text: Option<Bytes>,
}

impl Store {
    /// Reads up to `count` entries behind `after` in one step; `None` where there is no such stream.
    ///
    /// # Errors
    /// Where the store cannot be asked, or the key holds something else.
    pub async fn read_stream(
        &self,
        name: &str,
        after: EntryId,
        count: u64,
    ) -> Result<Option<Part>, StoreError> {
        if name.is_empty() || name.len() > MAX_KEY {
            return Err(StoreError::TooLarge("key"));
        }
        let (key, after) = (format!("{}:stream:{name}", self.settings.prefix), after.to_string());
        let arguments = [
            Argument::Bytes(after.as_bytes()),
            Argument::Number(count),
            Argument::Number(MAX_READ),
            Argument::Number(MAX_TEXT as u64),
        ];
        match Box::pin(self.run(&script::STREAM, &[key], &arguments)).await? {
            Value::Array(none) if none.is_empty() => Ok(None),
            answer => part(answer).map(Some).ok_or(StoreError::Malformed),
        }
    }
}

/// The answer of the script about a stream; `None` where it is none.
fn part(answer: Value) -> Option<Part> {
    let Value::Array(values) = answer else { return None };
    let mut values = values.into_iter();
    let last = id(&values.next()?)?;
    let added = match values.next()? {
        Value::Int(-1) => None,
        Value::Int(added) => Some(u64::try_from(added).ok()?),
        _ => return None,
    };
    let Value::Int(length) = values.next()? else { return None };
    let first = match values.next()? {
        Value::BulkString(none) if none.is_empty() => None,
        first => Some(id(&first)?),
    };
    let Value::Int(more) = values.next()? else { return None };
    let mut entries = Vec::new();
    while let Some(entry) = values.next() {
        let id = id(&entry)?;
        let text = match values.next()? {
            Value::BulkString(text) if text.len() <= MAX_TEXT => Some(text.into()),
            Value::BulkString(_) | Value::Nil => None,
            _ => return None,
        };
        entries.push(Entry { id, text });
    }
    Some(Part { last, added, length: u64::try_from(length).ok()?, first, more: more == 1, entries })
}

fn id(value: &Value) -> Option<EntryId> {
    let Value::BulkString(text) = value else { return None };
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::part;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_no_answer_of_the_script_is_refused() {
        let good = vec![text("9-1"), Value::Int(4), Value::Int(2), text("8-0"), Value::Int(1)];
        let with = |more: Vec<Value>| part(Value::Array([good.clone(), more].concat()));
        let read = with(vec![text("8-0"), text("{}"), text("9-1"), Value::Nil]).unwrap();
        assert_eq!(
            (read.last.to_string(), read.added, read.length, read.more),
            ("9-1".into(), Some(4), 2, true)
        );
        let texts: Vec<_> = read.entries.iter().map(|entry| entry.text.as_deref()).collect();
        assert_eq!(texts, [Some(&b"{}"[..]), None]);
        assert_eq!(part(Value::Array(Vec::new())), None);
        for wrong in [vec![text("8-0")], vec![text("8"), text("{}")], vec![text("8-0"), Value::Int(1)]] {
            assert_eq!(with(wrong.clone()), None, "{wrong:?}");
        }
        for end in 1..good.len() {
            assert_eq!(part(Value::Array(good[..end].to_vec())), None, "{end}");
        }
        assert_eq!(part(Value::Okay), None);
    }
}
