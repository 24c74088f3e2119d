//! The repository that is pulled into, within its bound or else taken afresh.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foregate_policy::codes;
use gix::ObjectId;
use log::Level;

use crate::clock;
use crate::event::event;
use crate::sources::SourceFault;
use crate::sources::git::fetch::{self, Watchdog};
use crate::sources::spec::{GitSpec, Limits};

/// Folders of the state: what is pulled into, what is taken afresh, and what that replaces.
const STORE: &str = "repository";
const AFRESH: &str = "repository.new";
const REPLACED: &str = "repository.old";

/// How long a repository that was too large even afresh is not asked for again: it costs all of its bound each time.
const AGAIN: Duration = Duration::from_hours(1);

/// What may be taken in how much room.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    /// When it was too large even afresh; monotonic.
    too_large: Mutex<Option<Duration>>,
}

/// Why nothing was fetched.
#[derive(Debug)]
enum Stopped {
    Large,
    Late,
    Failed(String),
}

impl Store {
    pub fn new(state: PathBuf) -> Self {
        Self { state, too_large: Mutex::new(None) }
    }

    /// Fetches the branch or tag, and gives the repository that has it with the commit it is at.
    ///
    /// Each pull brings whole packs, so that a store grows though what is wanted does not. One that has passed its bound is taken
    /// afresh beside the old one and takes its place: the history is the same, in one pack. Where that is too large as well, nothing
    /// is fetched for a while.
    ///
    /// # Errors
    /// Why it cannot be had, or is too large.
    pub fn fetch(
        &self,
        name: &str,
        (spec, limits): (&GitSpec, Limits),
        limit: Duration,
    ) -> Result<(gix::Repository, ObjectId), SourceFault> {
        let most = limits.size().saturating_mul(4);
        let began = clock::monotonic();
        for left_over in [AFRESH, REPLACED] {
            let _ = fs::remove_dir_all(self.state.join(left_over));
        }
        let told = |why| told(why, name, spec, most);
        if self.was_too_large(began) {
            return Err(told(Stopped::Large));
        }
        let store = self.state.join(STORE);
        let was_empty = fetch::size(&store.join("objects"), 0) == 0;
        match into(&store, spec, most, limit) {
            // It was taken afresh just now.
            Err(Stopped::Large) if was_empty => {
                let _ = fs::remove_dir_all(&store);
                self.found_too_large(began);
                return Err(told(Stopped::Large));
            }
            Err(Stopped::Large) => {}
            outcome => return outcome.map_err(told),
        }
        let left = limit.saturating_sub(clock::monotonic().saturating_sub(began));
        let fresh = self.state.join(AFRESH);
        let fetched = into(&fresh, spec, most, left).and_then(|(repository, tip)| {
            drop(repository);
            self.replace().map_err(Stopped::Failed)?;
            Ok((fetch::open(&store).map_err(Stopped::Failed)?, tip))
        });
        if fetched.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        } else {
            event(Level::Info, "repository taken afresh", &[("source", name.into())]);
        }
        if matches!(fetched, Err(Stopped::Large)) {
            self.found_too_large(began);
        }
        fetched.map_err(told)
    }

    fn found_too_large(&self, now: Duration) {
        *self.too_large.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn was_too_large(&self, now: Duration) -> bool {
        let then = *self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        then.is_some_and(|then| now.saturating_sub(then) < AGAIN)
    }

    /// Puts what was taken afresh in the place of the store. Where this is cut off, the next pull finds either, or nothing.
    fn replace(&self) -> Result<(), String> {
        let (store, replaced) = (self.state.join(STORE), self.state.join(REPLACED));
        let moved = fs::rename(&store, &replaced).and_then(|()| {
            let outcome = fs::rename(self.state.join(AFRESH), &store);
            outcome.inspect_err(|_| drop(fs::rename(&replaced, &store)))
        });
        moved.map_err(|error| format!("{}: {error}", store.display()))?;
        let _ = fs::remove_dir_all(&replaced);
        Ok(())
    }
}

/// Fetches into one folder, which takes no more than `most` bytes.
fn into(
    folder: &Path,
    spec: &GitSpec,
    most: u64,
    limit: Duration,
) -> Result<(gix::Repository, ObjectId), Stopped> {
    let is_large = || fetch::size(&folder.join("objects"), 0) > most;
    if is_large() {
        return Err(Stopped::Large);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watchdog = Watchdog::start(folder, most, limit, &stop);
    let repository = fetch::open(folder).map_err(Stopped::Failed)?;
    let fetched = fetch::fetch(&repository, spec, &stop);
    let large = watchdog.saw_too_much();
    drop(watchdog);
    match fetched {
        // One that is quicker than the looks of the watchdog is looked at here.
        Ok(_) if is_large() => Err(Stopped::Large),
        Ok(tip) => Ok((repository, tip)),
        Err(_) if large => Err(Stopped::Large),
        Err(_) if stop.load(Ordering::Acquire) => Err(Stopped::Late),
        Err(error) => Err(Stopped::Failed(error)),
    }
}

fn told(why: Stopped, name: &str, spec: &GitSpec, most: u64) -> SourceFault {
    match why {
        Stopped::Large => {
            let message = format!(
                "the repository is larger than {} KiB, which is four times `limits.size`, also when it is taken afresh",
                most >> 10
            );
            let help = "its whole history counts: give the source a larger `limits.size`, or another repository that never had \
                        the large files; a start asks for it at once, and otherwise an hour passes";
            SourceFault::new(name, codes::SOURCE_LIMIT, message).help(help)
        }
        Stopped::Late => {
            let message = format!("the repository takes longer than {}s", spec.timeout().as_secs());
            SourceFault::new(name, codes::SOURCE_LIMIT, message).help("see `git.timeout` of the source")
        }
        Stopped::Failed(error) => {
            let mend = fetch::mend(&error, spec);
            let fault = SourceFault::new(name, codes::SOURCE_UNREADABLE, error);
            match mend {
                Some(mend) => fault.help(mend),
                None => fault,
            }
        }
    }
}
