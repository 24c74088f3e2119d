//! Runs one request through the chain of a policy: no runtime, no socket.
#![expect(clippy::missing_panics_doc, reason = "tests end by a panic")]

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::request;
use serde::Deserialize;

use crate::api_key::key::{Digest, key, prefix};
use crate::chain::{Chain, Refusal};
use crate::consumer::Consumer;
use crate::consumers::{Consumers, Registration, Secret};
use crate::context::{Client, RequestContext};
use crate::fault::{Code, Fault, Path};
use crate::idempotency::ledger::{Forgetful, Ledger};
use crate::introspection::AnswerCache;
use crate::introspector::Introspector;
use crate::jwt::key_set::KeySet;
use crate::jwt::{Jwks, TokenCache};
use crate::keys::Keys;
use crate::moment::Moment;
use crate::peer::Peer;
use crate::rate_limit::fake::FakeCounters;
use crate::rate_limit::limiter::{Limiter, Rate};
use crate::rate_limit::shared::SharedCounters;
use crate::resources::Resources;
use crate::score::Scorer;
use crate::spec::{self, PolicyFault, Specs};
use crate::validate::{Compiled, Files};
use crate::{
    addresses, api_key, authorize, choose, enrich, fairness, idempotency, inject, introspection, jwt,
    org_quota, rate_limit, validate,
};

/// The filters of a policy, as a document writes them under `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    pub addresses: Option<addresses::Spec>,
    pub jwt: Vec<jwt::Spec>,
    pub introspection: Vec<introspection::Spec>,
    pub api_key: Option<api_key::Spec>,
    pub rate_limit: Vec<rate_limit::Spec>,
    pub quota: Vec<rate_limit::quota::Spec>,
    pub concurrency: Vec<rate_limit::concurrency::Spec>,
    pub fairness: Option<fairness::Spec>,
    pub validate: Option<validate::Spec>,
    pub org_quota: Option<org_quota::spec::KeySpec>,
    pub enrich: Vec<enrich::Spec>,
    pub authorize: Vec<authorize::Spec>,
    pub choose: Vec<choose::Spec>,
    pub inject: Vec<inject::Spec>,
    pub idempotency: Option<idempotency::spec::Spec>,
    pub insecure: Insecure,
    pub mode: Mode,
}

impl Policy {
    /// The parts that ask for filters.
    pub fn specs<'a>(&'a self, name: &'a str, at: Path, validate: Option<&'a Arc<Compiled>>) -> Specs<'a> {
        Specs {
            name,
            at,
            addresses: self.addresses.as_ref(),
            jwt: &self.jwt,
            introspection: &self.introspection,
            api_key: self.api_key.as_ref(),
            rate_limit: &self.rate_limit,
            quota: &self.quota,
            concurrency: &self.concurrency,
            fairness: self.fairness.as_ref(),
            validate,
            org_quota: self.org_quota.as_ref(),
            enrich: &self.enrich,
            authorize: &self.authorize,
            choose: &self.choose,
            inject: &self.inject,
            idempotency: self.idempotency.as_ref(),
            anonymous: self.insecure.anonymous,
            shadow: self.mode == Mode::Shadow,
        }
    }
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

/// The weakenings of a policy.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Insecure {
    pub anonymous: bool,
}

/// Long-lived parts for tests: keys and scorers are put in by name, the rest is made anew.
#[derive(Debug, Default)]
pub struct TestResources {
    /// Keys by issuer.
    pub keys: HashMap<String, Arc<dyn Keys>>,
    /// Scorers by model name.
    pub scorers: HashMap<String, Arc<dyn Scorer>>,
    /// Introspectors by URL of the endpoint.
    pub introspectors: HashMap<String, Arc<dyn Introspector>>,
    /// Clients known by key.
    pub registered: Vec<Registration>,
    /// Shared counters by name of the `Store`.
    pub stores: HashMap<String, Arc<FakeCounters>>,
    /// Schemas and contracts by file, in JSON.
    pub files: HashMap<String, serde_json::Value>,
    /// One that forgets where there is none.
    pub ledger: Option<Arc<dyn Ledger>>,
}

impl Files for TestResources {
    fn read(&self, file: &str) -> Result<Arc<serde_json::Value>, String> {
        self.files.get(file).cloned().map(Arc::new).ok_or_else(|| format!("no file {file}"))
    }
}

impl Resources for TestResources {
    fn keys(&self, issuer: &str, _: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let keys = self.keys.get(issuer).cloned();
        keys.ok_or_else(|| Fault::new(Code::FILE, at.clone(), format!("no keys for {issuer}")))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        Arc::new(TokenCache::default())
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        let introspector = self.introspectors.get(&spec.endpoint).cloned();
        introspector.ok_or_else(|| Fault::new(Code::SECRET, at.clone(), "nobody to ask"))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, rate: &Rate) -> Arc<Limiter> {
        Arc::new(Limiter::new(*rate, 1024))
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let scorer = self.scorers.get(model).cloned();
        scorer.ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), format!("no model {model}")))
    }

    fn counters(&self, store: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        let counters = self.stores.get(store).map(|counters| Arc::clone(counters) as Arc<dyn SharedCounters>);
        counters.ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), format!("no store {store}")))
    }

    fn consumers(&self, _: &str) -> Arc<Consumers> {
        Arc::new(Consumers::new(self.registered.clone()))
    }

    fn ledger(&self, _: &str, _: Option<&str>, _: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        Ok(self.ledger.clone().unwrap_or_else(|| Arc::new(Forgetful)))
    }
}

/// An issuer whose keys verify nothing.
#[derive(Debug)]
struct NoKeys(Arc<KeySet>);

impl Keys for NoKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        Some(Arc::clone(&self.0))
    }
}

