//! Fetches a JWK set from a URL, suspicious of everything that answers.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foregate_filters::jwt::key_set::{KeySet, KeySetError, MAX_BYTES};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use tokio::runtime::Handle;

/// For a whole fetch, discovery included: requests wait for it.
const TOTAL: Duration = Duration::from_secs(5);
/// For one connection, so that one dead address leaves time for another.
const CONNECT: Duration = Duration::from_secs(2);

/// Fetches keys on a runtime of its own choice, with one client for all issuers.
#[derive(Clone, Debug)]
pub struct Fetcher {
    pub(super) runtime: Handle,
    /// For a whole fetch.
    pub(super) total: Duration,
    client: Arc<OnceLock<Client>>,
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
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
    #[error("this is not a URL from which keys may be fetched")]
    Url,
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Http(String),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer is not JSON by its Content-Type")]
    ContentType,
    #[error("the answer is over 256 KiB")]
    TooLarge,
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
        Self { runtime, total: TOTAL, client: Arc::new(OnceLock::new()) }
    }

    /// Fetches once. Bounded in time and size; redirects are not followed.
    pub(super) async fn fetch(&self, source: &Source) -> Result<Fetched, FetchError> {
        tokio::time::timeout(self.total, self.fetch_keys(source)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn fetch_keys(&self, source: &Source) -> Result<Fetched, FetchError> {
        let url = match source {
            Source::Uri(uri) => trusted(uri, true)?,
            Source::Discovery { issuer } => self.discover(issuer).await?,
        };
        let response = self.ask(url).await?;
        let max_age = max_age(response.headers());
        let text = body(response).await?;
        Ok(Fetched { keys: KeySet::parse(&text)?, max_age })
    }

    async fn discover(&self, issuer: &str) -> Result<Url, FetchError> {
        let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = trusted(&document, true)?;
        // Only an issuer on this host may send us to this host.
        let local = is_loopback(&document);
        let text = body(self.ask(document).await?).await?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|error| FetchError::Discovery(error.to_string()))?;
        if metadata.issuer != issuer {
            return Err(FetchError::OtherIssuer);
        }
        trusted(&metadata.jwks_uri, local)
    }

    async fn ask(&self, url: Url) -> Result<Response, FetchError> {
        let request = self.client()?.get(url).header(ACCEPT, "application/jwk-set+json, application/json");
        let response = request.send().await.map_err(http_error)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        if is_json(response.headers()) { Ok(response) } else { Err(FetchError::ContentType) }
    }

    fn client(&self) -> Result<&Client, FetchError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Where the system has no CA certificates, no https issuer is trusted; loopback ones still work.
        let client = builder()
            .build()
            .or_else(|_| builder().tls_certs_only([]).build())
            .map_err(|error| FetchError::Client(error.to_string()))?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("foregate/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        // Minutes lie between two fetches: no server keeps a connection that long.
        .pool_max_idle_per_host(0)
}

/// A URL from which keys may come: `https`, or `http` to this host where that is allowed.
fn trusted(text: &str, loopback: bool) -> Result<Url, FetchError> {
    let url = Url::parse(text).map_err(|_| FetchError::Url)?;
    let plain = url.username().is_empty() && url.password().is_none();
    let secure = url.scheme() == "https" || (loopback && url.scheme() == "http" && is_loopback(&url));
    if plain && secure && url.has_host() { Ok(url) } else { Err(FetchError::Url) }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
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

async fn body(mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http_error)? {
        if text.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// The error with its causes; the URL is in the policy and need not be repeated.
fn http_error(error: reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Timeout;
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    FetchError::Http(text)
}

#[cfg(test)]
mod tests {
    use super::{is_json, max_age, trusted};
    use http::HeaderMap;
    use http::header::{CACHE_CONTROL, CONTENT_TYPE};
    use std::time::Duration;

    #[test]
    fn keys_come_by_https_or_from_this_host() {
        for (url, loopback, fits) in [
            ("https://idp.example.com/jwks", false, true),
            ("https://127.0.0.1/jwks", false, true),
            ("http://127.0.0.1:80/jwks", true, true),
            ("http://[::1]/jwks", true, true),
            ("http://localhost/jwks", true, true),
            ("http://127.0.0.1/jwks", false, false),
            ("http://idp.example.com/jwks", true, false),
            ("http://localhost.example.com/jwks", true, false),
            ("http://10.0.0.1/jwks", true, false),
            ("file:///etc/passwd", true, false),
            ("https://user:secret@idp.example.com/", true, false),
            ("idp.example.com", true, false),
        ] {
            assert_eq!(trusted(url, loopback).is_ok(), fits, "{url}");
        }
    }

    #[test]
    fn content_types_and_ages_are_read_from_headers() {
        for (kind, fits) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jwk-set+json", true),
            ("text/html", false),
            ("text/plain; application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(is_json(&headers), fits, "{kind}");
        }
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
