//! What quotas have used outlives snapshots, and with a state folder the process.

pub mod file;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use foregate_filters::rate_limit::calendar::Calendar;
use foregate_filters::rate_limit::windows::{CAPACITY, WindowCounter};
use foregate_policy::files;
use log::Level;

use self::file::{Entry, Id, State};
use crate::clock;
use crate::state_folder::{lock, set_aside};
use crate::telemetry::Telemetry;
use crate::telemetry::event::event;
use crate::telemetry::sources::Kind;

/// The file in the folder.
const FILE: &str = "quotas.state";
/// Held while the file is read and written: two processes share it while one takes the place of the other.
const LOCK: &str = "quotas.lock";
/// Largest file that is read, and so the largest that is written: some sixteen million keys.
const MAX_FILE: u64 = 512 << 20;
/// Keys of a quota that there is room for beside those that are counted.
const MORE_KEYS: usize = 1_024;
/// Windows that ended before this are forgotten: the longest month, and one before it.
const PAST: Duration = Duration::from_hours(62 * 24);

/// Where quotas are kept, and how often they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateOptions {
    pub folder: PathBuf,
    /// After a crash, each key may use again what it used within this time, and no more.
    pub interval: Duration,
}

/// The counters of all quotas of this process.
#[derive(Debug)]
pub struct Quotas {
    folder: Option<PathBuf>,
    salt: [u8; 16],
    /// This process, among those that write the file.
    writer: [u8; 16],
    /// [`MAX_FILE`].
    max_file: u64,
    known: Mutex<Known>,
    written: AtomicU64,
    failed: AtomicU64,
    set_aside: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    counters: HashMap<Id, Arc<WindowCounter>>,
    /// Read from the file, and asked for by no policy yet.
    unclaimed: HashMap<Id, Vec<Entry>>,
    /// The file as this process has last written it.
    seen: Option<(u64, SystemTime)>,
    /// The last attempt to write has failed.
    stale: bool,
}

/// Writes quotas from time to time, and at the end.
#[derive(Debug)]
pub struct Writer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            folder: None,
            salt: random(),
            writer: random(),
            max_file: MAX_FILE,
            known: Mutex::default(),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            set_aside: AtomicU64::new(0),
        }
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if rand::fill(&mut bytes).is_err() {
        // Seeded by the system as well; a salt need only be one that nobody can guess.
        let halves = [0, 1].map(|half: u64| RandomState::new().hash_one(half));
        let source = halves.iter().flat_map(|half| half.to_ne_bytes());
        bytes.iter_mut().zip(source).for_each(|(byte, from)| *byte = from);
    }
    bytes
}

impl Quotas {
    /// What the folder holds; it is made where there is none. A file that is no sound one of ours is told of and
    /// set aside under another name.
    ///
    /// # Errors
    /// Where the folder cannot be made, read or written: better no start than a state that is lost.
    pub fn open(folder: &Path) -> io::Result<Self> {
        files::make_folder(folder)?;
        let mut quotas = Self { folder: Some(folder.to_owned()), ..Self::default() };
        let held = lock(folder, LOCK)?;
        if let Some(state) = quotas.read(folder)? {
            quotas.salt = state.salt;
            quotas.known().unclaimed = state.quotas.into_iter().collect();
        }
        // At once: whoever takes the place of this process must hash keys alike.
        quotas.store(folder)?;
        drop(held);
        Ok(quotas)
    }

    /// Shows how the file stands to metrics.
    pub fn export(self: &Arc<Self>, telemetry: &Telemetry) {
        if self.folder.is_none() {
            return;
        }
        let add = |name: &str, help: &str, read: fn(&Self) -> &AtomicU64| {
            let quotas = Arc::clone(self);
            #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
            let read = move || read(&quotas).load(Ordering::Relaxed) as f64;
            telemetry.register_source(Kind::Counter, name, help, &[], read);
        };
        let name = "foregate_quota_state_writes_succeeded_total";
        add(name, "Times that the file of quotas was written.", |it| &it.written);
        let name = "foregate_quota_state_writes_failed_total";
        add(name, "Times that the file of quotas could not be written.", |it| &it.failed);
        let name = "foregate_quota_state_set_aside_total";
        add(name, "Files of quotas that were no sound ones and were set aside.", |it| &it.set_aside);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of this quota; true where it was made now.
    pub fn counter(&self, name: &str, calendar: &Calendar) -> (Arc<WindowCounter>, bool) {
        let (period, zone) = (calendar.period(), calendar.zone().to_owned());
        let id = Id { name: name.to_owned(), period, zone };
        let mut known = self.known();
        if let Some(counter) = known.counters.get(&id) {
            return (Arc::clone(counter), false);
        }
        let counter = Arc::new(WindowCounter::new(self.salt, CAPACITY));
        for (key, windows) in known.unclaimed.remove(&id).into_iter().flatten() {
            counter.merge(key, windows);
        }
        known.counters.insert(id, Arc::clone(&counter));
        (counter, true)
    }

    /// Lets go of what no policy asks for, once all its windows have ended: a policy that is taken out and put
    /// back gives no second quota.
    pub fn sweep(&self) {
        let from = minutes(clock::now().unix.saturating_sub(PAST));
        let mut known = self.known();
        known.counters.retain(|_, counter| Arc::strong_count(counter) > 1 || latest(counter) >= from);
        known.unclaimed.retain(|_, entries| {
            entries.retain(|(_, windows)| windows.iter().any(|window| window.start >= from));
            !entries.is_empty()
        });
    }

    /// Reads what another process has written since, and writes what has changed here.
    pub fn write(&self) {
        let Some(folder) = &self.folder else { return };
        let outcome = lock(folder, LOCK).and_then(|_lock| {
            let found = mark(&folder.join(FILE));
            if found.is_some() && found != self.known().seen {
                self.merge(folder)?;
            }
            let known = self.known();
            // Every one is asked: asking takes the mark away.
            let changed = known.counters.values().filter(|counter| counter.take_changed()).count();
            let needed = changed > 0 || known.stale;
            drop(known);
            if needed { self.store(folder) } else { Ok(()) }
        });
        if let Err(error) = &outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            event(Level::Error, "quotas not written", &[("error", error.to_string().into())]);
        }
        self.known().stale = outcome.is_err();
    }

