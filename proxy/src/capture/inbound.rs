//! Redirected connections to this workload: mutual TLS, then requests or bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::capture::{Arrival, Then, refusal, refuse};
use crate::connection::{Entry, go_on};
use crate::gateway::Gateway;
use crate::handshake::{Established, has_preface, plain_terms, plainly, speaks_tls, tls};
use crate::streams::detect::{self, Spoken};
use crate::streams::{self, Arrived, Client};
use crate::tls::Terms;

/// How a client begins.
enum Begins {
    WithTls,
    /// On these terms.
    Plain(Arc<Terms>),
    /// Where it may not.
    PlainRefused,
}

/// Serves a connection to its end.
pub async fn serve(arrival: Arrival) {
    let Arrival { gateway, entry, stream, peer, meant, drain, open, seat } = arrival;
    let Some(capture) = entry.capture.clone() else { return };
    let then = {
        let (pinned, door) = (gateway.live.pin(), entry.door());
        let snapshot = &pinned.snapshot;
        let opaque = capture.opaque.contains(&meant.port());
        Then::of(snapshot.routes.takes(door, entry.tls), snapshot.streams.takes(door), opaque)
    };
    let begins = tokio::select! {
        begins = begins(&gateway, &entry, &stream, capture.within) => begins,
        // A connection that has not said a word is not worth waiting for.
        () = drain.noticed() => return,
    };
    let terms = match begins {
        Ok(Begins::WithTls) => None,
        Ok(Begins::Plain(terms)) => Some(terms),
        Ok(Begins::PlainRefused) => {
            let detail = format!("port {} is spoken to with mutual TLS alone", meant.port());
            let told = refusal(Step::Handshake, Reason::AccessDenied, detail);
            return refuse((gateway, entry), (&stream, peer), false, open, told);
        }
        Err(_) => return,
    };
    let established = {
        let opening = opened((&gateway, &entry), (stream, peer), terms, (then, capture.within));
        let limit = gateway.deadlines.head.saturating_add(capture.within);
        tokio::select! {
            opened = timeout(limit, Box::pin(opening)) => opened,
            () = drain.noticed() => return,
        }
    };
    let Ok(Ok((established, spoken))) = established else { return };
    if spoken == Spoken::Http {
        // Apart, as any connection that stands.
        tokio::spawn(go_on(gateway, entry, established, (peer, Some(meant)), drain, (open, seat)));
        return;
    }
    let client = Client { peer, destination: Some(meant), spoken };
    let arrived = Arrived::from(established);
    Box::pin(streams::carry(gateway, entry, (arrived, client), drain, (open, seat))).await;
}

/// Looks how the client begins. Where it may speak plain it may also wait for the server: nobody is kept for longer
/// than a look takes.
async fn begins(
    gateway: &Gateway,
    entry: &Entry,
    stream: &TcpStream,
    within: Duration,
) -> io::Result<Begins> {
    let terms = plain_terms(gateway, entry);
    let limit = if terms.is_some() { within } else { gateway.deadlines.head };
    match (timeout(limit, speaks_tls(stream)).await, terms) {
        (Ok(Ok(true)), _) => Ok(Begins::WithTls),
        (Ok(Ok(false)) | Err(_), Some(terms)) => Ok(Begins::Plain(terms)),
        (Ok(Ok(false)), None) => Ok(Begins::PlainRefused),
        (Ok(Err(error)), _) => Err(error),
        (Err(_), None) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Brings a connection to where it can be read or passed on, and tells which.
async fn opened(
    (gateway, entry): (&Gateway, &Entry),
    (stream, peer): (TcpStream, SocketAddr),
    plain: Option<Arc<Terms>>,
    (then, within): (Then, Duration),
) -> io::Result<(Established, Spoken)> {
    let Some(terms) = plain else {
        let mut established = Box::pin(tls(gateway, entry, stream)).await?;
        let spoken = match then {
            Then::Read => Spoken::Http,
            Then::Pass => Spoken::Opaque,
            // Sidecars agree on HTTP by ALPN, and on nothing for whatever else they pass on.
            Then::Look if established.http => Spoken::Http,
            Then::Look => detect::spoken_in_tls(&mut established.transport, within).await?,
        };
        return Ok((established, spoken));
    };
    let spoken = match then {
        Then::Read => Spoken::Http,
        Then::Pass => Spoken::Opaque,
        Then::Look => detect::spoken(&stream, within).await?,
    };
    let http2 = spoken == Spoken::Http && has_preface(&stream).await?;
    Ok((plainly((gateway, entry), &terms, peer.ip(), stream, http2), spoken))
}
