//! Verifies what lies between the commit accepted last and a new one.

use std::collections::HashSet;
use std::path::Path;

use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use gix::ObjectId;

use crate::clock;
use crate::sources::SourceFault;
use crate::sources::git::signers::{Signers, Untrusted};
use crate::sources::spec::GitSpec;

/// Most commits that are looked at; a repository of policies has fewer.
const MAX_COMMITS: usize = 100_000;
/// Faults that are told of one pull.
const MAX_TOLD: usize = 8;

/// Who vouches for the new commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub signer: Option<String>,
    /// When it was committed, in seconds since the Unix epoch.
    pub time: Option<i64>,
}

/// Verifies that `new` follows `old`, and that every commit in between is signed by somebody who may. Without an
/// `old` one, the new commit alone must be.
///
/// # Errors
/// Every commit that does not count, and a history that was rewritten or rolled back.
pub fn verify(
    repository: &gix::Repository,
    name: &str,
    spec: &GitSpec,
    old: Option<ObjectId>,
    new: ObjectId,
) -> Result<Verified, SourceFault> {
    let defect = |error: String| SourceFault::new(name, codes::SOURCE_UNREADABLE, error);
    let between = match old {
        Some(old) if old != new => {
            let reached = ancestors(repository, new).map_err(defect)?;
            if !reached.contains(&old) {
                // A repository that was taken afresh has only what the new commit follows.
                let before = repository.has_object(old).then(|| ancestors(repository, old));
                let before = before.transpose().map_err(defect)?.unwrap_or_default();
                return Err(rewritten(name, spec, old, new, before.contains(&new)));
            }
            let before = ancestors(repository, old).map_err(defect)?;
            reached.difference(&before).copied().collect()
        }
        _ => vec![new],
    };
    let signers = match &spec.allowed_signers {
        Some(path) => Some(Signers::read(path).map_err(|error| {
            let shown = path.display();
            SourceFault::new(name, codes::SIGNERS, format!("the file of allowed signers {shown}: {error}"))
        })?),
        None => None,
    };
    let now = i64::try_from(clock::now().unix.as_secs()).unwrap_or(i64::MAX);
    let mut verified = Verified::default();
    let mut faults = Vec::new();
    for commit in between {
        let found = repository.find_commit(commit).map_err(|error| defect(error.to_string()))?;
        let time = found.time().map_err(|error| defect(error.to_string()))?.seconds;
        // What was accepted before stays accepted, also where the key has expired meanwhile.
        let times = if old == Some(commit) { vec![time] } else { vec![time, now] };
        let outcome = signer(&found, signers.as_ref(), &times);
        if commit == new {
            verified = Verified { signer: outcome.clone().ok().flatten(), time: Some(time) };
        }
        if let Err(why) = outcome
            && !spec.insecure.unsigned_commits
            && old != Some(commit)
            && faults.len() < MAX_TOLD
        {
            let message = format!("commit {commit} is not accepted: {why}");
            let fault = Diagnostic::file(Path::new(name), codes::COMMIT_UNTRUSTED, message);
            faults.push(fault.help(
                "sign it with a key of the file of allowed signers: git commit -S, with gpg.format = ssh",
            ));
        }
    }
    if faults.is_empty() { Ok(verified) } else { Err(SourceFault(faults)) }
}

fn signer(
    commit: &gix::Commit<'_>,
    signers: Option<&Signers>,
    times: &[i64],
) -> Result<Option<String>, String> {
    let Some((signature, signed)) = commit.signature().map_err(|error| error.to_string())? else {
        return Err("it is not signed".to_owned());
    };
    let Some(signers) = signers else { return Ok(None) };
    let signature =
        std::str::from_utf8(signature.as_ref()).map_err(|_| Untrusted::OtherFormat.to_string())?;
    let signed = signed.to_bstring();
    signers.verify(signature, &signed, times).map(Some).map_err(|why| why.to_string())
}

fn rewritten(name: &str, spec: &GitSpec, old: ObjectId, new: ObjectId, back: bool) -> SourceFault {
    let what = spec.reference();
    let message = if back {
        format!("{what} went back from {old} to {new}, which was in force before it")
    } else {
        format!("{what} was rewritten: {new} does not follow {old}")
    };
    let help = "revert with a new commit; where the history is meant to be another one, stop the control plane and remove accepted.json of this source below its state folder";
    SourceFault::new(name, codes::HISTORY_REWRITTEN, message).help(help)
}

/// The commit and all before it.
fn ancestors(repository: &gix::Repository, tip: ObjectId) -> Result<HashSet<ObjectId>, String> {
    let mut seen = HashSet::from([tip]);
    let mut open = vec![tip];
    while let Some(next) = open.pop() {
        let commit = repository.find_commit(next).map_err(|error| error.to_string())?;
        for parent in commit.parent_ids().map(gix::Id::detach) {
            if seen.insert(parent) {
                open.push(parent);
            }
        }
        if seen.len() > MAX_COMMITS {
            return Err(format!("the history has more than {MAX_COMMITS} commits"));
        }
    }
    Ok(seen)
}
