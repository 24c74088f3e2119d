//! Updates of a feature store from a stream: read, checked, taken up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foregate_filters::timestamp::Timestamp;
use foregate_inference::store::error::{StoreError, StoreFault};
use foregate_inference::store::line::Update;
use foregate_inference::store::stream::{EntryId, Position, entry};
use log::Level;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::clock;
use crate::features::LiveFeatures;
use crate::store::error::StoreError as ServerError;
use crate::store::streamed::{MAX_TEXT, Part};
use crate::telemetry::event::event;

/// Between two questions while nothing is added.
const PAUSE: Duration = Duration::from_millis(250);
/// After one that failed.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Entries of one question: at first, and at most.
const FIRST: u64 = 32;
const MOST: u64 = 256;

/// What became of a stream, since the store was opened.
#[derive(Debug, Default)]
pub struct Tally {
    taken: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    /// When its end was reached last, in microseconds of the monotonic clock; 0 before.
    reached: AtomicU64,
}

impl Tally {
    /// Entries that were read and were updates.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Entries that were none, or that the store has no room for.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Entries that were gone before they were read.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Time since everything that the stream held was read; `None` before that.
    pub fn age(&self) -> Option<Duration> {
        let reached = self.reached.load(Ordering::Relaxed);
        (reached > 0).then(|| clock::monotonic().saturating_sub(Duration::from_micros(reached)))
    }

    fn reached(&self) {
        let now = u64::try_from(clock::monotonic().as_micros()).unwrap_or(u64::MAX);
        self.reached.store(now.max(1), Ordering::Relaxed);
    }

