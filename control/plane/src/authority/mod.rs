//! The certificate authority of the trust domain: who signs, and which roots are trusted.

pub mod bundle;
pub mod certificate;
pub mod csr;
pub mod files;
pub mod generate;
pub mod signer;
pub mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use log::Level;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::authority::bundle::Bundle;
use crate::authority::files::{FileError, Material};
use crate::authority::generate::Generated;
use crate::authority::signer::{BACKDATED, Signer, SignerError, Subject};
use crate::authority::state::{Kept, Root, State};
use crate::clock::rfc3339;
use crate::event::event;
use crate::hex::sha256;

/// Its file in the state folder.
const FILE: &str = "authority.json";

/// Least life of a certificate that is worth signing, where the issuer ends before it would.
const LEAST: Duration = Duration::from_secs(5);

/// What an authority is made of.
#[derive(Clone, Debug)]
pub struct Terms {
    pub trust_domain: Box<str>,
    /// Life of a certificate.
    pub lifetime: Duration,
    /// How long a root is trusted before anything is signed below it.
    pub overlap: Duration,
}

/// Signs certificates, and knows the roots. Changes in steps: a root is trusted first, signs later, and is trusted
/// until the last certificate below it has expired.
#[derive(Debug)]
pub struct Authority {
    terms: Terms,
    file: PathBuf,
    core: Mutex<Core>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// Counts the issuers.
    issuers: watch::Sender<u64>,
}

#[derive(Debug)]
struct Core {
    state: State,
    signer: Arc<Signer>,
    /// The issuer to come, and from when on.
    next: Option<(Arc<Signer>, u64)>,
    /// `None` where the authority was generated.
    material: Option<Material>,
}

/// Where a state leads.
#[derive(Debug)]
struct Course {
    signer: Arc<Signer>,
    next: Option<(Arc<Signer>, u64)>,
    switched: bool,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Since the epoch.
    pub expires: Duration,
}

/// Why the authority is none, or stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{file}: {source}")]
    State { file: String, source: io::Error },
    #[error(
        "{0}: it holds no authority that can be used; remove it to begin anew: every workload must join again then"
    )]
    Unusable(String),
    #[error("the authority cannot be generated: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("the issuer cannot be used: {0}")]
    Signer(#[from] SignerError),
    #[error("a root cannot be used: {0}")]
    Root(webpki::Error),
    #[error(
        "the authority is made by others: add the new root to the file of `authority.roots`, and then replace the \
         files of the issuer"
    )]
    NotGenerated,
    #[error("a rotation is under way: the next issuer signs from {0} on")]
    UnderWay(String),
    #[error("the issuer expires: renew it")]
    IssuerExpires,
    #[error(
        "no root of this fingerprint is trusted; `foregate-control authority status` shows those that are"
    )]
    UnknownRoot,
    #[error(
        "the root is still needed: its issuer signs, or will, or it stands in the file of `authority.roots`"
    )]
    Needed,
}

impl Authority {
    /// The authority of these files, or the one that is kept in the state folder, or a new one.
    ///
    /// # Errors
    /// Why it cannot sign anything that would be trusted.
    pub fn open(
        terms: Terms,
        state_dir: &Path,
        material: Option<Material>,
        now: Duration,
    ) -> Result<Self, AuthorityError> {
        let file = state_dir.join(FILE);
        let name = || file.display().to_string();
        let wrong = |source| AuthorityError::State { file: name(), source };
        let kept: Option<State> = state::read(&file).map_err(wrong)?;
        let (state, signer, next) = match kept {
            Some(state) => {
                resume(state, material.as_ref(), now).ok_or_else(|| AuthorityError::Unusable(name()))?
            }
            None => begin(&terms.trust_domain, material.as_ref(), now)?,
        };
        let roots = state.roots.iter().map(|root| root.certificate.certificate()).collect();
        let bundle = Bundle::new(&terms.trust_domain, roots, state.sequence).map_err(AuthorityError::Root)?;
        let core = Core { state: State::default(), signer, next, material };
        let this = Self {
            terms,
            file,
            core: Mutex::new(core),
            bundle: watch::channel(Arc::new(bundle)).0,
            issuers: watch::channel(0).0,
        };
        this.step(&mut this.core(), state, now)?;
        Ok(this)
    }

    /// The roots in force, and every later change of them.
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// Tells when another issuer signs.
    pub fn issuers(&self) -> watch::Receiver<u64> {
        self.issuers.subscribe()
    }

