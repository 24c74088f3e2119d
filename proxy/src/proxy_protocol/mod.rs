//! The PROXY protocol on connections: who the client of a load balancer is.

pub mod header;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_filters::addresses::Networks;
use foregate_policy::snapshot::ProxyVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxy_protocol::header::{Ends, Header, HeaderError, Progress, parse};
use crate::telemetry::Telemetry;
use crate::telemetry::sources::{Kind, number};

/// Connections that were refused, by reason.
static REFUSED: [(&str, AtomicU64); 3] =
    [("untrusted", AtomicU64::new(0)), ("malformed", AtomicU64::new(0)), ("incomplete", AtomicU64::new(0))];

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the connection comes from no load balancer that is trusted")]
    Untrusted,
    #[error("{0}")]
    Malformed(#[from] HeaderError),
    #[error("the header did not come whole: {0}")]
    Incomplete(io::Error),
}

/// Exports how many connections were refused.
pub fn export(telemetry: &Telemetry) {
    for (reason, count) in &REFUSED {
        let help = "Connections refused because of the PROXY protocol.";
        let name = "foregate_proxy_protocol_refused_total";
        telemetry.register_source(Kind::Counter, name, help, &[("reason", reason)], move || {
            number(count.load(Ordering::Relaxed))
        });
    }
}

/// Reads the header that a connection begins with, and not a byte more. Gives the ends that hold from now on;
/// `None` where those of the socket do.
///
/// # Errors
/// Where the connection must be closed; it was counted.
pub async fn read(
    stream: &mut TcpStream,
    peer: SocketAddr,
    trusted: &Networks,
    within: Duration,
) -> Result<Option<Ends>, ProxyError> {
    let outcome = if trusted.contains(peer.ip()) {
        let whole = timeout(within, header(stream)).await;
        whole.unwrap_or_else(|_| Err(ProxyError::Incomplete(io::ErrorKind::TimedOut.into())))
    } else {
        Err(ProxyError::Untrusted)
    };
    outcome.inspect_err(|error| {
        let reason = match error {
            ProxyError::Untrusted => 0,
            ProxyError::Malformed(_) => 1,
            ProxyError::Incomplete(_) => 2,
        };
        if let Some((_, count)) = REFUSED.get(reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

async fn header(stream: &mut TcpStream) -> Result<Option<Ends>, ProxyError> {
    let mut bytes = Vec::new();
    loop {
        let more = match parse(&bytes)? {
            Progress::Done(Header::Local) => return Ok(None),
            Progress::Done(Header::Proxied(ends)) => return Ok(Some(ends)),
            Progress::Need(more) => more,
        };
        let have = bytes.len();
        bytes.resize(have + more, 0);
        let room = bytes.get_mut(have..).unwrap_or_default();
        let read = stream.read(room).await.map_err(ProxyError::Incomplete)?;
        if read == 0 {
            return Err(ProxyError::Incomplete(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.truncate(have + read);
    }
}

/// Tells an endpoint whose connection this is; without `ends`, that it is the gateway's own.
///
/// # Errors
/// Where the endpoint is gone.
pub async fn write(
    stream: &mut TcpStream,
    version: ProxyVersion,
    ends: Option<Ends>,
    name: Option<&str>,
) -> io::Result<()> {
    let header = match (version, ends) {
        (ProxyVersion::V1, Some(ends)) => ends.to_line(),
        (ProxyVersion::V2, Some(ends)) => ends.to_binary(name),
        (ProxyVersion::V1, None) => Ends::own_line().to_vec(),
        (ProxyVersion::V2, None) => Ends::own_binary(),
    };
    stream.write_all(&header).await
}
