//! Credentials of upstreams: what is said of them fits together, and the secrets are there.

use std::time::Duration;

use foregate_filters::client_auth::{asymmetric, endpoint, is_loopback};
use foregate_filters::edits::is_framing;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::units::TimeSpan;
use http::HeaderName;

use crate::compile::Materials;
use crate::documents::credentials::{ClientCredentials, Credentials, Fixed, JwtBearer};
use crate::documents::endpoints::Endpoint;
use crate::documents::upstream;

/// Bounds of a lifetime that a policy names.
const LIFETIME: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(24));

/// Checks credentials whose paths are anchored; gives every fault.
pub fn check(said: &Credentials, at: &Path, materials: &dyn Materials) -> Vec<Fault> {
    let mut faults = Vec::new();
    let named = [said.client_credentials.is_some(), said.jwt_bearer.is_some(), said.fixed.is_some()];
    if named.into_iter().filter(|named| *named).count() != 1 {
        let message = "exactly one kind of credentials must be named";
        let fault = Fault::new(Code::CONFLICT, at.clone(), message);
        faults.push(fault.help("name one of clientCredentials, jwtBearer and static"));
        return faults;
    }
    if let Some(client) = &said.client_credentials {
        client_credentials(client, &at.key("clientCredentials"), &mut faults);
    }
    if let Some(assertion) = &said.jwt_bearer {
        jwt_bearer(assertion, &at.key("jwtBearer"), &mut faults);
    }
    if let Some(fixed) = &said.fixed {
        static_secret(fixed, &at.key("static"), &mut faults);
    }
    if faults.is_empty() {
        faults.extend(materials.credentials(said, at).err());
    }
    faults
}

fn client_credentials(said: &ClientCredentials, at: &Path, faults: &mut Vec<Fault>) {
    endpoint(&said.token_endpoint, &at.key("tokenEndpoint"), faults);
    said.client_auth.check(&at.key("clientAuth"), faults);
    lifetime(said.lifetime, &at.key("lifetime"), faults);
}

fn jwt_bearer(said: &JwtBearer, at: &Path, faults: &mut Vec<Fault>) {
    endpoint(&said.token_endpoint, &at.key("tokenEndpoint"), faults);
    said.key.check(&at.key("key"), faults);
    if let Some(alg) = said.alg {
        asymmetric(alg, &at.key("alg"), faults);
    }
    lifetime(said.lifetime, &at.key("lifetime"), faults);
}

fn static_secret(said: &Fixed, at: &Path, faults: &mut Vec<Fault>) {
    let name = said.header.to_ascii_lowercase();
    let ours = name.starts_with("x-forwarded-") || name.starts_with("x-foregate-");
    let header = HeaderName::from_bytes(name.as_bytes());
    if header.is_err() {
        faults.push(Fault::new(Code::VALUE, at.key("header"), "this is not a header name"));
    } else if ours || header.is_ok_and(|header| is_framing(&header)) {
        let message = format!("a credential must not set `{name}`");
        let fault = Fault::new(Code::CONFLICT, at.key("header"), message);
        faults.push(fault.help("use Authorization, or a header of the service, as x-api-key"));
    }
    let printable = |prefix: &String| prefix.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if said.prefix.as_ref().is_some_and(|prefix| !printable(prefix)) {
        faults.push(Fault::new(Code::VALUE, at.key("prefix"), "the prefix is not printable ASCII"));
    }
    said.value.check(&at.key("value"), faults);
}

fn lifetime(said: Option<TimeSpan>, at: &Path, faults: &mut Vec<Fault>) {
    let (shortest, longest) = LIFETIME;
    if said.is_some_and(|span| !(shortest..=longest).contains(&span.0)) {
        let message = format!("the time must be between {} and {}", TimeSpan(shortest), TimeSpan(longest));
        faults.push(Fault::new(Code::VALUE, at.clone(), message));
    }
}

/// True where credentials go over connections that others may see: plain ones, to another machine.
pub fn in_clear(said: &upstream::Spec) -> bool {
    said.credentials.is_some()
        && said.tls.is_none()
        && !(said.endpoints_file.is_none() && is_local(&said.endpoints))
}

/// True where all endpoints are on this machine, so that nobody else sees a plain connection.
fn is_local(endpoints: &[Endpoint]) -> bool {
    let host = |endpoint: &Endpoint| {
        let pair = endpoint.address().and_then(|address| address.rsplit_once(':'));
        pair.is_some_and(|(host, _)| is_loopback(host))
    };
    !endpoints.is_empty() && endpoints.iter().all(host)
}