    /// What the file holds; nothing where there is none, or none of ours.
    fn read(&self, folder: &Path) -> io::Result<Option<State>> {
        let path = folder.join(FILE);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let why = if length > self.max_file {
            "it is too large"
        } else {
            match State::decode(&fs::read(&path)?) {
                Ok(state) => return Ok(Some(state)),
                Err(why) => why,
            }
        };
        let aside = set_aside(folder, FILE)?;
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        let aside = aside.display().to_string();
        let text = "quotas begin anew: their file is refused and set aside";
        event(Level::Error, text, &[("why", why.into()), ("file", aside.into())]);
        Ok(None)
    }

    /// Adds what another process has counted. Of two counts of one key the higher is believed, not their sum:
    /// that process has begun with what this one had written.
    fn merge(&self, folder: &Path) -> io::Result<()> {
        let Some(state) = self.read(folder)? else { return Ok(()) };
        if state.writer == self.writer || state.salt != self.salt {
            return Ok(());
        }
        let mut known = self.known();
        for (id, entries) in state.quotas {
            match known.counters.get(&id) {
                Some(counter) => entries.into_iter().for_each(|(key, windows)| counter.merge(key, windows)),
                None => {
                    known.unclaimed.insert(id, entries);
                }
            }
        }
        Ok(())
    }

    fn store(&self, folder: &Path) -> io::Result<()> {
        let state = self.state();
        let length = state.length();
        if length > self.max_file {
            // It would be refused when it is read, and all of it be lost.
            let error = format!(
                "the file would have {length} bytes, and at most {} are read: the one before stays. Let quotas have \
                 fewer keys, such as orgs in the place of addresses, or count by day",
                self.max_file
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        let file = folder.join(FILE);
        files::replace(&file, &state.encode())?;
        self.known().seen = mark(&file);
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn state(&self) -> State {
        let known = self.known();
        let counters: Vec<_> = known.counters.iter().map(|(id, it)| (id.clone(), Arc::clone(it))).collect();
        let unclaimed: Vec<_> = known.unclaimed.iter().map(|(id, it)| (id.clone(), it.clone())).collect();
        drop(known);
        let from = minutes(clock::now().unix.saturating_sub(PAST));
        let mut quotas: Vec<(Id, Vec<Entry>)> = Vec::with_capacity(counters.len() + unclaimed.len());
        for (id, counter) in counters {
            // Before a shard is held, which requests wait for: with some more, for those that come meanwhile.
            let mut entries = Vec::with_capacity(counter.live_keys() + MORE_KEYS);
            counter.each(|key, windows| {
                if windows.iter().any(|window| window.start >= from) {
                    entries.push((key, windows));
                }
            });
            quotas.push((id, entries));
        }
        quotas.extend(unclaimed);
        State { salt: self.salt, writer: self.writer, quotas }
    }

    /// Begins to write from time to time; `None` where there is no folder.
    ///
    /// # Errors
    /// Where the system lends no thread.
    pub fn start(self: &Arc<Self>, interval: Duration) -> io::Result<Option<Writer>> {
        if self.folder.is_none() {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let quotas = Arc::clone(self);
        let work = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                quotas.write();
            }
            quotas.write();
        };
        let thread = thread::Builder::new().name("quotas".to_owned()).spawn(work)?;
        Ok(Some(Writer { stop, thread }))
    }
}

impl Writer {
    /// Writes a last time.
    pub fn close(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// What tells one file from the next of the same name: times alone are too coarse.
fn mark(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}

fn minutes(unix: Duration) -> u32 {
    u32::try_from(unix.as_secs() / 60).unwrap_or(u32::MAX)
}

/// The start of the latest window that any key is in.
fn latest(counter: &WindowCounter) -> u32 {
    let mut latest = 0;
    counter.each(|_, windows| latest = windows.iter().map(|window| window.start).fold(latest, u32::max));
    latest
}

#[cfg(test)]
mod tests;
