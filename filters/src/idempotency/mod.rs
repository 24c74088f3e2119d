//! Carries requests with a key out once: claims keys, compares payloads, finds kept answers.

pub mod answer;
mod build;
mod event;
mod header;
pub mod ledger;
mod notification;
pub mod spec;
#[cfg(test)]
mod tests;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, request};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::context::RequestContext;
use crate::edits::Splice;
use crate::expression::{KeyExpression, Scope};
use crate::fault::Path;
use crate::filter::{BodyNeed, Filter, Pending};
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::verdict::{Reply, Verdict};
use answer::{Answer, Terms};
use ledger::{Asked, Claim, Digest, Found, Ledger, Unavailable};
use notification::Notification;
use spec::OnError;

/// What the rule is called in refusals: a policy has one of them.
const RULE: &str = "idempotency";

/// When a repeat may come again, in seconds.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// What is to be done about a request with a key.
#[derive(Debug)]
pub enum Once {
    /// It is carried out, and holds its keys meanwhile.
    First(First),
    /// It was carried out before: the answer is there.
    Again(Arc<Answer>),
    /// The ledger cannot be asked, and the policy goes on without.
    Unguarded,
}

/// The first request with its keys.
#[derive(Debug)]
pub struct First {
    /// One a key; dropped, they free them.
    pub claims: SmallVec<[Box<dyn Claim>; 1]>,
    pub terms: Terms,
    /// Time from the claim until nothing more is kept.
    pub lock: Duration,
}

impl Once {
    /// The word in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::First(_) => "first",
            Self::Again(_) => "replayed",
            Self::Unguarded => "unguarded",
        }
    }
}

/// Lets a request with a key pass once.
#[derive(Debug)]
pub struct Idempotency {
    name: Arc<str>,
    policy: Box<str>,
    source: Source,
    /// `None`: whoever is identified, on this route.
    scope: Option<KeyExpression>,
    methods: SmallVec<[Method; 2]>,
    required: bool,
    /// `None`: a repeat does not wait.
    wait: Option<Duration>,
    lock: Duration,
    keep: Duration,
    on_error: OnError,
    terms: Terms,
    ledger: Arc<dyn Ledger>,
}

/// Where the keys of a request are.
#[derive(Debug)]
enum Source {
    Header(HeaderName),
    Notification,
    EventUuid,
    Expression(Box<KeyExpression>),
}

/// The keys of one request.
#[derive(Debug)]
struct Keys {
    /// Sorted and each once: two requests that want some of the same keys never wait for each other.
    asked: Vec<Asked>,
    /// Of an outbound message: what carries which key.
    carried: Vec<(Digest, Notification)>,
}

/// What became of the claims.
enum Claimed {
    All(Vec<(Digest, Found)>),
    Busy,
    Differs,
}

impl Source {
    const fn acknowledges(&self) -> bool {
        matches!(self, Self::Notification)
    }

    /// True where the key alone says what is meant: deliveries of one message differ in session and form.
    const fn names_payload(&self) -> bool {
        matches!(self, Self::Notification | Self::EventUuid)
    }
}

/// A digest of parts, each told from the next whatever is in them.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Whoever is identified, as parts of a digest; `None` where nobody is.
fn identity(ctx: &RequestContext) -> Option<Vec<&[u8]>> {
    if let Some(principal) = &ctx.principal {
        if !principal.subject.is_empty() {
            return Some(vec![b"token", principal.issuer.as_bytes(), principal.subject.as_bytes()]);
        }
        // A token of nobody does not speak for whoever carries it here.
        ctx.consumer.as_ref()?;
    }
    if let Some(consumer) = &ctx.consumer {
        return Some(vec![b"key", consumer.name.as_bytes()]);
    }
    let peer = ctx.peer.as_ref()?;
    let id = peer.id.as_ref().map_or(&peer.thumbprint[..], |id| id.as_str().as_bytes());
    Some(vec![b"peer", id])
}

