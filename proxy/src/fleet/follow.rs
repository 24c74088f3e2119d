//! Follows the policies of the control plane: takes what compiles, refuses the rest, reports.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::fleet::{Finding, Node, PolicyRequest, PolicyResponse, Refusal, Report};
use log::Level;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::drain::Drain;
use crate::fleet::arrival::Arrival;
use crate::fleet::backoff::Backoff;
use crate::fleet::call::{Call, CallError};
use crate::fleet::channel::Channel;
use crate::fleet::keep::Keep;
use crate::fleet::status::Standing;
use crate::reload::Reload;
use crate::telemetry::event::event;
use crate::telemetry::metrics::Outcomes;
use crate::{discovery, fleet};

/// The call that streams policies.
const METHOD: &str = "/foregate.fleet.v1.Policies/Stream";
/// Between two reports.
const REPORT: Duration = Duration::from_secs(2);
/// Pauses after a stream has ended; the pauses between connections are the channel's.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Most findings of one refusal.
const MAX_FINDINGS: usize = 32;

/// What this proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// The same over restarts.
    pub id: String,
    pub labels: HashMap<String, String>,
    pub zone: Option<Arc<str>>,
}

/// The policies of the fleet, as far as they are this proxy's.
#[derive(Debug)]
pub struct Fleet {
    channel: Arc<Channel>,
    node: NodeOptions,
    keep: Mutex<Keep>,
    pub standing: Arc<Standing>,
    /// Turns true with the first policies, and stays so.
    provided: watch::Sender<bool>,
}

