//! One HTTP/2 connection to the control plane, made anew as often as it takes.

use std::io;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use rustls::{CertificateError, OtherError};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::fleet::backoff::Backoff;
use crate::fleet::call::{Answers, Call, CallError, Outgoing, many, once, only};
use crate::fleet::endpoint::ControlOptions;
use crate::identity::Identity;
use crate::identity::certificate::{Role, svid};
use crate::identity::set::Set;
use crate::rpc::connect::{self, Pings};
use crate::rpc::{self, causes};

/// Time to connect and shake hands.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for the head of an answer.
const HEAD: Duration = Duration::from_secs(30);

/// How a silent control plane is found out.
const PINGS: Pings = Pings { every: Duration::from_secs(20), within: Duration::from_secs(20), idle: false };

/// Pause after a first attempt that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The control plane, as often as it is needed.
#[derive(Debug)]
pub struct Channel {
    options: ControlOptions,
    shown: Shown,
    link: Mutex<State>,
    /// Of the control plane that answered last.
    trust_domain: Lock<Option<Box<str>>>,
}

/// Whose certificate new connections show.
#[derive(Debug)]
enum Shown {
    /// The one that was set.
    Set(ArcSwapOption<Set>),
    /// The one in force.
    Identity(Arc<Identity>),
}

#[derive(Debug)]
struct State {
    link: Option<Link>,
    backoff: Backoff,
    failed: bool,
}

/// A connection. It closes when it is dropped and no call is under way.
#[derive(Debug)]
struct Link {
    sender: SendRequest<Outgoing>,
    /// [`Set::mark`] of the identity that it shows.
    mark: Option<[u8; 32]>,
}

impl Channel {
    /// A channel that shows no certificate until [`Channel::show`] gives it one.
    pub fn new(options: ControlOptions) -> Self {
        Self::with(options, Shown::Set(ArcSwapOption::empty()))
    }

    /// A channel that shows the certificate in force.
    pub fn of(options: ControlOptions, identity: Arc<Identity>) -> Self {
        Self::with(options, Shown::Identity(identity))
    }

    fn with(options: ControlOptions, shown: Shown) -> Self {
        let state = State {
            link: None,
            backoff: Backoff::new(PAUSE.min(options.retry), options.retry),
            failed: false,
        };
        Self { options, shown, link: Mutex::new(state), trust_domain: Lock::new(None) }
    }

    /// Shows this one from the next connection on, which the next call makes. Calls that are under way go on.
    pub fn show(&self, set: Option<Arc<Set>>) {
        if let Shown::Set(shown) = &self.shown {
            shown.store(set);
        }
    }

    /// Where the control plane is.
    pub fn at(&self) -> String {
        self.options.endpoint.to_string()
    }

    /// The trust domain of the control plane that answered last.
    pub fn trust_domain(&self) -> Option<Box<str>> {
        self.trust_domain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A call with one message each way, such as `/foregate.fleet.v1.Identity/Sign`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        let call = async { only(&self.at(), self.call(path, once(request)).await?).await };
        let late = || CallError::Broken { at: self.at(), fault: format!("no answer within {HEAD:?}") };
        timeout(self.options.retry + CONNECT + HEAD, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// A call with one message that many answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn listen<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<Answers<A>, CallError> {
        Answers::of(self.at(), self.call(path, once(request)).await?)
    }

    /// A call with many messages each way. `first` is sent with it: a server may wait for it before it answers.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn stream<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        first: &Q,
    ) -> Result<Call<Q, A>, CallError> {
        let (requests, body) = many();
        requests.send(first).await;
        Ok(Call { requests, answers: Answers::of(self.at(), self.call(path, body).await?)? })
    }

    async fn call(&self, path: &str, body: Outgoing) -> Result<Response<Incoming>, CallError> {
        let at = self.at();
        let broken = |fault: String| CallError::Broken { at: at.clone(), fault };
        let request = rpc::request(&format!("{at}{path}")).body(body);
        let request = request.map_err(|error| broken(error.to_string()))?;
        let mut sender = self.sender().await?;
        sender.ready().await.map_err(|error| broken(causes(&error)))?;
        let response = timeout(HEAD, sender.send_request(request)).await;
        let response = response.map_err(|_| broken(format!("no answer within {HEAD:?}")))?;
        response.map_err(|error| broken(causes(&error)))
    }

    /// A connection that is open and shows what is to be shown. After a fault there is a pause first, longer each
    /// time.
    async fn sender(&self) -> Result<SendRequest<Outgoing>, CallError> {
        let mut state = self.link.lock().await;
        let set = self.set();
        let mark = set.as_ref().map(|set| set.mark());
        if let Some(link) = &state.link
            && !link.sender.is_closed()
            && link.mark == mark
        {
            return Ok(link.sender.clone());
        }
        state.link = None;
        if state.failed {
            let pause = state.backoff.pause();
            sleep(pause).await;
        }
        let connected = timeout(CONNECT, Box::pin(self.connect(set.as_deref()))).await;
        let connected = connected.unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")));
        state.failed = connected.is_err();
        let sender = connected.map_err(|fault| CallError::Connect { at: self.at(), fault })?;
        state.backoff.reset();
        state.link = Some(Link { sender: sender.clone(), mark });
        Ok(sender)
    }

    /// What is shown: nothing that has expired.
    fn set(&self) -> Option<Arc<Set>> {
        let set = match &self.shown {
            Shown::Set(set) => set.load_full(),
            Shown::Identity(identity) => identity.current(),
        };
        set.filter(|set| set.expires > clock::now().unix)
    }

    async fn connect(&self, set: Option<&Set>) -> Result<SendRequest<Outgoing>, String> {
        let config = self.options.tls(set).map_err(|error| causes(&error))?;
        let stream = connect::tls(&self.options.endpoint, config).await.map_err(|error| refused(&error))?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let id = leaf.and_then(|leaf| svid(leaf, Role::Server).ok());
        *self.trust_domain.lock().unwrap_or_else(PoisonError::into_inner) =
            id.map(|id| id.trust_domain().into());
        // How it ended is told to the calls on it.
        let opened = connect::open(stream, PINGS).await.map_err(|error| causes(&error))?;
        Ok(opened.sender)
    }
}

/// Why a handshake failed. What we found ourselves is told in its own words.
fn refused(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours)))) => {
            ours.to_string()
        }
        _ => causes(error),
    }
}