    /// Of the files in force.
    fn mark(&self) -> Option<[u8; 32]> {
        self.core().material.as_ref().map(|material| material.mark)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a certificate for a workload.
    ///
    /// # Errors
    /// Where the issuer is at its end, or signing fails.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        subject: &Subject,
        now: Duration,
    ) -> Result<Issued, AuthorityError> {
        let signer = Arc::clone(&self.core().signer);
        let expires = (now + self.terms.lifetime).min(signer.expires);
        if expires < now + LEAST {
            return Err(AuthorityError::IssuerExpires);
        }
        let leaf = signer.sign(key, subject, now.saturating_sub(BACKDATED), expires)?;
        let chain = std::iter::once(leaf).chain(signer.chain.iter().cloned()).collect();
        Ok(Issued { chain, expires })
    }

    /// The SPIFFE id of a path here, such as `/ns/crm/sa/leads`.
    ///
    /// # Errors
    /// What makes it none.
    pub fn id(&self, path: &str) -> Result<SpiffeId, foregate_filters::peer::SpiffeIdError> {
        SpiffeId::parse(&format!("spiffe://{}{path}", self.terms.trust_domain))
    }

    /// Makes a new root and issuer. The root is trusted at once; the issuer signs when the overlap is over, which
    /// this gives, since the epoch.
    ///
    /// # Errors
    /// Where the authority is made by others, or a rotation is under way.
    pub fn rotate(&self, now: Duration) -> Result<Duration, AuthorityError> {
        let mut core = self.core();
        if core.material.is_some() {
            return Err(AuthorityError::NotGenerated);
        }
        if let Some((_, from)) = &core.next {
            return Err(AuthorityError::UnderWay(rfc3339(Duration::from_secs(*from))));
        }
        let made = Generated::new(&self.terms.trust_domain, now)?;
        let from = seconds_up(now + self.terms.overlap);
        let signer = Signer::new(vec![made.issuer], made.key, std::slice::from_ref(&made.root), now)?;
        let mut state = core.state.clone();
        state.roots.push(Root::new(&made.root, now));
        let before = core.next.replace((Arc::new(signer.ours()), from));
        self.step(&mut core, state, now).inspect_err(|_| core.next = before)?;
        Ok(Duration::from_secs(from))
    }

    /// Trusts a root no longer, from now on: whoever has a certificate below it must join again.
    ///
    /// # Errors
    /// Where there is no such root, or it is needed.
    pub fn withdraw(&self, sha256: &str, now: Duration) -> Result<(), AuthorityError> {
        let mut core = self.core();
        let mut state = core.state.clone();
        let found =
            state.roots.iter_mut().find(|root| fingerprint(&root.certificate.certificate()) == sha256);
        let root = found.ok_or(AuthorityError::UnknownRoot)?;
        // One whose end has not come is one that is needed.
        root.leaves = Some(root.leaves.map(|_| now.as_secs()).ok_or(AuthorityError::Needed)?);
        self.step(&mut core, state, now)
    }

    /// Takes up what the files hold now.
    ///
    /// # Errors
    /// Where it cannot be written down; then nothing changes.
    pub fn adopt(&self, material: Material, now: Duration) -> Result<(), AuthorityError> {
        let mut core = self.core();
        let state = core.state.clone();
        let before = core.material.replace(material);
        self.step(&mut core, state, now).inspect_err(|_| core.material = before)
    }

    /// Does what its time has come for.
    ///
    /// # Errors
    /// Where it cannot be written down; then nothing changes.
    pub fn advance(&self, now: Duration) -> Result<(), AuthorityError> {
        let mut core = self.core();
        let state = core.state.clone();
        self.step(&mut core, state, now)
    }

