//! Versions that guardrails took off stay off over a restart, with a state folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use foregate_inference::rollout::trial::{Breach, Event, Guardrail, Role};
use foregate_policy::files;
use log::Level;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::state_folder::{lock, set_aside};
use crate::telemetry::event::event;

/// The file in the folder.
const FILE: &str = "trials.json";
/// Held while the file is read and written: two processes share it while one takes the place of the other.
const LOCK: &str = "trials.lock";
/// Version of the format, the only one that is read.
const FORMAT: u32 = 1;
/// Bytes of the file at most.
const MAX_FILE: u64 = 1 << 20;
/// Versions that are remembered at most; the oldest is forgotten.
const MOST: usize = 1_024;

/// What is remembered of versions that were taken off.
#[derive(Debug, Default)]
pub struct Trials {
    folder: Option<PathBuf>,
    held: Mutex<Vec<Held>>,
}

/// A version that was taken off.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Held {
    /// The rollout that it was on trial in: model, versions, contents, parts and bounds.
    rollout: String,
    role: String,
    /// Milliseconds since the Unix epoch until it is tried again; absent where only a publication ends it.
    until: Option<u64>,
    guardrail: String,
    measured: f64,
    bound: f64,
    feature: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    held: Vec<Held>,
}

impl Trials {
    /// What the folder holds, which is there already. A file that is no sound one of ours is told of and set aside.
    ///
    /// # Errors
    /// Where it cannot be read or written: better no start than a version on trial that is known to be bad.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let _held = lock(folder, LOCK)?;
        let held = read(folder)?;
        Ok(Self { folder: Some(folder.to_owned()), held: Mutex::new(held) })
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the version of this role is off, and for how long yet; without a time, until a publication ends it. `None`
    /// where it is not.
    pub fn find(&self, rollout: &str, role: Role) -> Option<(Option<Duration>, Breach)> {
        let now = millis(clock::now().unix);
        let held = self.held();
        let found = held.iter().find(|held| held.rollout == rollout && held.role == role.name())?;
        let left = match found.until {
            Some(until) if until <= now => return None,
            until => until.map(|until| Duration::from_millis(until - now)),
        };
        let guardrail = Guardrail::ALL.into_iter().find(|one| one.name() == found.guardrail)?;
        let feature = found.feature.as_deref().map(Into::into);
        Some((left, Breach { guardrail, measured: found.measured, bound: found.bound, feature }))
    }

    /// Notes what happened to a version; it is written on another thread: a request may wait for this one.
    pub fn note(self: &Arc<Self>, rollout: &Arc<str>, happened: &Event) {
        if self.folder.is_none() {
            return;
        }
        let (role, held) = match happened {
            Event::TakenOff { role, breach, hold_off, .. } => {
                let until = hold_off.map(|time| millis(clock::now().unix.saturating_add(time)));
                (*role, Some(Held::new(rollout, *role, until, breach)))
            }
            Event::TriedAgain { role, .. } => (*role, None),
        };
        let (trials, rollout) = (Arc::clone(self), Arc::clone(rollout));
        let write = move || {
            trials.change(|all| {
                all.retain(|one| *one.rollout != *rollout || one.role != role.name());
                all.extend(held);
            });
        };
        if let Err(error) = thread::Builder::new().name("trials".to_owned()).spawn(write) {
            unwritten(&error);
        }
    }

    /// Forgets all rollouts but these: a version whose rollout has changed is tried again. Blocks as long as the disk does.
    pub fn keep_only(&self, rollouts: &[Arc<str>]) {
        let gone = |held: &Held| !rollouts.iter().any(|rollout| **rollout == *held.rollout);
        if self.folder.is_some() && self.held().iter().any(gone) {
            self.change(|all| all.retain(|held| !gone(held)));
        }
    }

    /// Reads what another process has written since, changes it, and writes it.
    fn change(&self, change: impl FnOnce(&mut Vec<Held>)) {
        let Some(folder) = &self.folder else { return };
        let changed = lock(folder, LOCK).and_then(|_lock| {
            let mut all = read(folder)?;
            change(&mut all);
            let now = millis(clock::now().unix);
            all.retain(|held| held.until.is_none_or(|until| until > now));
            let over = all.len().saturating_sub(MOST);
            all.drain(..over);
            write(folder, &all)?;
            *self.held() = all;
            Ok(())
        });
        if let Err(error) = changed {
            unwritten(&error);
        }
    }
}

