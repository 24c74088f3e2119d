//! Builds endpoints from their specification, or says everything that is wrong with it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::client_auth;
use crate::fault::{Code, Fault, Path};
use crate::introspection::{CacheSpec, Endpoint, OnUnavailable, Spec};
use crate::jwt::build::{scopes_claim, skew, slots};
use crate::jwt::claims::Rules;
use crate::resources::Resources;
use crate::units::TimeSpan;

/// Where a policy names none: a revoked token passes for so long.
const DEFAULT_MAX: Duration = Duration::from_mins(1);
const DEFAULT_NEGATIVE: Duration = Duration::from_secs(10);
/// Shortest and longest time that a policy may name.
const MAX_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));
const NEGATIVE_MAX: Duration = Duration::from_mins(1);
/// Most endpoints of one policy.
const MAX_ENDPOINTS: usize = 8;

/// Builds every endpoint; all faults of all of them are given at once.
pub(super) fn endpoints(
    specs: &[Spec],
    at: &Path,
    resources: &dyn Resources,
) -> Result<Vec<Endpoint>, Vec<Fault>> {
    let (mut faults, mut endpoints, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    if specs.len() > MAX_ENDPOINTS {
        faults.push(Fault::new(Code::VALUE, at.clone(), format!("over {MAX_ENDPOINTS} endpoints")));
    }
    for (index, spec) in specs.iter().enumerate() {
        let at = at.index(index);
        match &spec.issuer {
            Some(issuer) if !names.insert(issuer) => {
                faults.push(Fault::new(Code::CONFLICT, at.key("issuer"), "this issuer is listed twice"));
            }
            None if index > 0 => {
                let message = "no token is ever asked about here: only the first entry may name no issuer";
                let fault = Fault::new(Code::CONFLICT, at.clone(), message);
                faults.push(fault.help("name the issuer of its tokens"));
            }
            _ => {}
        }
        match endpoint(spec, &at, resources) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(endpoints) } else { Err(faults) }
}

fn endpoint(spec: &Spec, at: &Path, resources: &dyn Resources) -> Result<Endpoint, Vec<Fault>> {
    let mut faults = Vec::new();
    client_auth::endpoint(&spec.endpoint, &at.key("endpoint"), &mut faults);
    spec.client_auth.check(&at.key("clientAuth"), &mut faults);
    for (index, audience) in spec.audiences.iter().enumerate() {
        if audience.is_empty() {
            let at = at.key("audiences").index(index);
            faults.push(Fault::new(Code::VALUE, at, "the audience is empty"));
        }
    }
    let (max, negative) = times(spec.cache, &at.key("cache"), &mut faults);
    let skew = skew(spec.clock_skew, at, &mut faults);
    let slots = slots(&spec.claims_to_headers, at, &mut faults);
    let scopes = scopes_claim(spec.scopes_claim.as_deref(), at, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let introspector = resources.introspector(spec, at).map_err(|fault| vec![fault])?;
    let name = spec.issuer.as_deref().unwrap_or(&spec.endpoint);
    Ok(Endpoint {
        name: name.into(),
        issuer: spec.issuer.as_deref().map(Into::into),
        rules: Rules { audiences: spec.audiences.clone(), skew, scopes, bound: spec.require_binding },
        introspector,
        cache: resources.answers(name, fingerprint(spec)),
        max,
        negative,
        stale: spec.on_unavailable == OnUnavailable::Stale,
        slots,
        forward: spec.forward,
    })
}

fn times(said: CacheSpec, at: &Path, faults: &mut Vec<Fault>) -> (Duration, Duration) {
    let max = said.max.map_or(DEFAULT_MAX, |span| span.0);
    let (shortest, longest) = MAX_BOUNDS;
    if !(shortest..=longest).contains(&max) {
        let message = format!("the time must be between {} and {}", TimeSpan(shortest), TimeSpan(longest));
        faults.push(Fault::new(Code::VALUE, at.key("max"), message));
    }
    let negative = said.negative.map_or(DEFAULT_NEGATIVE, |span| span.0);
    if negative > NEGATIVE_MAX {
        let message = format!("the time is over {}", TimeSpan(NEGATIVE_MAX));
        faults.push(Fault::new(Code::VALUE, at.key("negative"), message));
    }
    (max, negative)
}

/// A hash of all that decides what an answer means; the same for the same rules in one process.
fn fingerprint(spec: &Spec) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&spec.issuer, &spec.endpoint, &spec.audiences, &spec.client_auth).hash(&mut hasher);
    let times = [spec.cache.max, spec.cache.negative, spec.clock_skew].map(|span| span.map(|span| span.0));
    (times, &spec.scopes_claim, spec.require_binding).hash(&mut hasher);
    hasher.finish()
}
