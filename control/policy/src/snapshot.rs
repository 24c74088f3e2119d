//! All that the proxy obeys at one moment; immutable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::org_quota::spec::Rules as OrgRules;
use foregate_filters::peer::PeerPattern;
use ipnet::IpNet;

use crate::balancing::Balancing;
use crate::diagnostic::Diagnostic;
use crate::documents::credentials::Credentials;
use crate::lease::LeaseBound;
use crate::model::Model;
use crate::redis_store::RedisStore;
use crate::routes::RouteTable;
use crate::routes::destinations::Destinations;
use crate::routes::streams::StreamTable;

/// The outcome of one compilation. A request obeys exactly one snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// Twelve hex digits of the SHA-256 of all document text: the same text gives the same revision.
    pub revision: String,
    /// In document order; a `Gateway` with several addresses gives one entry per address and listener.
    pub listeners: Vec<Listener>,
    pub routes: RouteTable,
    /// Routes of connections whose bytes are passed on unread.
    pub streams: StreamTable,
    /// Where redirected connections of the application may go.
    pub destinations: Destinations,
    /// Indexed by [`crate::route::WeightedBackend::upstream`].
    pub upstreams: Vec<Arc<Upstream>>,
    pub models: Vec<Model>,
    pub stores: Vec<Arc<RedisStore>>,
    /// What each limit that is taken from in advance may let through beyond it.
    pub leases: Vec<LeaseBound>,
    /// What compiles but is weak or dead.
    pub warnings: Vec<Diagnostic>,
}

impl Snapshot {
    /// The same listeners, behind which nothing is found.
    #[must_use]
    pub fn withheld(&self) -> Self {
        let listeners = self.listeners.iter().cloned().map(|mut listener| {
            if let Some(capture) = &mut listener.capture {
                *capture = Arc::new(Capture { passes_unknown: false, ..Capture::clone(capture) });
            }
            listener
        });
        Self {
            revision: self.revision.clone(),
            listeners: listeners.collect(),
            routes: RouteTable::default(),
            streams: StreamTable::default(),
            destinations: Destinations::default(),
            upstreams: Vec::new(),
            models: Vec::new(),
            stores: Vec::new(),
            leases: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// One name served on one socket. Listeners with the same address and port share the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name of the `Gateway`; with its namespace in front where that is not `default`.
    pub gateway: Arc<str>,
    pub name: Arc<str>,
    pub address: IpAddr,
    /// 0 only where [`crate::compile::Options::port_zero`] allows it.
    pub port: u16,
    /// Lower case, `*.` in front of a wildcard; `None` serves every name.
    pub hostname: Option<Box<str>>,
    /// Set where TLS ends here.
    pub tls: Option<ListenerTls>,
    pub speaks: Speaks,
    /// Set where every connection begins with a header of the PROXY protocol: the networks that it is
    /// believed from. Others are not let in.
    pub proxies: Option<Arc<[IpNet]>>,
    /// Set where it takes connections that the kernel redirected.
    pub capture: Option<Arc<Capture>>,
}

/// How a listener takes connections that the kernel redirected. Ports are those that clients meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Time for a client to speak first, where what is spoken must be known.
    pub within: Duration,
    /// Nobody looks at what is spoken.
    pub opaque: Box<[u16]>,
    /// Connections of the application that mean an address of no upstream are passed on as they are.
    pub passes_unknown: bool,
}

/// What is done with the connections of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// Requests are read, on TLS or without.
    #[default]
    Http,
    /// Bytes are passed on.
    Tcp,
    /// Requests are read where the first bytes are those of HTTP, and bytes are passed on otherwise. Whoever says
    /// nothing for so long speaks something else.
    Detected(Duration),
    /// TLS ends here, and bytes are passed on.
    Tls,
    /// TLS is passed on; only the name that the client asks for is read.
    Passthrough,
    /// Redirected connections to this workload: TLS ends here, and what is spoken in it is told by ALPN, by the route,
    /// or by the first bytes.
    Inbound,
    /// Redirected connections of the application.
    Outbound,
}

impl Speaks {
    /// True for what begins with TLS and is no HTTP.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Passthrough)
    }

    /// True where the kernel redirected the connections.
    pub const fn is_captured(self) -> bool {
        matches!(self, Self::Inbound | Self::Outbound)
    }
}

/// How a listener proves its name, and what it asks of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; none where the certificate is that of this workload.
    pub certificates: Vec<CertificateFiles>,
    pub clients: Clients,
}

/// The certificate that a listener asks its clients for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// None.
    #[default]
    Unasked,
    /// One from these authorities.
    Authorities(ClientAuthorities),
    /// That of a workload of a trusted domain; the listener shows that of this workload.
    Workloads {
        /// Since the epoch: plain connections are taken until then.
        plain_until: Option<Duration>,
        /// Ports that redirected connections meant and on which plain ones are taken.
        plain_ports: Box<[u16]>,
    },
}

