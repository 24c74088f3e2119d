//! One request's turn with several limits: all of them are taken, or none.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::request;
use smallvec::SmallVec;

use super::RateLimit;
use super::counted::{Receipt, give_back};
use super::counting::{Held, Taken};
use super::limit::{Limit, Turn};
use super::limiter::Decision;
use super::shared::{Decisions, SharedCounters, Take, Taking, Unavailable};
use super::spec::OnError;
use crate::authorize::Mode;
use crate::context::{AuditFact, LimitFact, RequestContext};
use crate::expression::Scope;
use crate::moment::Moment;
use crate::reason::Reason;
use crate::rule::RuleKind;
use crate::verdict::{Reply, Verdict};

type Turns = SmallVec<[Turn; 2]>;

/// What is taken from the store, each with the index of its limit.
type Takes = (SmallVec<[usize; 2]>, SmallVec<[Take; 2]>);

/// What the store said, or that it said nothing.
type Answer = Result<Decisions, Unavailable>;

/// The store that the shared limits of one filter are in.
#[derive(Debug)]
pub(super) struct Sharing {
    counters: Arc<dyn SharedCounters>,
    /// Some are in audit mode: they are asked apart, for what they say must not hold up the others.
    audits: bool,
}

impl Sharing {
    pub(super) fn of(limits: &[Limit]) -> Option<Self> {
        let counters = limits.iter().find_map(Limit::shared).map(|shared| Arc::clone(&shared.counters))?;
        let audits = limits.iter().any(|limit| limit.mode == Mode::Audit && limit.shared().is_some());
        Some(Self { counters, audits })
    }
}

impl RateLimit {
    fn turns(&self, head: &request::Parts, ctx: &RequestContext) -> Turns {
        let scope = Scope { head, ctx };
        self.limits.iter().map(|limit| limit.turn(&scope)).collect()
    }

    /// Counts where all limits are of this process.
    pub(super) fn alone(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let turns = self.turns(head, ctx);
        self.settle(turns, false, ctx)
    }

    /// Counts together with others, where the store need not be asked for that.
    pub(super) fn at_once(
        &self,
        sharing: &Sharing,
        head: &request::Parts,
        ctx: &mut RequestContext,
    ) -> Verdict {
        let mut turns = self.turns(head, ctx);
        if let Some(at) = self.refuses_here(&mut turns, ctx.counted_at) {
            return self.refuse(&turns, at, ctx);
        }
        let (places, takes) = self.takes(&turns, Mode::Enforce);
        if sharing.audits && !self.takes(&turns, Mode::Audit).0.is_empty() {
            return Verdict::Wait;
        }
        if takes.is_empty() {
            return self.settle(turns, false, ctx);
        }
        let Some(decisions) = sharing.counters.take_at_once(&takes, ctx.counted_at) else {
            return Verdict::Wait;
        };
        let given = self.note(&places, &Ok(decisions), &mut turns);
        self.settle(turns, given, ctx)
    }

    /// The same, where it must: once for all limits that the request needs.
    pub(super) async fn with_others(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let mut turns = self.turns(head, ctx);
        if let Some(at) = self.refuses_here(&mut turns, ctx.counted_at) {
            return self.refuse(&turns, at, ctx);
        }
        let Some(sharing) = &self.sharing else { return self.settle(turns, false, ctx) };
        let (places, takes) = self.takes(&turns, Mode::Enforce);
        let mut given = false;
        if !takes.is_empty() {
            let answer = sharing.counters.take(&takes, ctx.counted_at).await;
            given = self.note(&places, &answer, &mut turns);
        }
        if sharing.audits && self.refuser(&turns).is_none() {
            let (places, takes) = self.takes(&turns, Mode::Audit);
            let ask = |take| sharing.counters.take(std::slice::from_ref(take), ctx.counted_at);
            let answers = all(takes.iter().map(ask).collect()).await;
            for (place, answer) in places.iter().zip(&answers) {
                self.note(std::slice::from_ref(place), answer, &mut turns);
            }
        }
        self.settle(turns, given, ctx)
    }

    /// A limit of this process that refuses already, before others are asked; nothing is taken.
    fn refuses_here(&self, turns: &mut Turns, moment: Moment) -> Option<usize> {
        drop(self.hold(turns, moment));
        self.refuser(turns)
    }

