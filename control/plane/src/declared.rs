//! Stands in for what only a proxy has: keys, models, certificates, counters.

use std::fs::File;
use std::future::{Future, ready};
use std::io::Read;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::idempotency::ledger::{Forgetful, Ledger};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::{Introspector, NotAnswered};
use foregate_filters::jwt::key_set::{KeySet, MAX_BYTES};
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::in_process::InProcess;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::resources::Resources;
use foregate_filters::score::{ScoreCall, ScoreFault, Scorer, Scores};
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Model;
use foregate_policy::snapshot::CertificateFiles;

/// Takes what policies declare for given; reads only what lies beside them.
#[derive(Debug)]
pub struct Declared;

/// Keys as far as they can be had without fetching any.
#[derive(Debug)]
struct DeclaredKeys(Option<Arc<KeySet>>);

/// An authorization server that nobody asks.
#[derive(Debug)]
struct DeclaredServer;

/// A model that is somewhere else.
#[derive(Debug)]
struct DeclaredModel(Box<str>);

impl Resources for Declared {
    fn keys(&self, _: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let text = match (&spec.file, &spec.inline) {
            (Some(file), _) => {
                let fault = |error: std::io::Error| {
                    Fault::new(Code::FILE, at.key("file"), format!("cannot read {file}: {error}"))
                };
                Some((read(file.as_ref()).map_err(fault)?, at.key("file")))
            }
            (None, Some(text)) => Some((text.clone().into_bytes(), at.key("inline"))),
            (None, None) => None,
        };
        let parse = |(text, at): (Vec<u8>, Path)| {
            KeySet::parse(&text).map_err(|error| Fault::new(Code::FILE, at, error.to_string()))
        };
        let keys = text.map(parse).transpose()?;
        Ok(Arc::new(DeclaredKeys(keys.map(Arc::new))))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        Arc::new(TokenCache::new(1, 1))
    }

    fn introspector(&self, _: &introspection::Spec, _: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        Ok(Arc::new(DeclaredServer))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, rate: &Rate) -> Arc<Limiter> {
        Arc::new(Limiter::new(*rate, 1))
    }

    fn counters(&self, _: &str, _: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        Ok(Arc::new(InProcess::default()))
    }

    fn ledger(&self, _: &str, _: Option<&str>, _: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        Ok(Arc::new(Forgetful))
    }

    fn scorer(&self, model: &str, _: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        Ok(Arc::new(DeclaredModel(model.into())))
    }
}

impl Materials for Declared {
    fn model(&self, _: &Model, _: &Path) -> Result<(), Vec<Fault>> {
        Ok(())
    }

    fn certificate(&self, _: &CertificateFiles) -> Result<(), String> {
        Ok(())
    }

    fn authorities(&self, _: &FilePath) -> Result<(), String> {
        Ok(())
    }

    fn credentials(&self, _: &Credentials, _: &Path) -> Result<(), Fault> {
        Ok(())
    }
}

/// At most one byte more than a key set may have, so that the parser refuses it.
fn read(file: &FilePath) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bound = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)?.take(bound).read_to_end(&mut text)?;
    Ok(text)
}

impl Keys for DeclaredKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.0.clone()
    }
}

impl Introspector for DeclaredServer {
    fn ask<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        Box::pin(ready(Err(NotAnswered("it is only declared".into()))))
    }
}

impl DeclaredModel {
    fn absent(&self) -> Scores {
        Err(ScoreFault::Model(format!("{} is only declared", self.0).into()))
    }
}

impl Scorer for DeclaredModel {
    fn model(&self) -> &str {
        &self.0
    }

    fn version(&self) -> &'static str {
        "declared"
    }

    fn score(&self, _: &ScoreCall) -> Option<Scores> {
        Some(self.absent())
    }

    fn submit<'a>(&'a self, _: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(ready(self.absent()))
    }
}