impl TestResources {
    /// An issuer with one key of nobody.
    pub fn with_keys(issuer: &str) -> Self {
        let set = r#"{"keys":[{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw"}]}"#;
        let keys = KeySet::parse(set.as_bytes()).unwrap();
        let keys: Arc<dyn Keys> = Arc::new(NoKeys(Arc::new(keys)));
        Self { keys: HashMap::from([(issuer.to_owned(), keys)]), ..Self::default() }
    }

    /// Adds a consumer with the key that [`Self::key`] gives.
    #[must_use]
    pub fn consumer(mut self, name: &str, groups: &[&str]) -> Self {
        let key = self.key(name);
        let secret = Secret { digest: Digest::of_key(&key), expires: None };
        let groups = groups.iter().map(|group| Box::from(*group)).collect();
        self.registered.push(Registration {
            consumer: Consumer { name: name.into(), groups, ..Consumer::default() },
            keys: vec![(prefix(&key).unwrap().into(), secret)],
            client: None,
        });
        self
    }

    /// The key of a consumer of this name.
    pub fn key(&self, name: &str) -> String {
        let first = name.bytes().next().unwrap_or_default();
        key(&[first; 8], &[first; 32])
    }
}

/// A request to be judged.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    /// Path and query, or an absolute URI.
    pub uri: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub peer: SocketAddr,
    /// SHA-256 of the client's certificate.
    pub thumbprint: Option<[u8; 32]>,
    pub moment: Moment,
}

/// A `GET` from 192.0.2.1, one thousand seconds after the start of the process.
pub fn get(uri: &str) -> Call {
    Call {
        method: "GET",
        uri: uri.to_owned(),
        headers: Vec::new(),
        body: Bytes::new(),
        peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        thumbprint: None,
        moment: Moment { unix: Duration::from_hours(500_000), monotonic: Duration::from_secs(1_000) },
    }
}

impl Call {
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn peer(mut self, address: &str) -> Self {
        self.peer = SocketAddr::new(address.parse().unwrap(), 40_000);
        self
    }

    /// The same request, later.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.moment.unix += time;
        self.moment.monotonic += time;
        self
    }

    pub fn head(&self) -> request::Parts {
        let mut request = http::Request::builder().method(self.method).uri(&self.uri);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    pub fn context(&self) -> RequestContext {
        let client = Client { peer: self.peer, address: self.peer.ip(), tls: false, destination: None };
        let peer = |thumbprint| Arc::new(Peer { id: None, thumbprint, expires: Duration::MAX });
        RequestContext { peer: self.thumbprint.map(peer), ..RequestContext::new(self.moment, client) }
    }
}

/// Builds the chain of one policy written as YAML; every fault otherwise.
pub fn build(policy: &str, resources: &TestResources) -> Result<Chain, Vec<PolicyFault>> {
    build_all(&[policy], resources)
}

/// Builds the chain of several policies, the gateway's first.
pub fn build_all(policies: &[&str], resources: &TestResources) -> Result<Chain, Vec<PolicyFault>> {
    let policies: Vec<Policy> =
        policies.iter().map(|text| serde_saphyr::from_str(text).expect("a policy of the test")).collect();
    let names: Vec<String> = (0..policies.len()).map(|index| format!("policy-{index}")).collect();
    let at = Path::default().key("spec");
    let mut compiled = Vec::new();
    for (index, policy) in policies.iter().enumerate() {
        let validate =
            policy.validate.as_ref().map(|said| validate::compile(said, &at.key("validate"), resources));
        compiled.push(match validate.transpose() {
            Ok(validate) => validate.map(|(compiled, _)| compiled),
            Err(faults) => {
                let of = |fault| PolicyFault { policy: Some(index), fault };
                return Err(faults.into_iter().map(of).collect());
            }
        });
    }
    let specs: Vec<Specs<'_>> = policies
        .iter()
        .zip(&names)
        .zip(&compiled)
        .map(|((policy, name), validate)| policy.specs(name, at.clone(), validate.as_ref()))
        .collect();
    spec::build(&specs, resources)
}

/// Runs one request through a chain: what the filters left behind, and the refusal if there is one.
pub fn run(chain: &Chain, call: &Call) -> (RequestContext, Result<(), Refusal>) {
    let head = call.head();
    let mut ctx = call.context();
    let outcome = block_on(async {
        chain.run_head(&head, &mut ctx).await?;
        ctx.body = Some(call.body.clone());
        chain.run_body(&head, &mut ctx).await
    });
    (ctx, outcome)
}

/// `continue`, or the refusal as `guard: AddressDenied by addresses`.
pub fn verdict(chain: &Chain, call: &Call) -> String {
    match run(chain, call).1 {
        Ok(()) => "continue".to_owned(),
        Err(refusal) => format!("{}: {} by {}", refusal.step, refusal.reply.reason, refusal.reply.rule),
    }
}

/// Asserts what a policy written as YAML says of a request, in the words of [`verdict`].
#[track_caller]
pub fn check(policy: &str, call: &Call, expected: &str) {
    check_with(policy, &TestResources::default(), call, expected);
}

/// The same, with long-lived parts of the test's own.
#[track_caller]
pub fn check_with(policy: &str, resources: &TestResources, call: &Call, expected: &str) {
    let chain = build(policy, resources).unwrap();
    assert_eq!(verdict(&chain, call), expected, "{call:?}\n{policy}");
}

/// The faults of a policy, each as `FG0303 spec.authorize[0]: message`.
pub fn faults(policy: &str) -> Vec<String> {
    let faults = build(policy, &TestResources::default()).err().unwrap_or_default();
    faults.iter().map(|f| format!("{} {}: {}", f.fault.code, f.fault.at, f.fault.message)).collect()
}

/// Polls a future that needs no runtime until it is done.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}
