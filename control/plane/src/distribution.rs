//! From sources to proxies: revisions are made of what the sources give, and offered.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::Level;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::clock;
use crate::config::Config;
use crate::event::event;
use crate::grants::Grants;
use crate::process::Process;
use crate::revision::merge::{Digested, Merged, merge_after};
use crate::revision::shelf::Shelf;
use crate::sources::board::{Board, Place};
use crate::sources::kubernetes::{self, KubernetesSource};
use crate::stream::offering::{Offering, Refused, one_line};
use crate::stream::proxies::Proxies;
use crate::withdrawn::Withdrawn;

/// Trees that come close together make one revision.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Between two looks at a rollout.
const TICK: Duration = Duration::from_millis(200);

/// A second, in looks, and a minute: pauses between attempts to write down what could not be.
const FIRST_PAUSE: u32 = 5;
const LAST_PAUSE: u32 = 300;

/// Why distribution cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DistributionError {
    #[error("grants: {0}")]
    Grants(String),
    #[error("identity.withdrawn: {0}")]
    Withdrawn(String),
    #[error("{0}")]
    State(#[from] io::Error),
}

/// Everything between sources and proxies.
#[derive(Debug)]
pub struct Distribution {
    pub board: Arc<Board>,
    pub offering: Arc<Offering>,
    pub proxies: Arc<Proxies>,
    pub shelf: Arc<Shelf>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Distribution {
    /// Begins with the revisions of before, where there are any. `cluster` is one more source.
    ///
    /// # Errors
    /// What is wrong with the configuration, or the folder of state.
    pub async fn start(
        config: &Config,
        cluster: Option<KubernetesSource>,
        process: &Process,
    ) -> Result<Self, DistributionError> {
        let Config { sources, grants, rollout, state_dir: state, .. } = config;
        let withdrawn = Withdrawn::new(&config.identity.withdrawn, &config.trust_domain);
        let withdrawn = withdrawn.map_err(DistributionError::Withdrawn)?;
        let grants = Grants::new(grants).map_err(DistributionError::Grants)?.without(withdrawn);
        let rollout = rollout.clone();
        let most = usize::try_from(rollout.history).unwrap_or(usize::MAX);
        let shelf = Arc::new(Shelf::open(state, most)?);
        let offering = Arc::new(Offering::new(grants, rollout, state.join("rollout.json"))?);
        restore(&shelf, &offering).await;
        let board = Arc::new(Board::default());
        let mut tasks = board.start(sources, &state.join("sources"));
        let proxies = Arc::new(Proxies::default());
        if let Some(cluster) = cluster {
            let place = Place { name: kubernetes::NAME.into(), ..Place::default() };
            board.attach(&mut tasks, place, Box::new(cluster));
        }
        tasks.spawn(make(Arc::clone(&board), Arc::clone(&shelf), Arc::clone(&offering)));
        let told = Told {
            connected: process.metrics.gauge("proxies", "Proxies whose stream of policies is open"),
            in_force: process.metrics.gauge("policies_in_force", "1 once there is a revision for proxies"),
            unkept: process.metrics.gauge("secrets_unkept", "1 while secrets in use cannot be written down"),
        };
        tasks.spawn(look_after(Arc::clone(&offering), Arc::clone(&shelf), Arc::clone(&proxies), told));
        Ok(Self { board, offering, proxies, shelf, _tasks: tasks })
    }
}

/// Reads the revisions that the plan of before names.
async fn restore(shelf: &Arc<Shelf>, offering: &Arc<Offering>) {
    for id in offering.plan().used() {
        let (shelf, wanted) = (Arc::clone(shelf), Arc::clone(&id));
        let read = spawn_blocking(move || shelf.read(&wanted)).await;
        match read {
            Ok(Ok(revision)) => offering.restore(revision),
            Ok(Err(faults)) => {
                let lines: Vec<String> = faults.iter().map(one_line).collect();
                let fields = [("revision", id.as_ref().into()), ("diagnostics", lines.into())];
                event(Level::Error, "kept revision not used", &fields);
                offering.forget(&id);
            }
            Err(_) => offering.forget(&id),
        }
    }
}

/// Makes a revision whenever the sources give something new.
async fn make(board: Arc<Board>, shelf: Arc<Shelf>, offering: Arc<Offering>) {
    let mut changes = board.changes();
    let mut before = Digested::default();
    loop {
        changes.mark_unchanged();
        let (board, shelf, offers) = (Arc::clone(&board), Arc::clone(&shelf), Arc::clone(&offering));
        let known = before.clone();
        match spawn_blocking(move || make_once(&board, &shelf, &offers, known)).await {
            Ok(digested) => before = digested,
            Err(_) => {
                event(Level::Error, "revision not made", &[("error", "a defect while compiling".into())]);
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        sleep(DEBOUNCE).await;
    }
}

/// Gives what it was made of.
fn make_once(board: &Board, shelf: &Shelf, offering: &Offering, before: Digested) -> Digested {
    let Some(mut merged) = merge_after(&board.states(), &before) else { return before };
    let digested = Digested::new(&merged);
    let endpoints = std::mem::take(&mut merged.endpoints);
    let plan = offering.plan();
    let refused = offering
        .refused()
        .is_some_and(|refused| (&refused.id, &refused.secrets) == (&merged.id, &merged.secrets));
    let known = plan.newest.as_deref() == Some(&*merged.id) && plan.current.is_some();
    // What two sources disagree about is a fault also where the first of them has what is in force.
    let same = known && offering.has_secrets(&merged) && merged.faults.is_empty();
    if same || (refused && merged.faults.is_empty()) {
        if same {
            offering.found_same();
        }
        offering.set_endpoints(endpoints);
        return digested;
    }
    // Secrets that are others are looked at with the policies, and make no other revision of them.
    let made = if known { shelf.again(&merged) } else { shelf.make(&merged) };
    let now = clock::now().unix;
    // Whoever gets the new revision gets the endpoints that belong to it.
    offering.set_endpoints(endpoints);
    match made {
        Ok(revision) if known => {
            offering.renew(revision);
            offering.set_secrets(&merged);
            keep_secrets(shelf, offering);
        }
        Ok(revision) => {
            offering.set_secrets(&merged);
            // Before a plan is kept that needs them.
            keep_secrets(shelf, offering);
            offering.adopt(revision, now);
            shelf.prune(&offering.plan().used());
        }
        Err(diagnostics) => {
            let Merged { id, secrets, .. } = merged;
            offering.refuse(Refused { at: now, id, secrets, diagnostics });
        }
    }
    digested
}

/// What no revision in use needs any more is gone from the disk. The same fault again is the same event.
fn keep_secrets(shelf: &Shelf, offering: &Offering) {
    let before = shelf.unkept();
    let outcome = shelf.keep_secrets(|| offering.secrets_in_use());
    match outcome.map_err(|error| error.to_string()) {
        Err(error) if before.as_ref() != Some(&error) => {
            let help = "make room in `stateDir`, and let this user write to it: a key that was replaced may \
                        lie there still, and a start would begin with it; it is tried again meanwhile";
            event(Level::Error, "secrets not kept", &[("error", error.into()), ("help", help.into())]);
        }
        Ok(()) if before.is_some() && shelf.unkept().is_none() => event(Level::Info, "secrets kept", &[]),
        Ok(()) | Err(_) => {}
    }
}

/// Looks that pass between two attempts to write down what could not be.
#[derive(Debug, Default)]
struct Pause {
    left: u32,
    next: u32,
}

/// True where secrets are to be written down: what was decided may need others, or they could not be before. Those are
/// tried again ever more seldom: each attempt lays out all of them.
fn secrets_are_due(shelf: &Shelf, offering: &Offering, plans: &mut u64, pause: &mut Pause) -> bool {
    let before = std::mem::replace(plans, offering.plans());
    if before != *plans || shelf.unkept().is_none() {
        *pause = Pause::default();
        return before != *plans;
    }
    if pause.left > 0 {
        pause.left -= 1;
        return false;
    }
    pause.next = (pause.next * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
    pause.left = pause.next;
    true
}

/// What metrics tell. Readiness waits for none of it: identities and webhooks are needed also while policies are not in
/// order.
#[derive(Debug)]
struct Told {
    connected: Gauge,
    in_force: Gauge,
    unkept: Gauge,
}

/// Moves rollouts on, counts proxies, and tells when there is something to offer.
async fn look_after(offering: Arc<Offering>, shelf: Arc<Shelf>, proxies: Arc<Proxies>, told: Told) {
    let (mut plans, mut pause) = (offering.plans(), Pause::default());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        offering.tick(clock::now().unix);
        if secrets_are_due(&shelf, &offering, &mut plans, &mut pause) {
            let (shelf, offering) = (Arc::clone(&shelf), Arc::clone(&offering));
            let _ = spawn_blocking(move || keep_secrets(&shelf, &offering)).await;
        }
        told.connected.set(i64::try_from(proxies.connected()).unwrap_or(i64::MAX));
        told.in_force.set(i64::from(offering.plan().current.is_some()));
        told.unkept.set(i64::from(shelf.unkept().is_some()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::{Pause, keep_secrets, secrets_are_due};
    use crate::grants::Grants;
    use crate::revision::merge::merge;
    use crate::revision::secrets::read;
    use crate::revision::shelf::Shelf;
    use crate::rollout::RolloutSpec;
    use crate::sources::Tree;
    use crate::sources::board::{Place, SourceState};
    use crate::stream::offering::Offering;

    #[test]
    fn secrets_that_could_not_be_written_down_are_due_until_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let file = folder.path().join("rollout.json");
        let offering = Offering::new(Grants::default(), RolloutSpec::default(), file).unwrap();
        let files = [("secrets/a".into(), Bytes::from_static(b"1"))].into();
        let tree = Some(Arc::new(Tree { files, ..Tree::default() }));
        let state = SourceState { place: Place::default(), tree, seen: Duration::ZERO, fault: None };
        let merged = merge(&[state]).unwrap();
        offering.set_secrets(&merged);
        let (mut plans, mut pause) = (offering.plans(), Pause::default());
        assert!(!secrets_are_due(&shelf, &offering, &mut plans, &mut pause), "no plan has changed");
        let blocked = folder.path().join("secrets.new");
        std::fs::write(&blocked, "").unwrap();
        keep_secrets(&shelf, &offering);
        let mut attempts = Vec::new();
        for look in 0..4_000 {
            if secrets_are_due(&shelf, &offering, &mut plans, &mut pause) {
                attempts.push(look);
            }
        }
        assert_eq!(attempts.get(..4), Some(&[0, 6, 17, 38][..]), "ever more seldom");
        assert_eq!(attempts.windows(2).map(|two| two[1] - two[0]).max(), Some(301), "but each minute");
        std::fs::remove_file(&blocked).unwrap();
        keep_secrets(&shelf, &offering);
        assert!(!secrets_are_due(&shelf, &offering, &mut plans, &mut pause), "it is done");
        assert_eq!(read(folder.path()).unwrap(), merged.secrets());
    }
}
