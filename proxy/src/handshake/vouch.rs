//! Open connections obey too: who is not vouched for any more is told to go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::sleep;

use crate::clock;
use crate::connection::Connection;
use crate::drain::{Drain, DrainStart};
use crate::gateway::Gateway;
use crate::identity::clients::ClientTrust;
use crate::live::Live;

/// Longest sleep before another look at the clock: clocks are set, and timers do not see it.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// What a connection rests on.
#[derive(Debug)]
pub struct Vouched {
    port: u16,
    ground: Ground,
    /// Since the epoch: the certificate, or the leave to speak plain, lasts until then.
    until: Option<Duration>,
}

#[derive(Debug)]
enum Ground {
    /// The leave of a listener to speak plain for a while.
    Plain {
        hostname: Option<Box<str>>,
        /// The port that it meant, where it was redirected.
        meant: Option<u16>,
    },
    /// A client that came in under a listener's terms.
    Client {
        /// Whom the listener trusted when the certificate was last verified.
        trust: ClientTrust,
        /// Leaf first; empty for one that is served as nobody.
        chain: Vec<CertificateDer<'static>>,
        server_name: Option<Box<str>>,
    },
}

impl Vouched {
    /// A plain connection that the listener of this hostname takes, until this time since the epoch or for the port
    /// that it meant.
    pub fn plain(port: u16, hostname: Option<Box<str>>, meant: Option<u16>, until: Option<Duration>) -> Self {
        Self { port, ground: Ground::Plain { hostname, meant }, until }
    }

    /// A client whose chain was verified; it is empty for one that is served as nobody.
    pub fn by(
        trust: ClientTrust,
        chain: Vec<CertificateDer<'static>>,
        expires: Option<Duration>,
        port: u16,
        server_name: Option<Box<str>>,
    ) -> Self {
        // A certificate is good through its last second (RFC 5280, section 4.1.2.5).
        let until = expires.map(|last| last + Duration::from_secs(1));
        Self { port, ground: Ground::Client { trust, chain, server_name }, until }
    }

    /// The drain of a connection, which starts too once nothing vouches for it any more.
    pub fn follow(vouched: Option<Self>, gateway: &Arc<Gateway>, drain: Drain) -> Drain {
        let Some(vouched) = vouched else { return drain };
        let (start, drain) = drain.of_one();
        tokio::spawn(vouched.watch(Arc::clone(gateway), start));
        drain
    }

    /// Starts the drain of the connection once nothing vouches for it any more; ends with the connection.
    async fn watch(mut self, gateway: Arc<Gateway>, drain: DrainStart) {
        let mut published = gateway.published.subscribe();
        loop {
            let now = clock::now().unix;
            let left = self.until.map_or(LOOK_AGAIN, |until| until.saturating_sub(now));
            // A plain one is looked at by what is in force alone: that knows the time too, and the ports.
            let over = left.is_zero() && !matches!(self.ground, Ground::Plain { .. });
            if over || !self.holds(&gateway.live.pin(), now) {
                gateway.tally.drained();
                drain.start();
                return drain.closed().await;
            }
            tokio::select! {
                () = drain.closed() => return,
                changed = published.changed() => if changed.is_err() { return },
                () = sleep(if left.is_zero() { LOOK_AGAIN } else { left.min(LOOK_AGAIN) }) => {}
            }
        }
    }

    /// True while what is in force would let the client in again.
    fn holds(&mut self, live: &Live, now: Duration) -> bool {
        // A listener that is gone, or asks for nothing any more, takes no leave away: nobody relies on it.
        let Some(tls) = live.tls.get(&self.port) else { return true };
        let (trust, chain, server_name) = match &mut self.ground {
            Ground::Plain { hostname, meant } => return tls.plain_for(hostname.as_deref(), now, *meant),
            Ground::Client { trust, chain, server_name } => (trust, chain, server_name),
        };
        let terms = tls.terms(server_name.as_deref());
        let Some(wanted) = terms.and_then(|terms| terms.clients.as_ref()) else { return true };
        if wanted.same_as(trust) {
            return true;
        }
        if std::mem::discriminant(wanted) != std::mem::discriminant(trust) {
            // What the client was taken for then, it would not be taken for now.
            return false;
        }
        trust.clone_from(wanted);
        if chain.is_empty() {
            return !wanted.required();
        }
        wanted.verify(chain, UnixTime::since_unix_epoch(now)).is_ok()
    }
}

/// True where the listener has come to ask for certificates since this connection began without one. Costs a
/// comparison, but for the first request after a publication.
pub fn outdated(connection: &Connection, live: &Live) -> bool {
    if !connection.secure || connection.certificate.is_some() {
        return false;
    }
    if connection.seen.load(Ordering::Relaxed) == live.number {
        return false;
    }
    let terms = live.tls.get(&connection.port).and_then(|tls| tls.terms(connection.server_name.as_deref()));
    if terms.and_then(|terms| terms.clients.as_ref()).is_some_and(ClientTrust::required) {
        return true;
    }
    connection.seen.store(live.number, Ordering::Relaxed);
    false
}
