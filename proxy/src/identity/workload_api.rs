//! An identity from the SPIFFE Workload API on a unix socket.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foregate_filters::peer::{SpiffeId, is_trust_domain};
use foregate_inference::protocol::framed;
use http_body_util::Full;
use prost::Message;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock;
use crate::identity::set::{Parts, Set};
use crate::identity::{Source, SourceError};
use crate::rpc::answer::Messages;
use crate::rpc::connect::{self, Opened, Pings};
use crate::rpc::{self, causes};

/// The call that gives X.509-SVIDs, and again whenever they change (SPIFFE Workload API, section 5).
const METHOD: &str = "http://workload/SpiffeWorkloadAPI/FetchX509SVID";

/// Without this header an endpoint answers nobody: no redirected request can carry it (section 4).
const SECURITY_HEADER: (&str, &str) = ("workload.spiffe.io", "true");

/// Largest message, in bytes: bundles of many trust domains fit.
const MAX_MESSAGE: usize = 16 << 20;

/// Time for the socket to answer at all; the call may then take as long as attestation does.
const CONNECT: Duration = Duration::from_secs(5);

/// How a silent agent is found out: updates may be hours apart.
const PINGS: Pings = Pings { every: Duration::from_secs(30), within: Duration::from_secs(20), idle: false };

#[derive(Clone, PartialEq, Message)]
struct X509SvidRequest {}

#[derive(Clone, PartialEq, Message)]
struct X509SvidResponse {
    /// The first one is the default identity.
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    crl: Vec<Bytes>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// `x509_svid`: certificates in DER, one behind the other, leaf first.
    #[prost(bytes = "bytes", tag = "2")]
    chain: Bytes,
    /// `x509_svid_key`: PKCS #8 in DER.
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    /// Certificates in DER, one behind the other.
    #[prost(bytes = "bytes", tag = "4")]
    bundle: Bytes,
    #[prost(string, tag = "5")]
    hint: String,
}

/// A client of one endpoint.
#[derive(Debug)]
pub struct WorkloadApi {
    socket: PathBuf,
    stream: Option<Updates>,
}

/// The answers of one call.
struct Updates {
    messages: Messages,
    /// Ends with the call.
    connection: JoinHandle<String>,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl WorkloadApi {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, stream: None }
    }

    fn fault(&self, fault: impl Into<String>) -> SourceError {
        SourceError::Api { socket: self.socket.display().to_string(), fault: fault.into() }
    }

    /// Connects and calls.
    async fn call(&self) -> Result<Updates, String> {
        let connect = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
            connect::open(stream, PINGS).await.map_err(|error| causes(&error))
        };
        let connected = timeout(CONNECT, connect).await;
        // How the connection ended is told to the call on it.
        let Opened { mut sender, connection } = connected.map_err(|_| "no answer in time".to_owned())??;
        let request = rpc::request(METHOD)
            .header(SECURITY_HEADER.0, SECURITY_HEADER.1)
            .body(Full::new(framed(&X509SvidRequest {})))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| causes(&error))?;
        let messages = Messages::of(response, MAX_MESSAGE).map_err(|fault| fault.to_string())?;
        Ok(Updates { messages, connection })
    }

    async fn message(&mut self) -> Result<Bytes, String> {
        if self.stream.is_none() {
            self.stream = Some(self.call().await?);
        }
        let Some(updates) = &mut self.stream else { return Err("there is no call".to_owned()) };
        let outcome = match updates.messages.next().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err("the stream of updates ended".to_owned()),
            Err(fault) => Err(fault.to_string()),
        };
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }
}

#[async_trait]
impl Source for WorkloadApi {
    async fn next(&mut self) -> Result<Set, SourceError> {
        let message = match self.message().await {
            Ok(message) => message,
            Err(fault) => return Err(self.fault(fault)),
        };
        let response = X509SvidResponse::decode(message).map_err(|error| self.fault(error.to_string()))?;
        let parts = parts(response).map_err(|fault| self.fault(fault))?;
        Ok(Set::new(parts, clock::now().unix)?)
    }
}

fn parts(response: X509SvidResponse) -> Result<Parts, String> {
    let svid = response.svids.into_iter().next().ok_or("no identity is registered for this workload")?;
    let key = PrivateKeyDer::try_from(svid.key.to_vec())?;
    let mut federated = Vec::new();
    for (domain, bundle) in response.federated_bundles {
        // Both forms are in use: the name alone, and the SPIFFE id of the domain.
        let name = SpiffeId::parse(&domain).map_or(domain, |id| id.trust_domain().to_owned());
        if !is_trust_domain(&name) {
            return Err(format!("{name} is no trust domain"));
        }
        federated.push((name, certificates(&bundle)?));
    }
    let revocations =
        response.crl.iter().map(|list| CertificateRevocationListDer::from(list.to_vec())).collect();
    let revocations = vec![(String::new(), revocations)];
    Ok(Parts {
        chain: certificates(&svid.chain)?,
        key,
        bundle: certificates(&svid.bundle)?,
        federated,
        revocations,
    })
}

/// Takes certificates apart that stand one behind the other.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut all = Vec::new();
    while let Some(&[tag, first, ..]) = der.first_chunk::<2>().map(<[u8; 2]>::as_slice) {
        let more = if first < 0x80 { 0 } else { usize::from(first & 0x7f) };
        let length = match more {
            0 => Some(usize::from(first)),
            1..=3 => der
                .get(2..2 + more)
                .map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
            _ => None,
        };
        let parts = length.and_then(|length| der.split_at_checked(2 + more + length));
        let (one, rest) = parts.filter(|_| tag == 0x30).ok_or("certificates are malformed")?;
        all.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    if der.is_empty() { Ok(all) } else { Err("certificates are malformed".to_owned()) }
}