    fn takes(&self, turns: &Turns, mode: Mode) -> Takes {
        let asked = self.limits.iter().zip(turns).enumerate();
        let asked = asked.filter(|(_, (limit, _))| limit.mode == mode);
        asked.filter_map(|(index, (limit, turn))| Some((index, limit.take(turn)?))).unzip()
    }

    /// Notes what the store said; true where it has given all.
    fn note(&self, places: &[usize], answer: &Answer, turns: &mut Turns) -> bool {
        let mut given = true;
        for (number, place) in places.iter().enumerate() {
            let (Some(turn), Some(limit)) = (turns.get_mut(*place), self.limits.get(*place)) else {
                continue;
            };
            let key = turn.ask.as_ref().map_or(0, |ask| ask.key.0);
            if let Some(decision) = answer.as_ref().ok().and_then(|decisions| decisions.get(number)) {
                given &= decision.admitted;
                turn.decision = Some(Decision { key, ..*decision });
            } else {
                // An answer that lacks a decision is no answer.
                given = false;
                turn.unavailable = limit.shared().map(|shared| shared.on_error);
                turn.rehash(limit);
            }
        }
        given
    }

    /// Holds every counter of this process that the request needs, and decides about each.
    fn hold(&self, turns: &mut Turns, moment: Moment) -> SmallVec<[(usize, Held<'_>); 2]> {
        let mut held = SmallVec::new();
        for index in &self.order {
            let (Some(limit), Some(turn)) = (self.limits.get(*index), turns.get_mut(*index)) else {
                continue;
            };
            let (Some(local), Some(ask)) = (limit.local(turn), &turn.ask) else { continue };
            let (counter, decision) = local.hold(ask.key, ask.cost, moment);
            turn.decision = Some(decision);
            held.push((*index, counter));
        }
        held
    }

    /// The first limit that refuses.
    fn refuser(&self, turns: &Turns) -> Option<usize> {
        self.limits.iter().zip(turns).position(|(limit, turn)| limit.refuses(turn))
    }

    /// Takes from all counters of this process, or from none; `given`: the store has given its part.
    fn settle(&self, mut turns: Turns, given: bool, ctx: &mut RequestContext) -> Verdict {
        let held = self.hold(&mut turns, ctx.counted_at);
        let refuser = self.refuser(&turns);
        if let Some(at) = refuser {
            drop(held);
            self.return_shared(&turns, given, ctx.counted_at);
            return self.refuse(&turns, at, ctx);
        }
        for (index, counter) in held {
            let admitted = turns.get(index).and_then(|turn| turn.decision).is_some_and(|it| it.admitted);
            if admitted && let Some(permit) = counter.commit(ctx.counted_at, self.step) {
                ctx.counted.permit(permit);
            }
        }
        for (limit, turn) in self.limits.iter().zip(&turns) {
            let from = ctx.edits.response.len();
            self.tell(limit, turn, ctx);
            if self.followed && turn.ask.is_some() {
                let told = from..ctx.edits.response.len();
                let taken = taken(limit, turn, ctx.counted_at);
                let (rule, step) = (Arc::clone(&limit.name), self.step);
                ctx.counted.receipt(Receipt { rule, step, taken, at: ctx.counted_at, told });
            }
        }
        Verdict::Continue
    }

    /// Gives back what the store has given, for something here refuses.
    fn return_shared(&self, turns: &Turns, given: bool, moment: Moment) {
        let Some(sharing) = &self.sharing else { return };
        let has = |limit: &Limit, turn: &Turn| {
            turn.unavailable.is_none()
                && turn.decision.is_some_and(|decision| decision.admitted)
                && (given || limit.mode == Mode::Audit)
        };
        let asked = self.limits.iter().zip(turns).filter(|(limit, turn)| has(limit, turn));
        let takes: SmallVec<[Take; 2]> = asked.filter_map(|(limit, turn)| limit.take(turn)).collect();
        if !takes.is_empty() {
            sharing.counters.give_back(&takes, moment);
        }
    }

    /// Leaves what is known of a limit that the request has passed.
    fn tell(&self, limit: &Limit, turn: &Turn, ctx: &mut RequestContext) {
        ctx.limits.extend(fact(limit, turn));
        match (limit.mode, &turn.decision) {
            (Mode::Enforce, Some(decision)) => {
                limit.told.tell(decision, ctx.counted_at, &mut ctx.edits.response);
            }
            // Callers are not told of a limit that does not bind them.
            (Mode::Audit, _) => self.audit(limit, turn, ctx),
            (Mode::Enforce, None) => {}
        }
    }

    fn audit(&self, limit: &Limit, turn: &Turn, ctx: &mut RequestContext) {
        let detail = match (&turn.error, &turn.decision) {
            (Some(error), _) => error.to_string(),
            (None, Some(decision)) if !decision.admitted => "the limit is used up".to_owned(),
            _ if turn.unavailable == Some(OnError::Reject) => "the store cannot be asked".to_owned(),
            _ => return,
        };
        ctx.audits.push(AuditFact { step: self.step, rule: limit.name.clone(), detail: detail.into() });
    }

    /// Refuses for the limit at this place. Those before it in audit mode say what they would have done.
    fn refuse(&self, turns: &Turns, at: usize, ctx: &mut RequestContext) -> Verdict {
        give_back(ctx, self.step);
        for (limit, turn) in self.limits.iter().zip(turns).take(at) {
            let refused = turn.decision.is_some_and(|decision| !decision.admitted);
            if limit.mode == Mode::Audit && (refused || turn.error.is_some()) {
                self.tell(limit, turn, ctx);
            }
        }
        let Some((limit, turn)) = self.limits.get(at).zip(turns.get(at)) else {
            return Reply::new(Reason::Internal).detail("no limit refused").into();
        };
        if let Some(error) = &turn.error {
            return Reply::new(Reason::RuleError).rule(&limit.name).detail(error.to_string()).into();
        }
        self.tell(limit, turn, ctx);
        let Some(decision) = turn.decision else {
            let reply = Reply::new(Reason::LimitUnavailable).rule(&limit.name);
            return reply.detail("the store of the limit cannot be asked").into();
        };
        let reply = Reply::new(limit.reason()).rule(&limit.name);
        let never = decision.retry_after == Duration::MAX && limit.kind != RuleKind::Concurrency;
        let reply = if never { reply.detail("it costs more than is ever admitted at once") } else { reply };
        limit.told.retry(&decision, reply).into()
    }
}

/// Waits for all at once: no longer than for the slowest. The answers are in the order of the questions.
async fn all(asked: SmallVec<[Taking<'_>; 2]>) -> SmallVec<[Answer; 2]> {
    let mut open: SmallVec<[Option<Taking<'_>>; 2]> = asked.into_iter().map(Some).collect();
    let unanswered = || Err(Unavailable("not answered".into()));
    let mut answers: SmallVec<[Answer; 2]> = open.iter().map(|_| unanswered()).collect();
    poll_fn(|cx| {
        for (place, answer) in open.iter_mut().zip(&mut answers) {
            if let Some(taking) = place
                && let Poll::Ready(answered) = taking.as_mut().poll(cx)
            {
                *answer = answered;
                *place = None;
            }
        }
        if open.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers
}

/// What a limit says of the request to logs and metrics.
fn fact(limit: &Limit, turn: &Turn) -> Option<LimitFact> {
    let key = turn.ask.as_ref()?.key.0;
    let unavailable = turn.unavailable;
    let (rule, kind) = (limit.name.clone(), limit.kind);
    Some(match turn.decision {
        Some(decision) => LimitFact {
            rule,
            kind,
            remaining: decision.remaining,
            retry_after: decision.retry_after,
            admitted: decision.admitted,
            key: decision.key,
            unavailable,
        },
        None => LimitFact {
            rule,
            kind,
            remaining: 0,
            retry_after: Duration::MAX,
            admitted: unavailable? != OnError::Reject,
            key,
            unavailable,
        },
    })
}

fn taken(limit: &Limit, turn: &Turn, moment: Moment) -> Option<Taken> {
    let ask = turn.ask.as_ref()?;
    if !turn.decision?.admitted {
        return None;
    }
    if let Some(local) = limit.local(turn) {
        return local.taken(ask.key, ask.cost, moment);
    }
    if ask.cost == 0 {
        return None;
    }
    let counters = Arc::clone(&limit.shared()?.counters);
    Some(Taken::Shared { counters, take: limit.take(turn)? })
}