impl Held {
    fn new(rollout: &str, role: Role, until: Option<u64>, breach: &Breach) -> Self {
        Self {
            rollout: rollout.to_owned(),
            role: role.name().to_owned(),
            until,
            guardrail: breach.guardrail.name().to_owned(),
            measured: breach.measured,
            bound: breach.bound,
            feature: breach.feature.as_deref().map(str::to_owned),
        }
    }
}

fn unwritten(error: &io::Error) {
    event(Level::Error, "model trials not written", &[("error", error.to_string().into())]);
}

fn millis(unix: Duration) -> u64 {
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

fn read(folder: &Path) -> io::Result<Vec<Held>> {
    let path = folder.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    let why = match serde_json::from_slice::<Written>(&text) {
        _ if text.len() as u64 > MAX_FILE => "it is too large".to_owned(),
        Ok(Written { format: FORMAT, held }) => return Ok(held),
        Ok(Written { format, .. }) => format!("it is of format {format}"),
        Err(error) => error.to_string(),
    };
    let aside = set_aside(folder, FILE)?;
    let text = "model trials begin anew: their file is refused and set aside";
    event(Level::Error, text, &[("why", why.into()), ("file", aside.display().to_string().into())]);
    Ok(Vec::new())
}

fn write(folder: &Path, held: &[Held]) -> io::Result<()> {
    files::replace(&folder.join(FILE), &serde_json::to_vec(&Written { format: FORMAT, held: held.to_vec() })?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use foregate_inference::rollout::trial::{Breach, Guardrail, Role};

    use super::{FILE, Held, MOST, Trials, millis};
    use crate::clock;

    fn breach() -> Breach {
        Breach { guardrail: Guardrail::Drift, measured: 0.4, bound: 0.25, feature: Some("visits".into()) }
    }

    fn note(trials: &Trials, rollout: &str, until: Option<u64>) {
        trials.change(|all| all.push(Held::new(rollout, Role::Canary, until, &breach())));
    }

    #[test]
    fn what_was_taken_off_is_known_after_a_restart_within_its_hold_off() {
        let folder = tempfile::tempdir().unwrap();
        let trials = Trials::open(folder.path()).unwrap();
        let later = millis(clock::now().unix) + 3_600_000;
        note(&trials, "a", Some(later));
        note(&trials, "b", None);
        note(&trials, "over", Some(1));
        let anew = Trials::open(folder.path()).unwrap();
        let (left, why) = anew.find("a", Role::Canary).unwrap();
        assert!(left.unwrap() > Duration::from_mins(59) && left.unwrap() <= Duration::from_hours(1));
        assert_eq!(why, breach());
        assert_eq!(anew.find("b", Role::Canary), Some((None, breach())));
        assert_eq!((anew.find("a", Role::Shadow), anew.find("over", Role::Canary)), (None, None));
        // Another process has noted something meanwhile: nothing of it is lost.
        note(&trials, "c", None);
        anew.keep_only(&[Arc::from("b"), Arc::from("c")]);
        let anew = Trials::open(folder.path()).unwrap();
        assert_eq!(anew.find("a", Role::Canary), None, "its rollout is gone");
        assert!(anew.find("b", Role::Canary).is_some() && anew.find("c", Role::Canary).is_some());
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_set_aside_and_a_full_one_forgets_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", "{\"format\":2,\"held\":[]}", "{\"format\":1,\"held\":[{}]}"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            let trials = Trials::open(folder.path()).unwrap();
            assert_eq!(trials.find("a", Role::Canary), None);
            assert!(!folder.path().join(FILE).exists(), "{text}");
        }
        let trials = Trials::open(folder.path()).unwrap();
        let many = (0..=MOST).map(|it| Held::new(&it.to_string(), Role::Shadow, None, &breach()));
        trials.change(|all| all.extend(many));
        assert_eq!(trials.find("0", Role::Shadow), None);
        assert!(trials.find("1", Role::Shadow).is_some());
        // Without a folder nothing is remembered.
        let none = Trials::default();
        note(&none, "a", None);
        assert_eq!(none.find("a", Role::Canary), None);
    }
}
