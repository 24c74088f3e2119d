//! Keeps a feature store current: dropped files, and what other processes write.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use foregate_filters::timestamp::Timestamp;
use foregate_inference::store::error::{StoreError, StoreFault};
use foregate_inference::store::inbox::{Dropped, Swept, sweep};
use foregate_inference::store::{FeatureStore, KeyError, StoreKey};
use log::Level;

use crate::clock;
use crate::telemetry::event::event;

/// Between two looks at the folder and the file.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever writes a store is done within a few hundred milliseconds, most often.
const TRIES: u32 = 20;
const SHORT: Duration = Duration::from_millis(100);

/// Why a store is not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Opens a store; waits a little where another process is writing it. Blocks for as long as that and the disk take.
pub fn open(path: &Path, secret: &[u8]) -> Result<FeatureStore, OpenError> {
    for _ in 0..TRIES {
        match FeatureStore::open(path, StoreKey::parse(secret)?) {
            Err(StoreFault { fault: StoreError::Busy, .. }) => thread::sleep(SHORT),
            opened => return Ok(opened?),
        }
    }
    Ok(FeatureStore::open(path, StoreKey::parse(secret)?)?)
}

/// Starts the thread that keeps it. It ends once nothing looks up in the store any more.
pub fn keep(store: &Arc<FeatureStore>, inbox: Option<PathBuf>) {
    let weak = Arc::downgrade(store);
    let run = move || {
        let mut told = String::new();
        while let Some(store) = weak.upgrade() {
            let fault = look(&store, inbox.as_deref()).err().unwrap_or_default();
            // What stays wrong is told once.
            if !fault.is_empty() && fault != told {
                let fields = [("store", path(&store)), ("error", fault.as_str().into())];
                event(Level::Error, "feature store not kept", &fields);
            }
            told = fault;
            drop(store);
            thread::sleep(PAUSE);
        }
    };
    if let Err(error) = thread::Builder::new().name("features".to_owned()).spawn(run) {
        let fields = [("store", path(store)), ("error", error.to_string().into())];
        event(Level::Error, "feature store not kept", &fields);
    }
}

fn path(store: &FeatureStore) -> serde_json::Value {
    store.path().display().to_string().into()
}

fn look(store: &FeatureStore, inbox: Option<&Path>) -> Result<(), String> {
    match store.refresh() {
        // Whoever writes it is done before the next look.
        Ok(_) | Err(StoreFault { fault: StoreError::Busy, .. }) => {}
        Err(fault) => return Err(fault.to_string()),
    }
    let Some(inbox) = inbox else { return Ok(()) };
    let now = Timestamp::from_unix(clock::now().unix);
    let told = |error: &dyn Display| format!("{}: {error}", inbox.display());
    let Swept { dropped, waiting } = sweep(store, inbox, now).map_err(|error| told(&error))?;
    for Dropped { name, outcome } in dropped {
        let (level, what, field) = match outcome {
            Ok(applied) => (Level::Info, "features taken up", ("rows", applied.applied.into())),
            Err(why) => (Level::Warn, "features rejected", ("error", why.into())),
        };
        event(level, what, &[("store", path(store)), ("file", name.into()), field]);
    }
    waiting.map_or(Ok(()), |waiting| Err(told(&waiting)))
}
