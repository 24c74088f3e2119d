//! A stream of updates: how far it was taken up, and what its entries say.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use foregate_filters::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::line;
use super::line::Update;

/// What a stream calls an entry: when it was added, and which one of that millisecond it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct EntryId {
    ms: u64,
    number: u64,
}

/// It has another form than `1735689600000-0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no id of an entry")]
pub struct IdError;

/// How far a stream was taken up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Which one it is, as whoever reads it names it.
    pub stream: Box<str>,
    /// The last entry of it that was taken up or refused.
    pub id: EntryId,
    /// Entries that were ever added to it by then, where the server counts them.
    pub added: Option<u64>,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for EntryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (ms, number) = text.split_once('-').ok_or(IdError)?;
        Ok(Self { ms: ms.parse().map_err(|_| IdError)?, number: number.parse().map_err(|_| IdError)? })
    }
}

impl EntryId {
    /// When the entry was added, by the clock of the server.
    pub fn at(self) -> Timestamp {
        Timestamp::from_unix(Duration::from_millis(self.ms))
    }
}

impl Position {
    /// True where it is known that everything up to the other one was taken up.
    pub(super) fn covers(&self, other: &Self) -> bool {
        // Of a stream that was made anew, fewer were added; without a count it cannot be told from the one before.
        let counted = self.added.is_some() && self.added <= other.added;
        self.stream == other.stream && self.id >= other.id && counted
    }
}

/// Reads the text of an entry: what a line of an NDJSON file says. Without `at` it is of the time when it was added.
///
/// # Errors
/// Why it is no update of a store with these columns; never a value.
pub fn entry(text: &[u8], id: EntryId, columns: &[Box<str>], now: Timestamp) -> Result<Update, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    line::object(text, columns, now, id.at())
}

#[cfg(test)]
mod tests {
    use super::{EntryId, Position, entry};
    use foregate_filters::timestamp::Timestamp;

    fn id(text: &str) -> EntryId {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_comes_back_as_it_was_and_is_ordered_by_its_numbers() {
        for text in ["0-0", "1735689600000-12", "18446744073709551615-18446744073709551615"] {
            assert_eq!(id(text).to_string(), text);
        }
        assert!(id("9-1") < id("10-0") && id("10-2") < id("10-10"));
        for wrong in ["", "1", "1-", "-1", "a-1", "1-18446744073709551616"] {
            assert!(wrong.parse::<EntryId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_is_checked_as_a_line_of_a_file_and_is_of_the_time_it_was_added() {
        let now: Timestamp = "2027-01-31T12:00:00Z".parse().unwrap();
        let columns = ["visits".into()];
        let read = |text: &[u8], at: &str| entry(text, id(at), &columns, now);
        let ahead = read(b"{\"key\":\"a\",\"features\":{\"visits\":3}}", "1900000000000-0").unwrap_err();
        assert_eq!(ahead, "`at` is over an hour ahead");
        let update = read(b"{\"key\":\"a\",\"features\":{\"visits\":3}}", "1735689600000-0").unwrap();
        assert_eq!((update.at, update.cells.as_deref()), (1_735_689_600_000_000, Some(&[3.0][..])));
        let said = read(b"{\"key\":\"a\",\"delete\":true,\"at\":\"2027-01-31T11:00:00Z\"}", "1-0").unwrap();
        assert_eq!((said.cells, now.micros() - said.at), (None, 3_600_000_000));
        assert_eq!(read(b"\xff", "1-0").unwrap_err(), "it is not UTF-8");
        assert!(
            read(b"{\"key\":\"a\",\"features\":{\"visits\":\"3\"}}", "1-0")
                .unwrap_err()
                .contains("invalid type")
        );
        // A key or a value is not repeated.
        let told = read(b"{\"key\":\"001A\",\"features\":{\"visits\":\"secret\"}}", "1-0").unwrap_err();
        assert!(!told.contains("001A"), "{told}");
    }

    #[test]
    fn a_position_covers_what_came_before_it_in_the_same_stream() {
        let at = |stream: &str, text: &str, added| Position { stream: stream.into(), id: id(text), added };
        assert!(at("a", "5-1", Some(9)).covers(&at("a", "5-1", Some(9))));
        assert!(at("a", "5-1", Some(9)).covers(&at("a", "4-9", Some(9))));
        assert!(!at("a", "5-1", None).covers(&at("a", "4-9", None)), "it may have been made anew");
        assert!(!at("a", "5-1", Some(9)).covers(&at("a", "5-2", Some(10))));
        assert!(!at("a", "5-1", Some(9)).covers(&at("b", "1-0", Some(1))));
        assert!(!at("a", "5-1", Some(9)).covers(&at("a", "4-0", Some(2))), "it was made anew");
    }
}