    fn note(&self, refused: usize, taken: usize, lost: u64) {
        self.taken.fetch_add(taken as u64, Ordering::Relaxed);
        self.refused.fetch_add(refused as u64, Ordering::Relaxed);
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

/// Reads until nobody has the store any more.
pub(super) async fn keep(weak: Weak<LiveFeatures>) {
    let mut reader = Reader { position: None, count: FIRST, told: String::new() };
    while let Some(live) = weak.upgrade() {
        let outcome = reader.turn(&live).await;
        let (fault, pause) = match outcome {
            Ok(pause) => (String::new(), pause),
            Err(fault) => (fault, LONG_PAUSE),
        };
        if !fault.is_empty() && fault != reader.told {
            tell(&live, Level::Warn, "feature stream not read", &[("error", fault.as_str().into())]);
        }
        reader.told = fault;
        drop(live);
        sleep(pause).await;
    }
}

/// What is remembered between two questions.
struct Reader {
    /// Absent until the store has been asked.
    position: Option<Position>,
    count: u64,
    /// What stays wrong is told once.
    told: String,
}

impl Reader {
    /// Reads and takes up one part; gives the pause until the next. The error is for the operator.
    async fn turn(&mut self, live: &Arc<LiveFeatures>) -> Result<Duration, String> {
        let Some(said) = &live.said.stream else { return Ok(LONG_PAUSE) };
        let Some(redis) = live.redis.load_full() else { return Ok(LONG_PAUSE) };
        let position = match self.position.take() {
            Some(position) => position,
            None => known(live, &format!("{}/{}", said.store, said.name)).await?,
        };
        let read = redis.read_stream(&said.name, position.id, self.count).await;
        let part = match read {
            Ok(Some(part)) => part,
            Ok(None) => {
                // It is made by the first entry that is added.
                live.tally.reached();
                self.position = Some(position);
                return Ok(PAUSE);
            }
            Err(error) => {
                if error == ServerError::Timeout {
                    // Less of it may come in time.
                    self.count = (self.count / 2).max(1);
                }
                self.position = Some(position);
                return Err(error.to_string());
            }
        };
        self.count = (self.count * 2).min(MOST);
        let taking = Arc::clone(live);
        let taken = spawn_blocking(move || Taking { live: &taking, position }.take_up(&part)).await;
        // Where it was not taken up, the store knows how far it is.
        let taken = taken.map_err(|error| error.to_string())?;
        match taken {
            Ok(Taken { position, more }) => {
                self.position = Some(position);
                if !more {
                    live.tally.reached();
                }
                Ok(if more { Duration::ZERO } else { PAUSE })
            }
            Err(StoreFault { fault: StoreError::Busy, .. }) => Ok(PAUSE),
            Err(fault) => Err(fault.to_string()),
        }
    }
}

/// How far the store says that it is.
async fn known(live: &Arc<LiveFeatures>, stream: &str) -> Result<Position, String> {
    let (live, stream) = (Arc::clone(live), stream.to_owned());
    let known = spawn_blocking(move || {
        let begin = || Position { stream: stream.as_str().into(), id: EntryId::default(), added: None };
        live.store.position(&stream).unwrap_or_else(begin)
    });
    known.await.map_err(|error| error.to_string())
}

fn tell(live: &LiveFeatures, level: Level, what: &str, more: &[(&'static str, serde_json::Value)]) {
    let stream = live.said.stream.as_ref().map_or("", |stream| &*stream.name);
    let mut fields = vec![("store", live.path()), ("stream", stream.into())];
    fields.extend(more.iter().cloned());
    event(level, what, &fields);
}

/// A part of a stream that is being taken up, behind a position.
struct Taking<'a> {
    live: &'a LiveFeatures,
    position: Position,
}

struct Taken {
    position: Position,
    /// True where the next part can be read at once.
    more: bool,
}

impl Taking<'_> {
    /// Blocks for as long as the disk does.
    fn take_up(self, part: &Part) -> Result<Taken, StoreFault> {
        let Self { live, position } = self;
        if part.last < position.id || part.added < position.added {
            tell(
                live,
                Level::Warn,
                "feature stream made anew",
                &[("was_at", position.id.to_string().into())],
            );
            let position = Position { id: EntryId::default(), added: None, ..position };
            return Ok(Taken { position, more: true });
        }
        let gone = gone(&position, part);
        let now = Timestamp::from_unix(clock::now().unix);
        let columns = live.store.pin().columns().clone();
        let (mut updates, mut refused) = (Vec::with_capacity(part.entries.len()), Refused::default());
        for one in &part.entries {
            let read = match &one.text {
                Some(text) => entry(text, one.id, &columns, now),
                None => Err(format!("it must have one field, `update`, of {MAX_TEXT} bytes at most")),
            };
            match read {
                Ok(update) => updates.push(update),
                Err(why) => refused.note(Some(one.id), why),
            }
        }
        let taken = updates.len();
        let next = next(&position, part, gone);
        // Nothing is written for what has not moved.
        if next.id > position.id {
            apply(live, updates, &next, &mut refused)?;
        }
        live.tally.note(refused.count, taken.saturating_sub(refused.of_updates), gone.unwrap_or(0));
        refused.tell(live);
        if gone != Some(0) {
            let entries = gone.map_or("unknown".into(), serde_json::Value::from);
            tell(
                live,
                Level::Error,
                "feature entries lost",
                &[("entries", entries), ("after", position.id.to_string().into())],
            );
        }
        Ok(Taken { position: next, more: part.more })
    }
}

/// Entries that are gone from the stream and were never read; `None` where there may be some, and the server does not count.
fn gone(position: &Position, part: &Part) -> Option<u64> {
    let begins = position.id == EntryId::default();
    let whole = part.first.is_some_and(|first| first <= position.id);
    if begins || whole || part.last == position.id {
        return Some(0);
    }
    // What there is lies behind the position, all of it.
    match (position.added, part.added) {
        (Some(then), Some(now)) => Some(now.saturating_sub(then).saturating_sub(part.length)),
        _ => None,
    }
}

/// The position once a part was taken up.
fn next(position: &Position, part: &Part, gone: Option<u64>) -> Position {
    let read = part.entries.len() as u64;
    let end = part.entries.last().map(|entry| entry.id);
    // What was added last may be gone already.
    let id = if part.more { end.unwrap_or(position.id) } else { part.last.max(position.id) };
    let added = match (part.more, part.added) {
        (_, None) => None,
        (false, Some(added)) => Some(added),
        (true, Some(added)) => {
            // At the beginning, what was gone before was nobody's to read.
            let before = position.added.unwrap_or(added.saturating_sub(part.length));
            Some(before.saturating_add(gone.unwrap_or(0)).saturating_add(read))
        }
    };
    Position { stream: position.stream.clone(), id, added }
}

/// Writes updates; where the store has no room for all of them, those that there is room for.
fn apply(
    live: &LiveFeatures,
    updates: Vec<Update>,
    next: &Position,
    refused: &mut Refused,
) -> Result<(), StoreFault> {
    let store = &live.store;
    match store.apply_from(updates.clone(), next.clone()) {
        Err(StoreFault { fault: StoreError::TooLarge, .. }) => {}
        applied => return applied.map(drop),
    }
    for update in updates {
        match store.apply([update]) {
            Ok(_) => {}
            Err(fault) if fault.fault == StoreError::TooLarge => {
                refused.of_updates += 1;
                refused.note(None, fault.to_string());
            }
            Err(fault) => return Err(fault),
        }
    }
    store.apply_from(Vec::new(), next.clone()).map(drop)
}

/// Entries that are not taken up: all are counted, the first of a part is told of.
#[derive(Debug, Default)]
struct Refused {
    count: usize,
    /// Those of them that were updates.
    of_updates: usize,
    first: Option<(Option<EntryId>, String)>,
}

impl Refused {
    fn note(&mut self, id: Option<EntryId>, why: String) {
        self.count += 1;
        self.first.get_or_insert((id, why));
    }

    fn tell(self, live: &LiveFeatures) {
        let Some((id, why)) = self.first else { return };
        let mut fields = vec![("entries", self.count.into()), ("error", why.into())];
        fields.extend(id.map(|id| ("first", id.to_string().into())));
        tell(live, Level::Warn, "feature entries refused", &fields);
    }
}

#[cfg(test)]
mod tests {
    use foregate_inference::store::stream::{EntryId, Position};

    use super::{gone, next};
    use crate::store::streamed::{Entry, Part};

    fn id(text: &str) -> EntryId {
        text.parse().unwrap()
    }

    fn at(text: &str, added: Option<u64>) -> Position {
        Position { stream: "redis/features".into(), id: id(text), added }
    }

    /// A part with entries of these ids, of a stream whose first and last ones are these.
    fn part(entries: &[&str], first: &str, last: &str, added: Option<u64>, length: u64, more: bool) -> Part {
        let entries = entries.iter().map(|text| Entry { id: id(text), text: None }).collect();
        let first = (!first.is_empty()).then(|| id(first));
        Part { last: id(last), added, length, first, more, entries }
    }

    #[test]
    fn what_is_trimmed_before_it_is_read_is_counted_and_nothing_else_is() {
        for (position, part, lost, then) in [
            // Read from its beginning, in two parts; it was trimmed before anybody read.
            (
                at("0-0", None),
                part(&["4-0", "5-0"], "4-0", "6-0", Some(6), 3, true),
                Some(0),
                at("5-0", Some(5)),
            ),
            (
                at("5-0", Some(5)),
                part(&["6-0"], "4-0", "6-0", Some(6), 3, false),
                Some(0),
                at("6-0", Some(6)),
            ),
            // Nothing new, all of it trimmed once it was read.
            (at("6-0", Some(6)), part(&[], "", "6-0", Some(6), 0, false), Some(0), at("6-0", Some(6))),
            // Trimmed up to what was read, and not further.
            (
                at("6-0", Some(6)),
                part(&["7-0"], "7-0", "7-0", Some(7), 1, false),
                Some(0),
                at("7-0", Some(7)),
            ),
            // Two were trimmed unread, and some more remain.
            (
                at("6-0", Some(6)),
                part(&["9-0"], "9-0", "11-0", Some(11), 3, true),
                Some(2),
                at("9-0", Some(9)),
            ),
            (
                at("9-0", Some(9)),
                part(&["10-0", "11-0"], "9-0", "11-0", Some(11), 3, false),
                Some(0),
                at("11-0", Some(11)),
            ),
            // All of it was.
            (at("6-0", Some(6)), part(&[], "", "9-0", Some(9), 0, false), Some(3), at("9-0", Some(9))),
            // The server does not count.
            (at("6-0", None), part(&["9-0"], "9-0", "9-0", None, 1, false), None, at("9-0", None)),
            (at("6-0", None), part(&["9-0"], "6-0", "9-0", None, 2, false), Some(0), at("9-0", None)),
        ] {
            assert_eq!(gone(&position, &part), lost, "{position:?} {part:?}");
            assert_eq!(next(&position, &part, lost), then, "{position:?} {part:?}");
        }
    }
}
