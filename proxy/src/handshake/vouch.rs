//! Open connections obey too: who is not vouched for any more is told to go.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::sleep;

use crate::clock;
use crate::drain::DrainStart;
use crate::gateway::Gateway;
use crate::identity::clients::ClientTrust;
use crate::live::Live;

/// Longest sleep before another look at the clock: clocks are set, and timers do not see it.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// What a connection rests on.
#[derive(Debug)]
pub struct Vouched {
    client: Option<Client>,
    /// Since the epoch: the certificate, or the leave to speak plain, lasts until then.
    until: Option<Duration>,
}

/// A client that came in under a listener's terms.
#[derive(Debug)]
struct Client {
    /// Whom the listener trusted when the certificate was last verified.
    trust: ClientTrust,
    /// Leaf first; empty for one that is served as nobody.
    chain: Vec<CertificateDer<'static>>,
    port: u16,
    server_name: Option<Box<str>>,
}

impl Vouched {
    /// A plain connection that is taken until this time since the epoch.
    pub fn until(until: Duration) -> Self {
        Self { client: None, until: Some(until) }
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
        Self { client: Some(Client { trust, chain, port, server_name }), until }
    }

    /// Starts the drain of the connection once nothing vouches for it any more; ends with the connection.
    pub async fn watch(mut self, gateway: Arc<Gateway>, drain: DrainStart) {
        let mut published = gateway.published.subscribe();
        loop {
            let now = clock::now().unix;
            let left = self.until.map_or(LOOK_AGAIN, |until| until.saturating_sub(now));
            if left.is_zero() || !self.holds(&gateway.live.pin(), now) {
                gateway.tally.drained();
                drain.start();
                return drain.closed().await;
            }
            tokio::select! {
                () = drain.closed() => return,
                changed = published.changed() => if changed.is_err() { return },
                () = sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// True while what is in force would let the client in again.
    fn holds(&mut self, live: &Live, now: Duration) -> bool {
        let Some(client) = &mut self.client else { return true };
        let terms = live.tls.get(&client.port).and_then(|tls| tls.terms(client.server_name.as_deref()));
        // A listener that is gone, or asks for nothing any more, takes no leave away: nobody relies on it.
        let Some(trust) = terms.and_then(|terms| terms.clients.as_ref()) else { return true };
        if trust.same_as(&client.trust) {
            return true;
        }
        let holds = if client.chain.is_empty() {
            !trust.required()
        } else {
            trust.verify(&client.chain, UnixTime::since_unix_epoch(now)).is_ok()
        };
        client.trust = trust.clone();
        holds
    }
}
