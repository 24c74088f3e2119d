//! Scores the records in the body and puts the score where services read it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::context::{RequestContext, ScoreFact};
use crate::decimal;
use crate::edits::HeaderEdit;
use crate::expression::inputs::Input;
use crate::fault::{Fault, Path};
use crate::filter::{BodyNeed, Filter, Pending};
use crate::reason::Reason;
use crate::resources::Resources;
use crate::rule::{self, RuleKind};
use crate::score::{RecordScore, ScoreCall, ScoreFault, Scorer, Scores};
use crate::units::TimeSpan;
use crate::verdict::{Reply, Verdict};

pub mod bands;
pub mod beside;
mod build;
mod merge;

use bands::BandSpec;
use beside::{ClassSpec, ExplainSpec, Places, RankingSpec, ReasonsSpec};

/// Length of most scores as text, a comma included.
const SCORE_LENGTH: usize = 8;

/// What to do where a record has no score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnError {
    /// Refuse the request.
    #[default]
    Reject,
    /// Go on with the default score, flagged as such. A body that cannot be read goes on as it was sent.
    Continue,
}

/// What to do with fields of ours that the client sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnReserved {
    /// Take them out before ours go in.
    #[default]
    Remove,
    /// Refuse the request.
    Reject,
}

/// Where the score goes, and what the model says beside it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Set {
    /// Request header for the score; several records give a comma-separated list in their order.
    /// `<header>-status` says `scored`, or `default` with the cause. Client copies of both are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// JSON pointer, one level deep, to the field of each record that gets the score, such as `/Lead_Score__c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<RankingSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<BandSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasons: Option<ReasonsSpec>,
}

/// One enrichment of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the rule; expressions read `enrich.<name>.score`. A CEL identifier.
    pub name: String,
    /// Name of the `Model` that scores.
    pub model: String,
    /// Time the score may take, at most 1s.
    pub deadline: TimeSpan,
    #[serde(default)]
    pub on_error: OnError,
    /// Score that stands in where there is none, with `onError: continue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<f32>,
    #[serde(default)]
    pub on_reserved: OnReserved,
    #[serde(default)]
    pub set: Set,
    /// Which requests are explained: the reasons go to `set.reasons`, and into the record of the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<ExplainSpec>,
}

/// The built enrichments of one policy.
#[derive(Debug)]
pub struct Enrich {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    scorer: Arc<dyn Scorer>,
    model: Arc<str>,
    version: Arc<str>,
    deadline: TimeSpan,
    /// The default score, where the request goes on without one of its own.
    fallback: Option<f32>,
    on_reserved: OnReserved,
    /// The header of the score, and the one of its status.
    headers: Option<(HeaderName, HeaderName)>,
    /// The member of each record that gets the score, as JSON text with quotes and colon.
    member: Option<Box<str>>,
    /// The names of all members that are written.
    reserved: Arc<[Box<str>]>,
    /// Where goes what is no score.
    places: Option<Box<Places>>,
    /// What expressions can read of it.
    told: Vec<&'static str>,
}

impl Enrich {
    /// Builds the rules of one policy; `at` is the path of the list in the document. Gives every fault at once.
    pub fn build(specs: &[Spec], at: &Path, resources: &dyn Resources) -> Result<Self, Vec<Fault>> {
        build::rules(specs, at, resources).map(|rules| Self { rules })
    }

    /// The rules that have left no fact yet.
    fn open<'a>(&'a self, ctx: &RequestContext) -> impl Iterator<Item = &'a Rule> + use<'a> {
        let done = self.rules.iter().take_while(|rule| rule.is_done(ctx)).count();
        self.rules.iter().skip(done)
    }
}

