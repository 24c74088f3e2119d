//! Builds issuers from their specification, or says everything that is wrong with it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use http::HeaderName;

use crate::client_auth::url;
use crate::edits::is_reserved;
use crate::fault::{Code, Fault, Path};
use crate::jwt::claim_headers::ClaimSlot;
use crate::jwt::claim_path::ClaimPath;
use crate::jwt::claims::Rules;
use crate::jwt::token::bare_type;
use crate::jwt::{Alg, ClaimHeader, Issuer, Jwks, Spec};
use crate::resources::Resources;
use crate::units::TimeSpan;

/// Where a policy names none: asymmetric, and in wide use.
const DEFAULT_ALGORITHMS: [Alg; 5] = [Alg::RS256, Alg::PS256, Alg::ES256, Alg::ES384, Alg::EdDSA];
/// Tolerated difference of clocks where a policy names none.
const DEFAULT_SKEW: Duration = Duration::from_secs(30);
/// Longest tolerated difference: beyond it, `exp` means little.
const MAX_SKEW: Duration = Duration::from_mins(5);
/// Most issuers of one policy: each is asked for a cached token.
const MAX_ISSUERS: usize = 32;
/// Keys that travel in clear can be swapped on the way, and with them every identity.
const IN_CLEAR: &str = "keys would be fetched over plain http";
/// Longest claim name that can be handed on.
const MAX_CLAIM_BYTES: usize = 256;

/// Builds every issuer; all faults of all of them are given at once.
pub(super) fn issuers(
    specs: &[Spec],
    at: &Path,
    resources: &dyn Resources,
) -> Result<Vec<Issuer>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    let mut issuers = Vec::with_capacity(specs.len());
    if specs.is_empty() {
        let fault = Fault::new(Code::CONFLICT, at.clone(), "`jwt` lists no issuer");
        faults.push(fault.help("name an issuer, or leave `jwt` out"));
    }
    if specs.len() > MAX_ISSUERS {
        faults.push(Fault::new(Code::VALUE, at.clone(), format!("over {MAX_ISSUERS} issuers")));
    }
    for (index, spec) in specs.iter().enumerate() {
        let at = at.index(index);
        if !names.insert(&*spec.issuer) {
            let fault = Fault::new(Code::CONFLICT, at.key("issuer"), "this issuer is listed twice");
            faults.push(fault.help("put all its audiences into one entry"));
        }
        match issuer(spec, &at, resources) {
            Ok(issuer) => issuers.push(issuer),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(issuers) } else { Err(faults) }
}