impl Idempotency {
    fn refuse(&self, reason: Reason, detail: impl Into<Box<str>>) -> Box<Reply> {
        Box::new(Reply::new(reason).rule(&self.name).detail(detail))
    }

    /// Whose keys are meant.
    fn scope(&self, head: &request::Parts, ctx: &RequestContext) -> Result<Digest, Box<Reply>> {
        let error = |detail: String| self.refuse(Reason::RuleError, detail);
        let Some(scope) = &self.scope else {
            let whose = identity(ctx).ok_or_else(|| {
                error("nobody is identified: a scope must say whose keys are meant".to_owned())
            })?;
            let parts: Vec<&[u8]> =
                [self.policy.as_bytes(), ctx.route.as_bytes()].into_iter().chain(whose).collect();
            return Ok(digest(&parts));
        };
        let digest =
            scope.evaluate(&Scope { head, ctx }, |value| digest(&[self.policy.as_bytes(), value.as_bytes()]));
        digest.map_err(|why| error(why.to_string()))
    }

    /// The keys of a request; `None` where it has none.
    fn keys(
        &self,
        head: &request::Parts,
        ctx: &RequestContext,
        body: &Bytes,
    ) -> Result<Option<Keys>, Box<Reply>> {
        let invalid = |detail: String| self.refuse(Reason::IdempotencyKeyInvalid, detail);
        if self.source.names_payload() && head.headers.contains_key(CONTENT_ENCODING) {
            return Err(self.refuse(Reason::BodyEncoded, "the key is in the body"));
        }
        let mut named: Vec<(String, Option<Notification>)> = Vec::new();
        match &self.source {
            Source::Header(name) => {
                let key = header::key(&head.headers, name).map_err(|why| invalid(why.0.to_owned()))?;
                named.extend(key.map(|key| (key, None)));
            }
            Source::Expression(expression) => {
                let key = expression.evaluate(&Scope { head, ctx }, str::to_owned);
                let key = key.map_err(|why| self.refuse(Reason::RuleError, why.to_string()))?;
                named.push((key, None));
            }
            Source::EventUuid => {
                let uuid = event::uuid(body).map_err(|why| invalid(format!("{why:?}")))?;
                named.extend(uuid.map(|uuid| (uuid, None)));
            }
            Source::Notification => {
                let message = notification::message(body).map_err(|why| invalid(why.0.to_owned()))?;
                let key = |id: &str| format!("{}/{id}", message.org);
                named.extend(message.notifications.into_iter().map(|one| (key(&one.id), Some(one))));
            }
        }
        if named.is_empty() {
            return Ok(None);
        }
        let scope = self.scope(head, ctx)?;
        let fingerprint = if self.source.names_payload() {
            Digest::default()
        } else {
            let target = head.uri.path_and_query().map_or("", |target| target.as_str());
            // The route too: where several share a scope, another service is another request.
            digest(&[ctx.route.as_bytes(), head.method.as_str().as_bytes(), target.as_bytes(), body])
        };
        let mut keys = Keys { asked: Vec::with_capacity(named.len()), carried: Vec::new() };
        for (name, notification) in named {
            let key = digest(&[&scope, name.as_bytes()]);
            keys.asked.push(Asked { key, fingerprint, lock: self.lock, keep: self.keep });
            keys.carried.extend(notification.map(|notification| (key, notification)));
        }
        keys.asked.sort_unstable_by_key(|asked| asked.key);
        keys.asked.dedup_by_key(|asked| asked.key);
        Ok(Some(keys))
    }