impl Filter for Enrich {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        for rule in &self.rules {
            let scores = match readable(head, ctx) {
                Ok(body) => match rule.scorer.score(&rule.call(head, body, ctx)) {
                    Some(scores) => scores,
                    None => return Verdict::Wait,
                },
                Err(fault) => Err(fault),
            };
            if let Err(reply) = rule.apply(scores, ctx) {
                return Verdict::Reply(reply);
            }
        }
        Verdict::Continue
    }

    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(async move {
            for (place, rule) in self.open(ctx).enumerate() {
                let scores = match readable(head, ctx) {
                    // The first has just said that it must wait.
                    Ok(body) => rule.ask(rule.call(head, body, ctx), place == 0).await,
                    Err(fault) => Err(fault),
                };
                if let Err(reply) = rule.apply(scores, ctx) {
                    return Verdict::Reply(reply);
                }
            }
            Verdict::Continue
        })
    }

    /// Scores stay as they were: the body is gone.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn owns(&self) -> Vec<HeaderName> {
        let scores = self.rules.iter().filter_map(|rule| rule.headers.as_ref());
        let places = self.rules.iter().filter_map(|rule| rule.places.as_deref());
        let beside = places.flat_map(Places::headers).cloned();
        scores.flat_map(|(score, status)| [score.clone(), status.clone()]).chain(beside).collect()
    }

    fn rules(&self) -> Vec<rule::Rule> {
        let told = |(place, rule): (u16, &Rule)| {
            let told = rule::Rule::listed(rule.name.clone(), RuleKind::Enrich, "enrich", place);
            let fields = rule.told.iter().map(|field| Input::scored(&rule.name, field));
            rule::Rule { reads: fields.collect(), ..told }
        };
        (0..).zip(&self.rules).map(told).collect()
    }

    fn body(&self) -> BodyNeed {
        BodyNeed::Whole
    }
}

/// The body, where it is JSON as far as the head tells (RFC 9110, section 8.3 and 8.4; RFC 6839, section 3.1).
fn readable(head: &request::Parts, ctx: &RequestContext) -> Result<Bytes, ScoreFault> {
    let refuse = |what| Err(ScoreFault::Body { offset: 0, what });
    let plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !ctx.decoded && !head.headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return refuse("the body is content-encoded");
    }
    let mut types = head.headers.get_all(CONTENT_TYPE).iter();
    let is_json = match (types.next(), types.next()) {
        (Some(value), None) => value.to_str().is_ok_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
                || (essence.contains('/') && essence.to_ascii_lowercase().ends_with("+json"))
        }),
        _ => false,
    };
    match ctx.body.as_ref() {
        _ if !is_json => refuse("the content type is not JSON"),
        Some(body) if !body.is_empty() => Ok(body.clone()),
        _ => refuse("there is no body"),
    }
}

/// True where text that could not be read may hold this name: as it is, in any case; escaped; or in an
/// encoding other than UTF-8, compressed ones included.
fn may_hold(body: &[u8], name: &str) -> bool {
    std::str::from_utf8(body).is_err()
        || body.contains(&0)
        || body.windows(2).any(|pair| pair == br"\u")
        || body.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name.as_bytes()))
}

/// The word for a fault in the status header.
fn cause(fault: &ScoreFault) -> &'static str {
    match fault {
        ScoreFault::Body { .. } => "body",
        ScoreFault::Feature(_) => "feature",
        ScoreFault::Late => "late",
        ScoreFault::Busy => "busy",
        ScoreFault::Model(_) => "model",
    }
}

/// True where the threads of the model were too busy for some record.
fn is_lost(scores: &Scores) -> bool {
    let lost = |fault: &ScoreFault| matches!(fault, ScoreFault::Late | ScoreFault::Busy);
    match scores {
        Ok(records) => records.iter().any(|record| record.score.as_ref().is_err_and(lost)),
        Err(fault) => lost(fault),
    }
}

impl Rule {
    fn is_done(&self, ctx: &RequestContext) -> bool {
        ctx.scores.iter().any(|fact| Arc::ptr_eq(&fact.rule, &self.name))
    }

    fn call(&self, head: &request::Parts, body: Bytes, ctx: &RequestContext) -> ScoreCall {
        let now = ctx.moment.unix;
        let explain = self.places.as_ref().is_some_and(|places| places.explains(head, ctx));
        ScoreCall { body, reserved: self.reserved.clone(), budget: self.deadline.0, now, explain }
    }

    /// Waits for the scores. A score that could be given here is not lost because its reasons had to wait.
    async fn ask(&self, call: ScoreCall, waits: bool) -> Scores {
        if !waits && let Some(scores) = self.scorer.score(&call) {
            return scores;
        }
        let plain = call.explain.then(|| ScoreCall { explain: false, ..call.clone() });
        let scores = self.scorer.submit(call).await;
        match plain.filter(|_| is_lost(&scores)) {
            Some(plain) => self.scorer.score(&plain).unwrap_or(scores),
            None => scores,
        }
    }