    /// Goes on from a state to what follows from it now, writes that down, and tells of it.
    fn step(&self, core: &mut Core, mut state: State, now: Duration) -> Result<(), AuthorityError> {
        let Course { signer, next, switched } = self.course(core, &mut state, now);
        let roots: Vec<_> = state.roots.iter().map(|root| root.certificate.certificate()).collect();
        let changed = roots != self.bundle.borrow().roots || state.sequence == 0;
        state.sequence += u64::from(changed);
        let bundle = changed.then(|| Bundle::new(&self.terms.trust_domain, roots, state.sequence));
        let bundle = bundle.transpose().map_err(AuthorityError::Root)?;
        if state != core.state {
            state::write(&self.file, &state)
                .map_err(|source| AuthorityError::State { file: self.file.display().to_string(), source })?;
        }
        (core.state, core.signer, core.next) = (state, signer, next);
        if let Some(bundle) = bundle {
            let fields = [("sequence", bundle.sequence.into()), ("roots", bundle.roots.len().into())];
            event(Level::Info, "bundle changed", &fields);
            self.bundle.send_replace(Arc::new(bundle));
        }
        if switched {
            let issuer = fingerprint(&core.signer.certificate);
            event(Level::Info, "issuer changed", &[("sha256", issuer.into())]);
            self.issuers.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Who signs now, and which roots are trusted and until when.
    fn course(&self, core: &Core, state: &mut State, now: Duration) -> Course {
        let (mut signer, mut next) = (Arc::clone(&core.signer), core.next.clone());
        if let Some(material) = &core.material {
            for root in &material.roots {
                if !state.roots.iter().any(|known| known.is(root)) {
                    state.roots.push(Root::new(root, now));
                }
            }
            let offered = &material.signer;
            if offered.certificate == signer.certificate {
                next = None;
            } else if next.as_ref().is_none_or(|(next, _)| next.certificate != offered.certificate) {
                let since = state.roots.iter().filter(|root| offered.roots.iter().any(|one| root.is(one)));
                let since = since.map(Root::trusted).min().unwrap_or(now);
                next = Some((Arc::clone(offered), seconds_up(since + self.terms.overlap)));
            }
        }
        let due = next.take_if(|(_, from)| *from <= now.as_secs());
        let switched = due.is_some();
        if let Some((due, _)) = due {
            signer = due;
        }
        for root in &mut state.roots {
            let listed = core.material.iter().flat_map(|material| &material.roots);
            let coming = next.iter().flat_map(|(next, _)| &next.roots);
            let wanted = listed.chain(coming).chain(&signer.roots).any(|wanted| root.is(wanted));
            let leaves = root.leaves.unwrap_or_else(|| seconds_up(now + self.terms.lifetime));
            root.leaves = (!wanted).then_some(leaves);
        }
        state.roots.retain(|root| root.leaves.is_none_or(|leaves| leaves > now.as_secs()));
        state.issuer = Some(signer.kept());
        state.next = next.as_ref().map(|(next, from)| (next.kept(), *from));
        Course { signer, next, switched }
    }

    /// What operators are told.
    pub fn status(&self) -> Value {
        let core = self.core();
        let seconds = |seconds: u64| rfc3339(Duration::from_secs(seconds));
        let issuer = |signer: &Signer| json!({ "sha256": fingerprint(&signer.certificate), "expires": rfc3339(signer.expires) });
        let roots = core.state.roots.iter().map(|root| {
            let certificate = root.certificate.certificate();
            let expires = certificate::Facts::read(&certificate).map(|facts| rfc3339(facts.not_after));
            json!({
                "sha256": fingerprint(&certificate),
                "expires": expires,
                "trusted": (root.trusted > 0).then(|| seconds(root.trusted)),
                "leaves": root.leaves.map(seconds),
                "signs": core.signer.roots.contains(&certificate),
            })
        });
        json!({
            "trustDomain": &self.terms.trust_domain,
            "sequence": core.state.sequence,
            "roots": roots.collect::<Vec<_>>(),
            "issuer": issuer(&core.signer),
            "next": core.next.as_ref().map(|(next, from)| json!({ "issuer": issuer(next), "signs": seconds(*from) })),
        })
    }
}

/// What a process begins with.
type Beginning = (State, Arc<Signer>, Option<(Arc<Signer>, u64)>);

/// Where there was no authority before. Nobody trusts another one, so the roots need no time to get about.
fn begin(
    trust_domain: &str,
    material: Option<&Material>,
    now: Duration,
) -> Result<Beginning, AuthorityError> {
    let (roots, signer) = if let Some(material) = material {
        (material.roots.clone(), Arc::clone(&material.signer))
    } else {
        let Generated { root, issuer, key } = Generated::new(trust_domain, now)?;
        let signer = Signer::new(vec![issuer], key, std::slice::from_ref(&root), now)?;
        (vec![root], Arc::new(signer.ours()))
    };
    let roots = roots.iter().map(|root| Root::new(root, Duration::ZERO)).collect();
    Ok((State { roots, ..State::default() }, signer, None))
}

/// Goes on where a process has ended; `None` where nobody is left who could sign.
fn resume(state: State, material: Option<&Material>, now: Duration) -> Option<Beginning> {
    let roots: Vec<_> = state.roots.iter().map(|root| root.certificate.certificate()).collect();
    let ours = |kept: &Kept| {
        let signer = Signer::new(kept.certificates(), kept.key_pair()?, &roots, now).ok()?;
        Some(Arc::new(signer.ours()))
    };
    let next = state.next.as_ref().and_then(|(next, from)| Some((ours(next)?, *from)));
    if let Some(signer) = state.issuer.as_ref().and_then(ours) {
        return Some((state, signer, next));
    }
    let signer = Arc::clone(&material?.signer);
    if state.issuer.as_ref().is_some_and(|before| before.chain != signer.kept().chain) {
        let help =
            "its key was not there to go on with: proxies that were cut off may not trust the new root yet";
        event(Level::Warn, "issuer replaced while stopped", &[("help", help.into())]);
    }
    Some((state, signer, next))
}

/// Seconds, rounded up.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// SHA-256 of a certificate, in hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    sha256(certificate)
}
