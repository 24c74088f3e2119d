//! A listener that accepts until another process does.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};

use crate::handover::Handover;

/// Stops accepting when its socket is handed over. What was accepted before is served on.
#[derive(Debug)]
pub struct UntilHanded {
    pub listener: TcpListener,
    pub handover: Arc<Handover>,
}

impl Listener for UntilHanded {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        tokio::select! {
            biased;
            () = self.handover.handed() => pending().await,
            accepted = Listener::accept(&mut self.listener) => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
