//! Live upstreams: the old state while its document stays the same.

use std::sync::Arc;

use foregate_filters::fault::Path;
use foregate_filters::org_quota::pool::Pool;
use foregate_policy::snapshot::{Shown, Upstream};
use sha2::{Digest, Sha256};

use crate::clock;
use crate::dispatch;
use crate::dispatch::roster::Roster;
use crate::dispatch::upstream::UpstreamState;
use crate::health;
use crate::oauth::credential::Credential;
use crate::org_quota;
use crate::part_metrics;
use crate::shared::Shared;
use crate::tls::TlsError;

impl Shared {
    /// Puts an upstream in the place of the one it renews.
    pub fn renewed(&self, old: &Arc<UpstreamState>, new: &Arc<UpstreamState>) {
        for (state, _) in self.kept().upstreams.0.values_mut() {
            if Arc::ptr_eq(state, old) {
                *state = Arc::clone(new);
            }
        }
        new.roster.show(new);
        self.watch(new);
    }

    /// Checks of its endpoints begin, where its document asks for some.
    fn watch(&self, upstream: &Arc<UpstreamState>) {
        if let Some(fetcher) = &self.fetcher {
            health::watch(upstream, &fetcher.runtime);
        }
    }

    /// The live state of an upstream: the old one while its document and authorities stay the same.
    ///
    /// # Errors
    /// Where its trusted authorities cannot be read.
    pub fn upstream(&self, spec: &Arc<Upstream>) -> Result<Arc<UpstreamState>, TlsError> {
        let authorities = spec.tls.iter().flat_map(|tls| &tls.ca_files);
        let mut bytes: Vec<u8> = authorities.filter_map(|file| std::fs::read(file).ok()).flatten().collect();
        if let Some(Shown::Certificate(files)) = spec.tls.as_ref().map(|tls| &tls.shown) {
            // A changed certificate is another identity; of the key itself nothing is kept.
            bytes.extend(std::fs::read(&files.certificate).unwrap_or_default());
            bytes.extend(Sha256::digest(std::fs::read(&files.key).unwrap_or_default()));
        }
        let credential = self.credential(spec);
        let identity = self.identity.as_ref().and_then(|identity| identity.current());
        let mark = identity.as_ref().map(|set| set.mark());
        let current = |state: &UpstreamState| {
            !state.uses_identity() || state.tls.as_ref().is_none_or(|tls| tls.identity == mark)
        };
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let key = (Arc::clone(&spec.name), bytes);
        let make = || Ok::<_, TlsError>(Roster::new(Arc::clone(&spec.name), self.telemetry.as_ref()));
        let (roster, _) = kept.rosters.take(Arc::clone(&spec.name), attempt, make)?;
        if let Some((state, used)) = kept.upstreams.0.get_mut(&key)
            && state.spec == *spec
            && current(state)
        {
            *used = attempt;
            return Ok(Arc::clone(state));
        }
        let tls = spec
            .tls
            .as_ref()
            .map(|tls| dispatch::tls::config(tls, spec.protocol, identity.as_deref()))
            .transpose()?;
        let mut state = UpstreamState::new(Arc::clone(spec), tls, roster, self.zone.clone());
        state.credential = credential;
        let mut known = None;
        let before = kept.upstreams.0.iter().filter(|((name, _), _)| *name == spec.name);
        if let Some((_, (before, _))) = before.max_by_key(|(_, (_, used))| *used) {
            state.sources.inherit(&before.sources);
            // What was learned of its limit stays true, and what is under way is counted on.
            if before.spec.concurrency == spec.concurrency {
                state.admission = Arc::clone(&before.admission);
            }
            state.catch_up(clock::monotonic());
            known.clone_from(&before.org);
        }
        state.org = self.pool(spec, known.as_ref());
        let state = Arc::new(state);
        kept.upstreams.0.insert(key, (Arc::clone(&state), attempt));
        drop(kept);
        self.watch(&state);
        Ok(state)
    }

    /// The calls of the org behind an upstream; what is known of them outlives the rules.
    fn pool(&self, spec: &Upstream, known: Option<&Arc<Pool>>) -> Option<Arc<Pool>> {
        let rules = spec.org_quota.as_ref()?;
        if let Some(known) = known.filter(|known| known.obeys(rules)) {
            return Some(Arc::clone(known));
        }
        let pool = Arc::new(Pool::new(rules.clone(), known.map(|known| &**known)));
        if let Some(telemetry) = &self.telemetry {
            org_quota::export(telemetry, &spec.name, &pool);
        }
        Some(pool)
    }

    /// What an upstream is shown: the old token while what is said of it stays the same.
    fn credential(&self, spec: &Upstream) -> Option<Arc<Credential>> {
        let said = spec.credentials.as_ref()?;
        let runtime = self.fetcher.as_ref().map(|fetcher| &fetcher.runtime);
        let open = || {
            let made = Credential::open(said, &Path::default(), &|secret| self.secret(secret), runtime);
            made.map(|credential| credential.map(Arc::new))
        };
        let tell = |telemetry: &_, credential: &Option<_>| {
            if let Some(credential) = credential {
                part_metrics::credential(telemetry, &spec.name, credential);
            }
        };
        // Faults were told when the policies were compiled: what is unfit since then is refused by requests.
        let key = (Arc::clone(&spec.name), said.clone());
        self.part(|kept| &mut kept.credentials, key, open, tell).ok()?
    }
}
