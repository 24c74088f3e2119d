//! HTTP to issuers and authorization servers, suspicious of everything that answers.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, Url};

use crate::oauth::form::Form;
use crate::rpc::causes;

/// For a whole exchange: requests wait for it.
pub const TOTAL: Duration = Duration::from_secs(5);
/// For one connection, so that one dead address leaves time for another.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an unused connection is kept, where any is.
const IDLE: Duration = Duration::from_secs(30);

/// A client that follows no redirect, uses no proxy of the environment and is bounded in time.
///
/// It belongs to the runtime on which it is first used.
#[derive(Clone, Debug)]
pub struct Http {
    client: Arc<OnceLock<Client>>,
    /// Unused connections kept for each host.
    idle: usize,
}

/// Why there is no answer that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
    #[error("this is not a URL that may be asked")]
    Url,
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Http(String),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer is not JSON by its Content-Type")]
    ContentType,
    #[error("the answer is over {0} KiB")]
    TooLarge(usize),
}

/// The head and the whole body of an answer that is JSON by its type.
#[derive(Debug)]
pub struct Json {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Http {
    /// The client is made when the first exchange needs it.
    pub fn new(idle: usize) -> Self {
        Self { client: Arc::new(OnceLock::new()), idle }
    }

    /// Sends what `request` builds; gives an answer of status 200, JSON, of at most `max` bytes.
    ///
    /// # Errors
    /// Every other answer, and none.
    pub async fn json(
        &self,
        max: usize,
        request: impl FnOnce(&Client) -> RequestBuilder,
    ) -> Result<Json, HttpError> {
        let json = self.any_status(max, request).await?;
        if json.status == StatusCode::OK { Ok(json) } else { Err(HttpError::Status(json.status)) }
    }

    /// The same with whatever status; the body of an answer that is not 200 is empty where it is not JSON or
    /// too large.
    ///
    /// # Errors
    /// No answer, or one of status 200 that is not as it must be.
    async fn any_status(
        &self,
        max: usize,
        request: impl FnOnce(&Client) -> RequestBuilder,
    ) -> Result<Json, HttpError> {
        let response = request(self.client()?).send().await.map_err(http_error)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = if is_json(&headers) { read(response, max).await } else { Err(HttpError::ContentType) };
        match body {
            Ok(body) => Ok(Json { status, headers, body }),
            Err(_) if status != StatusCode::OK => Ok(Json { status, headers, body: Vec::new() }),
            Err(error) => Err(error),
        }
    }

    /// Posts a form (RFC 6749, appendix B), with what proves who asks; gives an answer of whatever status. The
    /// body of one that is not 200 is empty where it is not JSON or too large.
    ///
    /// # Errors
    /// No answer, or one of status 200 that is not as it must be.
    pub async fn form(
        &self,
        max: usize,
        url: Url,
        form: Form,
        authorization: Option<HeaderValue>,
    ) -> Result<Json, HttpError> {
        let request = |client: &Client| {
            let request = client
                .post(url)
                .header(ACCEPT, "application/json")
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.bytes());
            match authorization {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        };
        self.any_status(max, request).await
    }

    fn client(&self) -> Result<&Client, HttpError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Where the system has no CA certificates, no https server is trusted; loopback ones still work.
        let client = self
            .builder()
            .build()
            .or_else(|_| self.builder().tls_certs_only([]).build())
            .map_err(|error| HttpError::Client(error.to_string()))?;
        Ok(self.client.get_or_init(|| client))
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        Client::builder()
            .user_agent(concat!("foregate/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(self.idle)
    }
}

/// A URL that may be asked: `https`, or `http` to this host where that is allowed.
///
/// # Errors
/// [`HttpError::Url`] for every other.
pub fn trusted(text: &str, loopback: bool) -> Result<Url, HttpError> {
    let url = Url::parse(text).map_err(|_| HttpError::Url)?;
    let plain = url.username().is_empty() && url.password().is_none();
    let secure = url.scheme() == "https" || (loopback && url.scheme() == "http" && is_loopback(&url));
    if plain && secure && url.has_host() { Ok(url) } else { Err(HttpError::Url) }
}

/// True for a URL of this host.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(mut response: Response, max: usize) -> Result<Vec<u8>, HttpError> {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http_error)? {
        if text.len() + chunk.len() > max {
            return Err(HttpError::TooLarge(max / 1024));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// The innermost cause, which says what to mend: a refused connection, a name that does not exist.
pub fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The error with its causes; the URL is in the policy and need not be repeated.
fn http_error(error: reqwest::Error) -> HttpError {
    if error.is_timeout() {
        return HttpError::Timeout;
    }
    HttpError::Http(causes(&error.without_url()))
}

#[cfg(test)]
mod tests {
    use super::{is_json, trusted};
    use http::HeaderMap;
    use http::header::CONTENT_TYPE;

    #[test]
    fn answers_come_by_https_or_from_this_host() {
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
    fn what_is_json_is_said_by_its_type() {
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
    }
}
