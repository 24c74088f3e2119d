//! Why a store gave no answer.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What went wrong with one request to a store. No text holds a key, a value or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("no answer in time")]
    Timeout,
    /// Nothing was asked: whoever is asked does not answer, and is tried in the background.
    #[error("not connected: {0}")]
    Open(Box<str>),
    #[error("too many requests are waiting for it already")]
    Busy,
    #[error("the connection failed: {0}")]
    Connection(Box<str>),
    #[error("the server is a read-only replica")]
    ReadOnly,
    #[error("the server refuses us: {0}")]
    Denied(Box<str>),
    #[error("a key holds something else than it should")]
    WrongType,
    #[error("the server is out of memory")]
    Memory,
    /// The slot is not served, or moves.
    #[error("the cluster cannot answer: {0}")]
    Cluster(Box<str>),
    #[error("the server answers: {0}")]
    Server(Box<str>),
    #[error("the answer is not what was asked for")]
    Malformed,
    #[error("a {0} over its bound")]
    TooLarge(&'static str),
}

impl StoreError {
    /// Every kind, as metrics name them.
    pub const KINDS: [&'static str; 12] = [
        "timeout",
        "open",
        "busy",
        "connection",
        "read_only",
        "denied",
        "wrong_type",
        "memory",
        "cluster",
        "server",
        "malformed",
        "too_large",
    ];

    /// Its place in [`Self::KINDS`].
    pub const fn index(&self) -> usize {
        match self {
            Self::Timeout => 0,
            Self::Open(_) => 1,
            Self::Busy => 2,
            Self::Connection(_) => 3,
            Self::ReadOnly => 4,
            Self::Denied(_) => 5,
            Self::WrongType => 6,
            Self::Memory => 7,
            Self::Cluster(_) => 8,
            Self::Server(_) => 9,
            Self::Malformed => 10,
            Self::TooLarge(_) => 11,
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        // Whatever the server says may quote what it was sent: the code alone is passed on.
        let code = || error.code().unwrap_or("ERR").into();
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(ServerErrorKind::NoPerm) | ErrorKind::AuthenticationFailed => {
                Self::Denied(code())
            }
            ErrorKind::Server(
                ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::CrossSlot
                | ServerErrorKind::MasterDown,
            ) => Self::Cluster(code()),
            ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
                Some("WRONGTYPE" | "FOREGATE") => Self::WrongType,
                Some("OOM") => Self::Memory,
                Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Self::Denied(code()),
                Some("READONLY") => Self::ReadOnly,
                _ => Self::Server(code()),
            },
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Malformed,
            _ if error.is_timeout() => Self::Timeout,
            _ => Self::Connection(error.category().into()),
        }
    }
}