    /// Claims every key, or none: what was claimed is freed where one is busy.
    async fn claim(&self, keys: &Keys, now: Duration) -> Result<Claimed, Unavailable> {
        let mut claimed = Vec::with_capacity(keys.asked.len());
        for asked in &keys.asked {
            let found = loop {
                match self.ledger.claim(asked).await? {
                    Found::Running(other) | Found::Done(other, _) if other != asked.fingerprint => {
                        return Ok(Claimed::Differs);
                    }
                    Found::Running(_) => {
                        let Some(wait) = self.wait else { return Ok(Claimed::Busy) };
                        if !self.ledger.ended(&asked.key, now.saturating_add(wait)).await {
                            return Ok(Claimed::Busy);
                        }
                    }
                    found => break found,
                }
            };
            claimed.push((asked.key, found));
        }
        Ok(Claimed::All(claimed))
    }

    async fn run(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let body = ctx.body.clone().unwrap_or_default();
        let keys = match self.keys(head, ctx, &body) {
            Ok(Some(keys)) => keys,
            Ok(None) if self.required => {
                return Reply::new(Reason::IdempotencyKeyMissing).rule(&self.name).into();
            }
            Ok(None) => return Verdict::Continue,
            Err(reply) => return Verdict::Reply(reply),
        };
        match self.claim(&keys, ctx.moment.monotonic).await {
            Ok(Claimed::All(found)) => self.follow(keys, found, ctx),
            Ok(Claimed::Busy) => {
                let reply = Reply::new(Reason::IdempotencyConflict).rule(&self.name);
                reply.header(RETRY_AFTER, AGAIN).into()
            }
            Ok(Claimed::Differs) => Reply::new(Reason::IdempotencyKeyReused).rule(&self.name).into(),
            Err(Unavailable(_)) if self.on_error == OnError::Continue => {
                ctx.once = Some(Box::new(Once::Unguarded));
                Verdict::Continue
            }
            Err(Unavailable(why)) => {
                let reply = Reply::new(Reason::IdempotencyUnavailable).rule(&self.name).detail(why);
                reply.header(RETRY_AFTER, AGAIN).into()
            }
        }
    }

    /// Goes on by what is known of the keys.
    fn follow(&self, keys: Keys, found: Vec<(Digest, Found)>, ctx: &mut RequestContext) -> Verdict {
        let (mut claims, mut known, mut answer) = (SmallVec::new(), Vec::new(), None);
        for (key, found) in found {
            match found {
                Found::Free(claim) => claims.push(claim),
                Found::Done(_, kept) => {
                    known.push(key);
                    answer = answer.or(kept);
                }
                Found::Running(_) => {}
            }
        }
        if claims.is_empty() {
            let Some(answer) = answer else {
                return Reply::new(Reason::IdempotencyAnswerGone).rule(&self.name).into();
            };
            ctx.once = Some(Box::new(Once::Again(answer)));
            return Verdict::Continue;
        }
        // Of several notifications, those that were taken before are taken out.
        let out = keys.carried.into_iter().filter(|(key, _)| known.contains(key));
        ctx.edits.body.extend(out.map(|(_, one)| Splice { range: one.range, with: Bytes::new() }));
        let first = First { claims, terms: self.terms, lock: self.lock };
        ctx.once = Some(Box::new(Once::First(first)));
        Verdict::Continue
    }
}

impl Filter for Idempotency {
    fn on_request(&self, head: &request::Parts, _: &mut RequestContext) -> Verdict {
        if self.methods.contains(&head.method) { Verdict::Wait } else { Verdict::Continue }
    }

    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(self.run(head, ctx))
    }

    /// What is open was carried out already.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        let at = Path::default().key(RULE);
        let mut rule = Rule { at, ..Rule::listed(self.name.clone(), RuleKind::Idempotency, "", 0) };
        if let Source::Expression(expression) = &self.source {
            rule.source = expression.source().into();
            rule.reads.extend_from_slice(expression.inputs());
        }
        rule.reads.extend(self.scope.iter().flat_map(KeyExpression::inputs).cloned());
        vec![rule]
    }

    fn body(&self) -> BodyNeed {
        BodyNeed::Whole
    }

    fn body_of(&self, head: &request::Parts) -> BodyNeed {
        if self.methods.contains(&head.method) { BodyNeed::Whole } else { BodyNeed::None }
    }
}
