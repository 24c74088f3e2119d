//! The service `Identity`: certificates for who proves who they are, and the roots.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::units::TimeSpan;
use foregate_policy::fleet::{Bundle, BundleRequest, Proof, SignRequest, SignResponse};
use futures_util::{Stream, StreamExt, stream};
use log::Level;
use rustls::pki_types::UnixTime;
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

use crate::attest::is_workload;
use crate::attest::join::{JoinError, Tokens};
use crate::attest::pace::{Pace, TooOften};
use crate::attest::review::{ReviewError, Reviews};
use crate::authority::certificate::Facts;
use crate::authority::csr::{self, CsrError};
use crate::authority::signer::Subject;
use crate::authority::{Authority, AuthorityError};
use crate::clock::{self, rfc3339};
use crate::event::{caused, event};
use crate::fleet::identity::identity_server::Identity;
use crate::metrics::Counters;
use crate::process::Process;
use crate::serve::peer::Peer;
use crate::withdrawn::Withdrawn;

/// Largest request, in bytes: a certificate request and a token.
pub const MAX_REQUEST: usize = 32 << 10;

/// Signs and tells.
#[derive(Debug)]
pub struct Issuance {
    authority: Arc<Authority>,
    tokens: Option<Arc<Tokens>>,
    reviews: Option<Arc<dyn Reviews>>,
    terms: Terms,
    pace: Pace,
    decisions: Counters,
    process: Process,
}

/// How long workloads are believed, and which are not at all.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long after a token has proved it a workload may renew its certificate with the one at hand.
    pub reattest: TimeSpan,
    pub withdrawn: Withdrawn,
}

/// A workload, and when a token proved it, since the epoch.
#[derive(Debug)]
struct Attested {
    id: SpiffeId,
    at: Duration,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    TooOften(#[from] TooOften),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("the join token: {0}")]
    Join(#[from] JoinError),
    #[error("join tokens are not taken: `joinTokens` is not in the configuration")]
    NoJoin,
    #[error("the service account token: {0}")]
    Review(#[from] ReviewError),
    #[error("service account tokens are not taken: `tokenReview` is not in the configuration")]
    NoReview,
    #[error("there is no proof: neither a token nor a client certificate")]
    NoProof,
    #[error("the client certificate is below no root that is trusted")]
    Untrusted,
    #[error("{0} is withdrawn: `identity.withdrawn` of the control plane names it")]
    Withdrawn(SpiffeId),
    #[error(
        "a token proved this workload last at {at}, and a certificate is renewed with itself for {bound} after that \
         (`identity.reattest` of the control plane): put a valid token into the file of --control-token"
    )]
    Unattested { at: String, bound: TimeSpan },
    #[error("{0} is not the id of a workload")]
    NoWorkload(String),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("a defect while a token was used")]
    Defect,
}

impl Issuance {
    pub fn new(
        authority: Arc<Authority>,
        tokens: Option<Arc<Tokens>>,
        reviews: Option<Arc<dyn Reviews>>,
        terms: Terms,
        process: &Process,
    ) -> Self {
        let help = "Requests for certificates, by the proof that came with them and how they were decided";
        let decisions = process.metrics.counters("certificates", help);
        Self { authority, tokens, reviews, terms, pace: Pace::default(), decisions, process: process.clone() }
    }

    async fn decide(&self, peer: &Peer, request: SignRequest) -> Result<SignResponse, Refusal> {
        // Who has an identity pays for no others at its address.
        let address = peer.id.is_none().then(|| peer.address.ip());
        self.pace.attempt(address, clock::monotonic())?;
        let csr = csr::Request::read(&request.csr)?;
        // Read first: a request that is refused uses no token up.
        let Attested { id, at } = self.attest(peer, request.proof, &csr).await?;
        csr.is_for(&id)?;
        let subject = Subject { id, names: Vec::new(), addresses: Vec::new(), attested: Some(at) };
        let issued = self.authority.issue(&csr.key, &subject, clock::now().unix)?;
        let fields = [
            ("spiffe_id", subject.id.to_string().into()),
            ("peer", peer.address.to_string().into()),
            ("expires", rfc3339(issued.expires).into()),
            ("attested", rfc3339(at).into()),
        ];
        event(Level::Info, "certificate signed", &fields);
        let bundle = self.authority.bundles().borrow().message();
        let chain = issued.chain.iter().map(|der| der.to_vec().into()).collect();
        let attested_until = self.terms.until(at).as_secs();
        Ok(SignResponse { chain, bundle: Some(bundle), attested_until })
    }

