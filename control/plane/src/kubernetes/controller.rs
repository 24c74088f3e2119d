//! The controller: from watched objects to a tree of policies, and back to statuses.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Sleep;

use crate::clock;
use crate::event::event;
use crate::kubernetes::health::{ARRIVAL, Health};
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::lease::{self, Election};
use crate::kubernetes::objects::World;
use crate::kubernetes::references::Reference;
use crate::kubernetes::state::{Effect, State};
use crate::kubernetes::tree::Tree;
use crate::kubernetes::verdict::{Outcome, judge};
use crate::kubernetes::watch::{Event, Watcher};
use crate::kubernetes::write::{StatusWriter, Write};
use crate::process::Process;
use crate::stream::acknowledged::Acknowledged;

/// Events that wait to be taken in.
const QUEUE: usize = 1024;
/// Changes of documents within this time are compiled together.
const QUIET: Duration = Duration::from_millis(50);

/// How the controller is to run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Entries of `status.addresses` of all Gateways: where the Service before the proxies is reached.
    pub addresses: Vec<Value>,
    /// Statuses are written by the holder of this Lease; by whoever runs where absent.
    pub lease: Option<lease::Settings>,
}

/// A controller that runs. It ends with the process.
#[derive(Debug)]
pub struct Running {
    /// The tree; revision 0 until all objects were seen once.
    pub tree: watch::Receiver<Arc<Tree>>,
    /// What was seen when documents were last made.
    pub world: watch::Receiver<Arc<World>>,
    pub health: Arc<Health>,
    /// True while this replica writes statuses.
    pub leading: watch::Receiver<bool>,
    /// Told what proxies have in force, where somebody knows.
    pub acknowledged: watch::Sender<Arc<Acknowledged>>,
    /// Ends once the Lease is given away.
    pub ended: JoinHandle<()>,
}

/// Starts to watch. The process is not ready before each kind was listed once, or found not to be served: what policies
/// come of that is another matter, which identities and webhooks do not wait for.
pub fn start(client: Client, process: &Process, settings: Settings) -> Running {
    process.readiness.await_arrival(ARRIVAL);
    let health = Arc::new(Health::new(process));
    let (tree, receiver) = watch::channel(Arc::new(Tree::default()));
    let (world, seen) = watch::channel(Arc::new(World::default()));
    let (acknowledged, known) = watch::channel(Arc::new(Acknowledged::new()));
    let (leading, election) = match settings.lease {
        Some(lease) => {
            let (election, leading) = Election::new(client.clone(), lease);
            (leading, Some(tokio::spawn(election.run(process.shutdown.clone()))))
        }
        None => (watch::channel(true).1, None),
    };
    let (events, incoming) = mpsc::channel(QUEUE);
    let controller = Controller {
        state: State::new(),
        watcher: Watcher { client, events, health: Arc::clone(&health) },
        followed: BTreeMap::new(),
        process: process.clone(),
        addresses: settings.addresses,
        tree,
        world,
        acknowledged: known,
    };
    let (writes, told) = (leading.clone(), Arc::clone(&health));
    let ended = tokio::spawn(async move {
        controller.run(incoming, writes).await;
        told.leading.set(0);
        if let Some(election) = election {
            // Its own faults were told; a panic of it must not take more with it.
            drop(election.await);
        }
    });
    Running { tree: receiver, world: seen, health, leading, acknowledged, ended }
}

#[derive(Debug)]
struct Controller {
    state: State,
    watcher: Watcher,
    /// Watches of single Secrets and `ConfigMaps`.
    followed: BTreeMap<Reference, AbortHandle>,
    process: Process,
    addresses: Vec<Value>,
    tree: watch::Sender<Arc<Tree>>,
    world: watch::Sender<Arc<World>>,
    acknowledged: watch::Receiver<Arc<Acknowledged>>,
}

