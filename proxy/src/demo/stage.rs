//! Sockets of the CRM and the issuer, and the policies that know them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::runtime::Handle;

use crate::demo::calls::Call;
use crate::demo::crm;
use crate::demo::folder::Folder;
use crate::issuer::{Issuer, IssuerError};

/// Everything around the gateway. It ends, and its folder goes away, when it is dropped.
#[derive(Debug)]
pub struct Stage {
    pub folder: Folder,
    pub crm: SocketAddr,
    issuer: Issuer,
    sockets: Option<[TcpListener; 2]>,
}

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("cannot prepare the demo: {0}")]
    System(#[from] io::Error),
    #[error("{0}")]
    Issuer(#[from] IssuerError),
}

impl Stage {
    /// Opens sockets on free loopback ports and writes the policies; nothing is served yet.
    pub fn new() -> Result<Self, StageError> {
        let crm_socket = listen()?;
        let issuer_socket = listen()?;
        let crm = crm_socket.local_addr()?;
        let issuer = Issuer::new(&format!("http://{}", issuer_socket.local_addr()?))?;
        let folder = Folder::new(crm, issuer.url())?;
        Ok(Self { folder, crm, issuer, sockets: Some([crm_socket, issuer_socket]) })
    }

    /// `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        self.issuer.url()
    }

    /// Serves CRM and issuer on a runtime, until that ends.
    pub fn serve(&mut self, runtime: &Handle) -> io::Result<()> {
        let Some([crm, issuer]) = self.sockets.take() else { return Ok(()) };
        let _entered = runtime.enter();
        for (socket, router) in [(crm, crm::router()), (issuer, self.issuer.router())] {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            runtime.spawn(async move { axum::serve(socket, router).await });
        }
        Ok(())
    }

    /// The four calls of the demo. `now` is in seconds since 1970.
    pub fn calls(&self, now: u64) -> Result<[Call; 4], StageError> {
        Ok(Call::all(&self.issuer, now)?)
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
