//! How commands ask the admin endpoint of a running gateway.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;

use crate::oauth::http::innermost;

/// Time for an answer of the admin endpoint.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes: 500 routes with their refusals take some hundred KiB.
const MAX_ANSWER: usize = 4 << 20;

/// Where the admin endpoint is.
#[derive(Clone, Debug, Args)]
pub(super) struct Admin {
    /// Admin endpoint of the gateway, as an URL or an address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", value_parser = parse)]
    admin: Url,
}

/// Why the admin endpoint does not tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error(
        "the admin endpoint {0} cannot be asked: {1}\n\
         `foregate run` has it on 127.0.0.1:9090, or where its --admin says; name that with --admin."
    )]
    Unreachable(Url, String),
    #[error("the admin endpoint {0} says no (status {1}): {2}")]
    Refused(Url, StatusCode, String),
    #[error("what answers at {0} is no admin endpoint of foregate that knows {1}")]
    Strange(Url, &'static str),
}

impl AdminError {
    /// The status, where it was one.
    pub(super) fn status(&self) -> Option<StatusCode> {
        if let Self::Refused(_, status, _) = self { Some(*status) } else { None }
    }
}

fn parse(text: &str) -> Result<Url, String> {
    let text = if text.parse::<SocketAddr>().is_ok() { format!("http://{text}") } else { text.to_owned() };
    let url = Url::parse(&text).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err("expected an http URL".to_owned()) }
}

impl Admin {
    /// Runs what asks, on this thread.
    pub(super) fn block_on<T>(
        &self,
        asking: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map_err(|error| AdminError::Unreachable(self.admin.clone(), error.to_string()))?
            .block_on(asking)
    }

    pub(super) fn client(&self) -> Result<Client, AdminError> {
        // What it answers is followed for as long as it comes; only the wait for a sign of life is bounded.
        let client =
            Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE * 3).build();
        client.map_err(|error| self.unreachable(&error))
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> AdminError {
        AdminError::Unreachable(self.admin.clone(), innermost(error))
    }

    /// An answer that has begun, or why not.
    pub(super) async fn open(
        &self,
        client: &Client,
        path: &'static str,
        id: &str,
        words: &[(&'static str, String)],
    ) -> Result<Response, AdminError> {
        let mut url = self.admin.clone();
        url.set_path(&format!("{path}{id}"));
        if !words.is_empty() {
            url.query_pairs_mut().extend_pairs(words);
        }
        let mut answer = client.get(url).send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let told = self.read(&mut answer, path).await.unwrap_or_default();
        let problem: Value = serde_json::from_str(&told).unwrap_or_default();
        match problem.get("detail").and_then(Value::as_str) {
            Some(detail) => Err(AdminError::Refused(self.admin.clone(), status, detail.to_owned())),
            None => Err(AdminError::Strange(self.admin.clone(), path)),
        }
    }

    /// A whole answer: the text, and what it says.
    pub(super) async fn ask(
        &self,
        client: &Client,
        path: &'static str,
        id: &str,
    ) -> Result<(String, Value), AdminError> {
        let mut answer = self.open(client, path, id, &[]).await?;
        let text = self.read(&mut answer, path).await?;
        let told = serde_json::from_str(&text).map_err(|_| self.strange(path))?;
        Ok((text, told))
    }

    pub(super) fn strange(&self, path: &'static str) -> AdminError {
        AdminError::Strange(self.admin.clone(), path)
    }

    async fn read(&self, answer: &mut Response, path: &'static str) -> Result<String, AdminError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(self.strange(path));
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| self.strange(path))
    }
}
