//! Events for the operator: one JSON line each on standard error.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::clock;
use crate::telemetry::event_queue::EventQueue;
use crate::telemetry::json::{Timestamp, write};
use crate::telemetry::sources::{Kind, Sources, number};

/// Time for the last events of a process to be written.
pub const LAST: Duration = Duration::from_secs(2);

/// Most lines a second that libraries may write; a flood of broken handshakes must not hide what else is told.
const MAX_LIBRARY_LINES: u64 = 100;

/// One thing that happened to the process.
struct Event<'a> {
    at: Timestamp,
    level: Level,
    name: &'a str,
    fields: &'a [(&'a str, Value)],
}

/// Warnings and errors of libraries, as events.
#[derive(Debug)]
struct LibraryLog {
    window: Window,
}

/// Lines written in the current second: the second in the upper half, the count in the lower.
#[derive(Debug)]
struct Window(AtomicU64);

/// The least severe level that is written, as a number of [`LevelFilter`].
static LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Trace as usize);

static EVENTS: EventQueue = EventQueue::new();

static LIBRARY_LOG: LibraryLog = LibraryLog { window: Window(AtomicU64::new(0)) };

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.at)?;
        map.serialize_entry("severity", self.level.as_str())?;
        map.serialize_entry("event.name", self.name)?;
        for (name, value) in self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn line(event: &Event<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    if write(event, &mut line).is_err() {
        line.clear();
    }
    line.push(b'\n');
    line
}

/// Leaves events below this level out; all are written otherwise.
pub fn set_level(level: LevelFilter) {
    LEVEL.store(level as usize, Ordering::Relaxed);
}

/// Tells the operator one line, such as `event(Level::Info, "listening", &[("address", "..".into())])`. Fields must not
/// hold secrets. Never waits for whoever reads standard error, once [`install`] was called; see [`flush`]. Where it is
/// closed, or not read while too much waits, the event is lost and counted.
pub fn event(level: Level, name: &str, fields: &[(&str, Value)]) {
    if level as usize > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let event = Event { at: Timestamp(clock::now().unix), level, name, fields };
    EVENTS.push(&line(&event));
}

/// Waits until every event so far is written, at most this long; true where all were. Whoever ends the process calls it
/// before, and with [`LAST`].
pub fn flush(within: Duration) -> bool {
    EVENTS.flush(within)
}

/// Exports the number of events that are lost.
pub fn export(sources: &Sources) {
    let help = "Events missing on standard error: nobody read it, or writing failed.";
    let read = || number(EVENTS.dropped());
    sources.register(Kind::Counter, "foregate_events_dropped_total", help, &[], read);
}

/// Lets a thread write events, and sends the warnings and errors of libraries here, but where another log is in place
/// already.
pub fn install() {
    EVENTS.start();
    if log::set_logger(&LIBRARY_LOG).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Window {
    /// The number of this line in its second, counted from 1.
    fn count(&self, second: u64) -> u64 {
        let second = second << 32;
        let count = |seen: u64| if seen & !0xffff_ffff == second { seen + 1 } else { second | 1 };
        let seen = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| Some(count(seen)));
        count(seen.unwrap_or_default()) & 0xffff_ffff
    }
}

impl Log for LibraryLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let number = self.window.count(clock::now().monotonic.as_secs());
        let target = ("source", Value::from(record.target()));
        if number < MAX_LIBRARY_LINES {
            event(record.level(), "library", &[target, ("message", record.args().to_string().into())]);
        } else if number == MAX_LIBRARY_LINES {
            let message = "more lines this second are left out";
            event(Level::Warn, "library", &[target, ("message", message.into())]);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::{Event, LIBRARY_LOG, Timestamp, Window, line};
    use log::{Level, Log, Metadata};
    use serde_json::Value;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    #[test]
    fn an_event_is_one_line_of_json() {
        let hostile = "a\n{\"event.name\":\"forged\"}\u{2028}\u{9b}2J\u{7f}";
        let fields = [("path", Value::from(hostile)), ("routes", 3.into())];
        let at = Timestamp(Duration::from_micros(1_790_000_000_000_001));
        let line = line(&Event { at, level: Level::Info, name: "reloaded", fields: &fields });
        let text = String::from_utf8(line).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line");
        assert!(text.trim_end().bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["timestamp"], "2026-09-21T14:13:20.000001Z");
        assert_eq!(value["severity"], "INFO");
        assert_eq!(value["event.name"], "reloaded");
        assert_eq!(value["path"], hostile);
        assert_eq!(value["routes"], 3);
    }

    #[test]
    fn only_warnings_and_errors_of_libraries_are_heard() {
        let heard = |level| LIBRARY_LOG.enabled(&Metadata::builder().level(level).build());
        let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(levels.map(heard), [true, true, false, false, false]);
    }

    #[test]
    fn lines_are_counted_by_the_second() {
        let window = Window(AtomicU64::new(0));
        assert_eq!((1..=3).map(|_| window.count(7)).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(window.count(8), 1);
        assert_eq!(window.count(8), 2);
    }
}
