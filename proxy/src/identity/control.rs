//! An identity from the control plane: a key made here, a certificate that it signs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use foregate_policy::fleet::{Bundle, BundleRequest, Proof, SignRequest, SignResponse};
use log::Level;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::clock;
use crate::fleet::backoff::jittered;
use crate::fleet::call::{Answers, CallError};
use crate::fleet::channel::Channel;
use crate::fleet::endpoint::ControlOptions;
use crate::identity::certificate::Facts;
use crate::identity::kept::{self, Kept};
use crate::identity::set::{Parts, Set, SetError};
use crate::identity::token::{self, Refused};
use crate::identity::{Source, SourceError};
use crate::rpc::answer::UNAUTHENTICATED;
use crate::telemetry::event::event;
use crate::telemetry::json::Timestamp;

/// The calls of the service.
const SIGN: &str = "/foregate.fleet.v1.Identity/Sign";
const BUNDLES: &str = "/foregate.fleet.v1.Identity/Bundles";

/// What was taken as a proof.
const TOKEN: &str = "token";
const CERTIFICATE: &str = "certificate";

/// What to do about a token that proves nothing any more.
const UNTAKEN: &str = "the certificate is renewed with itself, as long as `identity.reattest` of the control \
                       plane allows: put a valid token into the file of --control-token";

/// Most roots of a bundle, and most certificates of a chain.
const MAX_CERTIFICATES: usize = 64;

/// The part of a certificate's life after which it is renewed, and how much earlier by chance, of that part.
const RENEWED: f64 = 2.0 / 3.0;
const SPREAD: f64 = 0.1;

/// Longest sleep before the clock is looked at again: it may have been set, or the machine suspended.
const NAP: Duration = Duration::from_secs(30);

/// What the workload proves itself with, and where it keeps what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlIdentity {
    /// A projected token of a Kubernetes service account, or a join token; read anew each time.
    pub token: Option<PathBuf>,
    /// Folder where certificate and key are kept for the next start.
    pub state_dir: Option<PathBuf>,
}

/// The identity that a control plane gives.
pub struct Control {
    options: ControlOptions,
    settings: ControlIdentity,
    /// Shows the certificate of this workload.
    channel: Arc<Channel>,
    held: Option<Held>,
    /// A token that proves nothing: while there is a certificate it is held back.
    refused: Option<Refused>,
    bundles: Option<Answers<Bundle>>,
    begun: bool,
}

/// What was given, and how long it is good.
struct Held {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    roots: Vec<CertificateDer<'static>>,
    /// Since the epoch.
    expires: Duration,
    /// When the next one is asked for, since the epoch.
    renew: Duration,
    /// Until when the control plane renews it with itself, since the epoch, where it said so.
    attested_until: Option<Duration>,
}

impl Control {
    /// The identity behind a channel; from the first set on, the channel shows it.
    pub fn new(options: ControlOptions, channel: Arc<Channel>, settings: ControlIdentity) -> Self {
        Self { options, settings, channel, held: None, refused: None, bundles: None, begun: false }
    }

    /// Takes up what an earlier process was given, where it is still good.
    fn resume(&mut self) -> Option<Set> {
        let folder = self.settings.state_dir.as_ref()?;
        let kept = match kept::read(folder) {
            Ok(kept) => kept?,
            Err(error) => {
                let fields =
                    [("error", error.to_string().into()), ("folder", folder.display().to_string().into())];
                event(Level::Warn, "kept identity not read", &fields);
                return None;
            }
        };
        let now = clock::now().unix;
        let Kept { chain, key, roots, renew, attested_until } = kept;
        let held = Held::new(chain, key, roots, Some(renew), now).ok().filter(|held| held.expires > now)?;
        let held = Held { attested_until, ..held };
        let set = held.set(now).ok()?;
        self.held = Some(held);
        Some(set)
    }

    /// Puts a set in force here, and gives it on.
    fn publish(&mut self) -> Result<Set, SourceError> {
        let held = self.held.as_ref().ok_or_else(|| fault("there is no certificate"))?;
        let now = clock::now().unix;
        let set = held.set(now)?;
        self.channel.show(Some(Arc::new(held.set(now)?)));
        Ok(set)
    }

    /// Asks for a certificate: with the token, which proves the workload anew, or else with the certificate that is there.
    async fn sign(&mut self) -> Result<Set, SourceError> {
        let key = KeyPair::generate().map_err(fault)?;
        let csr = CertificateParams::new(Vec::new()).and_then(|params| params.serialize_request(&key));
        let csr = csr.map_err(fault)?.der().to_vec();
        let now = clock::now().unix;
        let (response, proof) = if self.held.as_ref().is_some_and(|held| held.expires > now) {
            self.renew(&csr).await?
        } else {
            (self.join(&csr).await?, TOKEN)
        };
        let held = Self::received(response, &key)?;
        let (expires, renew, attested) = (held.expires, held.renew, held.attested());
        if let Some(folder) = &self.settings.state_dir
            && let Err(error) = kept::write(folder, &held.kept())
        {
            let fields =
                [("error", error.to_string().into()), ("folder", folder.display().to_string().into())];
            event(Level::Warn, "identity not kept", &fields);
        }
        self.held = Some(held);
        // The stream of roots goes on over a connection that shows the new certificate: the old one ends with its own.
        self.bundles = None;
        let at = |time| Timestamp(time).to_string();
        let fields = [
            ("expires", at(expires).into()),
            ("renewed", at(renew).into()),
            ("proof", proof.into()),
            ("attested", attested.map(at).into()),
        ];
        event(Level::Info, "certificate received", &fields);
        self.publish()
    }

