//! Model bundles from an `MLflow` tracking server, which is not trusted.

use std::io;
use std::path::Path;
use std::time::Duration;

use foregate_inference::bundle::error::{BundleError, BundleFault};
use foregate_inference::bundle::manifest::{FileRef, MANIFEST, Manifest};
use foregate_inference::bundle::{MAX_MANIFEST, MAX_SIGNATURE, SIGNATURE, files};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;

use crate::oauth::http::{HttpError, innermost, trusted};
use crate::shared::models::Signers;

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of what the registry says of a version at most.
const MAX_VERSION: u64 = 256 << 10;
/// What artifacts that the server gives out itself begin with.
const SERVED: &str = "mlflow-artifacts:/";
/// For people, and no part of what is checked.
pub const CARD: &str = "CARD.md";
/// Bytes of it at most.
const MAX_CARD: u64 = 1 << 20;

/// Why no bundle was pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the registry must be https, http on this host, or http with `signedBy`: {0}")]
    Url(#[from] HttpError),
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    #[error("the registry was not done after {0:?}")]
    Late(Duration),
    #[error("the registry answers {status} to {path}")]
    Status { status: u16, path: String },
    #[error("{path}: the answer of the registry is over {max} bytes")]
    TooLarge { path: String, max: u64 },
    #[error("the answer of the registry is no version of a model: {0}")]
    Strange(String),
    #[error(
        "the artifacts are kept at {0}, which the registry does not give out (start it with --serve-artifacts)"
    )]
    Elsewhere(String),
    #[error("the manifest names `{0}`, which lies outside of the bundle")]
    Outside(String),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{0}")]
    Write(#[from] io::Error),
}

/// Who asks: a bearer token, or a name and its password.
#[derive(Default)]
pub enum Login {
    #[default]
    Nobody,
    Token(String),
    Password(String, String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// One tracking server.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    base: Url,
    login: Login,
}

/// A version that the registry knows.
#[derive(Debug, Deserialize)]
struct Answer {
    model_version: ModelVersion,
}

#[derive(Debug, Deserialize)]
struct ModelVersion {
    version: String,
    source: String,
}

impl Login {
    /// From the variables that the clients of `MLflow` read.
    pub fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(token) = read("MLFLOW_TRACKING_TOKEN") {
            return Self::Token(token);
        }
        let name = read("MLFLOW_TRACKING_USERNAME");
        name.map_or(Self::Nobody, |name| {
            Self::Password(name, read("MLFLOW_TRACKING_PASSWORD").unwrap_or_default())
        })
    }
}

impl Registry {
    /// A server at this URL; `plain` lets it be one without TLS on another host, and sends it no login.
    pub fn new(uri: &str, plain: bool, login: Login) -> Result<Self, PullError> {
        let (base, login) = match trusted(uri, true) {
            Ok(base) => (base, login),
            Err(error) => {
                let open = |url: &Url| url.username().is_empty() && url.password().is_none();
                let open = |url: &Url| plain && url.scheme() == "http" && url.has_host() && open(url);
                let url = Url::parse(uri).ok().filter(open);
                (url.ok_or(error)?, Login::Nobody)
            }
        };
        let client = Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT).build();
        Ok(Self { client: client.map_err(|error| PullError::Unreachable(innermost(&error)))?, base, login })
    }

    /// Puts the bundle of the version with this alias into `folder`, which exists and is empty; gives the number of
    /// the version. Checked is that somebody who may has signed the manifest, before anything that it names is asked
    /// for, and that all of it stays inside the folder.
    pub async fn pull(
        &self,
        model: &str,
        alias: &str,
        signers: &Signers,
        folder: &Path,
    ) -> Result<String, PullError> {
        let ModelVersion { version, source } = self.version(model, alias).await?;
        let path = source.strip_prefix(SERVED).ok_or_else(|| PullError::Elsewhere(source.clone()))?;
        let text = self.file(path, MANIFEST, MAX_MANIFEST).await?;
        let signature = self.optional(path, SIGNATURE, MAX_SIGNATURE).await?;
        if !signers.is_empty() && !signature.as_ref().is_some_and(|it| signers.verify(&text, it)) {
            return Err(PullError::Bundle(BundleError::new(SIGNATURE, BundleFault::Signature)));
        }
        let manifest = Manifest::parse(&String::from_utf8_lossy(&text))?;
        std::fs::write(folder.join(MANIFEST), &text)?;
        for (file, max) in files(&manifest) {
            let bytes = self.file(path, inside(file)?, max).await?;
            let place = folder.join(&file.path);
            std::fs::create_dir_all(place.parent().unwrap_or(folder))?;
            std::fs::write(place, bytes)?;
        }
        let card = self.optional(path, CARD, MAX_CARD).await?;
        for (name, bytes) in [(SIGNATURE, signature), (CARD, card)] {
            bytes.map_or(Ok(()), |bytes| std::fs::write(folder.join(name), bytes))?;
        }
        Ok(version)
    }

    /// `None` where the registry has no such file.
    async fn optional(&self, folder: &str, name: &str, max: u64) -> Result<Option<Vec<u8>>, PullError> {
        match self.file(folder, name, max).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(PullError::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn version(&self, model: &str, alias: &str) -> Result<ModelVersion, PullError> {
        let mut url = self.url("api/2.0/mlflow/registered-models/alias");
        url.query_pairs_mut().append_pair("name", model).append_pair("alias", alias);
        let text = self.ask(url, MAX_VERSION).await?;
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|error| PullError::Strange(error.to_string()))?;
        Ok(answer.model_version)
    }

    async fn file(&self, folder: &str, name: &str, max: u64) -> Result<Vec<u8>, PullError> {
        let mut url = self.url("api/2.0/mlflow-artifacts/artifacts");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(folder.split('/').chain(name.split('/')).filter(|part| !part.is_empty()));
        }
        self.ask(url, max).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }

    async fn ask(&self, url: Url, max: u64) -> Result<Vec<u8>, PullError> {
        let path = url.path().to_owned();
        let unreachable = |error: reqwest::Error| PullError::Unreachable(innermost(&error));
        let mut answer = self.login(self.client.get(url)).send().await.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(PullError::Status { status: answer.status().as_u16(), path });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if (body.len() + chunk.len()) as u64 > max {
                return Err(PullError::TooLarge { path, max });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn login(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Login::Nobody => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::Password(name, password) => request.basic_auth(name, Some(password)),
        }
    }
}

fn inside(file: &FileRef) -> Result<&str, PullError> {
    if file.is_inside() { Ok(&file.path) } else { Err(PullError::Outside(file.path.clone())) }
}
