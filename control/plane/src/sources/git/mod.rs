//! A git repository as a source: pulled, verified, read.

mod checkout;
mod fetch;
mod history;
pub mod signers;
pub mod sshsig;
mod store;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_https;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foregate_policy::{codes, files};
use gix::ObjectId;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::sources::git::store::Store;
use crate::sources::spec::{GitSpec, Limits};
use crate::sources::{Source, SourceFault, Tree};

/// A repository that is pulled again and again.
#[derive(Debug)]
pub struct GitSource {
    puller: Arc<Puller>,
    /// A pull that did not end in time; no other one begins before it does.
    late: Option<JoinHandle<Result<Option<Tree>, SourceFault>>>,
    pulled: bool,
}

/// All that one pull needs.
#[derive(Debug)]
struct Puller {
    name: String,
    spec: GitSpec,
    limits: Limits,
    state: PathBuf,
    store: Store,
}

/// What was accepted last, kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Accepted {
    url: String,
    reference: String,
    commit: String,
}

impl GitSource {
    pub fn new(name: &str, spec: GitSpec, limits: Limits, state: PathBuf) -> Self {
        Self { puller: Arc::new(Puller::new(name, spec, limits, state)), late: None, pulled: false }
    }

    fn fault(&self, message: impl Into<String>) -> SourceFault {
        SourceFault::new(&self.puller.name, codes::SOURCE_UNREADABLE, message)
    }
}

#[tonic::async_trait]
impl Source for GitSource {
    async fn next(&mut self) -> Result<Tree, SourceFault> {
        loop {
            if self.pulled {
                sleep(self.puller.spec.interval()).await;
            }
            let limit = self.puller.spec.timeout();
            let (first, puller) = (!self.pulled, Arc::clone(&self.puller));
            let mut pull = match self.late.take() {
                Some(late) => late,
                None => tokio::task::spawn_blocking(move || puller.pull(first, limit)),
            };
            // The pull is told to end at its limit; a server that says nothing at all keeps it longer.
            let outcome = if let Ok(ended) = timeout(limit + Duration::from_secs(1), &mut pull).await {
                ended.unwrap_or_else(|_| Err(self.fault("a defect while pulling")))
            } else {
                self.late = Some(pull);
                Err(self.fault(format!("the server did not answer within {}s", limit.as_secs())))
            };
            match outcome {
                Ok(Some(tree)) => {
                    self.pulled = true;
                    return Ok(tree);
                }
                Ok(None) => {}
                Err(fault) => return Err(fault),
            }
        }
    }
}

impl Puller {
    fn new(name: &str, spec: GitSpec, limits: Limits, state: PathBuf) -> Self {
        let store = Store::new(state.clone());
        Self { name: name.to_owned(), spec, limits, state, store }
    }

    fn fault(&self, message: impl Into<String>) -> SourceFault {
        SourceFault::new(&self.name, codes::SOURCE_UNREADABLE, message)
    }

    /// Pulls once. `None` where nothing is new since the last one; the `first` always gives what is there.
    fn pull(&self, first: bool, limit: Duration) -> Result<Option<Tree>, SourceFault> {
        let (repository, tip) = self.store.fetch(&self.name, (&self.spec, self.limits), limit)?;
        let old = self.accepted()?;
        if old == Some(tip) && !first {
            return Ok(None);
        }
        let verified = history::verify(&repository, &self.name, &self.spec, old, tip)?;
        let mut tree = checkout::read(&repository, &self.name, &self.spec, self.limits, tip)?;
        tree.revision = tip.to_string();
        tree.signer = verified.signer;
        tree.time = verified.time;
        if old != Some(tip) {
            self.accept(tip)?;
        }
        Ok(Some(tree))
    }

    fn state_file(&self) -> PathBuf {
        self.state.join("accepted.json")
    }

    /// The commit that was accepted before from the same place; another one has another history. What cannot be read is
    /// a fault: it must not pass for nothing, which any history may follow.
    fn accepted(&self) -> Result<Option<ObjectId>, SourceFault> {
        let file = self.state_file();
        let fault = |why: &dyn fmt::Display| {
            let message = format!("{}: {why}: which commit was accepted last is not known", file.display());
            let help = "mend the file; whoever means to begin anew removes it";
            SourceFault::new(&self.name, codes::SOURCE_UNREADABLE, message).help(help)
        };
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(&error)),
        };
        let accepted: Accepted = serde_json::from_slice(&text).map_err(|error| fault(&error))?;
        if accepted.url != self.spec.url || accepted.reference != self.spec.reference() {
            return Ok(None);
        }
        ObjectId::from_hex(accepted.commit.as_bytes()).map(Some).map_err(|error| fault(&error))
    }

    fn accept(&self, tip: ObjectId) -> Result<(), SourceFault> {
        let accepted = Accepted {
            url: self.spec.url.clone(),
            reference: self.spec.reference(),
            commit: tip.to_string(),
        };
        let text = serde_json::to_vec(&accepted).map_err(|error| self.fault(error.to_string()))?;
        let file: &Path = &self.state_file();
        let written = files::make_folder(&self.state).and_then(|()| files::replace(file, &text));
        written.map_err(|error| self.fault(format!("{}: {error}", file.display())))
    }
}
