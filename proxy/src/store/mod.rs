//! A Redis or Valkey that several gateways share: values by key, and counters.

mod cluster;
pub mod counters;
mod entry;
pub mod error;
pub mod kept;
mod leases;
mod link;
pub mod metrics;
mod node;
mod script;
mod settings;
pub mod status;
pub mod streamed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_policy::redis_store::RedisStore;
use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::clock;
use crate::identity::Identity;
use crate::secrets::LiveSecret;
use crate::store::cluster::{Cluster, slot};
use crate::store::counters::Calendars;
use crate::store::error::StoreError;
use crate::store::leases::Leases;
use crate::store::link::Task;
use crate::store::metrics::Stats;
use crate::store::node::{Node, Refused};
use crate::store::script::{Argument, Script};
use crate::store::settings::Settings;

/// Requests of one process that one store is asked at once; more are answered at once.
const MAX_IN_FLIGHT: usize = 4_096;

/// Longest key that a caller may name, in bytes.
pub const MAX_KEY: usize = 512;

/// Largest value that is written or read, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;

/// One store. Connects when it is made, in the background, and keeps connected until it is dropped.
///
/// Every request ends within the timeout of the store, whatever the store does. While it does not answer,
/// a circuit opens and requests are refused at once; see [`node`](self) for when. Requests are sent once, except
/// that a server without our script is sent its text, and that a cluster whose slot has moved is asked where it
/// is now.
#[derive(Debug)]
pub struct Store {
    settings: Arc<Settings>,
    runtime: Handle,
    servers: Servers,
    in_flight: Semaphore,
    stats: Arc<Stats>,
    leases: Leases,
    calendars: Calendars,
    /// Gives back what was leased and not used.
    sweeper: std::sync::OnceLock<Task>,
}

#[derive(Debug)]
enum Servers {
    One(Box<Node>),
    Cluster(Box<Cluster>),
}

impl Store {
    /// Begins to connect; nothing waits for it.
    pub fn new(
        store: &RedisStore,
        password: Option<Arc<LiveSecret>>,
        identity: Option<Arc<Identity>>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let settings = Arc::new(Settings::new(store, password, identity));
        let servers = if settings.cluster {
            Servers::Cluster(Box::new(Cluster::new(Arc::clone(&settings), runtime)))
        } else {
            Servers::One(Box::new(Node::new(Arc::clone(&settings), settings.servers.clone(), runtime)))
        };
        let store = Arc::new(Self {
            settings,
            runtime: runtime.clone(),
            servers,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            stats: Arc::default(),
            leases: Leases::default(),
            calendars: Calendars::default(),
            sweeper: std::sync::OnceLock::new(),
        });
        // Weak: the sweeper must not keep the store that it ends with.
        let sweeper = Task(runtime.spawn(counters::sweep(Arc::downgrade(&store))));
        // Set once, here.
        let _ = store.sweeper.set(sweeper);
        store
    }

