//! Tokens of Kubernetes service accounts, which the API server is asked about.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::attest::path;
use crate::config;
use crate::kubernetes::reach::configuration;

/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Questions at once.
const MAX_QUESTIONS: usize = 32;

/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// What the name of a service account begins with.
const ACCOUNT: &str = "system:serviceaccount:";

/// Says whose token it is: the path of the workload's id.
#[tonic::async_trait]
pub trait Reviews: fmt::Debug + Send + Sync {
    /// # Errors
    /// Why it is nobody's, or cannot be told.
    async fn review(&self, token: &str) -> Result<String, ReviewError>;
}

/// Asks the API server.
pub struct ApiServer {
    reviews: Api<TokenReview>,
    audience: String,
    turns: Semaphore,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("it has more than {MAX_TOKEN} bytes")]
    Long,
    #[error("the API server does not know it: {0}")]
    Unauthenticated(String),
    #[error("it is not for the audience {0}")]
    Audience(String),
    #[error("it is that of {0}, which is no service account")]
    NoAccount(String),
    #[error("the API server cannot be asked: {0}")]
    Unavailable(String),
}

impl ReviewError {
    /// A word for the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Long => "malformed",
            Self::Unauthenticated(_) => "unknown",
            Self::Audience(_) => "audience",
            Self::NoAccount(_) => "account",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl ApiServer {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// Where the environment or the file names no API server.
    pub async fn new(settings: &config::tokens::TokenReview) -> Result<Self, ReviewError> {
        let unavailable = |error: &dyn fmt::Display| ReviewError::Unavailable(error.to_string());
        let config = configuration(settings.kubeconfig.as_deref()).await;
        let config = config.map_err(|error| unavailable(&error))?;
        let client = Client::try_from(config).map_err(|error| unavailable(&error))?;
        let turns = Semaphore::new(MAX_QUESTIONS);
        Ok(Self { reviews: Api::all(client), audience: settings.audience.clone(), turns })
    }

    async fn ask(&self, token: &str) -> Result<TokenReview, ReviewError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let ask = async {
            let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
            let params = PostParams::default();
            self.reviews.create(&params, &review).await.map_err(|error| error.to_string())
        };
        let answer = timeout(ANSWER, ask).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")));
        answer.map_err(ReviewError::Unavailable)
    }
}

#[tonic::async_trait]
impl Reviews for ApiServer {
    async fn review(&self, token: &str) -> Result<String, ReviewError> {
        if token.len() > MAX_TOKEN {
            return Err(ReviewError::Long);
        }
        judge(self.ask(token).await?, &self.audience)
    }
}

/// What an answer says.
fn judge(answer: TokenReview, audience: &str) -> Result<String, ReviewError> {
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Err(ReviewError::Unauthenticated(status.error.unwrap_or_default()));
    }
    // An API server that knows nothing of audiences leaves them out: its word is not enough.
    if !status.audiences.unwrap_or_default().iter().any(|found| found == audience) {
        return Err(ReviewError::Audience(audience.to_owned()));
    }
    let name = status.user.and_then(|user| user.username).unwrap_or_default();
    let account = name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
    let path = account.and_then(|(namespace, account)| path(namespace, account));
    path.ok_or(ReviewError::NoAccount(name))
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("audience", &self.audience).finish_non_exhaustive()
    }
}
