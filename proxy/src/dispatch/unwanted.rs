//! Reads answers that nobody wants to their end, so that their connections serve again.

use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::dispatch::Answer;
use crate::dispatch::pool::Lease;

/// Most that is read of one: a new connection costs less than more of it.
const MOST: usize = 64 << 10;

/// Longest time that its end is waited for.
const LONGEST: Duration = Duration::from_secs(1);

/// Lets go of an answer. Nobody waits for its end; where that comes soon and small, the connection is kept.
pub fn release(answer: Box<Answer>) {
    let Answer { response, mut lease, .. } = *answer;
    let body = response.into_body();
    if body.is_end_stream() {
        return lease.complete();
    }
    if body.size_hint().lower() > MOST as u64 {
        return;
    }
    tokio::spawn(async move {
        if timeout(LONGEST, ends(&mut lease, body)).await.unwrap_or(false) {
            lease.complete();
        }
    });
}

async fn ends(lease: &mut Lease, mut body: Incoming) -> bool {
    let mut left = MOST;
    loop {
        match lease.frame(&mut body).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) {
                Some(less) => left = less,
                None => return false,
            },
        }
    }
}