/// Authorities whose clients are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthorities {
    /// PEM; at least one file.
    pub certificates: Vec<PathBuf>,
    /// Lists of revoked certificates; those that do not exist are none.
    pub revocations: Vec<PathBuf>,
    /// False: who has no valid certificate is served as nobody.
    pub required: bool,
}

/// A certificate chain and its key, as Kubernetes mounts a Secret of type `kubernetes.io/tls`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Name of the document; with its namespace in front where that is not `default`.
    pub name: Arc<str>,
    /// Addresses and names with a port.
    pub endpoints: Vec<Endpoint>,
    /// Names whose SRV records tell of endpoints; their port is 0.
    pub services: Vec<Endpoint>,
    /// A file that tells of endpoints.
    pub endpoints_file: Option<PathBuf>,
    /// Other addresses by which redirected connections mean it.
    pub virtual_addresses: Box<[SocketAddr]>,
    /// Set where it has no endpoints, but is where redirected connections meant to go.
    pub captured: Option<Captured>,
    pub balancing: Balancing,
    pub protocol: Protocol,
    pub tls: Option<UpstreamTls>,
    pub connect_timeout: Duration,
    /// How long a pooled connection may lie unused; with [`Protocol::Tcp`], how long a connection may be silent.
    pub idle_timeout: Duration,
    /// Unused connections kept per thread.
    pub max_idle_per_thread: usize,
    /// Set where connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<ProxyVersion>,
    /// What the gateway shows to it; paths of files are anchored.
    pub credentials: Option<Credentials>,
    pub concurrency: Concurrency,
    /// Who may use how many calls of the org behind it.
    pub org_quota: Option<OrgRules>,
}

impl Upstream {
    /// True where a redirected connection to this address means it, as far as the document tells.
    pub fn is_meant_by(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let here = |endpoint: &Endpoint| {
            endpoint.port == address.port()
                && endpoint.host.parse().is_ok_and(|ip: IpAddr| ip == address.ip())
        };
        self.virtual_addresses.contains(&address) || self.endpoints.iter().any(here)
    }
}

/// Where redirected connections go on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Captured {
    /// The address that the client meant.
    Address,
    /// Its port, on loopback.
    Loopback,
}

impl Captured {
    /// Where a connection goes on to that meant `destination`.
    pub fn address(self, destination: SocketAddr) -> SocketAddr {
        let ip = destination.ip().to_canonical();
        let ip = match (self, ip) {
            (Self::Address, ip) => ip,
            (Self::Loopback, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Self::Loopback, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, destination.port())
    }
}

/// How many requests an upstream is given at once: those whose response heads are not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concurrency {
    /// The limit begins here.
    pub max: u32,
    /// It never adapts to less.
    pub min: u32,
    pub adaptive: bool,
    /// Most requests that wait for their turn.
    pub queue: u32,
    /// How long they wait.
    pub wait: Duration,
}

impl Default for Concurrency {
    /// Out of the way of whatever is not overloaded; a refusal comes well within 100 ms.
    fn default() -> Self {
        Self { max: 10_000, min: 64, adaptive: true, queue: 128, wait: Duration::from_millis(50) }
    }
}

/// A host and port that answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An IP address without brackets, or a DNS name in lower case.
    pub host: Box<str>,
    pub port: u16,
    /// Its share in relation to the others; at least 1.
    pub weight: u32,
    pub zone: Option<Box<str>>,
    /// Lower ones are used first.
    pub priority: u16,
}

impl Endpoint {
    /// Reads `host:port`; IPv6 addresses stand in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port =
            Some(port).filter(|port| !port.starts_with('+'))?.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string().into(),
            None => host_name(host)?,
        };
        Some(Self { host, port, weight: 1, zone: None, priority: 0 })
    }
}

/// A DNS name in lower case, or an IPv4 address.
pub fn host_name(host: &str) -> Option<Box<str>> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    let sound = if numeric {
        name.parse::<Ipv4Addr>().is_ok()
    } else {
        name.len() <= 253 && name.split('.').all(label)
    };
    sound.then(|| host.to_ascii_lowercase().into())
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Http1,
    /// With prior knowledge on plain connections, by ALPN `h2` on TLS (RFC 9113, section 3).
    Http2,
    /// Whatever comes: for connections that are passed on unread.
    Tcp,
}

/// Which header of the PROXY protocol a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How an upstream must prove its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Name sent in SNI and looked for in the certificate; the endpoint's host where absent.
    pub server_name: Option<Box<str>>,
    /// PEM files of trusted authorities; those of the system where there are none.
    pub ca_files: Vec<PathBuf>,
    /// Names of which the certificate must have one; where there are none, the name that is sent.
    pub alt_names: Vec<AltName>,
    pub shown: Shown,
}

/// A name that a certificate may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    /// In lower case; `*.` in front stands for one label.
    Dns(Box<str>),
    Uri(Box<str>),
}

/// What we prove to an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shown {
    #[default]
    Nothing,
    /// A certificate from files.
    Certificate(CertificateFiles),
    /// That of this workload; the endpoint must be one of these peers, whatever its DNS name.
    Workload { peers: Vec<PeerPattern> },
}
