//! Open responses and tunnels: asked again whenever a snapshot is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::context::{Client, RequestContext, ScoreFact};
use foregate_filters::peer::Peer;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;
use crate::connection::Connection;
use crate::handshake::vouch;
use crate::head::{self, HopByHop};
use crate::rare::{Kind, Rare};
use crate::telemetry::random;
use crate::telemetry::route_metrics::RouteMetrics;

/// Age up to which an answer may come to its end although it is no longer allowed: a change of policy breaks no
/// ordinary request off. Tunnels have no such time.
const GRACE: Duration = Duration::from_secs(3);

/// Time in which an authority that cannot be asked does not take away what it once gave.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shortest time after which it is asked once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Counts publications, and tells of them.
#[derive(Debug)]
pub struct Publications {
    /// Read by every frame of every response: apart from the channel, whose lock they would share.
    count: AtomicU64,
    told: watch::Sender<u64>,
}

impl Default for Publications {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), told: watch::channel(0).0 }
    }
}

impl Publications {
    /// How many there have been.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Tells of every one to come.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Something new is in force: whatever is still open asks again.
    pub fn tell(&self) {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.told.send_replace(count);
    }
}

/// True where nobody said no: whoever decides cannot be asked.
fn undecided(refusal: &Refusal) -> bool {
    matches!(refusal.reply.reason, Reason::IntrospectionUnavailable | Reason::KeysUnavailable)
}

/// What a request asked for, for the next time that it is asked about.
#[derive(Debug)]
pub struct Asked {
    head: Parts,
    /// False where only method, host and path are known.
    whole: bool,
}

impl Asked {
    /// Keeps a copy of a canonical head where the answer may stay open for long: upgrades, events, gRPC, and
    /// routes on which an answer has stayed open before. Other requests pay for no copy.
    pub fn keep(
        head: &Parts,
        rare: Rare,
        hop: &HopByHop,
        route: Option<&Arc<RouteMetrics>>,
    ) -> Option<Box<Self>> {
        let stays = || route.is_some_and(|route| route.stays_open());
        let long = hop.upgrade.is_some() || rare.has(Kind::Streams) || stays();
        long.then(|| {
            let (mut copy, ()) = Request::new(()).into_parts();
            copy.method = head.method.clone();
            copy.uri = head.uri.clone();
            copy.version = head.version;
            copy.headers = head.headers.clone();
            Box::new(Self { head: copy, whole: true })
        })
    }

    /// What is left where no copy was kept.
    pub fn rest(method: &Method, host: &str, path: &str) -> Box<Self> {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = method.clone();
        head.uri = path.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            head.headers.insert(HOST, host);
        }
        Box::new(Self { head, whole: false })
    }
}

/// A response or tunnel that is still open.
#[derive(Debug)]
pub struct Open {
    pub connection: Arc<Connection>,
    pub asked: Box<Asked>,
    pub peer: Option<Arc<Peer>>,
    /// As they were when the request was admitted: the body is gone.
    pub scores: Vec<ScoreFact>,
    /// True for what has no end of its own.
    pub tunnel: bool,
    /// When the request was pinned, on the monotonic clock.
    pub since: Duration,
    /// Publications before that.
    pub seen: u64,
    /// That of the route that admitted it.
    pub fingerprint: u64,
    pub route: Option<Arc<RouteMetrics>>,
}

