//! From what people wrote to the filter; every fault of it otherwise.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use smallvec::SmallVec;

use super::answer::Terms;
use super::spec::{Concurrent, KeySource, SalesforceKey, Spec};
use super::{Idempotency, RULE, Source};
use crate::chain::Built;
use crate::expression::{Environment, KeyExpression};
use crate::fault::{Code, Fault, Path};
use crate::resources::Resources;
use crate::units::{ByteSize, TimeSpan};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEEPS: std::ops::RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(7 * 24);
const KEEP: Duration = Duration::from_hours(24);
/// What fits into a store with its fields.
const SIZES: std::ops::RangeInclusive<u64> = 1..=768 << 10;
const SIZE: u64 = 256 << 10;
const METHODS: [super::spec::Method; 2] = [super::spec::Method::Post, super::spec::Method::Patch];

/// Time until the head of an answer where the route says nothing.
const ANSWER: Duration = Duration::from_mins(1);
/// Time for the body of an answer, once its head is there.
const BODY: Duration = Duration::from_mins(1);
/// Longest time that a key is held: a route without a bound has one here.
const LONGEST: Duration = Duration::from_hours(1);

impl Idempotency {
    /// Builds what is written at `at`; `request` is the time that its route gives a request.
    pub fn build(
        spec: &Spec,
        policy: &str,
        request: Option<Duration>,
        environment: &Environment,
        at: &Path,
        resources: &dyn Resources,
    ) -> Built<Self> {
        let mut faults = Vec::new();
        let keep = spec.keep.map_or(KEEP, |TimeSpan(keep)| keep);
        if !KEEPS.contains(&keep) {
            faults.push(Fault::new(Code::VALUE, at.key("keep"), "keep must be from 1m to 168h"));
        }
        let size = spec.max_response.map_or(SIZE, |ByteSize(size)| size);
        if !SIZES.contains(&size) {
            let message = "maxResponse must be from 1B to 768KiB";
            faults.push(Fault::new(Code::VALUE, at.key("maxResponse"), message));
        }
        let mut kept = |built: Built<_>| built.map_err(|mut wrong| faults.append(&mut wrong)).ok();
        let source = kept(spec.key.build(environment, &at.key("key")));
        let scope = spec.scope.as_ref().map(|scope| KeyExpression::new(scope, environment, &at.key("scope")));
        let scope = match scope.transpose() {
            Ok(scope) => scope,
            Err(mut wrong) => {
                faults.append(&mut wrong);
                None
            }
        };
        let ledger = match resources.ledger(policy, spec.store.as_deref(), &at.key("store")) {
            Ok(ledger) => Some(ledger),
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let (Some(source), Some(ledger), true) = (source, ledger, faults.is_empty()) else {
            return Err(faults);
        };
        let said = if spec.methods.is_empty() { &METHODS[..] } else { &spec.methods };
        let methods: SmallVec<[Method; 2]> =
            said.iter().filter_map(|method| Method::from_bytes(method.name().as_bytes()).ok()).collect();
        // A route without a limit may take as long as anything may.
        let answer = request.map_or(ANSWER, |limit| if limit.is_zero() { LONGEST } else { limit });
        Ok(Self {
            name: RULE.into(),
            policy: policy.into(),
            terms: Terms {
                max_body: usize::try_from(size).unwrap_or(usize::MAX),
                errors: spec.keep_errors,
                acknowledged: source.acknowledges(),
            },
            source,
            scope,
            methods,
            required: spec.required.unwrap_or(true),
            wait: (spec.concurrent == Concurrent::Wait).then_some(answer.min(LONGEST)),
            lock: answer.saturating_add(BODY).min(LONGEST),
            keep,
            on_error: spec.on_error,
            ledger: Arc::clone(&ledger),
        })
    }
}

impl KeySource {
    fn build(&self, environment: &Environment, at: &Path) -> Built<Source> {
        match (&self.header, self.salesforce, &self.expression) {
            (None, None, None) => Ok(Source::Header(KEY)),
            (Some(header), None, None) => {
                HeaderName::try_from(header.as_str()).map(Source::Header).map_err(|_| {
                    vec![Fault::new(Code::VALUE, at.key("header"), format!("{header} is not a header name"))]
                })
            }
            (None, Some(SalesforceKey::Notification), None) => Ok(Source::Notification),
            (None, Some(SalesforceKey::EventUuid), None) => Ok(Source::EventUuid),
            (None, None, Some(expression)) => {
                KeyExpression::new(expression, environment, &at.key("expression"))
                    .map(|expression| Source::Expression(Box::new(expression)))
            }
            _ => {
                let fault = Fault::new(Code::CONFLICT, at.clone(), "several places for the key are named");
                Err(vec![fault.help("name one of header, salesforce and expression")])
            }
        }
    }
}
