//! The border to whoever bounds the memory of all request bodies.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use crate::verdict::Reply;

/// Counts what bodies become on their way.
pub trait BodyMemory: Debug + Send + Sync {
    /// The body, counted until its last copy is dropped.
    ///
    /// # Errors
    /// The refusal, where all bodies together would be over the bound.
    fn hold(self: Arc<Self>, body: Bytes) -> Result<Bytes, Box<Reply>>;
}
