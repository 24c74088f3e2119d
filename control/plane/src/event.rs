//! Events for the operator: one JSON line each on standard error.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata};
use serde_json::{Map, Value};

use crate::clock;

/// Most lines a second that others may cause.
const MAX_CAUSED: u64 = 100;

/// Warnings and errors of libraries, as events.
#[derive(Debug)]
struct LibraryLog;

/// Lines written in the current second: the second in the upper half, the count in the lower.
#[derive(Debug)]
struct Window(AtomicU64);

static LIBRARY_LOG: LibraryLog = LibraryLog;
static CAUSED: Window = Window(AtomicU64::new(0));

/// Writes one line, such as `event(Level::Info, "listening", &[("address", "..".into())])`. Fields must not hold
/// secrets. Where standard error is closed, the event is lost.
pub fn event(level: Level, name: &str, fields: &[(&str, Value)]) {
    let line = line(clock::now().unix, level, name, fields);
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

/// Writes a line that somebody else has caused, who may cause a flood of them: of more than a hundred a second, one
/// line says that they are left out.
pub fn caused(level: Level, name: &str, fields: &[(&str, Value)]) {
    match CAUSED.count(clock::monotonic().as_secs()) {
        ..MAX_CAUSED => event(level, name, fields),
        MAX_CAUSED => event(Level::Warn, "more events this second are left out", &[]),
        _ => {}
    }
}

/// One line of printable ASCII: a value can neither end it nor steer a terminal.
fn line(unix: Duration, level: Level, name: &str, fields: &[(&str, Value)]) -> String {
    let micros = i64::try_from(unix.as_micros()).unwrap_or(i64::MAX);
    let at = Timestamp::from_microsecond(micros).unwrap_or_default();
    let mut map = Map::new();
    map.insert("timestamp".to_owned(), format!("{at:.6}").into());
    map.insert("severity".to_owned(), level.as_str().into());
    map.insert("event.name".to_owned(), name.into());
    for (name, value) in fields {
        map.insert((*name).to_owned(), value.clone());
    }
    let mut line = String::with_capacity(256);
    for letter in Value::Object(map).to_string().chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            line.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
    line.push('\n');
    line
}

/// Sends the warnings and errors of libraries here. Does nothing where another log is in place already.
pub fn install() {
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
        if self.enabled(record.metadata()) {
            let fields = [("source", record.target().into()), ("message", record.args().to_string().into())];
            caused(record.level(), "library", &fields);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use log::Level;
    use serde_json::Value;

    use super::{Window, line};

    #[test]
    fn lines_are_counted_by_the_second() {
        let window = Window(AtomicU64::new(0));
        assert_eq!([7, 7, 8, 8].map(|second| window.count(second)), [1, 2, 1, 2]);
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let hostile = "a\n{\"event.name\":\"forged\"}\u{2028}\u{9b}2J\u{7f}\u{1f600}";
        let at = Duration::from_micros(1_790_000_000_000_001);
        let text = line(at, Level::Info, "signed", &[("id", hostile.into()), ("left", 3.into())]);
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line");
        assert!(text.trim_end().bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["timestamp"], "2026-09-21T14:13:20.000001Z");
        assert_eq!((&value["severity"], &value["event.name"]), (&"INFO".into(), &"signed".into()));
        assert_eq!((&value["id"], &value["left"]), (&hostile.into(), &3.into()));
    }
}
