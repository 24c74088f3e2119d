//! Counts of handshakes: refused certificates by reason, plain connections by client.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::SupportedKxGroup;
use rustls::{CertificateError, Error, HandshakeKind, NamedGroup, ProtocolVersion};

use crate::handshake::Established;
use crate::stream::Transport;
use crate::telemetry::Telemetry;
use crate::telemetry::series::{Budget, Series};
use crate::telemetry::sources::Kind;

/// Clients that are counted by address; all later ones count as one.
const MAX_CLIENTS: usize = 256;

/// Most kinds of handshakes that are counted: more than are told, so that those which are too many are counted as such.
const MAX_HANDSHAKES: usize = 4_000;

/// Counts plain connections by client.
const PLAIN: &str = "foregate_plain_connections_total";

/// Listener, version, group of the key exchange, outcome.
type HandshakeKey = (Arc<str>, &'static str, &'static str, &'static str);

/// Why a client's certificate was refused, as a label.
const REASONS: [&str; 9] = [
    "none",
    "authority",
    "expired",
    "not_yet_valid",
    "revoked",
    "list_expired",
    "not_a_workload",
    "malformed",
    "other",
];

/// What is counted of all handshakes.
#[derive(Debug)]
pub struct Tally {
    refused: [Arc<AtomicU64>; REASONS.len()],
    drained: Arc<AtomicU64>,
    plain: Mutex<HashMap<Option<IpAddr>, Arc<AtomicU64>>>,
    handshakes: Series<HandshakeKey, Arc<AtomicU64>>,
    budget: Budget,
    telemetry: Arc<Telemetry>,
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 2^53 is not reached")]
fn reading(count: &Arc<AtomicU64>) -> impl Fn() -> f64 + Send + Sync + use<> {
    let count = Arc::clone(count);
    move || count.load(Ordering::Relaxed) as f64
}

impl Tally {
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        let refused = std::array::from_fn(|_| Arc::default());
        for (reason, count) in REASONS.iter().zip(&refused) {
            telemetry.register_source(
                Kind::Counter,
                "foregate_client_certificates_refused_total",
                "Handshakes refused for the client's certificate.",
                &[("reason", reason)],
                reading(count),
            );
        }
        let drained = Arc::default();
        telemetry.register_source(
            Kind::Counter,
            "foregate_connections_no_longer_vouched_total",
            "Open connections told to end because nothing vouches for their client any more.",
            &[],
            reading(&drained),
        );
        let plain = Mutex::default();
        let (handshakes, budget) = (Series::default(), Budget::new(MAX_HANDSHAKES));
        Self { refused, drained, plain, handshakes, budget, telemetry }
    }

    /// A handshake failed: counted where the client's certificate was why.
    pub fn refused(&self, error: &io::Error) {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else { return };
        let reason = match error {
            Error::NoCertificatesPresented => 0,
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => 1,
                CertificateError::Expired => 2,
                CertificateError::NotValidYet => 3,
                CertificateError::Revoked => 4,
                CertificateError::ExpiredRevocationList => 5,
                CertificateError::Other(_) | CertificateError::InvalidPurpose => 6,
                CertificateError::BadEncoding => 7,
                _ => 8,
            },
            Error::InvalidCertRevocationList(_) => 8,
            _ => return,
        };
        if let Some(count) = self.refused.get(reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A handshake that a client began came to its end at a listener; `None` where it failed.
    pub fn shook_hands(&self, listener: &Arc<str>, established: Option<&Established>) {
        let tls = established.and_then(|it| match &it.transport {
            Transport::Tls(stream) => Some(stream.get_ref().1),
            Transport::Plain(_) => None,
        });
        let version = match tls.and_then(|tls| tls.protocol_version()) {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "",
        };
        let group = match tls.and_then(|tls| tls.negotiated_key_exchange_group()).map(SupportedKxGroup::name)
        {
            Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
            Some(NamedGroup::X25519) => "X25519",
            Some(NamedGroup::secp256r1) => "secp256r1",
            Some(NamedGroup::secp384r1) => "secp384r1",
            _ => "",
        };
        let outcome = match tls.map(|tls| tls.handshake_kind()) {
            None => "failed",
            Some(Some(HandshakeKind::Resumed)) => "resumed",
            Some(_) => "full",
        };
        let key = (Arc::clone(listener), version, group, outcome);
        let make = || {
            let count = Arc::default();
            self.telemetry.register_source(
                Kind::Counter,
                "foregate_tls_handshakes_total",
                "TLS handshakes of clients, by version, key exchange and outcome.",
                &[("listener", listener), ("version", version), ("group", group), ("outcome", outcome)],
                reading(&count),
            );
            (key.clone(), count)
        };
        if let Some(count) = self.handshakes.find_or_make(&key, &self.budget, make) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection was told to end.
    pub fn drained(&self) {
        self.drained.fetch_add(1, Ordering::Relaxed);
    }

    /// A client spoke plain where it may for now.
    pub fn plain(&self, client: IpAddr) {
        let mut counts = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.contains_key(&Some(client)) || counts.len() < MAX_CLIENTS;
        let key = known.then_some(client);
        let mut new = false;
        let count = counts.entry(key).or_insert_with(|| {
            new = true;
            Arc::default()
        });
        count.fetch_add(1, Ordering::Relaxed);
        let count = Arc::clone(count);
        drop(counts);
        if new {
            let label = key.map_or_else(|| "other".to_owned(), |client| client.to_string());
            self.telemetry.register_source(
                Kind::Counter,
                PLAIN,
                "Plain connections to listeners that take them for a migration, by client.",
                &[("client", &label)],
                reading(&count),
            );
        }
        if !known {
            self.telemetry.sources().refuse(PLAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_CLIENTS, PLAIN, Tally};
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::sources::REFUSED_SERIES;
    use crate::telemetry::{Telemetry, TelemetryOptions};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    #[test]
    fn clients_beyond_the_bound_count_as_one_and_as_refused() {
        let options = TelemetryOptions { access_log: AccessLog::Off, ..Default::default() };
        let telemetry = Telemetry::new(options).unwrap();
        let tally = Tally::new(Arc::clone(&telemetry));
        let client = |number: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap()));
        let told = |line: String| telemetry.exposition(true).lines().any(|it| it == line);
        (0..MAX_CLIENTS).for_each(|number| tally.plain(client(number)));
        assert!(told(format!("{REFUSED_SERIES}{{metric=\"{PLAIN}\"}} 0.0")));
        (0..MAX_CLIENTS + 3).for_each(|number| tally.plain(client(number)));
        assert!(told(format!("{PLAIN}{{client=\"0.0.0.7\"}} 2.0")));
        assert!(told(format!("{PLAIN}{{client=\"other\"}} 3.0")));
        assert!(told(format!("{REFUSED_SERIES}{{metric=\"{PLAIN}\"}} 3.0")));
    }
}
