//! Follows the policies of the control plane: takes what compiles, refuses the rest, reports.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::fleet::{Finding, Node, PolicyRequest, PolicyResponse, Refusal, Report};
use log::Level;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::discovery;
use crate::drain::Drain;
use crate::fleet::arrival::Arrival;
use crate::fleet::backoff::Backoff;
use crate::fleet::call::{Call, CallError};
use crate::fleet::channel::Channel;
use crate::fleet::finding::{finding, finding_of, unkept};
use crate::fleet::keep::Keep;
use crate::fleet::status::Standing;
use crate::reload::Reload;
use crate::telemetry::event::event;
use crate::telemetry::metrics::Outcomes;

/// The call that streams policies.
const METHOD: &str = "/foregate.fleet.v1.Policies/Stream";
/// Between two reports.
const REPORT: Duration = Duration::from_secs(2);
/// Pauses after a stream has ended; the pauses between connections are the channel's.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Characters of a reason that are kept.
const MAX_REASON: usize = 512;
/// Most findings of one refusal.
const MAX_FINDINGS: usize = 32;

/// What this proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// The same over restarts.
    pub id: String,
    pub labels: HashMap<String, String>,
    pub zone: Option<Arc<str>>,
    pub on_lost_grant: OnLostGrant,
}

/// What becomes of policies that the control plane grants no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnLostGrant {
    /// Every listener stays and refuses everything, until something is granted.
    #[default]
    Refuse,
    /// They stay in force.
    Keep,
}

/// What the last report told, and whether everything was refused then.
#[derive(Clone, Copy, Debug)]
struct Reported {
    outcomes: Outcomes,
    refusing: bool,
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
        standing.withheld(keep.withheld().cloned());
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

    /// Why all that is there is to be refused, where it is.
    pub fn refuses(&self) -> Option<Arc<str>> {
        self.keep().withheld().filter(|_| self.node.on_lost_grant == OnLostGrant::Refuse).cloned()
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
        self.take_over(reload).await;
        file
    }