    /// Asks on a connection that shows the certificate at hand: with the token besides where there is one, and without it
    /// where it is not taken. Gives also what was taken as a proof.
    async fn renew(&mut self, csr: &[u8]) -> Result<(SignResponse, &'static str), SourceError> {
        let now = clock::now().unix;
        let mut untaken = None;
        let mut unanswered = false;
        let mut held_back = None;
        if self.settings.token.is_some() {
            let refused = self.refused.as_ref();
            match self.token() {
                Ok(token) if refused.is_some_and(|refused| refused.holds_back(&token, now)) => {
                    untaken = refused.map(|refused| refused.why().to_owned());
                    held_back = Some(token);
                }
                Ok(token) => match self.show(csr, token, now).await {
                    Ok(response) => return Ok((response, TOKEN)),
                    // Nobody is there to be shown anything.
                    Err(error @ CallError::Connect { .. }) => return Err(fault(error)),
                    Err(error) => {
                        untaken = Some(error.to_string());
                        unanswered = error.code().is_none();
                    }
                },
                Err(error) => untaken = Some(error.to_string()),
            }
        }
        let error = match self.ask(&self.channel, csr, None).await {
            Ok(response) => return Ok((response, CERTIFICATE)),
            Err(error @ CallError::Connect { .. }) => return Err(fault(error)),
            Err(error) => error,
        };
        // A certificate that is refused in the handshake keeps the token from being shown beside it.
        unanswered |= held_back.is_some()
            && error.code().is_none()
            && self.refused.as_mut().is_some_and(|refused| refused.may_stand_alone(now));
        // Nothing else is left, and whatever was wrong with the token may be mended by now.
        if let Some(token) = held_back
            && error.code() == Some(UNAUTHENTICATED)
            && let Ok(response) = self.show(csr, token, now).await
        {
            return Ok((response, TOKEN));
        }
        // The certificate may be what is wrong: it proves nothing any more once its root is withdrawn. A control plane that
        // has judged the token, or the workload, says the same again, and counts it against all others at this address.
        let of_certificate = error.code().is_none_or(|code| code == UNAUTHENTICATED);
        if unanswered
            && of_certificate
            && let Ok(response) = self.join(csr).await
        {
            return Ok((response, TOKEN));
        }
        Err(fault(match untaken {
            Some(why) => format!("{error}; nor was the token taken: {why}"),
            None => error.to_string(),
        }))
    }

    /// Asks with the token besides the certificate, and notes whether it proves nothing.
    async fn show(
        &mut self,
        csr: &[u8],
        token: Zeroizing<String>,
        now: Duration,
    ) -> Result<SignResponse, CallError> {
        let error = match self.ask(&self.channel, csr, Some(token::proof(&token))).await {
            Ok(response) => {
                self.refused = None;
                return Ok(response);
            }
            Err(error @ CallError::Connect { .. }) => return Err(error),
            Err(error) => error,
        };
        // Any other status says nothing of the token: another one would fare no better.
        let proves_nothing = error.code() == Some(UNAUTHENTICATED);
        if let Some(refused) = self.refused.as_mut().filter(|refused| proves_nothing && refused.is(&token)) {
            // It was told of then.
            refused.again(now);
            return Err(error);
        }
        self.refused = proves_nothing.then(|| Refused::new(token, error.to_string(), now));
        let help = proves_nothing.then_some(UNTAKEN);
        let fields = [("error", error.to_string().into()), ("help", help.into())];
        event(Level::Warn, "token not taken", &fields);
        Err(error)
    }

    /// Asks with the token, on a connection that shows no certificate.
    async fn join(&self, csr: &[u8]) -> Result<SignResponse, SourceError> {
        let token = self.token()?;
        let stranger = Channel::new(self.options.clone());
        self.ask(&stranger, csr, Some(token::proof(&token))).await.map_err(fault)
    }

    /// The token, as it is now.
    fn token(&self) -> Result<Zeroizing<String>, SourceError> {
        let file = self.settings.token.as_ref();
        let file = file.ok_or_else(|| {
            fault("there is neither a certificate nor a token (--control-token) to ask with")
        })?;
        token::read(file).map_err(|error| fault(format!("{}: {error}", file.display())))
    }

