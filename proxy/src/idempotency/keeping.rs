//! An answer that passes by while a bounded copy of it is kept for repeats.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foregate_filters::idempotency::First;
use foregate_filters::idempotency::answer::{Answer, Fate, Terms};
use foregate_filters::idempotency::ledger::Claim;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::admission::bodies::Share;
use crate::clock;
use crate::dispatch::pool::Lease;
use crate::idempotency::tally::{self, Ended};

/// The keys of a request that was answered, and the answer so far. Dropped before its end, it leaves the keys as those
/// of a request that was carried out and whose answer is not kept.
#[derive(Debug)]
pub struct Keeping {
    claims: SmallVec<[Box<dyn Claim>; 1]>,
    terms: Terms,
    status: StatusCode,
    headers: HeaderMap,
    body: BytesMut,
    share: Share,
    /// Monotonic time after which the keys may be another's.
    until: Duration,
}

impl Keeping {
    /// Begins with the head of the answer; `None` where nothing will be kept, and that has been said. `length` is that
    /// of the body where it is announced.
    pub fn begin(
        first: First,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        (share, until): (Share, Duration),
    ) -> Option<Box<Self>> {
        let First { claims, terms, .. } = first;
        let fate = terms.fate(status, headers, length);
        if fate == Fate::Release {
            tally::ended(Ended::Released);
            return None;
        }
        let headers = Answer::headers(headers);
        let keeping = Self { claims, terms, status, headers, body: BytesMut::new(), share, until };
        // Dropped, it says so.
        (fate == Fate::Keep).then(|| Box::new(keeping))
    }

    /// The next piece of the body; false where it is too large to be kept, so that this can be dropped.
    #[must_use]
    pub fn push(&mut self, data: &Bytes) -> bool {
        let length = self.body.len() + data.len();
        if length > self.terms.max_body || self.share.grow(length as u64).is_err() {
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    /// The answer has come to its end.
    pub fn finish(mut self: Box<Self>) {
        match self.terms.fate_of_body(&self.body) {
            Fate::Release => {
                self.claims.clear();
                tally::ended(Ended::Released);
            }
            Fate::Keep if clock::monotonic() < self.until => {
                let (headers, body) = (std::mem::take(&mut self.headers), std::mem::take(&mut self.body));
                let answer = Arc::new(Answer { status: self.status, headers, body: body.freeze() });
                for claim in self.claims.drain(..) {
                    claim.finish(Some(Arc::clone(&answer)));
                }
                tally::ended(Ended::Kept);
            }
            Fate::Keep | Fate::Spend => {}
        }
    }

    /// Reads an answer to its end that its client did not wait for.
    pub fn read_out(self: Box<Self>, incoming: Incoming, lease: Lease) {
        // Without a runtime the process is ending.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.rest(incoming, lease));
        }
    }

    async fn rest(mut self: Box<Self>, mut incoming: Incoming, mut lease: Lease) {
        let left = self.until.saturating_sub(clock::monotonic());
        let whole = timeout(left, async {
            while let Some(frame) = lease.frame(&mut incoming).await {
                let kept = frame.is_ok_and(|frame| frame.data_ref().is_some_and(|data| self.push(data)));
                if !kept {
                    return false;
                }
            }
            true
        });
        let whole = whole.await.unwrap_or(false);
        if whole {
            lease.complete();
            self.finish();
        } else {
            lease.abandon();
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        for claim in self.claims.drain(..) {
            claim.finish(None);
        }
        tally::ended(Ended::Spent);
    }
}
