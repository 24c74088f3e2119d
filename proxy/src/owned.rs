//! Headers that only the gateway sets: a client's copies go on no route.

use std::collections::HashSet;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRAILER,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName};

/// Prefix of headers that only the gateway may set, whatever the policy says.
pub const OWN_PREFIX: &str = "x-foregate-";

/// Fields that frame, route or authenticate a message; they mean nothing as trailers, or harm
/// (RFC 9110, section 6.5.1).
static NO_TRAILERS: [HeaderName; 10] = [
    AUTHORIZATION,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// What the filters of all routes set, and all that starts with [`OWN_PREFIX`].
#[derive(Debug, Default)]
pub struct Owned {
    names: HashSet<HeaderName, ahash::RandomState>,
    /// Headers that carry credentials of upstreams: clients' own ones are replaced for these upstreams alone.
    credentials: Vec<HeaderName>,
}

impl Owned {
    pub fn new(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self { names: names.into_iter().collect(), credentials: Vec::new() }
    }

    /// Adds headers that carry credentials of upstreams: no trailer may pose as one.
    #[must_use]
    pub fn with_credentials(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.credentials.extend(names);
        self
    }

    /// True for a header of ours, also with underscores, which some services read as dashes.
    pub fn holds(&self, name: &HeaderName) -> bool {
        has_prefix(name.as_str(), OWN_PREFIX) || self.names.contains(name) || self.alike(name.as_str())
    }

    fn alike(&self, name: &str) -> bool {
        name.contains('_')
            && HeaderName::try_from(name.replace('_', "-")).is_ok_and(|name| self.names.contains(&name))
    }

    /// Removes every header of ours.
    pub fn strip(&self, headers: &mut HeaderMap) {
        remove(headers, |name| self.holds(name));
    }

    /// Removes trailers that a service might take for headers which the gateway sets or has checked.
    pub fn strip_trailers(&self, trailers: &mut HeaderMap) {
        remove(trailers, |name| {
            self.holds(name)
                || NO_TRAILERS.contains(name)
                || has_prefix(name.as_str(), "x-forwarded-")
                || self.credentials.iter().any(|own| spelled(name.as_str(), own.as_str()))
        });
    }
}

/// True where a name starts with the prefix; an underscore counts as a dash.
pub fn has_prefix(name: &str, prefix: &str) -> bool {
    name.len() > prefix.len()
        && name.bytes().zip(prefix.bytes()).all(|(given, own)| given == own || (given == b'_' && own == b'-'))
}

/// True where a name is that of ours; an underscore counts as a dash.
fn spelled(name: &str, own: &str) -> bool {
    name == own || (name.len() == own.len() && name.replace('_', "-") == own)
}

/// Removes every header whose name is wanted gone.
pub fn remove(headers: &mut HeaderMap, gone: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&gone) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| gone(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Owned;
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn headers(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
    }

    fn left(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn our_headers_go_in_every_spelling() {
        let owned = Owned::new([HeaderName::from_static("x-user")]);
        let mut given = headers(&[
            "x-user",
            "x_user",
            "x-foregate-decision",
            "x_foregate_x",
            "x-foregate-",
            "x-users",
            "host",
        ]);
        owned.strip(&mut given);
        assert_eq!(left(&given), ["host", "x-foregate-", "x-users"]);
    }

    #[test]
    fn trailers_cannot_pose_as_headers() {
        let owned = Owned::new([HeaderName::from_static("x-user")]);
        let mut given =
            headers(&["x-user", "authorization", "content-length", "x-forwarded-for", "grpc-status"]);
        owned.strip_trailers(&mut given);
        assert_eq!(left(&given), ["grpc-status"]);
    }
}
