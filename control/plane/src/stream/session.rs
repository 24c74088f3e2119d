//! One stream of one proxy: what it lacks is sent, what it says is heard.

use std::collections::{BTreeMap, HashMap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_policy::fleet::{Finding, Node, PolicyRequest, PolicyResponse};
use futures_util::{Stream, StreamExt, stream};
use log::Level;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status, Streaming};

use crate::clock;
use crate::event::event;
use crate::fleet::policies::policies_server::Policies;
use crate::process::Shutdown;
use crate::rollout::guard::Tally;
use crate::serve::peer::{Heard, Peer};
use crate::stream::offer::Offered;
use crate::stream::offering::Offering;
use crate::stream::proxies::{Hold, Proxies, fault};
use crate::stream::turn::Ledger;

/// Time that a proxy waits for its turn to say who it is; longer than another may take to say it.
const TURN: Duration = Duration::from_secs(15);
/// How long it may be silent once it is its turn, which keeps others waiting, and how often that is looked at: it
/// may have megabytes to say over a slow line, and 10 s are enough for that.
const SILENCE: Duration = Duration::from_secs(2);
const LOOKS: usize = 5;
/// What is told to who was too slow.
const LATE: &str = "a proxy says first who it is and what it has: 2 s without a byte, or 10 s in all, are \
                    too long. It tries again by itself; where that does not help, look for loss on the way \
                    here, and for a proxy that gets no processor";
/// Time for a change to be taken or refused: models are loaded meanwhile.
const PATIENCE: Duration = Duration::from_mins(2);
/// Changes that come close together are sent as one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Most resources that a proxy may say it knows.
const MAX_KNOWN: usize = 50_000;

/// What is sent on one stream.
type Answers = Pin<Box<dyn Stream<Item = Result<PolicyResponse, Status>> + Send>>;

/// Serves `foregate.fleet.v1.Policies`.
#[derive(Clone, Debug)]
pub struct PolicyStreams {
    pub offering: Arc<Offering>,
    pub proxies: Arc<Proxies>,
    pub shutdown: Shutdown,
}

#[tonic::async_trait]
impl Policies for PolicyStreams {
    type StreamStream = Answers;

