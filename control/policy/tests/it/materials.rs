//! Materials for tests: no keys, one model, certificates by name.

use std::future::{Future, ready};
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::{Introspector, NotAnswered};
use foregate_filters::jwt::key_set::KeySet;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::in_process::InProcess;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::resources::Resources;
use foregate_filters::score::{RecordScore, ScoreCall, Scorer, Scores};
use foregate_policy::compile::{Materials, Options, compile};
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::load::Sources;
use foregate_policy::model::Model;
use foregate_policy::snapshot::{CertificateFiles, Snapshot};

#[derive(Debug)]
pub struct Fake;

/// Keys that are never there.
#[derive(Debug)]
struct NoKeys;

/// An authorization server that never answers.
#[derive(Debug)]
struct Silent;

/// Scores every body 0.25.
#[derive(Debug)]
struct Quarter;

impl Resources for Fake {
    fn keys(&self, issuer: &str, jwks: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        if jwks.file.as_deref().is_some_and(|file| file.ends_with("none-yet.json")) {
            return Ok(Arc::new(NoKeys));
        }
        Err(Fault::new(Code::FILE, at.clone(), format!("no keys for {issuer}")))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        Arc::new(TokenCache::new(16, 1 << 16))
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        let wanted = spec.client_auth.proof().and_then(|secret| secret.file.as_deref());
        let Some(file) = wanted else { return Ok(Arc::new(Silent)) };
        let at = at.key("clientAuth").key(spec.client_auth.proof_field());
        Err(Fault::new(Code::SECRET, at, format!("no such secret: {file}")))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, rate: &Rate) -> Arc<Limiter> {
        Arc::new(Limiter::new(*rate, 64))
    }

    fn counters(&self, _: &str, _: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        Ok(Arc::new(InProcess::default()))
    }

    fn scorer(&self, _: &str, _: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        Ok(Arc::new(Quarter))
    }
}

impl Materials for Fake {
    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        let versions = model.versions.iter().enumerate();
        let broken = versions.filter(|(_, version)| version.bundle.ends_with("broken")).map(|(place, _)| {
            Fault::new(Code::MODEL, model.bundle_at(place, spec), "the golden vectors differ")
        });
        let broken: Vec<Fault> = broken.collect();
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        assert!(files.key.ends_with("tls.key"));
        if files.certificate.ends_with("secrets/gone/tls.crt") {
            Err("no such file".to_owned())
        } else {
            Ok(())
        }
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        if file.ends_with("secrets/partners/ca.crt") {
            return Ok(());
        }
        if file == FilePath::new("policies/roots.pem") { Ok(()) } else { Err("no such file".to_owned()) }
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        let file = said.fixed.as_ref().and_then(|fixed| fixed.value.file.as_deref());
        if file == Some("policies/secrets/gone/key") {
            return Err(Fault::new(Code::SECRET, at.key("static").key("value"), "no such file"));
        }
        Ok(())
    }
}

impl Keys for NoKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        None
    }
}

impl Introspector for Silent {
    fn ask<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, NotAnswered>> + Send + 'a>> {
        Box::pin(ready(Err(NotAnswered("silence".into()))))
    }
}

impl Scorer for Quarter {
    fn model(&self) -> &'static str {
        "lead-score"
    }

    fn version(&self) -> &'static str {
        "1"
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        let record = RecordScore {
            score: Ok(0.25),
            insert_at: 1,
            empty: call.body.len() == 2,
            reserved: smallvec::SmallVec::new(),
            detail: None,
            version: None,
        };
        Some(Ok(vec![record]))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(ready(self.score(&call).unwrap_or_else(|| Ok(Vec::new()))))
    }
}

/// One file `policies/edge.yaml` with this text.
pub fn sources(text: &str) -> Sources {
    let mut sources = Sources { root: PathBuf::from("policies"), ..Sources::default() };
    sources.add(PathBuf::from("policies/edge.yaml"), text.to_owned());
    sources
}

pub fn compiled(text: &str) -> Result<Snapshot, Vec<Diagnostic>> {
    compile(&sources(text), &Fake, Options::default())
}

/// `code line:column message`, one line each.
pub fn brief(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|diagnostic| {
            format!("{} {}:{} {}", diagnostic.code, diagnostic.line, diagnostic.column, diagnostic.message)
        })
        .collect()
}

/// A gateway, an upstream and a policy that lets everybody use the route `web`.
pub const BASE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec: { gatewayClassName: foregate, listeners: [{ name: http, protocol: HTTP, port: 8080 }] }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: crm }
spec: { endpoints: ['crm:80'] }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: open }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  insecure: { anonymous: true }
---
";

/// A route `name` with these lines below `spec`.
pub fn route(name: &str, spec: &str) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ name: edge }}]\n"
    );
    for line in spec.lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text + "---\n"
}

/// The one backend of [`BASE`].
pub const CRM: &str = "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";

/// A gateway with these listeners, each in braces.
pub fn gateway(name: &str, listeners: &[&str]) -> String {
    let listeners = listeners.iter().fold(String::new(), |all, listener| all + "  - " + listener + "\n");
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: {name} }}
spec:
  gatewayClassName: foregate
  listeners:
{listeners}"
    )
}
