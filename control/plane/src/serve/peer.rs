//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

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
}

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