    async fn stream(
        &self,
        request: Request<Streaming<PolicyRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (id, heard) = (Peer::required(&request)?, Peer::of(&request)?.heard.clone());
        // One part waits at most: a proxy that takes nothing costs no more.
        let (answers, receiver) = mpsc::channel(1);
        let session = self.clone();
        tokio::spawn(async move {
            if let Err(status) = session.run(&id, request.into_inner(), &heard, &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        let stream = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|answer| (answer, receiver))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl PolicyStreams {
    /// Runs until the proxy or the process ends.
    ///
    /// # Errors
    /// What the proxy is told.
    async fn run(
        &self,
        id: &SpiffeId,
        mut requests: Streaming<PolicyRequest>,
        heard: &Heard,
        answers: &mpsc::Sender<Result<PolicyResponse, Status>>,
    ) -> Result<(), Status> {
        let late = || Status::deadline_exceeded(LATE);
        let busy = || Status::unavailable("too many proxies say at once who they are");
        let place = timeout(TURN, self.proxies.greeting(id.as_str())).await.map_err(|_| busy())?;
        let looks = pin!(stream::iter(0..LOOKS).then(|_| sleep(SILENCE)));
        let Some(mut first) = said_in_time(requests.message(), heard, looks).await.ok_or_else(late)?? else {
            return Ok(());
        };
        let node = first.node.ok_or_else(|| Status::invalid_argument("the first message has no node"))?;
        if let Some(fault) = fault(&node) {
            return Err(Status::invalid_argument(fault));
        }
        if first.known.len() > MAX_KNOWN {
            return Err(Status::invalid_argument("too many known resources"));
        }
        let granted = self.offering.grants.name(id);
        if !granted {
            // Nothing is sent that it could be compared with.
            first.known = HashMap::new();
        }
        let full =
            || Status::resource_exhausted("too many proxies are connected, of all or with this identity");
        let hold = self.proxies.enter(id.as_str(), granted, &node, clock::now().unix).ok_or_else(full)?;
        drop(place);
        let ledger = Ledger::new(first.known, &node.revision);
        let mut session = Session { streams: self, id, node, hold, ledger, due: Duration::ZERO };
        session.run(&mut requests, answers).await
    }
}

/// Waits for what is said first. `None` where nothing came from one of these looks to the next, and after the
/// last one.
async fn said_in_time<T>(
    message: impl Future<Output = T>,
    heard: &Heard,
    mut looks: impl Stream<Item = ()> + Unpin,
) -> Option<T> {
    let mut message = pin!(message);
    let mut before = heard.so_far();
    loop {
        tokio::select! {
            biased;
            said = &mut message => return Some(said),
            look = looks.next() => {
                look?;
                let now = heard.so_far();
                if std::mem::replace(&mut before, now) == now {
                    return None;
                }
            }
        }
    }
}

struct Session<'a> {
    streams: &'a PolicyStreams,
    id: &'a SpiffeId,
    node: Node,
    hold: Hold,
    ledger: Ledger,
    /// When a change is no longer waited for; monotonic.
    due: Duration,
}

impl Session<'_> {
    async fn run(
        &mut self,
        requests: &mut Streaming<PolicyRequest>,
        answers: &mpsc::Sender<Result<PolicyResponse, Status>>,
    ) -> Result<(), Status> {
        let mut news = self.streams.offering.changes();
        loop {
            news.mark_unchanged();
            self.send(answers).await?;
            let pending = self.ledger.is_pending();
            let left = self.due.saturating_sub(clock::monotonic());
            tokio::select! {
                message = requests.message() => match message? {
                    Some(message) => self.heard(message),
                    None => return Ok(()),
                },
                told = news.changed(), if !pending => {
                    if told.is_err() {
                        return Ok(());
                    }
                    sleep(DEBOUNCE).await;
                }
                () = sleep(left), if pending => {
                    return Err(Status::deadline_exceeded("a change was not answered in time"));
                }
                () = self.hold.replaced() => return Err(Status::aborted("another stream of this proxy began")),
                () = self.streams.shutdown.begun() => return Err(Status::unavailable("the control plane ends")),
                () = answers.closed() => return Ok(()),
            }
        }
    }

    /// Sends the next change, where one is due.
    async fn send(&mut self, answers: &mpsc::Sender<Result<PolicyResponse, Status>>) -> Result<(), Status> {
        let offering = &self.streams.offering;
        let offered = offering.offer(&self.hold.proxy.key, self.id, &self.node.labels);
        let (wanted, withheld) = match &offered {
            Offered::Nothing => (String::new(), None),
            Offered::Withheld(why) => (String::new(), Some(why.clone())),
            Offered::Policies(offer) => (offer.revision.to_string(), None),
        };
        {
            let mut status = self.hold.proxy.status();
            (status.wanted, status.withheld) = (wanted, withheld);
        }
        self.hold.proxy.has(match &offered {
            Offered::Policies(offer) => self.ledger.gateways(offer),
            Offered::Nothing | Offered::Withheld(_) => BTreeMap::new(),
        });
        if self.ledger.is_pending() {
            return Ok(());
        }
        let change = match offered {
            Offered::Nothing => None,
            Offered::Withheld(why) => self.ledger.withhold(&why),
            Offered::Policies(offer) => self.ledger.next(&offer, &offering.endpoints()),
        };
        let Some(change) = change else { return Ok(()) };
        for part in change.parts() {
            let sent = timeout(PATIENCE, answers.send(Ok(part))).await;
            if !sent.is_ok_and(|sent| sent.is_ok()) {
                return Err(Status::deadline_exceeded("a change was not taken in time"));
            }
        }
        self.due = clock::monotonic().saturating_add(PATIENCE);
        Ok(())
    }

    fn heard(&mut self, message: PolicyRequest) {
        let now = clock::now().unix;
        let (offering, proxy) = (&self.streams.offering, &self.hold.proxy);
        proxy.status().last_seen = now.as_secs();
        if let Some(report) = message.report {
            let tally = Tally { requests: report.requests, refused: report.refused, failed: report.failed };
            offering.reported(&report.revision, tally);
            let mut status = proxy.status();
            status.requests = status.requests.saturating_add(tally.requests);
            status.refused = status.refused.saturating_add(tally.refused);
            status.failed = status.failed.saturating_add(tally.failed);
        }
        let took = message.refusal.is_none();
        let Some(answered) = self.ledger.answer(&message.nonce, took) else { return };
        if answered.policies {
            offering.answered(&proxy.key, &answered.revision, took);
        }
        if let Some(refusal) = message.refusal {
            let fields = [
                ("proxy", self.node.id.as_str().into()),
                ("identity", self.id.as_str().into()),
                ("revision", answered.revision.as_ref().into()),
                ("findings", refusal.findings.iter().take(4).map(one_line).collect::<Vec<_>>().into()),
            ];
            event(Level::Error, "proxy refused", &fields);
            proxy.refused(&answered.revision, refusal.findings, now);
        } else {
            let mut status = proxy.status();
            status.in_force = answered.revision.to_string();
            if answered.policies {
                status.refusal = None;
            }
        }
    }
}

fn one_line(finding: &Finding) -> String {
    let Finding { code, file, line, column, message, .. } = finding;
    format!("{code} {file}:{line}:{column}: {message}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use futures_util::{StreamExt, stream};

    use super::said_in_time;
    use crate::serve::peer::Heard;

    #[tokio::test]
    async fn who_is_silent_is_waited_for_until_the_next_look_and_who_still_speaks_until_the_last() {
        let (heard, looks) = (Heard::default(), Cell::new(0));
        let look = |bytes: usize| {
            let (heard, looks) = (&heard, &looks);
            stream::iter(0..5).map(move |_| {
                looks.set(looks.get() + 1);
                heard.add(bytes);
            })
        };
        assert_eq!(said_in_time(pending::<()>(), &heard, look(0)).await, None);
        assert_eq!(looks.replace(0), 1);
        assert_eq!(said_in_time(pending::<()>(), &heard, look(1)).await, None);
        assert_eq!(looks.get(), 5);
        assert_eq!(
            said_in_time(ready("edge"), &heard, stream::empty()).await,
            Some("edge"),
            "what is there counts"
        );
    }
}
