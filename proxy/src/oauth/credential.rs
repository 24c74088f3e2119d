//! What an upstream is shown: a secret, or a token kept fresh in the background.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_policy::documents::credentials::{Credentials, Fixed};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock;
use crate::oauth::grant::{Grant, Granted};
use crate::oauth::http::{Http, HttpError, TOTAL};
use crate::oauth::proof::{Secrets, secret_fault};
use crate::secrets::{Derived, SecretError};
use crate::telemetry::random;

/// First and longest pause after a token that was not granted.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Between two tokens asked for because the upstream refused the one before.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);
/// A token is renewed after 75 to 85 % of its lifetime, so that many gateways do not ask at the same time.
const RENEW_PERCENT: (u64, u64) = (75, 10);
/// A token is not shown any more in its last moments, a tenth of its lifetime at most: the upstream must still find it
/// valid.
const MARGIN: Duration = Duration::from_secs(2);

/// What every request to one upstream carries.
#[derive(Debug)]
pub struct Credential {
    /// The header that carries it.
    pub header: HeaderName,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fixed(Derived<HeaderValue>),
    Token(Arc<Shared>, AbortHandle),
}

/// A value that a request carries, and which one it is.
#[derive(Clone, Debug)]
pub struct Shown {
    pub value: HeaderValue,
    token: Option<Arc<Held>>,
}

/// There is none.
#[derive(Debug, thiserror::Error)]
#[error("no valid token for the upstream: {0}")]
pub struct Unavailable(String);

#[derive(Debug)]
struct Shared {
    grant: Grant,
    http: Http,
    runtime: Handle,
    held: ArcSwapOption<Held>,
    state: Mutex<State>,
    /// Wakes the task that renews.
    wake: tokio::sync::Notify,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// A token that was granted; times are monotonic.
#[derive(Debug)]
struct Held {
    value: HeaderValue,
    since: Duration,
    until: Duration,
    /// The upstream has refused it: the next one is waited for.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    flight: Option<Flight>,
    failures: u32,
    /// When a token should be asked for.
    due: Duration,
    /// Before then nobody asks again.
    allowed: Duration,
    refused_at: Option<Duration>,
    fault: Option<String>,
}

/// A token being asked for; it is a task of its own, and lands whatever came of it.
type Flight = watch::Receiver<bool>;

/// How a token stands, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialStatus {
    /// Time since the token was granted.
    pub age: Option<Duration>,
    /// Time until it expires; zero once it has.
    pub left: Option<Duration>,
    pub succeeded: u64,
    pub failed: u64,
    /// Why the last attempt failed; `None` where it did not.
    pub fault: Option<String>,
}

impl Credential {
    /// Reads the secrets and, where there is a runtime, begins to keep a token fresh. Without one nothing is asked
    /// for: that is for checking a policy.
    ///
    /// # Errors
    /// A secret that cannot be had or used, as a fault below `at`.
    pub fn open(
        said: &Credentials,
        at: &Path,
        secrets: Secrets<'_>,
        runtime: Option<&Handle>,
    ) -> Result<Option<Self>, Fault> {
        let grant = match said {
            Credentials { fixed: Some(fixed), .. } => {
                return self::fixed(fixed, &at.key("static"), secrets).map(Some);
            }
            Credentials { client_credentials: Some(said), .. } => {
                Grant::client_credentials(said, &at.key("clientCredentials"), secrets)?
            }
            Credentials { jwt_bearer: Some(said), .. } => {
                Grant::jwt_bearer(said, &at.key("jwtBearer"), secrets)?
            }
            _ => return Err(Fault::new(Code::CONFLICT, at.clone(), "no credentials are named")),
        };
        Ok(runtime.map(|runtime| Self::start(grant, runtime)))
    }

    fn start(grant: Grant, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared {
            grant,
            // Minutes lie between two tokens: no server keeps a connection that long.
            http: Http::new(0),
            runtime: runtime.clone(),
            held: ArcSwapOption::empty(),
            state: Mutex::default(),
            wake: tokio::sync::Notify::new(),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let renew = runtime.spawn(Arc::clone(&shared).renew()).abort_handle();
        Self { header: AUTHORIZATION, kind: Kind::Token(shared, renew) }
    }

    /// What a request carries now, where that is known without waiting. `now` is the monotonic time.
    pub fn at_once(&self, now: Duration) -> Option<Shown> {
        match &self.kind {
            Kind::Fixed(value) => Some(Shown { value: HeaderValue::clone(&value.value()), token: None }),
            Kind::Token(shared, _) => shared.shown(now, false),
        }
    }

    /// The same, waiting for the token that is being asked for, or asking for one.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn wait(&self) -> Result<Shown, Unavailable> {
        match &self.kind {
            Kind::Fixed(value) => Ok(Shown { value: HeaderValue::clone(&value.value()), token: None }),
            Kind::Token(shared, _) => {
                if let Some(mut flight) = shared.board(false) {
                    let _ = flight.wait_for(|landed| *landed).await;
                }
                let shown = shared.shown(clock::monotonic(), true);
                shown.ok_or_else(|| Unavailable(shared.state().fault.clone().unwrap_or_default()))
            }
        }
    }

