//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foregate_filters::peer::SpiffeId;
use rustls::pki_types::CertificateDer;
use tonic::{Request, Status};

/// An extension of every request: `request.extensions().get::<Peer>()`. The connection ends when the certificate does, or
/// its root is withdrawn, so it holds as long as the call.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The workload that the client's certificate proves; `None` where it showed none.
    pub id: Option<SpiffeId>,
    /// What it showed, leaf first; empty where it showed nothing.
    pub chain: Arc<[CertificateDer<'static>]>,
    pub heard: Heard,
}

/// How much came over a connection: whoever sends slowly is told from whoever is silent.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicU64>);

impl Peer {
    /// The peer of a call.
    ///
    /// # Errors
    /// `INTERNAL` where the call came by no connection of ours.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| Status::internal("a call without a connection"))
    }

    /// The identity of the caller.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` where it has none.
    pub fn required<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
        let without = || Status::unauthenticated("this call needs a client certificate of the trust domain");
        Self::of(request)?.id.clone().ok_or_else(without)
    }
}

impl Heard {
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// In bytes, since the connection began.
    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
