//! Bounds the memory of all request bodies that are collected at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use foregate_filters::body_memory::BodyMemory;
use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;

use crate::admission::overloaded;

/// Bytes of collected bodies, over all requests of the process.
#[derive(Debug)]
pub struct Bodies {
    limit: u64,
    held: AtomicU64,
    refused: AtomicU64,
}

/// A part of what may be held; given back when dropped.
#[derive(Debug)]
pub struct Share {
    bodies: Arc<Bodies>,
    bytes: u64,
}

/// A body, and its share.
struct Held {
    body: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Bodies {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// A share of nothing yet, to grow as a body arrives.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { bodies: Arc::clone(self), bytes: 0 }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bodies that were refused, until now.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl BodyMemory for Bodies {
    fn hold(self: Arc<Self>, body: Bytes) -> Result<Bytes, Box<Reply>> {
        let mut share = self.share();
        share.grow(body.len() as u64)?;
        Ok(share.hold(body))
    }
}

impl Share {
    /// Makes it at least so large.
    ///
    /// # Errors
    /// Where all bodies together would be over the bound.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Box<Reply>> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let before = self.bodies.held.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.bodies.limit {
            self.bodies.held.fetch_sub(more, Ordering::Relaxed);
            self.bodies.refused.fetch_add(1, Ordering::Relaxed);
            let detail = format!("{before} bytes of bodies are held of {}", self.bodies.limit);
            return Err(Box::new(overloaded(Reason::BodyMemoryExhausted, detail)));
        }
        self.bytes += more;
        Ok(())
    }

    /// The body, which gives the share back when its last copy is dropped.
    pub fn hold(mut self, body: Bytes) -> Bytes {
        if body.is_empty() {
            return body;
        }
        // As large as it became, even where that is past the bound: it is here already.
        let bytes = body.len() as u64;
        let (more, less) = (bytes.saturating_sub(self.bytes), self.bytes.saturating_sub(bytes));
        self.bodies.held.fetch_add(more, Ordering::Relaxed);
        self.bodies.held.fetch_sub(less, Ordering::Relaxed);
        self.bytes = bytes;
        Bytes::from_owner(Held { body, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use foregate_filters::body_memory::BodyMemory;
    use foregate_filters::reason::Reason;

    use super::Bodies;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let bodies = Bodies::new(100);
        let mut first = bodies.share();
        first.grow(60).unwrap();
        first.grow(40).unwrap();
        assert_eq!(bodies.held(), 60);
        let mut second = bodies.share();
        assert_eq!(second.grow(41).unwrap_err().reason, Reason::BodyMemoryExhausted);
        second.grow(40).unwrap();
        let body = first.hold(Bytes::from_static(b"only ten b"));
        assert_eq!((bodies.held(), bodies.refused()), (50, 1));
        let copy = body.clone();
        drop((body, second));
        assert_eq!(bodies.held(), 10);
        assert_eq!(copy, "only ten b");
        drop(copy);
        assert_eq!(bodies.held(), 0);
    }

    #[test]
    fn what_a_body_becomes_counts_until_its_last_copy_is_gone() {
        let bodies = Bodies::new(100);
        let decoded = Arc::clone(&bodies).hold(vec![b' '; 80].into()).unwrap();
        let refused = Arc::clone(&bodies).hold(vec![b' '; 21].into()).unwrap_err();
        assert_eq!((refused.reason, bodies.held()), (Reason::BodyMemoryExhausted, 80));
        let copy = decoded.slice(1..3);
        drop(decoded);
        assert_eq!(bodies.held(), 80);
        drop(copy);
        assert_eq!(bodies.held(), 0);
    }
}
