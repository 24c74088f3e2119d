//! One model of the sidecar: asked within the deadline, its answers checked.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::ScoreFault;
use foregate_inference::protocol::{DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED};
use foregate_inference::remote::{Columns, Contract, Remote};
use tokio::sync::oneshot;

use super::{Kind, Link, Sidecar, State, tell_misfit};
use crate::rpc::answer::{Fault, Refusal};

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
            Err(Fault::Refused(Refusal { code: NOT_FOUND, .. })) => {
                link.metadata(contract.ask_metadata(false)).await
            }
            answer => answer,
        };
        let misfit: Option<Box<str>> = match answer {
            Ok(message) => contract.check_metadata(message).err().map(|fault| fault.to_string().into()),
            Err(Fault::Refused(Refusal { code: NOT_FOUND, .. })) => {
                Some(format!("the sidecar has no model `{}`", contract.name).into())
            }
            // That says nothing of the model.
            Err(Fault::Broken(_) | Fault::Refused(Refusal { code: RESOURCE_EXHAUSTED, .. })) => return None,
            Err(fault) => Some(told(&fault)),
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
fn meaning(fault: &Fault, misfit: &Mutex<Option<Box<str>>>) -> (Kind, ScoreFault) {
    let kind = match fault {
        Fault::Refused(Refusal { code: DEADLINE_EXCEEDED, .. }) => return (Kind::Late, ScoreFault::Late),
        Fault::Refused(Refusal { code: RESOURCE_EXHAUSTED, .. }) => return (Kind::Busy, ScoreFault::Busy),
        Fault::Refused(Refusal { code: NOT_FOUND, .. }) => {
            let misfit = misfit.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return (Kind::Refused, ScoreFault::Model(misfit.unwrap_or_else(|| told(fault))));
        }
        Fault::Refused(_) => Kind::Refused,
        Fault::Broken(_) => Kind::Unavailable,
        Fault::Malformed(_) => Kind::Answer,
    };
    (kind, ScoreFault::Model(told(fault)))
}

/// A fault, with whose it is.
fn told(fault: &Fault) -> Box<str> {
    format!("the sidecar: {fault}").into()
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
                Ok(Err(fault)) => Err(meaning(&fault, &misfit)),
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