impl Fleet {
    /// Opens what is kept below `folder`.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn open(folder: PathBuf, channel: Arc<Channel>, node: NodeOptions) -> io::Result<Self> {
        let keep = Keep::open(folder)?;
        let standing = Standing::new(channel.at(), node.id.clone(), keep.revision.clone());
        let provided = watch::channel(false).0;
        Ok(Self { channel, node, keep: Mutex::new(keep), standing: Arc::new(standing), provided })
    }

    fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the policies are; nothing before the first ones have come.
    pub fn folder(&self) -> PathBuf {
        self.keep().current()
    }

    pub fn is_empty(&self) -> bool {
        self.keep().is_empty()
    }

    /// What is kept cannot be used: all of it is asked for again.
    pub fn forget(&self) {
        self.keep().forget();
    }

    /// Policies are in force.
    pub fn provide(&self) {
        self.provided.send_replace(true);
    }

    /// Waits until policies are in force.
    pub async fn provided(&self) {
        let _ = self.provided.subscribe().wait_for(|provided| *provided).await;
    }

    pub fn is_provided(&self) -> bool {
        *self.provided.borrow()
    }

    /// Follows until the drain starts.
    pub async fn follow(&self, reload: &Reload, drain: &Drain) {
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let _held = tokio::select! {
            () = drain.wait() => return,
            held = self.hold(reload) => held,
        };
        loop {
            let ended = tokio::select! {
                () = drain.wait() => return,
                ended = self.stream(reload, &mut backoff) => ended,
            };
            let failure = ended.err().map(|error| error.to_string());
            let shown = failure.clone().unwrap_or_else(|| "it ended".to_owned());
            let before = self.standing.status();
            self.standing.disconnected(failure);
            // One event of each kind, however long it lasts.
            if before.connected || before.failure.as_deref() != Some(&shown) {
                event(Level::Warn, "control plane not followed", &[("error", shown.into())]);
            }
            tokio::select! {
                () = drain.wait() => return,
                () = sleep(backoff.pause()) => {}
            }
        }
    }

    /// Waits until no other process follows here, and takes up what that one has accepted last.
    async fn hold(&self, reload: &Reload) -> File {
        let mut told = false;
        let file = loop {
            let locked = self.keep().open_lock().and_then(|file| {
                file.try_lock().map_err(io::Error::from)?;
                Ok(file)
            });
            match locked {
                Ok(file) => break file,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Two that follow in one folder would take from each other what they try on.
                Err(error) => {
                    self.standing
                        .disconnected(Some(format!("the folder of policies cannot be locked: {error}")));
                    if !std::mem::replace(&mut told, true) {
                        event(Level::Error, "policies not held", &[("error", error.to_string().into())]);
                    }
                }
            }
            sleep(PAUSE).await;
        };
        let refreshed = self.keep().refresh();
        if refreshed.is_ok_and(|changed| changed) && reload.attempt().await.is_ok() {
            let revision = self.keep().revision.clone();
            self.standing.taken(&revision);
            self.provide();
        }
        file
    }

    /// One stream, from its beginning to its end.
    async fn stream(&self, reload: &Reload, backoff: &mut Backoff) -> Result<(), CallError> {
        let first = self.greeting();
        let Call { requests, mut answers } =
            self.channel.stream::<PolicyRequest, PolicyResponse>(METHOD, &first).await?;
        self.standing.connected();
        event(Level::Info, "control plane followed", &[("control", self.channel.at().into())]);
        let mut ticks = interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcomes = reload.gateway.telemetry.metrics().outcomes();
        let mut reported = outcomes.read();
        let mut arriving = None;
        loop {
            let answer = tokio::select! {
                answer = answers.next() => match answer? {
                    Some(part) => {
                        backoff.reset();
                        self.standing.heard();
                        self.part(part, &mut arriving, reload).await
                    }
                    None => return Ok(()),
                },
                _ = ticks.tick() => self.report(&mut reported, outcomes.read()),
            };
            if let Some(answer) = answer
                && !requests.send(&answer).await
            {
                // How it ended is told to whoever listens.
                return answers.next().await.map(drop);
            }
        }
    }

    fn greeting(&self) -> PolicyRequest {
        let keep = self.keep();
        let node = Node {
            id: self.node.id.clone(),
            labels: self.node.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: self.node.zone.as_deref().unwrap_or_default().to_owned(),
            revision: keep.revision.clone(),
        };
        PolicyRequest { node: Some(node), known: keep.known(), ..PolicyRequest::default() }
    }

    /// What happened since the last report; nothing where nothing did.
    fn report(&self, reported: &mut Outcomes, now: Outcomes) -> Option<PolicyRequest> {
        let before = std::mem::replace(reported, now);
        if now.requests == before.requests {
            return None;
        }
        let report = Report {
            revision: self.keep().revision.clone(),
            requests: now.requests.saturating_sub(before.requests),
            refused: now.refused.saturating_sub(before.refused),
            failed: now.failed.saturating_sub(before.failed),
        };
        Some(PolicyRequest { report: Some(report), ..PolicyRequest::default() })
    }

    /// Takes a part of a change; the answer, where it was the last.
    async fn part(
        &self,
        part: PolicyResponse,
        arriving: &mut Option<Result<Arrival, Finding>>,
        reload: &Reload,
    ) -> Option<PolicyRequest> {
        let (nonce, revision, last) = (part.nonce.clone(), part.revision.clone(), part.last);
        let begun = arriving.take().unwrap_or_else(|| {
            Arrival::new(self.keep().incoming()).map_err(|error| unkept(&error.to_string()))
        });
        let taken = begun.and_then(|mut arrival| match arrival.take(part) {
            Ok(()) => Ok(arrival),
            Err(error) => Err(unkept(&error.to_string())),
        });
        if !last {
            *arriving = Some(taken);
            return None;
        }
        let outcome = match taken {
            Ok(arrival) => self.apply(arrival, reload).await,
            Err(finding) => Err(vec![finding]),
        };
        let refusal = match outcome {
            Ok(()) => {
                self.standing.taken(&revision);
                self.provide();
                None
            }
            Err(findings) => {
                self.standing.refused(&revision, &findings);
                Some(Refusal { findings })
            }
        };
        Some(PolicyRequest { nonce, refusal, ..PolicyRequest::default() })
    }

    /// Puts a change in force, or leaves everything as it was.
    async fn apply(&self, arrival: Arrival, reload: &Reload) -> Result<(), Vec<Finding>> {
        let change = arrival.finish().map_err(|error| vec![unkept(&error.to_string())])?;
        for (name, spool) in change.endpoints() {
            let read = discovery::file::read(spool);
            read.map_err(|why| {
                let why = why.replace(&spool.display().to_string(), name);
                vec![finding_of(codes::ENDPOINTS_FILE, name, why)]
            })?;
        }
        if change.changed.is_empty() && change.removed.is_empty() && !self.is_empty() {
            // Something else changed; what is this proxy's is called otherwise from now on.
            return self.keep().note(change.revision).map_err(|error| vec![unkept(&error.to_string())]);
        }
        if self.keep().is_endpoints_alone(&change) {
            let taken = self.keep().take_endpoints(change);
            taken.map_err(|error| vec![unkept(&error.to_string())])?;
            reload.look.notify_one();
            return Ok(());
        }
        let candidate = self.keep().prepare(change).map_err(|error| vec![unkept(&error.to_string())])?;
        self.keep().try_on(&candidate).map_err(|error| vec![unkept(&error.to_string())])?;
        if let Err(diagnostics) = reload.attempt().await {
            let keep = self.keep();
            keep.give_up(&candidate);
            let folder = keep.current();
            return Err(diagnostics.iter().take(MAX_FINDINGS).map(|one| finding(one, &folder)).collect());
        }
        if let Err(error) = self.keep().accept(candidate) {
            event(Level::Error, "policies not kept", &[("error", error.to_string().into())]);
        }
        reload.look.notify_one();
        Ok(())
    }
}

fn unkept(message: &str) -> Finding {
    finding_of(codes::FLEET_FILE, "", message.to_owned())
}

fn finding_of(code: foregate_filters::fault::Code, file: &str, message: String) -> Finding {
    Finding { code: code.to_string(), file: file.to_owned(), message, ..Finding::default() }
}

/// A diagnostic with the way that its file has in the sources.
fn finding(diagnostic: &Diagnostic, folder: &Path) -> Finding {
    let prefix = format!("{}/", folder.display());
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Finding {
        code: diagnostic.code.to_string(),
        file: diagnostic.file.replace(&prefix, ""),
        line: number(diagnostic.line),
        column: number(diagnostic.column),
        message: diagnostic.message.replace(&prefix, ""),
        help: diagnostic.help.clone().unwrap_or_default(),
    }
}

/// The name of this proxy, made once and kept in its folder of state.
///
/// # Errors
/// Where it cannot be kept.
pub fn node_id(state: &Path) -> io::Result<String> {
    let file = state.join("node");
    if let Ok(text) = std::fs::read_to_string(&file)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(200).collect();
    let id = format!("{host}-{:08x}", crate::telemetry::random::next() >> 32);
    fleet::disk::make_folder(state)?;
    fleet::disk::replace(&file, id.as_bytes())?;
    Ok(id)
}