impl Controller {
    async fn run(mut self, mut incoming: mpsc::Receiver<Event>, mut leading: watch::Receiver<bool>) {
        let mut tasks = self.watches();
        let (wanted, receiver) = watch::channel(Arc::new(Vec::<Write>::new()));
        let (again, mut repeats) = mpsc::channel(1);
        let writer = StatusWriter {
            client: self.watcher.client.clone(),
            wanted: receiver,
            health: Arc::clone(&self.watcher.health),
            again,
        };
        tasks.spawn(writer.run());
        let shutdown = self.process.shutdown.clone();
        let mut effect = Effect::default();
        let mut job: Option<JoinHandle<Outcome>> = None;
        let mut quiet: Option<Pin<Box<Sleep>>> = None;
        loop {
            let due = self.state.is_complete() && (effect.statuses || (effect.documents && job.is_none()));
            // The time runs from the first change on: whatever comes after does not put it off.
            if due && quiet.is_none() {
                quiet = Some(Box::pin(tokio::time::sleep(QUIET)));
            }
            tokio::select! {
                biased;
                () = shutdown.begun() => break,
                Some(first) = incoming.recv() => {
                    self.state.take(first, &mut effect);
                    while let Ok(event) = incoming.try_recv() {
                        self.state.take(event, &mut effect);
                    }
                    self.refresh(&mut effect);
                    if self.state.is_answered() {
                        self.process.readiness.arrived(ARRIVAL);
                    }
                }
                outcome = finished(&mut job) => {
                    job = None;
                    if let Some(outcome) = outcome {
                        self.settle(outcome, &mut effect);
                    }
                }
                Ok(()) = leading.changed() => effect.statuses = true,
                Ok(()) = self.acknowledged.changed() => effect.statuses = true,
                Some(()) = repeats.recv() => effect.statuses = true,
                () = over(&mut quiet), if due => {
                    quiet = None;
                    if effect.documents && job.is_none() {
                        effect.documents = false;
                        let (world, references) = (Arc::new(self.state.world.clone()), self.state.references.clone());
                        self.world.send_replace(Arc::clone(&world));
                        job = Some(tokio::task::spawn_blocking(move || judge(&world, &references)));
                    }
                    if std::mem::take(&mut effect.statuses) {
                        self.statuses(*leading.borrow_and_update(), &wanted);
                    }
                }
            }
        }
        tasks.shutdown().await;
        for handle in self.followed.values() {
            handle.abort();
        }
    }

    fn watches(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for resource in Resource::ALL {
            tasks.spawn(self.watcher.clone().resource(resource));
        }
        tasks.spawn(self.watcher.clone().services());
        tasks.spawn(self.watcher.clone().slices());
        tasks.spawn(self.watcher.clone().namespaces());
        tasks
    }

    /// Endpoints are written at once: no document changes for them.
    fn refresh(&mut self, effect: &mut Effect) {
        let changed = std::mem::take(&mut effect.endpoints);
        if changed.is_empty() || self.state.tree.revision == 0 {
            return;
        }
        let different = self.state.refresh(&changed);
        self.watcher.health.endpoints.inc_by(different);
        if different > 0 {
            self.publish();
        }
    }

    fn settle(&mut self, outcome: Outcome, effect: &mut Effect) {
        let followed = self.state.follow(&outcome.rendered);
        for reference in followed.old {
            if let Some(handle) = self.followed.remove(&reference) {
                handle.abort();
            }
        }
        for reference in followed.new {
            let task = tokio::spawn(self.watcher.clone().content(reference.clone()));
            self.followed.insert(reference, task.abort_handle());
        }
        // What comes is compiled together with the rest.
        effect.documents |= followed.unknown;
        if followed.unknown || self.state.is_loading() {
            return;
        }
        let health = Arc::clone(&self.watcher.health);
        health.stuck.set(i64::from(!outcome.stuck.is_empty()));
        if !outcome.stuck.is_empty() {
            let fields = [("faults", outcome.stuck.clone().into())];
            event(log::Level::Error, "kubernetes objects cannot be put in force", &fields);
        }
        if self.state.settle(outcome) {
            self.publish();
        }
        health.objects.set(i64::try_from(self.state.world.objects.len()).unwrap_or(i64::MAX));
        health.refused.set(i64::try_from(self.state.refused()).unwrap_or(i64::MAX));
        effect.statuses = true;
    }

    fn publish(&self) {
        let revision = self.state.tree.revision;
        self.watcher.health.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.tree.send_replace(Arc::new(self.state.tree.clone()));
    }

    fn statuses(&self, leading: bool, wanted: &watch::Sender<Arc<Vec<Write>>>) {
        self.watcher.health.leading.set(i64::from(leading));
        if !leading {
            return;
        }
        let now = clock::rfc3339(clock::now().unix);
        let acknowledged = Arc::clone(&self.acknowledged.borrow());
        let writes = self.state.writes(&self.addresses, &acknowledged, &now);
        if !writes.is_empty() {
            wanted.send_replace(Arc::new(writes));
        }
    }
}

/// The end of this time; waits for ever where there is none.
async fn over(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The outcome of the compilation under way; waits for ever where there is none.
async fn finished(job: &mut Option<JoinHandle<Outcome>>) -> Option<Outcome> {
    match job {
        Some(job) => match job.await {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                event(
                    log::Level::Error,
                    "kubernetes compilation failed",
                    &[("error", error.to_string().into())],
                );
                None
            }
        },
        None => std::future::pending().await,
    }
}