    /// Name of its document.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The value of a key of at most [`MAX_KEY`] bytes; `None` where there is none, or no more.
    ///
    /// # Errors
    /// Where the store cannot be asked, or the value is over [`MAX_VALUE`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let key = self.key(key)?;
        // A value over the bound is never taken over whole.
        let mut command = redis::cmd("GETRANGE");
        command.arg(&key).arg(0).arg(MAX_VALUE);
        match Box::pin(self.ask(&key, &command)).await? {
            Value::BulkString(value) if value.len() > MAX_VALUE => Err(StoreError::TooLarge("value")),
            Value::BulkString(value) if value.is_empty() => Ok(None),
            Value::BulkString(value) => Ok(Some(value.into())),
            Value::Nil => Ok(None),
            _ => Err(StoreError::Malformed),
        }
    }

    /// Sets the value of a key that has none, for `ttl` (1 ms at least). True where it was set. In one step: of all
    /// callers of all processes one is told true. Values are not empty, and at most [`MAX_VALUE`] long.
    ///
    /// # Errors
    /// Where the store cannot be asked, or a bound is passed. After [`StoreError::Timeout`] and
    /// [`StoreError::Connection`] it may have been set all the same.
    pub async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, StoreError> {
        let key = self.key(key)?;
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(bounded(value)?).arg("NX").arg("PX").arg(millis(ttl));
        match Box::pin(self.ask(&key, &command)).await? {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(StoreError::Malformed),
        }
    }

    /// Sets the value of a key for `ttl`, whatever it was. Bounds and errors as for [`Self::set_if_absent`].
    ///
    /// # Errors
    /// See there.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        let key = self.key(key)?;
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(bounded(value)?).arg("PX").arg(millis(ttl));
        match Box::pin(self.ask(&key, &command)).await? {
            Value::Okay => Ok(()),
            _ => Err(StoreError::Malformed),
        }
    }

    /// Sets the value of a key for `ttl` where it is `expected`; an empty one deletes it. True where it was. So
    /// whoever holds a key by a value of its own touches it only while it still does.
    ///
    /// # Errors
    /// As for [`Self::set_if_absent`].
    pub async fn replace(
        &self,
        key: &str,
        expected: &[u8],
        value: &[u8],
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let key = self.key(key)?;
        let value = if value.is_empty() { value } else { bounded(value)? };
        let arguments =
            [Argument::Bytes(bounded(expected)?), Argument::Bytes(value), Argument::Number(millis(ttl))];
        match Box::pin(self.run(&script::REPLACE, &[key], &arguments)).await? {
            Value::Int(replaced) => Ok(replaced == 1),
            _ => Err(StoreError::Malformed),
        }
    }

    /// Deletes a key. True where it was there.
    ///
    /// # Errors
    /// Where the store cannot be asked.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let key = self.key(key)?;
        let mut command = redis::cmd("DEL");
        command.arg(&key);
        match Box::pin(self.ask(&key, &command)).await? {
            Value::Int(deleted) => Ok(deleted > 0),
            _ => Err(StoreError::Malformed),
        }
    }

    /// The key of a value at the server; counters have others.
    fn key(&self, key: &str) -> Result<String, StoreError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(StoreError::TooLarge("key"));
        }
        Ok(format!("{}:value:{key}", self.settings.prefix))
    }

    /// One command about this key, within the timeout and the bound of requests in flight.
    async fn ask(&self, key: &str, command: &Cmd) -> Result<Value, StoreError> {
        let began = clock::monotonic();
        self.bounded(began, self.servers.ask(slot(key), command, self.until(began))).await
    }

    /// Runs a script about keys of one slot: one round trip, and another where the server has forgotten the script.
    async fn run(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[Argument<'_>],
    ) -> Result<Value, StoreError> {
        let (slot, began) = (keys.first().map_or(0, |key| slot(key)), clock::monotonic());
        let until = self.until(began);
        let asked = async {
            let command = script.call(keys, arguments);
            match self.servers.ask(slot, &command, until).await {
                Err(refused) if refused.error.as_ref().is_some_and(|it| it.code() == Some("NOSCRIPT")) => {
                    self.servers.ask(slot, &script.call_whole(keys, arguments), until).await
                }
                answer => answer,
            }
        };
        self.bounded(began, asked).await
    }

    /// The end of the time of a request that began then.
    fn until(&self, began: Duration) -> Duration {
        began.saturating_add(self.settings.timeout)
    }

    async fn bounded(
        &self,
        began: Duration,
        asked: impl Future<Output = Result<Value, Refused>>,
    ) -> Result<Value, StoreError> {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(self.stats.failed(StoreError::Busy));
        };
        match asked.await {
            Ok(value) => {
                self.stats.answered(clock::monotonic().saturating_sub(began));
                Ok(value)
            }
            Err(refused) => Err(self.stats.failed(refused.why)),
        }
    }
}

impl Servers {
    /// Answered before `until`, a monotonic time.
    async fn ask(&self, slot: u16, command: &Cmd, until: Duration) -> Result<Value, Refused> {
        match self {
            Self::One(node) => node.ask(command, until).await,
            Self::Cluster(cluster) => cluster.ask(slot, command, until).await,
        }
    }
}

fn bounded(value: &[u8]) -> Result<&[u8], StoreError> {
    if value.is_empty() || value.len() > MAX_VALUE { Err(StoreError::TooLarge("value")) } else { Ok(value) }
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX) * 1_000)
}
