//! How much memory a record takes, and what bounds it.

use std::sync::Arc;

use foregate_filters::context::{AuditFact, Beside, LimitFact, ScoreFact, ShadowFact};
use foregate_filters::peer::Peer;
use foregate_filters::principal::{Claims, Principal};
use foregate_filters::score::{Predictor, ScoreFault};
use http::Method;

use crate::telemetry::labels::OTHER_METHOD;
use crate::telemetry::record::Record;
use crate::telemetry::traces::attempts::Attempt;

/// Longest path kept, in bytes: a path may fill the whole head, a record may not.
const MAX_PATH: usize = 1_024;

/// Longest host kept, in bytes: a DNS name fits (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// Longest method kept, in bytes; a longer one is recorded as `_OTHER`, as OpenTelemetry has it.
const MAX_METHOD: usize = 32;

/// Longest free text kept, in bytes.
pub(super) const MAX_DETAIL: usize = 512;

/// Most scores kept of one rule: the records of one Salesforce collection.
const MAX_SCORES: usize = 200;

/// Longest issuer or subject kept, in bytes.
const MAX_SUBJECT: usize = 255;

impl Record {
    /// Cuts whatever a client can make long, so that queues of records stay bounded.
    pub fn bound(&mut self) {
        shorten(&mut self.path, MAX_PATH);
        shorten(&mut self.host, MAX_HOST);
        if self.method.as_str().len() > MAX_METHOD {
            self.method = Method::from_bytes(OTHER_METHOD.as_bytes()).unwrap_or_default();
        }
        let long = |it: &Arc<Principal>| it.issuer.len() > MAX_SUBJECT || it.subject.len() > MAX_SUBJECT;
        if self.subject.as_ref().is_some_and(long) {
            self.forget_claims();
        }
        if let Some(refusal) = &mut self.refusal {
            shorten(&mut refusal.detail, MAX_DETAIL);
        }
        for audit in &mut self.audits {
            shorten(&mut audit.detail, MAX_DETAIL);
        }
        for fact in &mut self.scores {
            fact.scores.truncate(MAX_SCORES);
            if let Some(beside) = &mut fact.beside {
                for list in [&mut beside.classes, &mut beside.bands] {
                    if list.len() > MAX_SCORES {
                        *list = list.iter().take(MAX_SCORES).cloned().collect();
                    }
                }
            }
            if let Some(ScoreFault::Feature(text) | ScoreFault::Model(text)) = &mut fact.fault {
                shorten(text, MAX_DETAIL);
            }
        }
    }

    /// Lets go of the claims, which may be large, and keeps what is written down: issuer and subject.
    pub fn forget_claims(&mut self) {
        if let Some(principal) = &self.subject {
            let short = |text: &str| {
                let mut text = Box::from(text);
                shorten(&mut text, MAX_SUBJECT);
                text.into()
            };
            let (issuer, subject) = (short(&principal.issuer), short(&principal.subject));
            self.subject = Some(Arc::new(Principal {
                issuer,
                subject,
                scopes: Arc::default(),
                claims: Claims::default(),
                expires: principal.expires,
            }));
        }
    }

    /// Memory that this record holds alone, in bytes, to within a few allocations.
    pub fn weight(&self) -> usize {
        let texts = self.path.len() + self.host.len();
        let refusal = self.refusal.as_ref().map_or(0, |it| it.rule.len() + it.detail.len());
        let beside = |it: &ScoreFact| it.beside.as_deref().map_or(0, beside);
        let score = |it: &ScoreFact| size_of::<ScoreFact>() + 4 * it.scores.len() + beside(it);
        let scores: usize = self.scores.iter().map(score).sum();
        let audits: usize = self.audits.iter().map(|it| size_of::<AuditFact>() + it.detail.len()).sum();
        let limits =
            self.limits.len() * size_of::<LimitFact>() + self.shadows.len() * size_of::<ShadowFact>();
        let subject =
            self.subject.as_ref().map_or(0, |it| size_of::<Principal>() + it.issuer.len() + it.subject.len());
        let peer = self.peer.as_ref().and_then(|peer| peer.id.as_ref());
        let peer = peer.map_or(0, |id| size_of::<Peer>() + id.as_str().len());
        let explanation = self.explanation.as_ref().map_or(0, |explanation| explanation.weight());
        let explanation = explanation + self.tries.capacity() * size_of::<Attempt>();
        explanation + size_of::<Self>() + texts + refusal + scores + audits + limits + subject + peer
    }
}

/// Cuts a text to `max` bytes at a character border, and says so with an ellipsis.
fn shorten(text: &mut Box<str>, max: usize) {
    if text.len() > max {
        *text = format!("{}\u{2026}", text.get(..text.floor_char_boundary(max)).unwrap_or_default()).into();
    }
}

/// Names are shared with the model; what it read of one request is not.
fn beside(beside: &Beside) -> usize {
    let value = |it: &Predictor| size_of::<Predictor>() + it.value.as_ref().map_or(0, |value| value.len());
    let reasons = beside.reasons.iter().flatten().flat_map(|reasons| &reasons.predictors);
    let shared = (beside.classes.len() + beside.bands.len()) * size_of::<Arc<str>>();
    size_of::<Beside>() + shared + size_of_val(&*beside.reasons) + reasons.map(value).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use crate::telemetry::record::Record;
    use crate::telemetry::testing::{full_record, record};
    use foregate_filters::principal::{Claims, Principal};
    use http::Method;
    use smallvec::SmallVec;

    #[test]
    fn what_a_client_makes_long_is_cut() {
        let mut long = full_record();
        long.path = "\u{e9}".repeat(40_000).into();
        long.host = "h".repeat(70_000).into();
        long.method = Method::from_bytes("M".repeat(9_000).as_bytes()).unwrap();
        long.refusal.as_mut().unwrap().detail = "d".repeat(9_000).into();
        long.audits[0].detail = "d".repeat(9_000).into();
        long.scores[0].scores = SmallVec::from_elem(0.5, 10_000);
        long.subject = Some(std::sync::Arc::new(Principal {
            issuer: "i".repeat(9_000).into(),
            subject: "s".repeat(9_000).into(),
            scopes: std::sync::Arc::default(),
            claims: Claims::default(),
            expires: 0,
        }));
        long.bound();
        assert!(long.weight() < size_of::<Record>() + 5_000, "{}", long.weight());
        assert_eq!(long.method.as_str(), "_OTHER");
        assert!(long.path.ends_with('\u{2026}'));
        let mut short = record();
        short.bound();
        assert_eq!(short.path, record().path);
    }
}