    async fn ask(
        &self,
        channel: &Channel,
        csr: &[u8],
        proof: Option<Proof>,
    ) -> Result<SignResponse, CallError> {
        let request = SignRequest { csr: csr.to_vec().into(), proof };
        let response: SignResponse = channel.unary(SIGN, &request).await?;
        let domain = response.bundle.as_ref().map(|bundle| bundle.trust_domain.as_str());
        if domain == channel.trust_domain().as_deref() {
            Ok(response)
        } else {
            let fault = "its bundle is of another trust domain than it is itself".to_owned();
            Err(CallError::Malformed { at: channel.at(), fault })
        }
    }

    fn received(response: SignResponse, key: &KeyPair) -> Result<Held, SourceError> {
        let until = Some(response.attested_until).filter(|until| *until > 0).map(Duration::from_secs);
        let bundle = response.bundle.ok_or_else(|| fault("the answer has no bundle"))?;
        let chain = certificates(response.chain)?;
        let key = Zeroizing::new(key.serialize_der());
        let now = clock::now().unix;
        let held = Held::new(chain, key, certificates(bundle.roots)?, None, now)?;
        let held = Held { attested_until: until, ..held };
        let set = held.set(now)?;
        if set.id.trust_domain() == bundle.trust_domain {
            Ok(held)
        } else {
            Err(fault(format!(
                "the certificate is for {}, and the bundle for {}",
                set.id, bundle.trust_domain
            )))
        }
    }

    /// The next bundle; the first of a call is given also where it is the one in force.
    async fn bundle(
        channel: &Channel,
        bundles: &mut Option<Answers<Bundle>>,
    ) -> Result<Vec<CertificateDer<'static>>, SourceError> {
        let answers = match bundles {
            Some(answers) => answers,
            None => bundles.insert(channel.listen(BUNDLES, &BundleRequest {}).await.map_err(fault)?),
        };
        let outcome = match answers.next().await {
            Ok(Some(bundle)) => return certificates(bundle.roots),
            Ok(None) => fault("the control plane ended the stream of bundles"),
            Err(error) => fault(error),
        };
        *bundles = None;
        Err(outcome)
    }
}

#[async_trait]
impl Source for Control {
    async fn next(&mut self) -> Result<Set, SourceError> {
        if !self.begun {
            self.begun = true;
            if self.resume().is_some() {
                return self.publish();
            }
        }
        loop {
            let now = clock::now().unix;
            let Some(held) = self.held.as_ref().filter(|held| held.renew > now) else {
                return self.sign().await;
            };
            let nap = held.renew.saturating_sub(now).min(NAP);
            let roots = tokio::select! {
                () = sleep(nap) => continue,
                roots = Self::bundle(&self.channel, &mut self.bundles) => roots?,
            };
            let Some(held) = &mut self.held else { continue };
            let before = std::mem::replace(&mut held.roots, roots);
            match held.set(now) {
                Ok(_) => {}
                Err(error) => {
                    held.roots = before;
                    return Err(error.into());
                }
            }
            if let Some(folder) = &self.settings.state_dir
                && held.roots != before
            {
                let _ = kept::write(folder, &held.kept());
            }
            return self.publish();
        }
    }

    fn patience(&self) -> Duration {
        self.options.retry
    }
}

impl Held {
    /// `renew` is known where this was held before; otherwise it is when two thirds of the time that is left are
    /// over, or a little before.
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
        roots: Vec<CertificateDer<'static>>,
        renew: Option<Duration>,
        now: Duration,
    ) -> Result<Self, SourceError> {
        let facts = chain.first().and_then(|leaf| Facts::read(leaf));
        let expires = facts.ok_or_else(|| fault("there is no certificate"))?.not_after;
        let left = expires.saturating_sub(now);
        let renew = renew.unwrap_or_else(|| now + jittered(left.mul_f64(RENEWED), SPREAD));
        Ok(Self { chain, key, roots, expires, renew, attested_until: None })
    }

    fn set(&self, now: Duration) -> Result<Set, SetError> {
        let parts = Parts {
            chain: self.chain.clone(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.to_vec())),
            bundle: self.roots.clone(),
            federated: Vec::new(),
            revocations: Vec::new(),
        };
        let set = Set::new(parts, now)?;
        Ok(set.attested_until(self.attested_until))
    }

    /// When a token last proved the workload, where the certificate says so.
    fn attested(&self) -> Option<Duration> {
        Facts::read(self.chain.first()?)?.attested
    }

    fn kept(&self) -> Kept {
        Kept {
            chain: self.chain.clone(),
            key: self.key.clone(),
            roots: self.roots.clone(),
            renew: self.renew,
            attested_until: self.attested_until,
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("options", &self.options).finish_non_exhaustive()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "errors are handed over as `map_err` has them")]
fn fault(fault: impl ToString) -> SourceError {
    SourceError::Control(fault.to_string())
}

fn certificates(all: Vec<bytes::Bytes>) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    if all.is_empty() || all.len() > MAX_CERTIFICATES {
        return Err(fault(format!(
            "the answer has {} certificates, and 1 to {MAX_CERTIFICATES} are wanted",
            all.len()
        )));
    }
    Ok(all.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect())
}
