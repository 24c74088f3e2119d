//! Connections that the kernel redirected here: where they meant to go, what becomes of them.

mod inbound;
mod known;
mod outbound;
pub mod own;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use foregate_filters::chain::Refusal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::routes::Takes;
use foregate_policy::snapshot::Speaks;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::admission::clients::Seat;
use crate::connection::Entry;
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::streams::life::StreamLife;
use crate::telemetry::occupancy::Occupied;

pub use known::{Index, passes_unknown, stream_route};

/// A redirected connection, as it was accepted.
struct Arrival {
    gateway: Arc<Gateway>,
    /// With where it meant to go.
    entry: Entry,
    stream: TcpStream,
    peer: SocketAddr,
    meant: SocketAddr,
    drain: Drain,
    open: Occupied,
    seat: Seat,
}

/// What is done with a connection whose client has said nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Requests are read.
    Read,
    /// Bytes are passed on.
    Pass,
    /// Its first bytes tell.
    Look,
}

impl Then {
    /// What the routes say that are attached there: those for the port that was meant before those for any.
    fn of(requests: Takes, connections: Takes, opaque: bool) -> Self {
        if opaque {
            return Self::Pass;
        }
        match requests.cmp(&connections) {
            std::cmp::Ordering::Greater => Self::Read,
            std::cmp::Ordering::Less => Self::Pass,
            std::cmp::Ordering::Equal => Self::Look,
        }
    }
}

/// Serves a redirected connection to its end.
pub async fn serve(
    gateway: Arc<Gateway>,
    mut entry: Entry,
    (stream, peer): (TcpStream, SocketAddr),
    drain: Drain,
    (open, seat): (Occupied, Seat),
) {
    let meant = destination(&stream, entry.speaks);
    entry.captured = meant.as_ref().ok().copied();
    match meant {
        Ok(meant) if entry.speaks == Speaks::Outbound && own::arrived(peer, meant) => {
            let told = refusal(Step::Accept, Reason::LoopDetected, own::DETAIL);
            refuse((gateway, entry), (&stream, peer), false, open, told);
        }
        Ok(meant) => {
            let inbound = entry.speaks == Speaks::Inbound;
            let arrival = Arrival { gateway, entry, stream, peer, meant, drain, open, seat };
            if inbound { inbound::serve(arrival).await } else { outbound::serve(arrival).await }
        }
        Err(why) => {
            let detail = format!("nobody knows where the connection meant to go: {why}");
            let told = refusal(Step::Accept, Reason::RouteNotFound, detail);
            refuse((gateway, entry), (&stream, peer), false, open, told);
        }
    }
}

/// Where a redirected connection meant to go.
///
/// Where nothing was redirected, the kernel may give the address of the listener itself, or one that leads to it:
/// whoever went on there would come back here.
///
/// # Errors
/// Where it was not redirected.
fn destination(stream: &TcpStream, speaks: Speaks) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    // A socket of IPv6 may have taken a connection of IPv4: it is asked of that family.
    let meant: SocketAddr = if local.is_ipv4() {
        sockopt::ip_original_dst(stream)?.into()
    } else {
        sockopt::ipv6_original_dst(stream)?.into()
    };
    let meant = SocketAddr::new(meant.ip().to_canonical(), meant.port());
    if is_own(meant, local, speaks) {
        return Err(io::Error::other("it was not redirected"));
    }
    Ok(meant)
}

/// True where a connection came to the listener itself.
fn is_own(meant: SocketAddr, local: SocketAddr, speaks: Speaks) -> bool {
    let here = meant.port() == local.port();
    // Every address of this workload leads to its inbound listener; outbound, others may have the same port.
    here && (speaks == Speaks::Inbound
        || meant.ip() == local.ip()
        || meant.ip().is_loopback()
        || meant.ip().is_unspecified())
}

fn refusal(step: Step, reason: Reason, detail: impl Into<Box<str>>) -> Refusal {
    Refusal { step, reply: Box::new(Reply::new(reason).detail(detail)) }
}

/// Ends a connection at once, and makes its record.
fn refuse(
    (gateway, entry): (Arc<Gateway>, Entry),
    (stream, peer): (&TcpStream, SocketAddr),
    tls: bool,
    open: Occupied,
    refusal: Refusal,
) {
    let mut life = StreamLife::new(
        gateway,
        (peer, tls),
        (Arc::clone(&entry.listener), entry.captured),
        Box::default(),
        open,
    );
    if entry.speaks == Speaks::Outbound {
        life.endpoint = entry.captured;
    }
    life.refusal = Some(refusal);
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::{Then, is_own};
    use foregate_policy::routes::Takes;
    use foregate_policy::snapshot::Speaks;

    #[test]
    fn what_leads_back_to_the_listener_is_its_own() {
        for (meant, local, inbound, outbound) in [
            ("10.0.0.1:15006", "10.0.0.1:15006", true, true),
            ("10.0.0.2:15006", "10.0.0.1:15006", true, false),
            ("127.0.0.1:15006", "10.0.0.1:15006", true, true),
            ("0.0.0.0:15006", "10.0.0.1:15006", true, true),
            ("10.0.0.1:8080", "10.0.0.1:15006", false, false),
            ("[fd00::1]:15006", "[fd00::1]:15006", true, true),
            ("[::1]:15006", "[fd00::1]:15006", true, true),
            ("[fd00::2]:8080", "[::1]:15006", false, false),
        ] {
            let own = |speaks| is_own(meant.parse().unwrap(), local.parse().unwrap(), speaks);
            assert_eq!((own(Speaks::Inbound), own(Speaks::Outbound)), (inbound, outbound), "{meant} {local}");
        }
    }

    #[test]
    fn routes_tell_what_is_spoken_before_anybody_looks() {
        for (requests, connections, then) in [
            (Takes::Named, Takes::Any, Then::Read),
            (Takes::Any, Takes::Nothing, Then::Read),
            (Takes::Any, Takes::Named, Then::Pass),
            (Takes::Nothing, Takes::Any, Then::Pass),
            (Takes::Any, Takes::Any, Then::Look),
            (Takes::Named, Takes::Named, Then::Look),
            (Takes::Nothing, Takes::Nothing, Then::Look),
        ] {
            assert_eq!(Then::of(requests, connections, false), then, "{requests:?} {connections:?}");
            assert_eq!(Then::of(requests, connections, true), Then::Pass);
        }
    }
}