    async fn attest(
        &self,
        peer: &Peer,
        proof: Option<Proof>,
        csr: &csr::Request,
    ) -> Result<Attested, Refusal> {
        let now = clock::now().unix;
        let id = match proof {
            Some(Proof::JoinToken(token)) => {
                let tokens = Arc::clone(self.tokens.as_ref().ok_or(Refusal::NoJoin)?);
                let id = self.workload(tokens.path(&token, now)?)?;
                csr.is_for(&id)?;
                // Who is this workload already only proves it anew, which uses nothing up: others may have yet to join.
                if self.shown(peer, now).is_ok_and(|shown| shown == id) {
                    return Ok(Attested { id, at: now });
                }
                // Written to disk, which may take its time.
                let spend = spawn_blocking(move || tokens.spend(&token, now));
                self.workload(spend.await.map_err(|_| Refusal::Defect)??)?
            }
            Some(Proof::ServiceAccountToken(token)) => {
                let reviews = self.reviews.as_ref().ok_or(Refusal::NoReview)?;
                self.workload(reviews.review(&token).await?)?
            }
            None => return self.renewed(peer, now),
        };
        Ok(Attested { id, at: now })
    }

    /// The workload that the certificate of the connection proves, as long as a token has proved it not too long ago.
    fn renewed(&self, peer: &Peer, now: Duration) -> Result<Attested, Refusal> {
        let id = self.shown(peer, now)?;
        if !is_workload(&id) {
            return Err(Refusal::NoWorkload(id.to_string()));
        }
        let facts = peer.chain.first().and_then(|leaf| Facts::read(leaf)).ok_or(Refusal::NoProof)?;
        let at = self.terms.still_attested(facts.attested(), now)?;
        Ok(Attested { id: self.admitted(id)?, at })
    }

    /// Whom the certificate of the connection names, if a root in force vouches for it: the connection may be older.
    fn shown(&self, peer: &Peer, now: Duration) -> Result<SpiffeId, Refusal> {
        let id = peer.id.clone().ok_or(Refusal::NoProof)?;
        let bundle = Arc::clone(&self.authority.bundles().borrow());
        let now = UnixTime::since_unix_epoch(now);
        bundle.verify(&peer.chain, now).map_err(|_| Refusal::Untrusted)?;
        Ok(id)
    }

    /// The workload of a path.
    fn workload(&self, path: String) -> Result<SpiffeId, Refusal> {
        self.admitted(self.authority.id(&path).map_err(|_| Refusal::NoWorkload(path))?)
    }

    fn admitted(&self, id: SpiffeId) -> Result<SpiffeId, Refusal> {
        if self.terms.withdrawn.names(&id) { Err(Refusal::Withdrawn(id)) } else { Ok(id) }
    }

    fn count(&self, proof: &'static str, outcome: &'static str) {
        self.decisions.get_or_create(&vec![("proof", proof), ("outcome", outcome)]).inc();
    }
}

impl Terms {
    /// Until when a workload that was proved then renews its certificate with itself, since the epoch.
    fn until(&self, attested: Duration) -> Duration {
        attested.saturating_add(self.reattest.0)
    }

    /// When it was proved, as long as that is enough.
    fn still_attested(&self, attested: Duration, now: Duration) -> Result<Duration, Refusal> {
        // A certificate from a clock that was ahead makes nobody younger than the certificate.
        let at = attested.min(now);
        if now > self.until(at) {
            return Err(Refusal::Unattested { at: rfc3339(at), bound: self.reattest });
        }
        Ok(at)
    }
}

