//! The border between token checks and authorization servers: one question, one answer.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// Asks an authorization server about tokens (RFC 7662).
pub trait Introspector: Debug + Send + Sync {
    /// The body of its answer: JSON by its content type, bounded in size, not looked into.
    ///
    /// Whoever asks about the same token at the same time gets the same answer.
    fn ask<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>>;
}

/// Why there is no answer, for the operator; holds no secret, no part of the token or of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAnswered(pub Box<str>);
