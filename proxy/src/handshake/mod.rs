//! The handshake: TLS or plain, whose terms hold, who the client proved to be.

mod hello;
pub mod tally;
pub mod vouch;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::peer::Peer;
use rustls::pki_types::UnixTime;
use rustls::{HandshakeKind, ServerConnection};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::clock;
use crate::connection::Entry;
use crate::gateway::Gateway;
use crate::handshake::tally::Tally;
use crate::handshake::vouch::Vouched;
use crate::stream::Transport;
use crate::tls::Terms;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Between two looks at a preface that comes in parts, and how many looks: a second in all. Whoever is
/// slower speaks HTTP/1, with its deadlines.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
const PREFACE_LOOKS: u32 = 200;

/// The first byte of TLS: a record of a handshake (RFC 8446, section 5.1). No HTTP starts with it.
const TLS_RECORD: u8 = 0x16;

/// A connection that stands, and what is known of its other end.
#[derive(Debug)]
pub struct Established {
    pub transport: Transport,
    pub http2: bool,
    /// True where the client agreed on some HTTP in TLS (ALPN).
    pub http: bool,
    /// The name that the client asked for in TLS (RFC 6066, section 3), in lower case.
    pub server_name: Option<Box<str>>,
    /// Set where the client asked for no name: whose terms held then.
    pub unnamed: Option<Unnamed>,
    pub peer: Option<Arc<Peer>>,
    /// Set where the connection must end once trust or time say so.
    pub vouched: Option<Vouched>,
}

/// The listener whose terms held for a client that named none.
#[derive(Clone, Debug)]
pub struct Unnamed {
    /// Its hostname; `None` for every name.
    pub hostname: Option<Box<str>>,
}

/// Brings a connection to where requests can be read.
///
/// # Errors
/// Where the client left, or may not come in.
pub async fn establish(
    gateway: &Gateway,
    entry: &Entry,
    client: IpAddr,
    stream: TcpStream,
) -> io::Result<Established> {
    if !entry.tls {
        let http2 = has_preface(&stream).await?;
        return Ok(Established::plain(stream, http2));
    }
    if let Some(terms) = plain_terms(gateway, entry)
        && !speaks_tls(&stream).await?
    {
        let http2 = has_preface(&stream).await?;
        return Ok(plainly((gateway, entry), &terms, client, stream, http2));
    }
    tls(gateway, entry, stream).await
}

/// The terms on which a plain connection is taken, where one is.
pub fn plain_terms(gateway: &Gateway, entry: &Entry) -> Option<Arc<Terms>> {
    let now = clock::now().unix;
    gateway.live.pin().tls.get(&entry.port).and_then(|tls| tls.plain(now, entry.door().meant).cloned())
}

/// Takes a plain connection on these terms.
pub fn plainly(
    (gateway, entry): (&Gateway, &Entry),
    terms: &Terms,
    client: IpAddr,
    stream: TcpStream,
    http2: bool,
) -> Established {
    gateway.tally.plain(client);
    let meant = entry.door().meant;
    let vouched = Vouched::plain(entry.port, terms.hostname.clone(), meant, terms.plain_until);
    Established {
        unnamed: Some(Unnamed { hostname: terms.hostname.clone() }),
        vouched: Some(vouched),
        ..Established::plain(stream, http2)
    }
}

impl Established {
    fn plain(stream: TcpStream, http2: bool) -> Self {
        let transport = Transport::Plain(stream);
        Self { transport, http2, http: false, server_name: None, unnamed: None, peer: None, vouched: None }
    }
}

/// Terminates TLS with the certificate for the name that the client asks for.
///
/// # Errors
/// Where the client left, or may not come in.
pub async fn tls(gateway: &Gateway, entry: &Entry, stream: TcpStream) -> io::Result<Established> {
    let mut attempt = Attempt { tally: &gateway.tally, listener: &entry.listener, failing: false };
    let established = terminate(gateway, entry.port, stream, &mut attempt.failing).await?;
    attempt.failing = false;
    gateway.tally.shook_hands(&entry.listener, Some(&established));
    Ok(established)
}

