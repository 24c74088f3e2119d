//! What every source gave last, and how it fares now.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock;
use crate::event::event;
use crate::sources::spec::SourceSpec;
use crate::sources::{Source, SourceFault, Tree, open};

/// First and longest wait after a fault.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where the files of a source stand among all, and what they may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub name: Arc<str>,
    /// A folder; empty for the top.
    pub mount: String,
    /// Namespaces that its documents may be in; every one where empty.
    pub namespaces: Vec<String>,
}

/// One source as it is now.
#[derive(Clone, Debug)]
pub struct SourceState {
    pub place: Place,
    /// What it gave last.
    pub tree: Option<Arc<Tree>>,
    /// When it was last found in order; since the Unix epoch.
    pub seen: Duration,
    /// Why it gives nothing now, and since when.
    pub fault: Option<(Duration, SourceFault)>,
}

/// All sources.
#[derive(Debug)]
pub struct Board {
    states: Mutex<Vec<SourceState>>,
    /// Counts trees.
    changed: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self { states: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<SourceState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sources as they are now, in the order of the configuration.
    pub fn states(&self) -> Vec<SourceState> {
        self.lock().clone()
    }

    /// Tells of every tree that is another one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Keeps the sources of the configuration; each has a folder below `state`. Ends with the set that it returns.
    pub fn start(self: &Arc<Self>, specs: &[SourceSpec], state: &Path) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for spec in specs {
            let place = Place {
                name: spec.name.as_str().into(),
                mount: spec.mount.clone().unwrap_or_default(),
                namespaces: spec.namespaces.clone(),
            };
            if let Some(source) = open(spec, &state.join(&spec.name)) {
                self.attach(&mut tasks, place, source);
            }
        }
        tasks
    }

    /// Keeps one more source, of whatever kind, as long as these tasks.
    pub fn attach(self: &Arc<Self>, tasks: &mut JoinSet<()>, place: Place, source: Box<dyn Source>) {
        tasks.spawn(Arc::clone(self).keep(self.add(place), source));
    }

    fn add(&self, place: Place) -> usize {
        let mut states = self.lock();
        states.push(SourceState { place, tree: None, seen: Duration::ZERO, fault: None });
        states.len() - 1
    }

    async fn keep(self: Arc<Self>, index: usize, mut source: Box<dyn Source>) {
        let mut pause = PAUSE;
        loop {
            match source.next().await {
                Ok(tree) => {
                    pause = PAUSE;
                    self.found(index, tree);
                }
                Err(fault) => {
                    self.failed(index, fault);
                    sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn found(&self, index: usize, tree: Tree) {
        let mut states = self.lock();
        let Some(state) = states.get_mut(index) else { return };
        state.seen = clock::now().unix;
        state.fault = None;
        if state.tree.as_ref().is_some_and(|known| known.is(&tree)) {
            return;
        }
        let fields = [
            ("source", state.place.name.as_ref().into()),
            ("revision", tree.revision.as_str().into()),
            ("signer", tree.signer.as_deref().unwrap_or_default().into()),
            ("files", tree.files.len().into()),
        ];
        state.tree = Some(Arc::new(tree));
        drop(states);
        event(Level::Info, "source read", &fields);
        self.changed.send_modify(|count| *count += 1);
    }

    fn failed(&self, index: usize, fault: SourceFault) {
        let mut states = self.lock();
        let Some(state) = states.get_mut(index) else { return };
        let told = state.fault.as_ref().is_some_and(|(_, before)| *before == fault);
        let since = state.fault.as_ref().filter(|_| told).map_or(clock::now().unix, |(since, _)| *since);
        let fields = [("source", state.place.name.as_ref().into()), ("error", fault.to_string().into())];
        state.fault = Some((since, fault));
        drop(states);
        // The same fault again is the same event.
        if !told {
            event(Level::Error, "source refused", &fields);
        }
    }
}
