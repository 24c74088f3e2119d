//! Asks the API server, for JSON.

use std::time::Duration;

use foregate_filters::causes::causes;
use foregate_filters::percent;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Objects of one answer, and the most that are read of one kind.
const PAGE: usize = 500;
const MOST: usize = 10_000;
/// Largest answer in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Why there is no answer to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Failed(String),
}

/// What the API server said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The header `Date`.
    pub date: Option<String>,
    /// Null where it is no JSON.
    pub body: Value,
}

#[derive(Clone)]
pub struct Reader {
    client: Client,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// # Errors
    /// Where there is no answer in time.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Unread> {
        let failed = |why: &dyn std::fmt::Display| Unread::Failed(why.to_string());
        let bytes = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = Request::builder().method(method).uri(path).header("accept", "application/json");
        let request = request.header("content-type", "application/json").body(Body::from(bytes));
        let request = request.map_err(|error| failed(&error))?;
        let asked = async {
            let response = self.client.send(request).await.map_err(|error| failed(&causes(&error)))?;
            let (head, body) = response.into_parts();
            let body = http_body_util::Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| failed(&error))?.to_bytes();
            let date = head.headers.get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
            let body = serde_json::from_slice(&body).unwrap_or_default();
            Ok(Answer { status: head.status.as_u16(), date, body })
        };
        timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(failed(&"no answer within 10 s")))
    }

    /// An object; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be asked for.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, Unread> {
        let answer = self.send(Method::GET, path, None).await?;
        match answer.status {
            404 => Ok(None),
            _ => answer.good().map(Some),
        }
    }

    /// Objects of a kind, as far as there is room for them; none where there is no such kind.
    ///
    /// # Errors
    /// Where they cannot be asked for.
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, Unread> {
        let mut all: Vec<Value> = Vec::new();
        let mut next = String::new();
        // RFC 3986, section 2.3.
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        loop {
            let answer = self.send(Method::GET, &format!("{path}?limit={PAGE}{query}{next}"), None).await?;
            if answer.status == 404 {
                return Ok(all);
            }
            let page = answer.good()?;
            all.extend(items(&page, "/items").iter().cloned());
            match text(&page, "/metadata/continue") {
                token if !token.is_empty() && all.len() < MOST => {
                    "&continue=".clone_into(&mut next);
                    percent::push(&mut next, token.bytes(), unreserved);
                }
                _ => return Ok(all),
            }
        }
    }
}

impl Answer {
    /// The body of what went well.
    ///
    /// # Errors
    /// What the API server says of it.
    pub fn good(self) -> Result<Value, Unread> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let why = self.message();
        match self.status {
            401 | 403 => Err(Unread::Forbidden(why)),
            _ => Err(Unread::Failed(why)),
        }
    }

    /// What the API server says, on one line.
    pub fn message(&self) -> String {
        let said = self.body.get("message").and_then(Value::as_str).unwrap_or("it says nothing");
        let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
        format!("{} {said}", self.status)
    }
}

/// The text at a JSON pointer; empty where there is none.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty where there is none.
pub fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
