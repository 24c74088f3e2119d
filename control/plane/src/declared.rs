//! Stands in for what only a proxy has: keys, models, certificates, counters.

use std::fs::File;
use std::future::{Future, ready};
use std::io::Read;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::client_auth::{ClientAuth, Method};
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
use foregate_filters::secret::{MAX_SECRET_BYTES, Secret, SecretRef};
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Model;
use foregate_policy::redis_store::RedisStore;
use foregate_policy::references;
use foregate_policy::snapshot::CertificateFiles;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::kubernetes::certificates;
use crate::whole::Contents;

/// Takes what policies declare for given, but for the files that lie beside them: those are looked at.
#[derive(Debug, Default)]
pub struct Declared<'a>(Option<Beside<'a>>);

/// Keys as far as they can be had without fetching any.
#[derive(Debug)]
struct DeclaredKeys(Option<Arc<KeySet>>);

/// An authorization server that nobody asks.
#[derive(Debug)]
struct DeclaredServer;

/// A model that is somewhere else.
#[derive(Debug)]
struct DeclaredModel(Box<str>);

impl<'a> Declared<'a> {
    /// With the files of a tree whose root is this one. That one is missing is for others to tell.
    pub fn beside(root: &'a FilePath, files: &'a dyn Contents) -> Self {
        Self(Some(Beside { root, files }))
    }

    fn content(&self, file: &FilePath) -> Option<Bytes> {
        self.0.as_ref()?.content(file)
    }
}

impl Resources for Declared<'_> {
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

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        if let Some(beside) = &self.0 {
            beside.client_auth(&spec.client_auth, &at.key("clientAuth"))?;
        }
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

impl Materials for Declared<'_> {
    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        let (Some(beside), Some(features)) = (&self.0, &model.features) else { return Ok(()) };
        let at = spec.key("featureStore");
        let keys = [("key", &features.key), ("nextKey", &features.next_key)];
        let faults: Vec<Fault> = keys
            .into_iter()
            .filter_map(|(name, key)| beside.secret(key.as_ref()?, &at.key(name), None).err())
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn store(&self, store: &Arc<RedisStore>, at: &Path) -> Result<(), Fault> {
        let (Some(beside), Some(password)) = (&self.0, &store.password) else { return Ok(()) };
        beside.secret(password, &at.key("password"), None)
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        match (self.content(&files.certificate), self.content(&files.key)) {
            (Some(chain), Some(key)) => certificates::fits(&chain, &key),
            _ => Ok(()),
        }
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        self.content(file).map_or(Ok(()), |pem| certificates::authorities(&pem))
    }

    fn revocations(&self, file: &FilePath) -> Result<(), String> {
        self.content(file).map_or(Ok(()), |lists| certificates::revocations(&lists))
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        let Some(beside) = &self.0 else { return Ok(()) };
        if let Some(said) = &said.client_credentials {
            beside.client_auth(&said.client_auth, &at.key("clientCredentials").key("clientAuth"))?;
        }
        if let Some(said) = &said.jwt_bearer {
            beside.secret(&said.key, &at.key("jwtBearer").key("key"), Some(Form::Key))?;
        }
        match &said.fixed {
            Some(said) => beside.secret(&said.value, &at.key("static").key("value"), Some(Form::Header)),
            None => Ok(()),
        }
    }
}

/// What a secret must be, besides there.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// What a header can carry.
    Header,
    /// Text.
    Text,
    /// A private key in PEM.
    Key,
}

/// The files of a tree, and where paths in it begin.
#[derive(Debug)]
struct Beside<'a> {
    root: &'a FilePath,
    files: &'a dyn Contents,
}

impl Beside<'_> {
    fn content(&self, file: &FilePath) -> Option<Bytes> {
        // What is absolute stands on the machine of the proxy.
        self.files.content(&references::below(file, self.root)?)
    }

    /// Tells what any proxy would find wrong with a secret. It never tells any of it.
    fn secret(&self, reference: &SecretRef, at: &Path, form: Option<Form>) -> Result<(), Fault> {
        let Some(bytes) = reference.file.as_ref().and_then(|file| self.content(file.as_ref())) else {
            return Ok(());
        };
        let secret = Secret::new(bytes.to_vec());
        let exposed = secret.expose();
        let message = match form {
            _ if exposed.is_empty() => "the secret is empty",
            _ if bytes.len() > MAX_SECRET_BYTES => "the secret is over 64 KiB",
            Some(Form::Header) if http::HeaderValue::from_bytes(exposed).is_err() => {
                "the secret holds what a header cannot carry"
            }
            Some(Form::Text) if secret.expose_text().is_none() => "the secret is no text",
            Some(Form::Key) if PrivateKeyDer::from_pem_slice(exposed).is_err() => {
                "the secret is no private key in PEM"
            }
            _ => return Ok(()),
        };
        Err(Fault::new(Code::SECRET, at.clone(), message))
    }

    fn client_auth(&self, said: &ClientAuth, at: &Path) -> Result<(), Fault> {
        let Some(proof) = said.proof() else { return Ok(()) };
        let form = if said.method == Method::PrivateKeyJwt { Form::Key } else { Form::Text };
        self.secret(proof, &at.key(said.proof_field()), Some(form))
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
