//! How the endpoints of an upstream are found, chosen, checked and spared, as compiled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::expression::KeyExpression;
use http::HeaderName;

pub use crate::documents::balancing::Algorithm;

/// All that is said of an upstream's endpoints besides where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    pub policy: Algorithm,
    /// Set where the policy hashes.
    pub hash_on: Option<HashOn>,
    /// Zero: at once.
    pub slow_start: Duration,
    pub panic_threshold: u8,
    pub session: Option<Session>,
    pub check: Option<Check>,
    pub outliers: Outliers,
    pub breaker: Breaker,
    pub budget: Budget,
    pub dns: Dns,
}

/// The key of a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    Source,
    Header(HeaderName),
    Cookie(Box<str>),
    Expression(Keyed),
}

/// An expression whose value is a key; the same where its text is.
#[derive(Clone, Debug)]
pub struct Keyed(pub Arc<KeyExpression>);

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.source() == other.0.source()
    }
}

impl Eq for Keyed {}

/// What keeps the requests of one session together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub carried: Carried,
    /// For how long a browser keeps the cookie, in whole seconds; until it closes where absent.
    pub max_age: Option<Duration>,
    /// For how long a session lasts; for ever where absent.
    pub absolute: Option<Duration>,
    /// The same without a request.
    pub idle: Option<Duration>,
}

/// Where a client shows its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    Cookie(Box<str>),
    Header(HeaderName),
}

/// How endpoints are asked whether they are fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// No `statuses` means 200 to 399.
    Http {
        path: Box<str>,
        host: Option<Box<str>>,
        statuses: Vec<u16>,
    },
    Tcp,
    Grpc {
        service: Box<str>,
        host: Option<Box<str>>,
    },
}

/// When errors eject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// 0: never.
    pub consecutive: u32,
    pub base: Duration,
    pub longest: Duration,
    pub max_percent: u8,
}

/// When a circuit opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// 0: never.
    pub consecutive: u32,
    pub base: Duration,
    pub longest: Duration,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub percent: u8,
    pub interval: Duration,
    /// In each interval, however few requests there are.
    pub least: u32,
}

/// How names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Those of the system where absent.
    pub server: Option<SocketAddr>,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub max_stale: Duration,
}

impl Default for Outliers {
    fn default() -> Self {
        let (base, longest) = (Duration::from_secs(30), Duration::from_mins(5));
        Self { consecutive: 5, base, longest, max_percent: 50 }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { consecutive: 5, base: Duration::from_secs(1), longest: Duration::from_mins(1) }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), least: 100 }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            server: None,
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_mins(5),
            max_stale: Duration::from_hours(1),
        }
    }
}
