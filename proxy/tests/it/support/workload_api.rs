//! An agent that serves the SPIFFE Workload API as a test wants.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::workloads::{Domain, Svid};

/// As the SPIFFE Workload API names them.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

/// A running agent; ends when dropped.
#[derive(Debug)]
pub struct Agent {
    folder: Option<TempDir>,
    answers: watch::Sender<Option<Bytes>>,
    task: JoinHandle<()>,
}

impl Agent {
    pub fn start() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(folder: TempDir) -> Self {
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let (answers, told) = watch::channel(None);
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let told = told.clone();
                serving.spawn(async move {
                    let service = service_fn(move |request| {
                        std::future::ready(Ok::<_, Infallible>(answer(&request, told.clone())))
                    });
                    let io = TokioIo::new(stream);
                    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                });
            }
        });
        Self { folder: Some(folder), answers, task }
    }

    fn socket(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("agent.sock")
    }

    /// The value of `--identity`.
    pub fn origin(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// Gives this identity to everybody from now on.
    pub fn give(&self, svid: &Svid, domain: &Domain, federated: &[&Domain], revoked: &[&Svid]) {
        let list = domain.revocations(revoked);
        let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(svid.leaf.key.as_bytes()).unwrap();
        let message = Answer {
            svids: vec![X509Svid {
                spiffe_id: domain.id("/gateway"),
                chain: svid.leaf.der().to_vec(),
                key: key.secret_der().to_vec(),
                bundle: der(domain),
            }],
            crl: vec![list.to_vec()],
            federated_bundles: federated
                .iter()
                .map(|domain| (format!("spiffe://{}", domain.name), der(domain)))
                .collect(),
        };
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        self.answers.send_replace(Some(frame.into()));
    }

    /// Ends every call and listens anew; gives nothing until told.
    pub async fn restart(mut self) -> Self {
        self.task.abort();
        let _ = (&mut self.task).await;
        std::fs::remove_file(self.socket()).unwrap();
        Self::at(self.folder.take().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn der(domain: &Domain) -> Vec<u8> {
    CertificateDer::from_pem_slice(domain.bundle.as_bytes()).unwrap().to_vec()
}

type Body =
    StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn answer(request: &Request<Incoming>, told: watch::Receiver<Option<Bytes>>) -> Response<Body> {
    let asked = request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID"
        && request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true");
    let builder = Response::builder().header("content-type", "application/grpc");
    if !asked {
        let empty: Body = StreamBody::new(Box::pin(stream::empty()));
        return builder.header("grpc-status", "3").body(empty).unwrap();
    }
    let mut told = told;
    told.mark_changed();
    let answers = stream::unfold(told, |mut told| async move {
        loop {
            told.changed().await.ok()?;
            let frame = told.borrow_and_update().clone();
            if let Some(frame) = frame {
                return Some((Ok(Frame::data(frame)), told));
            }
        }
    });
    builder.body(StreamBody::new(Box::pin(answers) as _)).unwrap()
}
