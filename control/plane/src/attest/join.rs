//! Join tokens: made by an operator for one workload, kept as hashes, used up.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::authority::state;
use crate::config::tokens::JoinTokens;

/// Its file in the state folder.
const FILE: &str = "join-tokens.json";

/// How a token begins, so that people and scanners know one.
const PREFIX: &str = "fgj";

/// Random bytes of the public and of the secret part.
const NAME: usize = 9;
const SECRET: usize = 32;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 128;

/// Most tokens that are kept at once.
const MAX_TOKENS: usize = 10_000;

/// The tokens that were made and are not used up.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    bounds: JoinTokens,
    /// Held for no longer than a look takes.
    kept: Mutex<Kept>,
    /// Which state is on disk; held while one is written, so that those who wait meanwhile are written down together.
    written: Mutex<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    tokens: BTreeMap<String, Token>,
    /// Counts changes.
    changes: u64,
}

impl Kept {
    /// Lets go of those that are of no use, and counts the change.
    fn changed(&mut self, now: Duration) -> u64 {
        self.tokens.retain(|_, token| token.uses > 0 && token.expires > now.as_secs());
        self.changes += 1;
        self.changes
    }
}

/// One token, by its public part.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Token {
    /// SHA-256 of the secret part, in Base64url.
    sha256: String,
    /// Of the workload's id, such as `/ns/crm/sa/leads`.
    path: String,
    /// In seconds since the epoch.
    expires: u64,
    /// Certificates that it is still good for.
    uses: u32,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("a token may live for {0} at most")]
    Lifetime(String),
    #[error("a token may be used from 1 to {0} times")]
    Uses(u32),
    #[error("{MAX_TOKENS} tokens are out already")]
    Many,
    #[error("there is no randomness")]
    Random,
    #[error("{file}: {source}")]
    File { file: String, source: io::Error },
}

/// Why a token proves nothing. Callers are told none of it.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("no token of that form")]
    Malformed,
    #[error("unknown, or used up")]
    Unknown,
    #[error("its secret part is wrong")]
    Wrong,
    #[error("it has expired")]
    Expired,
    #[error("it was not used, as that could not be written down: {0}")]
    File(io::Error),
}

impl JoinError {
    /// A word for the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
            Self::Expired => "expired",
            Self::File(_) => "failed",
        }
    }
}

impl Tokens {
    /// The tokens that are kept in the state folder.
    ///
    /// # Errors
    /// Where their file cannot be read.
    pub fn open(state_dir: &Path, bounds: JoinTokens) -> Result<Self, CreateError> {
        let file = state_dir.join(FILE);
        let kept = state::read(&file)
            .map_err(|source| CreateError::File { file: file.display().to_string(), source })?;
        let kept = Kept { tokens: kept.unwrap_or_default(), changes: 0 };
        Ok(Self { file, bounds, kept: Mutex::new(kept), written: Mutex::new(0) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this change is on disk, with whatever else has changed by then.
    fn write(&self, change: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= change {
            return Ok(());
        }
        let (tokens, changes) = {
            let kept = self.kept();
            (kept.tokens.clone(), kept.changes)
        };
        state::write(&self.file, &tokens)?;
        *written = changes;
        Ok(())
    }

    /// Makes a token for a path such as `/ns/crm/sa/leads`. It is shown this once; what is kept is its hash.
    ///
    /// # Errors
    /// Where it is out of bounds, or cannot be written down.
    pub fn create(
        &self,
        path: &str,
        life: Duration,
        uses: u32,
        now: Duration,
    ) -> Result<Zeroizing<String>, CreateError> {
        if life > self.bounds.lifetime.0 || life.is_zero() {
            return Err(CreateError::Lifetime(self.bounds.lifetime.to_string()));
        }
        if !(1..=self.bounds.uses).contains(&uses) {
            return Err(CreateError::Uses(self.bounds.uses));
        }
        let (mut name, mut secret) = ([0; NAME], Zeroizing::new([0; SECRET]));
        rand::fill(&mut name).and_then(|()| rand::fill(&mut *secret)).map_err(|_| CreateError::Random)?;
        let (name, secret) = (URL_SAFE_NO_PAD.encode(name), Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret)));
        let token =
            Token { sha256: hash(&secret), path: path.to_owned(), expires: (now + life).as_secs(), uses };
        let mut kept = self.kept();
        let change = kept.changed(now);
        if kept.tokens.len() >= MAX_TOKENS {
            return Err(CreateError::Many);
        }
        kept.tokens.insert(name.clone(), token);
        drop(kept);
        self.write(change).map_err(|source| {
            self.kept().tokens.remove(&name);
            CreateError::File { file: self.file.display().to_string(), source }
        })?;
        Ok(Zeroizing::new(format!("{PREFIX}.{name}.{}", *secret)))
    }

    /// The path that a token is good for; it is not used by that.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn path(&self, token: &str, now: Duration) -> Result<String, JoinError> {
        find(&self.kept().tokens, token, now).map(|(_, found)| found.path.clone())
    }

    /// Uses a token once: the path that it was made for.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn spend(&self, token: &str, now: Duration) -> Result<String, JoinError> {
        let mut kept = self.kept();
        let (name, found) = find(&kept.tokens, token, now)?;
        let (name, before) = (name.to_owned(), found.clone());
        if let Some(found) = kept.tokens.get_mut(&name) {
            found.uses -= 1;
        }
        let change = kept.changed(now);
        drop(kept);
        // Written down before it counts: a crash must not give it back.
        self.write(change).map_err(|error| {
            let path = before.path.clone();
            let again = Token { uses: 0, path, sha256: before.sha256.clone(), expires: before.expires };
            self.kept().tokens.entry(name).or_insert(again).uses += 1;
            JoinError::File(error)
        })?;
        Ok(before.path)
    }
}