    /// Turns scores into edits and a fact, or into the refusal that the policy asks for.
    fn apply(&self, scores: Scores, ctx: &mut RequestContext) -> Result<(), Box<Reply>> {
        let (records, mut fault) = match scores {
            Ok(records) => (records, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        if self.on_reserved == OnReserved::Reject && records.iter().any(|record| !record.reserved.is_empty())
        {
            return Err(Box::new(Reply::new(Reason::FieldReserved).rule(&self.name)));
        }
        let mut values = SmallVec::<[f32; 1]>::new();
        for record in &records {
            match &record.score {
                Ok(score) => values.push(*score),
                Err(why) => {
                    values.push(self.instead(why, ctx)?);
                    fault.get_or_insert_with(|| why.clone());
                }
            }
        }
        if let Some(fault) = fault.as_ref().filter(|_| records.is_empty()) {
            values.push(self.instead(fault, ctx)?);
            self.refuse_hidden(ctx)?;
        }
        self.edit_headers(&values, fault.as_ref(), ctx);
        if let Some(places) = &self.places {
            places.edit_headers(&records, &values, ctx);
        }
        self.edit_body(&records, &values, ctx)?;
        let beside = beside::fact(self.places.as_deref(), &records, &values);
        let decided = records.iter().find_map(|record| record.version.clone());
        let version = decided.unwrap_or_else(|| self.version.clone());
        let (rule, model) = (self.name.clone(), self.model.clone());
        ctx.scores.push(ScoreFact { rule, model, version, scores: values, fault, beside });
        ctx.trace.score();
        Ok(())
    }

    /// A body that cannot be read goes on as it was sent, but not with a field of ours in it: what reads
    /// it behind the gateway may be less strict than the gateway.
    fn refuse_hidden(&self, ctx: &RequestContext) -> Result<(), Box<Reply>> {
        let Some(body) = &ctx.body else { return Ok(()) };
        match self.reserved.iter().find(|name| may_hold(body, name)) {
            Some(name) => {
                let detail = format!("an unreadable body that may hold {name}");
                Err(Box::new(Reply::new(Reason::FieldReserved).rule(&self.name).detail(detail)))
            }
            None => Ok(()),
        }
    }

    /// The score that stands in for a missing one, or the refusal; a fact tells of it all the same.
    fn instead(&self, fault: &ScoreFault, ctx: &mut RequestContext) -> Result<f32, Box<Reply>> {
        if let Some(score) = self.fallback {
            return Ok(score);
        }
        ctx.scores.push(ScoreFact {
            rule: self.name.clone(),
            model: self.model.clone(),
            version: self.version.clone(),
            scores: SmallVec::new(),
            fault: Some(fault.clone()),
            beside: None,
        });
        ctx.trace.score();
        let reason = match fault {
            ScoreFault::Body { .. } | ScoreFault::Feature(_) => Reason::BodyUnreadable,
            ScoreFault::Late | ScoreFault::Busy | ScoreFault::Model(_) => Reason::ScoreUnavailable,
        };
        Err(Box::new(Reply::new(reason).rule(&self.name).detail(fault.to_string())))
    }

    fn edit_headers(&self, values: &[f32], fault: Option<&ScoreFault>, ctx: &mut RequestContext) {
        let Some((score, status)) = &self.headers else { return };
        let mut list = String::with_capacity(values.len() * SCORE_LENGTH);
        for value in values {
            if !list.is_empty() {
                list.push(',');
            }
            decimal::push_score(&mut list, *value);
        }
        let told = match fault {
            None => Ok(HeaderValue::from_static("scored")),
            Some(fault) => HeaderValue::try_from(format!("default;cause={}", cause(fault))),
        };
        for (name, value) in [(score, HeaderValue::try_from(list)), (status, told)] {
            ctx.edits.request.push(match value {
                Ok(value) => HeaderEdit::Set(name.clone(), value),
                Err(_) => HeaderEdit::Remove(name.clone()),
            });
        }
    }

    fn edit_body(
        &self,
        records: &[RecordScore],
        values: &[f32],
        ctx: &mut RequestContext,
    ) -> Result<(), Box<Reply>> {
        let Some(body) = ctx.body.as_ref().filter(|_| !self.reserved.is_empty()) else { return Ok(()) };
        let removals = records.iter().flat_map(|record| record.reserved.iter().cloned());
        let inserts = records.iter().zip(values).map(|(record, value)| {
            let member = self.member.as_deref().unwrap_or_default();
            let mut text = String::with_capacity(member.len() + SCORE_LENGTH);
            if !member.is_empty() {
                text.push_str(member);
                decimal::push_score(&mut text, *value);
            }
            if let Some(places) = &self.places {
                places.push_members(&mut text, record.detail.as_deref(), *value);
            }
            (record.insert_at, text)
        });
        let merged = merge::merge(body, &ctx.edits.body, removals, inserts);
        ctx.edits.body = merged.ok_or_else(|| {
            Box::new(Reply::new(Reason::Internal).rule(&self.name).detail("splices that do not fit the body"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod fixed;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
