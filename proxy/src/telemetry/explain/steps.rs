//! A kept decision step by step: verdict, rule, place, inputs, time.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::context::LimitFact;
use foregate_filters::step::Step;
use foregate_policy::description::{Description, LinkDescription, Origin, PlacedRule};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::telemetry::explain::Explanation;
use crate::telemetry::explain::advice::advice;
use crate::telemetry::explain::links;
use crate::telemetry::json::{self, micros};
use crate::telemetry::record::{End, Record};

/// A record with its steps, and what to do about a refusal.
#[derive(Debug)]
pub struct Explained<'a>(pub &'a Record);

/// One step as it went. What is absent is left out.
#[derive(Debug, Default, Serialize)]
pub struct StepTold {
    pub step: &'static str,
    /// `passed`, `refused`, `unfinished` or `not reached`.
    pub verdict: &'static str,
    /// The part of the policy, such as `rateLimit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// The rule that decided, or the part of the configuration that the step obeyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The expression of the rule, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<Box<str>>,
    /// What was read, by name; null where absent, `{"redacted": true}` where it may be a secret.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub inputs: serde_json::Map<String, Value>,
    /// Further facts of the step, each with its rule and place: audits, limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audits: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// Microseconds, with nanoseconds as decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<f64>,
}

pub const PASSED: &str = "passed";
pub const REFUSED: &str = "refused";
pub const UNFINISHED: &str = "unfinished";
pub const NOT_REACHED: &str = "not reached";

impl StepTold {
    pub fn new(step: Step, verdict: &'static str) -> Self {
        Self { step: step.name(), verdict, ..Self::default() }
    }

    pub fn at(&mut self, origin: &Origin) {
        (self.file, self.line) = (Some(Arc::clone(&origin.file)), Some(origin.line));
    }

    pub fn rule(&mut self, placed: &PlacedRule) {
        self.rule = Some((*placed.rule.name).into());
        self.kind = Some(placed.rule.kind.name());
        self.at(&placed.at);
        self.expression = (!placed.rule.source.is_empty()).then(|| placed.rule.source.clone());
    }

    fn input(&mut self, name: &str, value: impl Into<Value>) {
        self.inputs.insert(name.to_owned(), value.into());
    }

    pub fn took(&mut self, time: Option<Duration>) {
        self.duration_us = time.map(|time| time.as_secs_f64() * 1e6);
    }

    /// Why it refused, where it did.
    pub fn refuse(&mut self, record: &Record) {
        let Some(refusal) = &record.refusal else { return };
        self.verdict = REFUSED;
        self.reason = Some(refusal.reason.name());
        self.detail = (!refusal.detail.is_empty()).then(|| refusal.detail.clone());
        if self.rule.is_none() && !refusal.rule.is_empty() {
            self.rule = Some(refusal.rule.clone());
        }
    }
}

impl Serialize for Explained<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.serialize_entries(&mut map)?;
        if let Some(explanation) = &self.0.explanation {
            if let Some(description) = &explanation.description {
                map.serialize_entry("foregate.revision", &*description.revision)?;
            }
            map.serialize_entry("foregate.steps", &steps(self.0, explanation))?;
        }
        if let Some(refusal) = &self.0.refusal {
            map.serialize_entry("foregate.advice", advice(refusal.reason))?;
        }
        map.end()
    }
}