/// A token that is good, with its public part.
fn find<'a>(
    kept: &'a BTreeMap<String, Token>,
    token: &str,
    now: Duration,
) -> Result<(&'a str, &'a Token), JoinError> {
    if token.len() > MAX_TOKEN {
        return Err(JoinError::Malformed);
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [PREFIX, name, secret] = parts.as_slice() else { return Err(JoinError::Malformed) };
    let given = hash(secret);
    let (name, found) = kept.get_key_value(*name).ok_or(JoinError::Unknown)?;
    verify_slices_are_equal(found.sha256.as_bytes(), given.as_bytes()).map_err(|_| JoinError::Wrong)?;
    if found.expires <= now.as_secs() { Err(JoinError::Expired) } else { Ok((name, found)) }
}

fn hash(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(secret))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foregate_filters::units::TimeSpan;

    use super::{CreateError, JoinError, Tokens};
    use crate::config::tokens::JoinTokens;

    const MINUTE: Duration = Duration::from_mins(1);
    const NOW: Duration = Duration::from_secs(1_790_000_000);
    const PATH: &str = "/ns/crm/sa/leads";

    #[test]
    fn a_token_is_good_for_its_uses_and_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = JoinTokens { lifetime: TimeSpan(MINUTE), uses: 2 };
        let open = || Tokens::open(folder.path(), bounds.clone()).unwrap();
        let tokens = open();
        let token = tokens.create(PATH, MINUTE, 2, NOW).unwrap();
        let once = tokens.create(PATH, MINUTE, 1, NOW).unwrap();
        let (_, secret) = token.rsplit_once('.').unwrap();
        let file = std::fs::read_to_string(folder.path().join(super::FILE)).unwrap();
        assert!(!file.contains(secret), "kept as a hash");

        let refused = |token: &str, now| tokens.spend(token, now).unwrap_err().label();
        assert_eq!(tokens.spend(&once, NOW).unwrap(), PATH);
        assert_eq!(refused(&once, NOW), "unknown");
        assert_eq!(tokens.spend(&token, NOW).unwrap(), PATH);
        let (name, _) = token.rsplit_once('.').unwrap();
        let (_, other) = once.rsplit_once('.').unwrap();
        assert_eq!(refused(&format!("{name}.{other}"), NOW), "wrong");
        assert_eq!(refused("fgj.unknown.secret", NOW), "unknown");
        for malformed in ["", "fgj", "fgj.a", "other.a.b", "fgj.a.b.c", &"x".repeat(1000)] {
            assert_eq!(refused(malformed, NOW), "malformed", "{malformed}");
        }
        assert_eq!(refused(&token, NOW + MINUTE), "expired");
        // What is left is known after a restart, and what is used up is not.
        let again = open();
        assert!(matches!(again.spend(&once, NOW), Err(JoinError::Unknown)));
        assert_eq!(again.spend(&token, NOW).unwrap(), PATH);
        assert!(matches!(again.spend(&token, NOW), Err(JoinError::Unknown)));
    }

    #[test]
    fn many_that_join_at_once_are_written_down_together_and_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = JoinTokens { lifetime: TimeSpan(MINUTE), uses: 100 };
        let tokens = Tokens::open(folder.path(), bounds.clone()).unwrap();
        let token = tokens.create(PATH, MINUTE, 64, NOW).unwrap();
        // Nobody who only looks waits for the disk.
        let writing = tokens.written.lock().unwrap();
        std::thread::scope(|scope| {
            let spent: Vec<_> = (0..64).map(|_| scope.spawn(|| tokens.spend(&token, NOW))).collect();
            while tokens.path(&token, NOW).is_ok() {
                std::thread::yield_now();
            }
            drop(writing);
            assert!(spent.into_iter().all(|one| one.join().unwrap().is_ok()));
        });
        assert!(matches!(tokens.spend(&token, NOW), Err(JoinError::Unknown)));
        let again = Tokens::open(folder.path(), bounds).unwrap();
        assert!(matches!(again.spend(&token, NOW), Err(JoinError::Unknown)));
    }

    #[test]
    fn what_cannot_be_written_down_was_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = JoinTokens { lifetime: TimeSpan(MINUTE), uses: 2 };
        let tokens = Tokens::open(&folder.path().join("state"), bounds).unwrap();
        assert!(matches!(tokens.create(PATH, MINUTE, 1, NOW), Err(CreateError::File { .. })));
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let token = tokens.create(PATH, MINUTE, 1, NOW).unwrap();
        std::fs::rename(folder.path().join("state"), folder.path().join("gone")).unwrap();
        assert!(matches!(tokens.spend(&token, NOW), Err(JoinError::File(_))));
        std::fs::rename(folder.path().join("gone"), folder.path().join("state")).unwrap();
        assert_eq!(tokens.spend(&token, NOW).unwrap(), PATH);
        assert!(matches!(tokens.spend(&token, NOW), Err(JoinError::Unknown)));
    }

    #[test]
    fn a_token_out_of_bounds_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path(), JoinTokens { lifetime: TimeSpan(MINUTE), uses: 2 }).unwrap();
        for life in [Duration::ZERO, MINUTE * 2] {
            assert!(matches!(tokens.create(PATH, life, 1, NOW), Err(CreateError::Lifetime(_))));
        }
        for uses in [0, 3] {
            assert!(matches!(tokens.create(PATH, MINUTE, uses, NOW), Err(CreateError::Uses(2))));
        }
    }
}
