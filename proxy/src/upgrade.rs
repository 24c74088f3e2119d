//! Switched protocols: after a 101, bytes pass both ways until one side ends.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, TE, UPGRADE};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::{sleep, timeout};

use crate::life::Life;
use crate::telemetry::record::End;
use crate::websocket::{ClientEnd, Farewell, Moved};

/// Read buffer of each direction.
const BUFFER: usize = 8 * 1024;

/// How often a tunnel is looked at within the time that it may be silent.
const LOOKS: u32 = 8;

/// Time for both ends to hand over their streams after the 101.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Asks the upstream for the protocol that the client asked for.
pub fn ask(headers: &mut HeaderMap, protocol: &HeaderValue) {
    // A tunnel has no trailers, and `Connection` names one thing only.
    headers.remove(TE);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

/// Joins the client's and the upstream's streams; the request is recorded when they end.
pub fn tunnel(client: OnUpgrade, mut response: Response<Incoming>, mut life: Box<Life>) {
    tokio::spawn(async move {
        let upstream = hyper::upgrade::on(&mut response);
        let both = timeout(HAND_OVER, async { tokio::try_join!(client, upstream) }).await;
        let Ok(Ok((client, upstream))) = both else {
            life.record(End::ClientGone);
            return;
        };
        let (mut client, mut upstream) = (ClientEnd::new(TokioIo::new(client)), TokioIo::new(upstream));
        let drain = life.connection.drain.clone();
        let seen = life.publications;
        let watch = life.open(seen, true).revoked();
        let (moved, limit) = (Arc::clone(&client.moved), life.connection.gateway.deadlines.tunnel);
        let (end, refusal) = tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER) => {
                (if copied.is_ok() { End::Complete } else { End::ClientGone }, None)
            }
            // Nothing vouches for the client any more.
            () = drain.cut() => (End::Revoked, None),
            () = drain.last_call() => (End::Drained, None),
            refusal = watch => (End::Revoked, Some(refusal)),
            () = silent(&moved, limit) => (End::Idle, None),
        };
        life.received(client.moved.received());
        life.sent(usize::try_from(client.moved.sent()).unwrap_or(usize::MAX));
        life.refusal = refusal;
        life.record(end);
        let farewell = match end {
            End::Revoked => Farewell::Revoked,
            End::Drained => Farewell::Away,
            End::Idle => Farewell::Idle,
            End::Complete | End::ClientGone | End::UpstreamBroke | End::Late => return,
        };
        drop(upstream);
        client.close(farewell).await;
    });
}

/// Waits until nothing has moved for `limit`, or an eighth of that longer.
async fn silent(moved: &Moved, limit: Duration) {
    let mut seen = (moved.received(), moved.sent());
    let mut looks = 0;
    while looks < LOOKS {
        sleep(limit / LOOKS).await;
        let now = (moved.received(), moved.sent());
        looks = if now == seen { looks + 1 } else { 0 };
        seen = now;
    }
}
