//! Asks an introspection endpoint: once for all who wait, and not too often at once.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::introspector::{Introspector, NotAnswered};
use http::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clock;
use crate::oauth::form::Form;
use crate::oauth::http::{Http, HttpError, TOTAL, trusted};
use crate::oauth::proof::ClientProof;

/// Largest answer in bytes: real ones are below 4 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// Questions under way at the endpoint at once.
const AT_ONCE: usize = 64;
/// Tokens waiting to be asked about; more are refused at once.
const WAITING: usize = 2048;
/// Failures in a row after which the endpoint is left alone for a while.
const PATIENCE: u32 = 5;
/// First and longest pause in which nobody asks.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// One endpoint.
#[derive(Debug)]
pub struct HttpIntrospector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: String,
    proof: ClientProof,
    http: Http,
    runtime: Handle,
    slots: Semaphore,
    /// Keyed hashes stand for tokens, so that none is kept.
    hashes: [RandomState; 2],
    flights: Mutex<HashMap<[u64; 2], Flight>>,
    health: Mutex<Health>,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Stands in where nothing may be asked: when policies are only checked.
#[derive(Debug)]
pub struct Unasked;

/// A question under way. It is a task of its own: a request that gives up waiting takes it from nobody.
type Flight = watch::Receiver<Option<Result<Bytes, NotAnswered>>>;

/// How the endpoint has answered lately.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    /// Monotonic time before which nobody asks.
    paused_until: Duration,
}

/// How an endpoint stands, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntrospectionStatus {
    /// Questions answered since the start.
    pub answered: u64,
    /// Questions that were not.
    pub failed: u64,
}

impl HttpIntrospector {
    /// Questions are tasks of `runtime`.
    pub fn new(endpoint: &str, proof: ClientProof, runtime: Handle) -> Self {
        Self(Arc::new(Shared {
            endpoint: endpoint.to_owned(),
            proof,
            http: Http::new(AT_ONCE),
            runtime,
            slots: Semaphore::new(AT_ONCE),
            hashes: [RandomState::new(), RandomState::new()],
            flights: Mutex::default(),
            health: Mutex::default(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }))
    }

    pub fn status(&self) -> IntrospectionStatus {
        IntrospectionStatus {
            answered: self.0.answered.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
        }
    }
}

impl Introspector for HttpIntrospector {
    fn ask<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        Box::pin(async move {
            let mut flight = self.0.board(token)?;
            let landed = flight.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            landed.unwrap_or_else(|| Err(NotAnswered("the question was given up".into())))
        })
    }
}

impl Introspector for Unasked {
    fn ask<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        Box::pin(std::future::ready(Err(NotAnswered("nothing is asked while policies are checked".into()))))
    }
}

impl Shared {
    /// Joins the question about this token that is under way, or asks.
    fn board(self: &Arc<Self>, token: &str) -> Result<Flight, NotAnswered> {
        let key = [0, 1].map(|index: usize| self.hashes.get(index).map_or(0, |hash| hash.hash_one(token)));
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Ok(flight.clone());
        }
        if clock::monotonic() < self.health().paused_until {
            return Err(NotAnswered("it has not answered lately and is left alone for some seconds".into()));
        }
        if flights.len() >= WAITING {
            return Err(NotAnswered("too many tokens wait to be asked about".into()));
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        drop(flights);
        let (shared, token) = (Arc::clone(self), zeroize::Zeroizing::new(token.to_owned()));
        self.runtime.spawn(async move {
            let answer = shared.answer(&token).await;
            // Before the answer lands: whoever comes from now on asks anew, or knows it from the cache.
            shared.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            landing.send_replace(Some(answer));
        });
        Ok(flight)
    }

    async fn answer(&self, token: &str) -> Result<Bytes, NotAnswered> {
        // Waiting for a turn says nothing of the endpoint: a flood of tokens must not have it left alone.
        let Ok(_slot) = timeout(TOTAL, self.slots.acquire()).await else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(NotAnswered("too many tokens wait to be asked about".into()));
        };
        let exchange = async {
            match self.exchange(token).await {
                // A pooled connection may meet its server's close; asking twice does no harm.
                Err(HttpError::Http(_)) => self.exchange(token).await,
                outcome => outcome,
            }
        };
        let outcome = timeout(TOTAL, exchange).await.unwrap_or(Err(HttpError::Timeout));
        let mut health = self.health();
        match outcome {
            Ok(body) => {
                *health = Health::default();
                self.answered.fetch_add(1, Ordering::Relaxed);
                Ok(body.into())
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                if concerns_all(&error) {
                    health.fail(clock::monotonic());
                }
                Err(NotAnswered(error.to_string().into()))
            }
        }
    }

    async fn exchange(&self, token: &str) -> Result<Vec<u8>, HttpError> {
        let url = trusted(&self.endpoint, true)?;
        let mut form = Form::default();
        form.add("token", token);
        form.add("token_type_hint", "access_token");
        let unfit = || HttpError::Client("the secret is not fit for it any more".to_owned());
        let authorization = self.proof.apply(&mut form, clock::now()).ok_or_else(unfit)?;
        let json = self.http.form(MAX_ANSWER, url, form, authorization).await?;
        if json.status == StatusCode::OK { Ok(json.body) } else { Err(HttpError::Status(json.status)) }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True for failures that every other question would meet too. A token that the endpoint does not like must not
/// keep it from being asked about others.
fn concerns_all(error: &HttpError) -> bool {
    match error {
        HttpError::Status(status) => {
            status.is_server_error()
                || matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
        }
        HttpError::ContentType | HttpError::TooLarge(_) => false,
        HttpError::Client(_) | HttpError::Url | HttpError::Timeout | HttpError::Http(_) => true,
    }
}

impl Health {
    fn fail(&mut self, now: Duration) {
        // What was under way when the pause began has failed for the same cause.
        if now < self.paused_until {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(over) = self.failures.checked_sub(PATIENCE) {
            let (first, longest) = PAUSE;
            let pause = first.saturating_mul(1 << over.min(5)).min(longest);
            self.paused_until = now.saturating_add(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, Health, PATIENCE, PAUSE};
    use std::time::Duration;

    #[test]
    fn failures_at_once_count_as_one_and_pauses_grow_with_each_try() {
        let mut health = Health::default();
        let mut now = Duration::from_secs(1_000);
        for _ in 1..PATIENCE {
            health.fail(now);
            assert!(health.paused_until <= now);
        }
        for (_, seconds) in (0..8).zip([1, 2, 4, 8, 16, 30, 30, 30]) {
            (0..AT_ONCE).for_each(|_| health.fail(now));
            assert_eq!(health.paused_until, now + Duration::from_secs(seconds));
            now = health.paused_until;
        }
        assert_eq!(PAUSE.1, Duration::from_secs(30));
    }
}