impl Refusal {
    /// A word for the metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::TooOften(_) => "too often",
            Self::Csr(_) => "request",
            Self::Join(error) => error.label(),
            Self::NoJoin | Self::NoReview => "not taken",
            Self::Review(error) => error.label(),
            Self::NoProof => "no proof",
            Self::Untrusted => "untrusted",
            Self::Withdrawn(_) => "withdrawn",
            Self::Unattested { .. } => "unattested",
            Self::NoWorkload(_) => "no workload",
            Self::Authority(_) | Self::Defect => "failed",
        }
    }

    /// True where it is for the caller to mend.
    fn is_the_callers(&self) -> bool {
        let review = matches!(self, Self::Review(ReviewError::Unavailable(_)));
        !review && !matches!(self, Self::TooOften(_) | Self::Authority(_) | Self::Defect)
    }

    /// What the caller is told: of a token not more than that it proves nothing.
    fn status(&self) -> Status {
        match self {
            Self::TooOften(_) => Status::resource_exhausted(self.to_string()),
            Self::Csr(_) => Status::invalid_argument(self.to_string()),
            Self::Join(JoinError::File(_)) => Status::unavailable("the join token cannot be used now"),
            Self::Join(_) => Status::unauthenticated("the join token is not valid"),
            Self::Review(ReviewError::Unavailable(_)) => {
                Status::unavailable("the Kubernetes API server cannot be asked about the token")
            }
            Self::Review(_) => Status::unauthenticated("the service account token is not valid here"),
            Self::NoJoin | Self::NoReview => Status::failed_precondition(self.to_string()),
            Self::NoProof | Self::Untrusted | Self::Unattested { .. } => {
                Status::unauthenticated(self.to_string())
            }
            Self::NoWorkload(_) | Self::Withdrawn(_) => Status::permission_denied(self.to_string()),
            Self::Authority(_) | Self::Defect => Status::unavailable("nothing can be signed now"),
        }
    }
}

#[tonic::async_trait]
impl Identity for Issuance {
    type BundlesStream = Pin<Box<dyn Stream<Item = Result<Bundle, Status>> + Send>>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let peer = Peer::of(&request)?.clone();
        let request = request.into_inner();
        let proof = match &request.proof {
            Some(Proof::JoinToken(_)) => "join token",
            Some(Proof::ServiceAccountToken(_)) => "service account",
            None => "certificate",
        };
        match self.decide(&peer, request).await {
            Ok(response) => {
                self.count(proof, "signed");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                self.count(proof, refusal.label());
                if peer.id.is_none() && refusal.is_the_callers() {
                    self.pace.failed(peer.address.ip(), clock::monotonic());
                }
                let fields = [
                    ("proof", proof.into()),
                    ("error", refusal.to_string().into()),
                    ("peer", peer.address.to_string().into()),
                    ("spiffe_id", peer.id.as_ref().map(ToString::to_string).into()),
                ];
                caused(Level::Warn, "certificate refused", &fields);
                Err(refusal.status())
            }
        }
    }

    async fn bundles(
        &self,
        request: Request<BundleRequest>,
    ) -> Result<Response<Self::BundlesStream>, Status> {
        let id = Peer::required(&request)?;
        self.admitted(id).map_err(|refusal| refusal.status())?;
        let mut bundles = self.authority.bundles();
        bundles.mark_changed();
        let told = stream::unfold(bundles, |mut bundles| async move {
            bundles.changed().await.ok()?;
            let message = bundles.borrow_and_update().message();
            Some((Ok(message), bundles))
        });
        let shutdown = self.process.shutdown.clone();
        Ok(Response::new(Box::pin(told.take_until(async move { shutdown.begun().await }))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foregate_filters::units::TimeSpan;
    use tonic::Code;

    use super::Terms;
    use crate::withdrawn::Withdrawn;

    #[test]
    fn a_certificate_is_renewed_with_itself_until_the_bound_and_not_a_moment_longer() {
        let withdrawn = Withdrawn::new(&[], "example.org").unwrap();
        let bound = Duration::from_hours(720);
        let terms = Terms { reattest: TimeSpan(bound), withdrawn };
        let at = Duration::from_secs(1_790_000_000);
        let last = at + bound;
        assert_eq!(terms.until(at), last);
        for now in [at, at + bound / 2, last] {
            assert_eq!(terms.still_attested(at, now).unwrap(), at, "{now:?}");
        }
        let refused = terms.still_attested(at, last + Duration::from_nanos(1)).unwrap_err();
        assert_eq!((refused.label(), refused.status().code()), ("unattested", Code::Unauthenticated));
        for part in ["2026-09-21T14:13:20Z", "identity.reattest", "--control-token"] {
            assert!(refused.to_string().contains(part), "{part}: {refused}");
        }
        // A clock that was ahead when the proof was noted gives no more time than one that was right.
        assert_eq!(terms.still_attested(last, at).unwrap(), at);
    }
}