fn issuer(spec: &Spec, at: &Path, resources: &dyn Resources) -> Result<Issuer, Vec<Fault>> {
    let mut faults = Vec::new();
    if spec.issuer.is_empty() {
        faults.push(Fault::new(Code::VALUE, at.key("issuer"), "the issuer is empty"));
    }
    audiences(spec, at, &mut faults);
    let algorithms = algorithms(spec, at, &mut faults);
    source(spec, at, &mut faults);
    let skew = skew(spec.clock_skew, at, &mut faults);
    let slots = slots(&spec.claims_to_headers, at, &mut faults);
    let scopes = scopes_claim(spec.scopes_claim.as_deref(), at, &mut faults);
    let types = types(spec, at, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let jwks_at = at.key("jwks");
    let keys = resources.keys(&spec.issuer, &spec.jwks, &jwks_at).map_err(|fault| vec![fault])?;
    let local = spec.jwks.file.is_some() || spec.jwks.inline.is_some();
    if local && keys.current().is_some_and(|keys| !keys.serves(&algorithms)) {
        let fault = Fault::new(Code::CONFLICT, jwks_at, "none of the keys serves an accepted algorithm");
        return Err(vec![fault.help("give the algorithms of the keys in `algorithms`")]);
    }
    Ok(Issuer {
        cache: resources.tokens(&spec.issuer, fingerprint(spec, &algorithms, skew)),
        name: spec.issuer.as_str().into(),
        rules: Rules { audiences: spec.audiences.clone(), skew, scopes, bound: spec.require_binding },
        types,
        algorithms,
        keys,
        slots,
        forward: spec.forward,
    })
}

fn audiences(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) {
    let at = at.key("audiences");
    if spec.audiences.is_empty() {
        let fault = Fault::new(Code::CONFLICT, at.clone(), "no audience is accepted");
        faults.push(fault.help("without one, a token meant for any other service would pass"));
    }
    for (index, audience) in spec.audiences.iter().enumerate() {
        if audience.is_empty() {
            faults.push(Fault::new(Code::VALUE, at.index(index), "the audience is empty"));
        }
    }
}

fn algorithms(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) -> Vec<Alg> {
    let at = at.key("algorithms");
    let fetched = spec.jwks.uri.is_some() || spec.jwks.discover;
    for (index, alg) in spec.algorithms.iter().enumerate() {
        if spec.algorithms.iter().take(index).any(|earlier| earlier == alg) {
            faults.push(Fault::new(Code::CONFLICT, at.index(index), format!("{alg:?} is listed twice")));
        }
        if alg.is_symmetric() && fetched {
            let message = format!("{alg:?} needs a shared secret, and the keys come from a URL");
            let fault = Fault::new(Code::CONFLICT, at.index(index), message);
            faults.push(fault.help("use an asymmetric algorithm, or give the secret by `file`"));
        }
    }
    if spec.algorithms.is_empty() { DEFAULT_ALGORITHMS.to_vec() } else { spec.algorithms.clone() }
}

pub(crate) fn skew(said: Option<TimeSpan>, at: &Path, faults: &mut Vec<Fault>) -> Duration {
    let skew = said.map_or(DEFAULT_SKEW, |span| span.0);
    if skew > MAX_SKEW {
        faults.push(Fault::new(Code::VALUE, at.key("clockSkew"), "the clock skew is over 5m"));
    }
    skew
}

fn source(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) {
    let at = at.key("jwks");
    let Jwks { uri, discover, file, inline } = &spec.jwks;
    let named = [uri.is_some(), *discover, file.is_some(), inline.is_some()];
    match named.iter().filter(|named| **named).count() {
        1 => {}
        count => {
            let message =
                if count == 0 { "no source of keys is named" } else { "several sources of keys are named" };
            let fault = Fault::new(Code::CONFLICT, at.clone(), message);
            faults.push(fault.help("name exactly one of `uri`, `discover: true`, `file` and `inline`"));
        }
    }
    if let Some(uri) = uri {
        url(uri, &at.key("uri"), IN_CLEAR, faults);
    }
    if *discover {
        url(&spec.issuer, &at.key("discover"), IN_CLEAR, faults);
    }
}

/// The way to the scopes of a token, where the policy names one.
pub(crate) fn scopes_claim(said: Option<&str>, at: &Path, faults: &mut Vec<Fault>) -> Option<ClaimPath> {
    let claim = said?;
    if claim.is_empty() || claim.len() > MAX_CLAIM_BYTES {
        let message = "the claim is not of 1 to 256 bytes";
        faults.push(Fault::new(Code::VALUE, at.key("scopesClaim"), message));
    }
    Some(ClaimPath::new(claim))
}

/// Accepted `typ` values in one spelling; `None` stands for a token without one.
fn types(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) -> Vec<Option<Box<str>>> {
    if spec.types.is_empty() {
        return [None, Some("jwt"), Some("at+jwt")].into_iter().map(|typ| typ.map(Into::into)).collect();
    }
    let mut types = Vec::with_capacity(spec.types.len());
    for (index, typ) in spec.types.iter().enumerate() {
        let bare = Some(bare_type(typ));
        if typ.is_empty() {
            faults.push(Fault::new(Code::VALUE, at.key("types").index(index), "the type is empty"));
        } else if types.contains(&bare) {
            let message = format!("`{typ}` is listed twice");
            faults.push(Fault::new(Code::CONFLICT, at.key("types").index(index), message));
        }
        types.push(bare);
    }
    types
}

pub(crate) fn slots(rows: &[ClaimHeader], at: &Path, faults: &mut Vec<Fault>) -> Vec<ClaimSlot> {
    let at = at.key("claimsToHeaders");
    let mut slots: Vec<ClaimSlot> = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let at = at.index(index);
        if row.claim.is_empty() || row.claim.len() > MAX_CLAIM_BYTES {
            faults.push(Fault::new(Code::VALUE, at.key("claim"), "the claim is not of 1 to 256 bytes"));
        }
        let at = at.key("header");
        let Ok(header) = HeaderName::from_bytes(row.header.as_bytes()) else {
            faults.push(Fault::new(Code::VALUE, at, "this is not a header name"));
            continue;
        };
        if is_reserved(&header) {
            let message = format!("a claim must not set `{header}`");
            faults.push(Fault::new(Code::CONFLICT, at, message).help("use a header of your own, as x-user"));
        } else if slots.iter().any(|slot| slot.header == header) {
            faults.push(Fault::new(Code::CONFLICT, at, format!("`{header}` is set twice")));
        } else {
            slots.push(ClaimSlot::new(&row.claim, header));
        }
    }
    slots
}

/// A hash of all that decides whether a token is valid; the same for the same rules in one process.
fn fingerprint(spec: &Spec, algorithms: &[Alg], skew: Duration) -> u64 {
    let Jwks { uri, discover, file, inline } = &spec.jwks;
    let mut hasher = DefaultHasher::new();
    (&spec.issuer, &spec.audiences, algorithms, skew).hash(&mut hasher);
    (uri, discover, file, inline).hash(&mut hasher);
    (spec.require_binding, &spec.types, &spec.scopes_claim).hash(&mut hasher);
    hasher.finish()
}
