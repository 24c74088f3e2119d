//! One model of the sidecar: asked within the deadline, its answers checked.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::ScoreFault;
use foregate_inference::protocol::{DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED};
use foregate_inference::remote::{Columns, Contract, Remote};
use tokio::sync::oneshot;

use super::{CallError, Kind, Link, Sidecar, State, tell_misfit};

/// A model that the sidecar runs for us.
#[derive(Debug)]
pub(super) struct Target {
    sidecar: Arc<Sidecar>,
    contract: Arc<Contract>,
    /// Why the sidecar does not fit the bundle, as it said when it was connected.
    misfit: Arc<Mutex<Option<Box<str>>>>,
    /// Which other bundle it has answered for; it may load another one while it is connected.
    foreign: Arc<Mutex<Option<Box<str>>>>,
}

impl Target {
    pub(super) fn new(sidecar: Arc<Sidecar>, contract: Contract) -> Self {
        Self { sidecar, contract: Arc::new(contract), misfit: Arc::default(), foreign: Arc::default() }
    }

    pub(super) fn contract(&self) -> &Contract {
        &self.contract
    }

    /// Asks what the sidecar has; gives what does not fit, where that is new.
    pub(super) async fn check(&self, link: &Link) -> Option<Box<str>> {
        let contract = &self.contract;
        let answer = match link.metadata(contract.ask_metadata(true)).await {
            // Which versions are there instead is worth another question.
            Err(CallError::Refused { code: NOT_FOUND, .. }) => {
                link.metadata(contract.ask_metadata(false)).await
            }
            answer => answer,
        };
        let misfit: Option<Box<str>> = match answer {
            Ok(message) => contract.check_metadata(message).err().map(|fault| fault.to_string().into()),
            Err(CallError::Refused { code: NOT_FOUND, .. }) => {
                Some(format!("the sidecar has no model `{}`", contract.name).into())
            }
            // That says nothing of the model.
            Err(CallError::Broken(_) | CallError::Refused { code: RESOURCE_EXHAUSTED, .. }) => return None,
            Err(error) => Some(error.to_string().into()),
        };
        let new = note(&self.misfit, misfit.as_deref());
        misfit.filter(|_| new)
    }
}

/// Remembers what does not fit; true where that is new.
fn note(known: &Mutex<Option<Box<str>>>, misfit: Option<&str>) -> bool {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let new = known.as_deref() != misfit;
    if new {
        *known = misfit.map(Into::into);
    }
    new
}

/// What a call that failed means for the scores.
fn fault(error: &CallError, misfit: &Mutex<Option<Box<str>>>) -> (Kind, ScoreFault) {
    let model = |kind, text: &str| (kind, ScoreFault::Model(text.into()));
    match error {
        CallError::Refused { code: DEADLINE_EXCEEDED, .. } => (Kind::Late, ScoreFault::Late),
        CallError::Refused { code: RESOURCE_EXHAUSTED, .. } => (Kind::Busy, ScoreFault::Busy),
        CallError::Refused { code: NOT_FOUND, .. } => {
            let misfit = misfit.lock().unwrap_or_else(PoisonError::into_inner).clone();
            model(Kind::Refused, &misfit.unwrap_or_else(|| error.to_string().into()))
        }
        CallError::Refused { .. } => model(Kind::Refused, &error.to_string()),
        CallError::Broken(_) => model(Kind::Unavailable, &error.to_string()),
        CallError::Malformed(_) => model(Kind::Answer, &error.to_string()),
    }
}

impl Remote for Target {
    fn submit(
        &self,
        rows: &[f32],
        count: usize,
        budget: Duration,
    ) -> Result<oneshot::Receiver<Columns>, ScoreFault> {
        let sidecar = Arc::clone(&self.sidecar);
        sidecar.counts.calls.fetch_add(1, Ordering::Relaxed);
        let link = match &**sidecar.state.load() {
            State::Up(link) => link.clone(),
            State::Down(why) => {
                sidecar.counts.note(Kind::Unavailable);
                return Err(ScoreFault::Model(why.clone()));
            }
        };
        let Ok(room) = Arc::clone(&sidecar.room).try_acquire_owned() else {
            sidecar.counts.note(Kind::Busy);
            return Err(ScoreFault::Busy);
        };
        let (contract, misfit) = (Arc::clone(&self.contract), Arc::clone(&self.misfit));
        let foreign = Arc::clone(&self.foreign);
        let (mut reply, answer) = oneshot::channel();
        let frame: Bytes = contract.ask(rows, count);
        self.sidecar.runtime.spawn(async move {
            let _room = room;
            let most = contract.most(count);
            let asked = tokio::time::timeout(budget, link.infer(frame, budget, most));
            // A caller that has gone, as one whose deadline has passed, needs no answer.
            let answered = tokio::select! {
                answered = asked => answered,
                () = reply.closed() => return sidecar.counts.note(Kind::Late),
            };
            let columns = match answered {
                Ok(Ok(message)) => contract.read(message, count).map_err(|error| {
                    let (why, of_bundle) = (error.to_string(), error.is_of_bundle());
                    if of_bundle && note(&foreign, Some(&why)) {
                        tell_misfit(&contract, &why);
                    }
                    (if of_bundle { Kind::Bundle } else { Kind::Answer }, ScoreFault::Model(why.into()))
                }),
                Ok(Err(error)) => Err(fault(&error, &misfit)),
                Err(_) => Err((Kind::Late, ScoreFault::Late)),
            };
            if let Err((kind, _)) = &columns {
                sidecar.counts.note(*kind);
            }
            let _ = reply.send(columns.map_err(|(_, fault)| fault));
        });
        Ok(answer)
    }
}