/// Every step, in the order in which it ran.
pub fn steps(record: &Record, explanation: &Explanation) -> Vec<StepTold> {
    let mut told = vec![pin(record, explanation)];
    let refused_at = record.refusal.as_ref().map(|refusal| refusal.step);
    if refused_at == Some(Step::Pin) {
        return told;
    }
    let Some(description) = &explanation.description else {
        let mut route = StepTold::new(Step::Route, UNFINISHED);
        route.refuse(record);
        route.input("request.host", &*record.host);
        route.input("request.path", &*record.path);
        told.push(route);
        return told;
    };
    let mut route = StepTold::new(Step::Route, PASSED);
    route.rule = Some((*record.route).into());
    route.at(&description.route);
    told.push(route);
    let links = links::told(record, explanation, description);
    // A body that could not be had is refused between two filters, by neither.
    let between = refused_at.filter(|step| *step < Step::Shape && !explanation.trace.refused);
    let mut body = between.map(|step| StepTold::new(step, REFUSED));
    if let Some(body) = &mut body {
        body.filter = Some("body");
        body.refuse(record);
    }
    let ran = usize::from(explanation.trace.ran);
    for (index, link) in links.into_iter().enumerate() {
        if index == ran {
            told.extend(body.take());
        }
        told.push(link);
    }
    told.extend(body);
    ending(record, description, &mut told);
    told
}

fn pin(record: &Record, explanation: &Explanation) -> StepTold {
    let mut pin = StepTold::new(Step::Pin, PASSED);
    pin.input("source.peer", explanation.source.to_canonical().to_string());
    pin.input("source.tls", record.tls);
    if let Some(id) = record.peer.as_ref().and_then(|peer| peer.id.as_ref()) {
        pin.input("peer.id", id.as_str());
    }
    if record.refusal.as_ref().is_some_and(|refusal| refusal.step == Step::Pin) {
        pin.refuse(record);
    }
    pin
}

/// shape, dispatch and respond.
fn ending(record: &Record, description: &Description, told: &mut Vec<StepTold>) {
    let refused_at = record.refusal.as_ref().map(|refusal| refusal.step);
    if refused_at == Some(Step::Shape) {
        let mut shape = StepTold::new(Step::Shape, REFUSED);
        shape.refuse(record);
        told.push(shape);
    } else if let Some(upstream) = &record.upstream {
        told.push(dispatched(record, upstream, description));
    }
    let mut respond = StepTold::new(Step::Respond, PASSED);
    if !record.protocol.is_stream() {
        respond.input("status", record.status);
    }
    respond.input("end", record.end.name());
    if record.end != End::Complete {
        respond.verdict = UNFINISHED;
    }
    if refused_at == Some(Step::Respond) {
        respond.refuse(record);
    }
    told.push(respond);
}

fn dispatched(record: &Record, upstream: &Arc<str>, description: &Description) -> StepTold {
    let mut dispatch = StepTold::new(Step::Dispatch, PASSED);
    dispatch.rule = Some((**upstream).into());
    dispatch.kind = Some("upstream");
    if let Some((_, origin)) = description.upstreams.iter().find(|(name, _)| name == upstream) {
        dispatch.at(origin);
    }
    if let Some(endpoint) = &record.endpoint {
        dispatch.input("endpoint", endpoint.to_string());
    }
    if record.attempts > 1 {
        dispatch.input("attempts", record.attempts);
    }
    dispatch.took(record.durations.upstream);
    match &record.refusal {
        Some(refusal) if refusal.step == Step::Dispatch => dispatch.refuse(record),
        None if record.durations.upstream.is_none() => dispatch.verdict = UNFINISHED,
        _ => {}
    }
    dispatch
}

/// A limit's fact with the place of its rule.
pub fn limit(placed: &PlacedRule, fact: &LimitFact, key: &str) -> Value {
    let mut told = json!({
        "rule": &*placed.rule.name, "file": &*placed.at.file, "line": placed.at.line,
        "admitted": fact.admitted, "remaining": fact.remaining, "key": key,
    });
    if let Some(map) = told.as_object_mut() {
        if let (false, Some(time)) = (fact.admitted, json::patience(fact)) {
            map.insert("retry_after_us".to_owned(), micros(time).into());
        }
        if let Some(done) = fact.unavailable {
            map.insert("unavailable".to_owned(), done.name().into());
        }
    }
    told
}

/// Where a link of the chain stands in the policy.
pub fn section(link: &LinkDescription, told: &mut StepTold) {
    told.filter = Some(link.filter);
    told.policy = Some(Arc::clone(&link.policy));
    told.at(&link.at);
}
