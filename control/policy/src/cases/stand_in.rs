//! Scores from cases in place of those from models.

use std::fmt;
use std::future::{Future, ready};
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use foregate_filters::fault::{Fault, Path};
use foregate_filters::idempotency::ledger::{Forgetful, Ledger};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::{Introspector, NotAnswered};
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::calendar::Calendar;
use foregate_filters::rate_limit::concurrency::OpenRequests;
use foregate_filters::rate_limit::in_process::InProcess;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::rate_limit::windows::WindowCounter;
use foregate_filters::resources::Resources;
use foregate_filters::score::{Offer, ScoreCall, Scorer, Scores};
use serde_json::{Map, Value};

use crate::compile::Materials;
use crate::documents::credentials::Credentials;
use crate::model::Model;
use crate::snapshot::CertificateFiles;

/// Keys of a quota that one case can use.
const QUOTA_KEYS: usize = 16_384;

/// Scores by model; empty lets the models answer.
type Board = Arc<Mutex<AHashMap<String, f32>>>;

/// What introspection endpoints answer; nothing where they do not.
type Answer = Arc<Mutex<Option<Bytes>>>;

/// The materials of the caller, with scorers that read the board first.
pub struct StandIn<'a> {
    materials: &'a dyn Materials,
    board: Board,
    answer: Answer,
    quotas: Mutex<Vec<Arc<WindowCounter>>>,
}

/// An authorization server that answers as the case says.
#[derive(Debug)]
struct ScriptedServer(Answer);

/// A model whose answer may be given.
#[derive(Debug)]
struct Scripted {
    inner: Arc<dyn Scorer>,
    board: Board,
}

impl fmt::Debug for StandIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn").finish_non_exhaustive()
    }
}

impl<'a> StandIn<'a> {
    pub fn new(materials: &'a dyn Materials) -> Self {
        Self { materials, board: Board::default(), answer: Answer::default(), quotas: Mutex::default() }
    }

    /// The scores and the introspection of the next case, and no others. No quota has been used.
    pub fn set(&self, scores: Vec<(String, f32)>, introspection: Option<&Map<String, Value>>) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *answer = introspection.map(|members| Value::from(members.clone()).to_string().into());
        for quota in &*self.quotas.lock().unwrap_or_else(PoisonError::into_inner) {
            quota.forget();
        }
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        *board = scores.into_iter().collect();
    }
}

impl Resources for StandIn<'_> {
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        self.materials.keys(issuer, spec, at)
    }

    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache> {
        self.materials.tokens(issuer, fingerprint)
    }

    fn introspector(&self, _: &introspection::Spec, _: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        Ok(Arc::new(ScriptedServer(Arc::clone(&self.answer))))
    }

    fn ledger(&self, _: &str, _: Option<&str>, _: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        Ok(Arc::new(Forgetful))
    }

    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache> {
        self.materials.answers(endpoint, fingerprint)
    }

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        self.materials.limiter(name, rate)
    }

    fn quota(&self, _: &str, _: &Calendar) -> Arc<WindowCounter> {
        let counter = Arc::new(WindowCounter::new([0; 16], QUOTA_KEYS));
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counter));
        counter
    }

    fn concurrency(&self, name: &str) -> Arc<OpenRequests> {
        self.materials.concurrency(name)
    }

    /// Cases need no store: what processes would share is counted here.
    fn counters(&self, _: &str, _: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        Ok(Arc::new(InProcess::default()))
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let inner = self.materials.scorer(model, at)?;
        Ok(Arc::new(Scripted { inner, board: Arc::clone(&self.board) }))
    }
}

impl Materials for StandIn<'_> {
    fn for_cases(&self) -> bool {
        true
    }

    fn unix(&self) -> Duration {
        self.materials.unix()
    }

    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        self.materials.model(model, spec)
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        self.materials.certificate(files)
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        self.materials.authorities(file)
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        self.materials.credentials(said, at)
    }
}

impl Introspector for ScriptedServer {
    fn ask<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = || NotAnswered("the case does not say what introspection answers".into());
        Box::pin(ready(answer.ok_or_else(silent)))
    }
}

impl Scripted {
    /// The records stay as the model found them; only their scores are given.
    fn replace(&self, scores: Scores) -> Scores {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(score) = board.get(self.inner.model()).copied() else { return scores };
        scores.map(|mut records| {
            for record in &mut records {
                record.score = Ok(score);
            }
            records
        })
    }
}

impl Scorer for Scripted {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn version(&self) -> &str {
        self.inner.version()
    }

    fn offer(&self) -> Option<Offer> {
        self.inner.offer()
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        self.inner.score(call).map(|scores| self.replace(scores))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(async move { self.replace(self.inner.submit(call).await) })
    }
}