/// A handshake under way. One that ends too early has failed, also where it is given up for its time.
struct Attempt<'a> {
    tally: &'a Tally,
    listener: &'a Arc<str>,
    /// From the first byte on: whoever only looks whether somebody listens wants no handshake.
    failing: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.failing {
            self.tally.shook_hands(self.listener, None);
        }
    }
}

async fn terminate(
    gateway: &Gateway,
    port: u16,
    stream: TcpStream,
    spoke: &mut bool,
) -> io::Result<Established> {
    let acceptor = hello::begun(&stream, spoke).await?;
    let start = LazyConfigAcceptor::new(acceptor, stream).await?;
    let terms = {
        let live = gateway.live.pin();
        let tls = live.tls.get(&port).ok_or(io::ErrorKind::NotFound)?;
        Arc::clone(tls.terms(start.client_hello().server_name()).ok_or(io::ErrorKind::NotFound)?)
    };
    let config = terms.config.clone().ok_or(io::ErrorKind::NotFound)?;
    let outcome = start.into_stream(config).await;
    let stream = outcome.inspect_err(|error| {
        if terms.clients.is_some() {
            gateway.tally.refused(error);
        }
    })?;
    known(gateway, port, &terms, stream)
}

/// Learns who the client is.
fn known(
    gateway: &Gateway,
    port: u16,
    terms: &Terms,
    stream: TlsStream<TcpStream>,
) -> io::Result<Established> {
    let connection = stream.get_ref().1;
    let server_name: Option<Box<str>> = connection.server_name().map(Box::from);
    let peer = match peer(terms, connection) {
        Ok(peer) => peer.map(Arc::new),
        Err(error) => {
            let error = io::Error::other(error);
            gateway.tally.refused(&error);
            return Err(error);
        }
    };
    let vouched = terms.clients.as_ref().map(|clients| {
        let chain = if peer.is_some() { connection.peer_certificates().unwrap_or_default() } else { &[] };
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let expires = peer.as_ref().map(|peer| peer.expires);
        Vouched::by(clients.clone(), chain, expires, port, server_name.clone())
    });
    let unnamed = server_name.is_none().then(|| Unnamed { hostname: terms.hostname.clone() });
    let (http2, http) = (connection.alpn_protocol() == Some(b"h2"), connection.alpn_protocol().is_some());
    let transport = Transport::Tls(Box::new(stream));
    Ok(Established { transport, http2, http, server_name, unnamed, peer, vouched })
}

/// The peer that the handshake has proved.
fn peer(terms: &Terms, connection: &ServerConnection) -> Result<Option<Peer>, rustls::Error> {
    let Some(clients) = &terms.clients else { return Ok(None) };
    let Some(chain) = connection.peer_certificates() else {
        return if clients.required() { Err(rustls::Error::NoCertificatesPresented) } else { Ok(None) };
    };
    let now = UnixTime::since_unix_epoch(clock::now().unix);
    if !clients.required() {
        return Ok(clients.verify(chain, now).ok());
    }
    // A session that is taken up again shows no certificate: the one it began with is verified once more.
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        return clients.verify(chain, now).map(Some);
    }
    let leaf = chain.first().ok_or(rustls::Error::NoCertificatesPresented)?;
    clients.read(leaf).map(Some)
}

/// Looks whether the client speaks TLS, without taking a byte.
///
/// # Errors
/// Where it left.
pub async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0u8; 1];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [TLS_RECORD]),
    }
}

/// Looks whether the client speaks HTTP/2 with prior knowledge, without taking a byte.
///
/// # Errors
/// Where it left.
pub async fn has_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0u8; PREFACE.len()];
    for _ in 0..PREFACE_LOOKS {
        let bytes = stream.peek(&mut seen).await?;
        let begins = PREFACE.starts_with(seen.get(..bytes).unwrap_or_default());
        // No HTTP/1 method starts with `PRI `: the method is reserved (RFC 9113, section 11.6).
        if !begins || bytes >= 4 || bytes == 0 {
            return Ok(begins && bytes >= 4);
        }
        // `P` may begin a `POST` too. What was seen stays readable: nothing would wake this task for more.
        sleep(PREFACE_PAUSE).await;
    }
    Ok(false)
}