    /// The upstream answered 401 to a request that carried this: a token is given up, though not too often.
    pub fn refused(&self, shown: &Shown, now: Duration) {
        let (Kind::Token(shared, _), Some(token)) = (&self.kind, &shown.token) else { return };
        let current = shared.held.load();
        if !current.as_ref().is_some_and(|held| Arc::ptr_eq(held, token)) {
            return;
        }
        let mut state = shared.state();
        if state.refused_at.is_some_and(|last| now < last.saturating_add(REFUSAL_INTERVAL)) {
            return;
        }
        state.refused_at = Some(now);
        state.due = now;
        drop(state);
        token.refused.store(true, Ordering::Relaxed);
        shared.wake.notify_one();
    }

    /// How its token stands; `None` where there is none to be had.
    pub fn status(&self, now: Duration) -> Option<CredentialStatus> {
        let Kind::Token(shared, _) = &self.kind else { return None };
        let held = shared.held.load();
        Some(CredentialStatus {
            age: held.as_ref().map(|held| now.saturating_sub(held.since)),
            left: held.as_ref().map(|held| held.until.saturating_sub(now)),
            succeeded: shared.succeeded.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            fault: shared.state().fault.clone(),
        })
    }
}

fn fixed(said: &Fixed, at: &Path, secrets: Secrets<'_>) -> Result<Credential, Fault> {
    let refuse = |error: SecretError| secret_fault(&at.key("value"), &error);
    let header = HeaderName::from_bytes(said.header.as_bytes())
        .map_err(|_| Fault::new(Code::VALUE, at.key("header"), "this is not a header name"))?;
    let prefix = said.prefix.as_ref().map(|prefix| format!("{prefix} ")).unwrap_or_default();
    let make = move |secret: &foregate_filters::secret::Secret| {
        let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.expose().len()));
        text.extend_from_slice(prefix.as_bytes());
        text.extend_from_slice(secret.expose());
        let mut value = HeaderValue::from_bytes(&text).map_err(|_| SecretError::NotText)?;
        value.set_sensitive(true);
        Ok(value)
    };
    let secret = secrets(&said.value).map_err(refuse)?;
    let value = Derived::new(secret, make).map_err(refuse)?;
    Ok(Credential { header, kind: Kind::Fixed(value) })
}

impl Drop for Credential {
    fn drop(&mut self) {
        if let Kind::Token(_, renew) = &self.kind {
            renew.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token while it is valid; one that the upstream refused only where nothing better can be had.
    fn shown(&self, now: Duration, refused_too: bool) -> Option<Shown> {
        let held = self.held.load_full()?;
        let fit = now < held.until && (refused_too || !held.refused.load(Ordering::Relaxed));
        fit.then(|| Shown { value: held.value.clone(), token: Some(held) })
    }

    /// Asks whenever a token is due, for ever.
    async fn renew(self: Arc<Self>) {
        loop {
            let due = self.state().due.saturating_sub(clock::monotonic());
            if !due.is_zero() {
                let _ = timeout(due, self.wake.notified()).await;
            } else if let Some(mut flight) = self.board(true) {
                let _ = flight.wait_for(|landed| *landed).await;
            }
        }
    }

    /// Joins the question under way, or asks where that is allowed; the task that renews always may.
    fn board(self: &Arc<Self>, renewal: bool) -> Option<Flight> {
        let mut state = self.state();
        if let Some(flight) = state.flight.as_ref().filter(|flight| !*flight.borrow()) {
            // One whose task is gone without a word is not under way.
            if flight.has_changed().is_ok() {
                return Some(flight.clone());
            }
        }
        let now = clock::monotonic();
        if !renewal && now < state.allowed {
            return None;
        }
        // Should the task never report, the next is not started at once.
        state.due = now.saturating_add(BACKOFF.0);
        let (landing, flight) = watch::channel(false);
        state.flight = Some(flight.clone());
        drop(state);
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            shared.fetch().await;
            landing.send_replace(true);
        });
        Some(flight)
    }

    async fn fetch(&self) {
        let asked = clock::now();
        let outcome = timeout(TOTAL, self.grant.fetch(&self.http, asked)).await;
        let outcome = outcome.unwrap_or(Err(HttpError::Timeout.into()));
        let now = clock::monotonic();
        let mut state = self.state();
        match outcome {
            Ok(Granted { value, lifetime }) => {
                let (least, more) = RENEW_PERCENT;
                let percent = u32::try_from(least + random::next() % (more + 1)).unwrap_or(80);
                // A server that hands out tokens of no lifetime is not asked without end.
                let renewal = (lifetime.saturating_mul(percent) / 100).max(BACKOFF.0);
                *state = State {
                    flight: state.flight.take(),
                    due: now.saturating_add(renewal),
                    refused_at: state.refused_at,
                    ..State::default()
                };
                let held = Held {
                    value,
                    since: now,
                    until: asked.monotonic.saturating_add(lifetime.saturating_sub(MARGIN.min(lifetime / 10))),
                    refused: AtomicBool::new(false),
                };
                self.held.store(Some(Arc::new(held)));
                self.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let (first, longest) = BACKOFF;
                let pause = first.saturating_mul(1 << state.failures.min(6)).min(longest);
                let percent = u32::try_from(80 + random::next() % 21).unwrap_or(100);
                state.due = now.saturating_add(pause.saturating_mul(percent) / 100);
                state.allowed = state.due;
                state.failures = state.failures.saturating_add(1);
                state.fault = Some(error.to_string());
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
