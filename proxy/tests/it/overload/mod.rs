//! More than can be served: who is, and who comes again.

mod bodies;
mod connections;
mod fairness;
mod shedding;
mod stalled;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;

use crate::support::client::{HOST, Reply, connect};
use crate::support::upstream::{Body, Upstream, empty, full};
use crate::support::within;

/// A backend that works on a few requests at once, each for the same time; the others wait there.
#[derive(Debug)]
struct Backend {
    upstream: Upstream,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    served: AtomicUsize,
    /// Requests that left a place with nobody to take it.
    starved: AtomicUsize,
    waiting: AtomicUsize,
}

impl Backend {
    async fn start(places: usize, service: Duration) -> Self {
        let seen = Arc::new(Seen::default());
        let (note, room) = (Arc::clone(&seen), Arc::new(Semaphore::new(places)));
        let upstream = Upstream::start(move |_| {
            let (seen, room) = (Arc::clone(&note), Arc::clone(&room));
            async move {
                seen.waiting.fetch_add(1, Ordering::SeqCst);
                let place = room.acquire_owned().await.unwrap();
                seen.waiting.fetch_sub(1, Ordering::SeqCst);
                tokio::time::sleep(service).await;
                seen.served.fetch_add(1, Ordering::SeqCst);
                if seen.waiting.load(Ordering::SeqCst) == 0 {
                    seen.starved.fetch_add(1, Ordering::SeqCst);
                }
                drop(place);
                Response::new(full("done"))
            }
        })
        .await;
        Self { upstream, seen }
    }

    fn served(&self) -> usize {
        self.seen.served.load(Ordering::SeqCst)
    }

    fn starved(&self) -> usize {
        self.seen.starved.load(Ordering::SeqCst)
    }
}

/// Many requests at once, over a few HTTP/2 connections.
#[derive(Clone, Debug)]
struct Crowd(Vec<SendRequest<Body>>);

impl Crowd {
    async fn connect(address: SocketAddr, connections: usize) -> Self {
        let mut senders = Vec::new();
        for _ in 0..connections {
            let io = TokioIo::new(connect(address).await);
            let (sender, connection) =
                within("a handshake", http2::handshake(TokioExecutor::new(), io)).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
        Self(senders)
    }

    /// Sends one of them, and waits for its answer.
    async fn get(&self, number: usize, headers: &[(&str, &str)]) -> Reply {
        let mut sender = self.0[number % self.0.len()].clone();
        let mut request = Request::get(format!("http://{HOST}/"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        within("a place on the connection", sender.ready()).await.unwrap();
        let sending = sender.send_request(request.body(empty()).unwrap());
        Reply::read(within("an answer", sending).await.unwrap()).await.unwrap()
    }
}
