//! Fetches a JWK set from a URL, suspicious of everything that answers.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::jwt::key_set::{KeySet, KeySetError, MAX_BYTES};
use http::HeaderMap;
use http::header::{ACCEPT, CACHE_CONTROL};
use reqwest::Url;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::oauth::http::{Http, HttpError, Json, TOTAL, is_loopback, trusted};

/// Fetches keys on a runtime of its own choice, with one client for all issuers.
#[derive(Clone, Debug)]
pub struct Fetcher {
    pub(crate) runtime: Handle,
    /// For a whole fetch, discovery included.
    pub(super) total: Duration,
    http: Http,
    /// Told when an issuer no longer names a key that it named before.
    withdrawn: Arc<Notify>,
}

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A JWK set.
    Uri(String),
    /// The issuer's metadata, and the JWK set named there (`OpenID` Connect Discovery 1.0, section 4).
    Discovery { issuer: String },
}

/// Why a fetch gave no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("the discovery document is malformed: {0}")]
    Discovery(String),
    #[error("the discovery document is of another issuer")]
    OtherIssuer,
    #[error("{0}")]
    Set(#[from] KeySetError),
}

/// Keys, and how long their issuer says they are fresh.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    pub(super) max_age: Option<Duration>,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// Fetches run as tasks of `runtime`. The client is made when the first fetch needs it.
    pub fn new(runtime: Handle) -> Self {
        // Minutes lie between two fetches: no server keeps a connection that long.
        Self { runtime, total: TOTAL, http: Http::new(0), withdrawn: Arc::default() }
    }

    /// Woken whenever keys of an issuer are withdrawn.
    pub fn withdrawn(&self) -> Arc<Notify> {
        Arc::clone(&self.withdrawn)
    }

    /// Fetches once. Bounded in time and size; redirects are not followed.
    pub(super) async fn fetch(&self, source: &Source) -> Result<Fetched, FetchError> {
        tokio::time::timeout(self.total, self.fetch_keys(source))
            .await
            .unwrap_or(Err(HttpError::Timeout.into()))
    }

    async fn fetch_keys(&self, source: &Source) -> Result<Fetched, FetchError> {
        let url = match source {
            Source::Uri(uri) => trusted(uri, true)?,
            Source::Discovery { issuer } => self.discover(issuer).await?,
        };
        let answer = self.ask(url).await?;
        Ok(Fetched { keys: KeySet::parse(&answer.body)?, max_age: max_age(&answer.headers) })
    }

    async fn discover(&self, issuer: &str) -> Result<Url, FetchError> {
        let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = trusted(&document, true)?;
        // Only an issuer on this host may send us to this host.
        let local = is_loopback(&document);
        let text = self.ask(document).await?.body;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|error| FetchError::Discovery(error.to_string()))?;
        if metadata.issuer != issuer {
            return Err(FetchError::OtherIssuer);
        }
        Ok(trusted(&metadata.jwks_uri, local)?)
    }

    async fn ask(&self, url: Url) -> Result<Json, HttpError> {
        let accept = "application/jwk-set+json, application/json";
        self.http.json(MAX_BYTES, |client| client.get(url).header(ACCEPT, accept)).await
    }
}

/// `max-age` of the answer; zero where it must not be stored (RFC 9111, section 5.2.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut age = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive == "no-cache" {
                return Some(Duration::ZERO);
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                age = age.or(seconds.trim_matches('"').parse().ok().map(Duration::from_secs));
            }
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::max_age;
    use http::HeaderMap;
    use http::header::CACHE_CONTROL;
    use std::time::Duration;

    #[test]
    fn ages_are_read_from_headers() {
        for (said, age) in [
            ("public, max-age=600", Some(600)),
            ("MAX-AGE=7", Some(7)),
            ("max-age=600, no-store", Some(0)),
            ("max-age=x", None),
            ("public", None),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, said.parse().unwrap())]);
            assert_eq!(max_age(&headers), age.map(Duration::from_secs), "{said}");
        }
    }
}