impl Open {
    /// Waits until what is in force no longer allows the request; says why.
    ///
    /// The request is asked about as if it came now: an identity that has expired meanwhile, or that nobody
    /// vouches for any more, is refused. Nothing is counted against limits.
    pub async fn revoked(self) -> Refusal {
        let mut told = self.connection.gateway.publications.told.subscribe();
        let mut seen = self.seen;
        loop {
            let news = told.wait_for(|count| *count != seen).await.map(|count| *count);
            // The gateway outlives its connections; without one there is nothing to obey.
            let Ok(count) = news else { return std::future::pending().await };
            seen = count;
            let mut waited = Duration::ZERO;
            while let Err(refusal) = self.ask().await {
                if let Some(left) = self.grace() {
                    sleep(left).await;
                } else if undecided(&refusal) && waited < PATIENCE {
                    // Apart from one another: what is open may be a lot.
                    let pause = ASK_AGAIN + Duration::from_millis(random::next() % 1_000);
                    waited += pause;
                    sleep(pause).await;
                } else {
                    return refusal;
                }
            }
        }
    }

    /// Time for an ordinary answer to come to its end.
    fn grace(&self) -> Option<Duration> {
        let age = clock::monotonic().saturating_sub(self.since);
        GRACE.checked_sub(age).filter(|left| !self.tunnel && !left.is_zero())
    }

    async fn ask(&self) -> Result<(), Refusal> {
        let refused = |step: Step, reason: Reason, detail: &str| {
            Err(Refusal { step, reply: Box::new(Reply::new(reason).detail(detail)) })
        };
        let (live, head) = (self.connection.gateway.live.pin(), &self.asked.head);
        let table = &live.snapshot.routes;
        if vouch::outdated(&self.connection, &live) {
            let detail = "the connection was made before the listener asked for certificates";
            return refused(Step::Route, Reason::Misdirected, detail);
        }
        if !self.asked.whole {
            // The next ones on this route keep what this one lacks.
            if let Some(route) = &self.route {
                route.stay_open();
            }
            // What is not known cannot be looked up: the very rule that admitted it must still be there.
            return if table.all().iter().any(|route| route.fingerprint == self.fingerprint) {
                Ok(())
            } else {
                let detail = "what decides about it has changed, and its head is not known any more";
                let reason = if live.withheld.is_some() { Reason::GrantLost } else { Reason::AccessDenied };
                refused(Step::Route, reason, detail)
            };
        }
        let found =
            table.find(self.connection.door(), self.connection.tls, head::host(head.headers.get(HOST)), head);
        let Ok(route) = found.map(Arc::clone) else {
            let reply = Box::new(live.miss("no route serves it any more"));
            return Err(Refusal { step: Step::Route, reply });
        };
        let peer = self.connection.peer;
        let client = Client {
            peer,
            address: peer.ip().to_canonical(),
            tls: self.connection.secure,
            destination: self.connection.captured,
        };
        let mut ctx = RequestContext::new(clock::now(), client);
        ctx.route = Arc::clone(&route.name);
        ctx.peer.clone_from(&self.peer);
        ctx.scores.clone_from(&self.scores);
        route.chain.recheck(head, &mut ctx).await
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, HopByHop, Rare};
    use http::Request;

    #[test]
    fn only_heads_of_what_may_stay_open_are_kept() {
        let kept = |name: &str, value: &str| {
            let (head, ()) = Request::get("/x?y").header(name, value).body(()).unwrap().into_parts();
            Asked::keep(&head, Rare::of(&head.headers), &HopByHop::default(), None)
        };
        assert!(
            kept("accept", "application/json").is_none()
                && kept("content-type", "application/json").is_none()
        );
        assert!(kept("content-type", "application/grpc+proto").is_some());
        let events = kept("accept", "text/html, text/event-stream").unwrap();
        assert_eq!((events.head.uri.to_string().as_str(), events.head.headers.len()), ("/x?y", 1));
        let (head, ()) = Request::get("/").body(()).unwrap().into_parts();
        let hop = HopByHop { upgrade: Some("websocket".parse().unwrap()), trailers: false };
        assert!(Asked::keep(&head, Rare::default(), &hop, None).is_some_and(|asked| asked.whole));
        let rest = Asked::rest(&http::Method::POST, "crm.test", "/a/b");
        assert_eq!((rest.head.uri.path(), rest.whole), ("/a/b", false));
    }
}