    /// Takes up what another process has accepted last; where that cannot be, all of it is asked for again. That nothing is
    /// granted any more holds in any case.
    async fn take_over(&self, reload: &Reload) {
        let refreshed = self.keep().refresh();
        let taken = match &refreshed {
            Ok(true) => reload.attempt().await.is_ok(),
            Ok(false) => false,
            Err(error) => {
                event(Level::Error, "kept policies not used", &[("error", error.to_string().into())]);
                self.standing.disconnected(Some(format!("what is kept cannot be read: {error}")));
                false
            }
        };
        if !taken && !matches!(refreshed, Ok(false)) {
            self.forget();
        }
        let (revision, withheld) = {
            let keep = self.keep();
            (keep.revision.clone(), keep.withheld().cloned())
        };
        self.standing.withheld(withheld);
        if taken {
            self.standing.taken(&revision);
            self.provide();
        }
        if let Some(why) = self.refuses() {
            reload.withhold(&why).await;
        }
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
        let mut reported = Reported { outcomes: outcomes.read(), refusing: self.refuses().is_some() };
        let mut arriving = None;
        loop {
            let answer = tokio::select! {
                answer = answers.next() => match answer? {
                    Some(part) => {
                        backoff.reset();
                        self.standing.heard();
                        let answer = self.part(part, &mut arriving, reload).await;
                        reported.refusing |= self.refuses().is_some();
                        answer
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
        // What is withheld is told of as if it were not there, so that a grant is told of in any case.
        let revision = if keep.withheld().is_some() { String::new() } else { keep.revision.clone() };
        let node = Node {
            id: self.node.id.clone(),
            labels: self.node.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: self.node.zone.as_deref().unwrap_or_default().to_owned(),
            revision,
        };
        PolicyRequest { node: Some(node), known: keep.known(), ..PolicyRequest::default() }
    }

    /// What happened since the last report; nothing where nothing did.
    fn report(&self, reported: &mut Reported, now: Outcomes) -> Option<PolicyRequest> {
        let refusing = self.refuses().is_some();
        let Reported { outcomes: before, refusing: refused } =
            std::mem::replace(reported, Reported { outcomes: now, refusing });
        if now.requests == before.requests {
            return None;
        }
        // What a lost grant refuses says nothing of the policies that it keeps from being in force.
        let revision = if refusing || refused { String::new() } else { self.keep().revision.clone() };
        let report = Report {
            revision,
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
        if !part.withheld.is_empty() {
            *arriving = None;
            self.withhold(&part.withheld, reload).await;
            return Some(PolicyRequest { nonce, ..PolicyRequest::default() });
        }
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

    /// Nothing is granted any more: everything is refused, but where the operator would rather keep it.
    async fn withhold(&self, why: &str, reload: &Reload) {
        let why: String = why.chars().filter(|letter| !letter.is_control()).take(MAX_REASON).collect();
        let (before, kept) = {
            let mut keep = self.keep();
            let before = keep.withheld().cloned();
            (before, keep.withhold(&why))
        };
        if let Err(error) = kept {
            event(Level::Error, "policies not kept", &[("error", error.to_string().into())]);
        }
        self.standing.withheld(Some(why.as_str().into()));
        let refuses = self.refuses().is_some();
        if before.as_deref() != Some(&why) {
            event(
                Level::Error,
                "grant lost",
                &[("reason", why.as_str().into()), ("serving", (!refuses && !self.is_empty()).into())],
            );
        }
        // Also where it is said again: what is known need not be in force.
        if refuses {
            reload.withhold(&why).await;
        }
    }

    /// Puts a change in force, or leaves everything as it was. What was withheld is granted again with it.
    async fn apply(&self, arrival: Arrival, reload: &Reload) -> Result<(), Vec<Finding>> {
        let withheld = self.keep().lift();
        let outcome = self.put_in_force(arrival, reload, withheld.is_some()).await;
        if withheld.is_none() {
            return outcome;
        }
        if outcome.is_err() {
            self.keep().lower(withheld);
            // Somebody else may have loaded what is there meanwhile.
            if let Some(why) = self.refuses() {
                reload.withhold(&why).await;
            }
            return outcome;
        }
        if let Err(error) = self.keep().regain() {
            event(Level::Error, "policies not kept", &[("error", error.to_string().into())]);
        }
        self.standing.withheld(None);
        event(Level::Info, "grant regained", &[]);
        outcome
    }

    async fn put_in_force(
        &self,
        arrival: Arrival,
        reload: &Reload,
        regained: bool,
    ) -> Result<(), Vec<Finding>> {
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
            self.keep().note(change.revision).map_err(|error| vec![unkept(&error.to_string())])?;
            return if regained { self.publish(reload).await } else { Ok(()) };
        }
        if self.keep().is_endpoints_alone(&change) {
            let taken = self.keep().take_endpoints(change);
            taken.map_err(|error| vec![unkept(&error.to_string())])?;
            reload.look.notify_one();
            return if regained { self.publish(reload).await } else { Ok(()) };
        }
        let candidate = self.keep().prepare(change).map_err(|error| vec![unkept(&error.to_string())])?;
        self.keep().try_on(&candidate).map_err(|error| vec![unkept(&error.to_string())])?;
        if let Err(findings) = self.publish(reload).await {
            self.keep().give_up(&candidate);
            return Err(findings);
        }
        if let Err(error) = self.keep().accept(candidate) {
            event(Level::Error, "policies not kept", &[("error", error.to_string().into())]);
        }
        reload.look.notify_one();
        Ok(())
    }

    /// Loads and publishes what lies there now.
    async fn publish(&self, reload: &Reload) -> Result<(), Vec<Finding>> {
        let folder = self.keep().current();
        let told = |diagnostics: Vec<Diagnostic>| {
            diagnostics.iter().take(MAX_FINDINGS).map(|one| finding(one, &folder)).collect()
        };
        reload.attempt().await.map_err(told)
    }
}
