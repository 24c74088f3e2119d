//! The calls of one org: what is known, what is under way, who may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use super::rolling::{Rolling, hour};
use super::spec::{ClassRule, Holder, Rules};
use super::usage::{self, Told, Usage};
use crate::authorize::Mode;

/// Time in which an org counts its calls. It is a window that moves: calls of a day ago fall out one by one.
const DAY: Duration = Duration::from_hours(24);

/// Calls that may be made before anything is known of an org.
const UNREAD: u64 = 100;

/// The calls of one org. Everything is of this process alone; what other gateways and integrations use is seen in
/// what the org says.
#[derive(Debug)]
pub struct Pool {
    rules: Rules,
    state: Arc<Mutex<State>>,
    /// One a class.
    counts: Vec<Counts>,
    ignored: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicU64,
    refused: AtomicU64,
}

/// What is known. It outlives the rules.
#[derive(Debug, Default)]
pub struct State {
    org: Option<Usage>,
    app: Option<Usage>,
    /// Monotonic time of the answer that said how the org stands.
    read: Duration,
    /// The same of the app: not every answer names it.
    app_read: Duration,
    /// Counts what was said and taken over.
    generation: u64,
    /// Calls let through whose answers are not there yet.
    open: u64,
    /// Calls that were made, and whose answers said nothing.
    unread: u64,
    /// Those of them that the org still counts.
    recent: Rolling,
    /// Those of `unread` that the last usage has in it for sure, or that the org counts no more: the first ones.
    included: u64,
    /// When a refused class was last let through to learn, one a class.
    asked: Vec<Option<Duration>>,
    /// Calls of the last day, one a class.
    classes: Vec<Rolling>,
    /// The same, one a consumer by name.
    consumers: ahash::AHashMap<Box<str>, Rolling>,
}

/// A call that may be made. Counted until it is known what came of it; dropped before it is sent, it is given back,
/// afterwards it counts as made.
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Pool>,
    class: usize,
    consumer: Option<Box<str>>,
    /// [`State::generation`] and [`State::unread`] when it began.
    began: (u64, u64),
    hour: u64,
    sent: bool,
    settled: bool,
}

/// Why a call is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Name of the class.
    pub class: Arc<str>,
    /// True where the org has no call left for anybody.
    pub exhausted: bool,
    pub retry_after: Duration,
    /// For the operator.
    pub detail: String,
}

/// A call that is made, and whether it is only because the rules refuse nobody.
#[derive(Debug)]
pub struct Admitted {
    pub ticket: Box<Ticket>,
    pub audit: Option<Refused>,
}

/// How an org stands, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Calls used, with those under way; `None` while nothing is known.
    pub used: Option<u64>,
    pub limit: Option<u64>,
    /// Time since the org said so.
    pub age: Option<Duration>,
    /// Calls under way.
    pub open: u64,
    /// Fields that were not believed.
    pub ignored: u64,
}

/// The numbers of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStanding {
    pub name: Arc<str>,
    pub until: u8,
    pub admitted: u64,
    pub refused: u64,
    /// Calls of the last 24 hours.
    pub used: u64,
}

impl State {
    /// Calls that what the org last said may not have in it.
    fn extra(&self) -> u64 {
        self.open.saturating_add(self.unread.saturating_sub(self.included))
    }

    /// Forgets what was said, and what was called, a day ago: none of it is in the window any more.
    fn age(&mut self, now: Duration) {
        if now.saturating_sub(self.read) >= DAY {
            (self.org, self.app) = (None, None);
        }
        if now.saturating_sub(self.app_read) >= DAY {
            self.app = None;
        }
        let past = self.unread.saturating_sub(self.recent.used(hour(now)));
        self.included = self.included.max(past);
    }

    /// A call was made in this hour, and nothing was said about it.
    fn silent(&mut self, hour: u64) {
        self.unread += 1;
        self.recent.add(hour);
    }

    fn take(&mut self, told: Told, rules: &Rules, began: (u64, u64), now: Duration) {
        let app = told.app.filter(|(name, _)| rules.app.as_deref() == Some(name)).map(|(_, usage)| usage);
        // A call that began after the last answer was there is later for sure: what it says holds, also where it
        // is less, for calls of a day ago have fallen out. Of calls that overlap, nobody knows which was counted
        // last: the higher one holds.
        let later = began.0 == self.generation || self.org.is_none();
        let higher = |new: Option<Usage>, old: Option<Usage>| match (new, old) {
            (Some(new), Some(old)) => new.used > old.used || new.limit != old.limit,
            (new, _) => new.is_some(),
        };
        if !later && !higher(told.org, self.org) && !higher(app, self.app) {
            return;
        }
        if app.is_some() {
            self.app_read = now;
        }
        let pick = |new: Option<Usage>, old: Option<Usage>| match (new, old) {
            (Some(new), Some(old)) if !later => Some(Usage { used: new.used.max(old.used), ..new }),
            (new, old) => new.or(old),
        };
        (self.org, self.app) = (pick(told.org, self.org), pick(app, self.app));
        if later {
            self.included = self.included.max(began.1);
        }
        self.read = now;
        self.generation += 1;
    }
}

/// What is left of a pool for a class, in calls.
fn ceiling(limit: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(limit) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

impl Pool {
    /// The calls of an org; `before` is what was known under other rules.
    pub fn new(rules: Rules, before: Option<&Self>) -> Self {
        let state = before.map_or_else(Arc::default, |before| Arc::clone(&before.state));
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            // Places of classes may have changed: their own counts begin anew, those of consumers go on.
            state.classes = vec![Rolling::default(); rules.classes.len()];
            state.asked = vec![None; rules.classes.len()];
            state.consumers.retain(|name, _| rules.consumers.contains_key(name));
        }
        let counts = rules.classes.iter().map(|_| Counts::default()).collect();
        Self { rules, state, counts, ignored: AtomicU64::new(0) }
    }

    /// True where it obeys the same rules.
    pub fn obeys(&self, rules: &Rules) -> bool {
        self.rules == *rules
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through and counts it, or says why not. `now` is monotonic.
    ///
    /// # Errors
    /// Where its class, or its own budget, has no call left.
    pub fn admit(self: &Arc<Self>, consumer: Option<&str>, now: Duration) -> Result<Admitted, Refused> {
        let held = consumer.and_then(|name| self.rules.consumers.get_key_value(name));
        let place = held.map_or(self.rules.default, |(_, holder)| holder.class);
        let (Some(class), Some(counts)) = (self.rules.classes.get(place), self.counts.get(place)) else {
            return Err(self.refused(&"".into(), false, "there is no such class".to_owned()));
        };
        let mut state = self.state();
        state.age(now);
        let audit = match self.judge(
            &mut state,
            (place, class),
            held.map(|(name, holder)| (&**name, *holder)),
            now,
        ) {
            Ok(()) => None,
            Err(refused) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                if self.rules.mode == Mode::Enforce {
                    return Err(refused);
                }
                Some(refused)
            }
        };
        if audit.is_none() {
            counts.admitted.fetch_add(1, Ordering::Relaxed);
        }
        let hour = hour(now);
        state.open += 1;
        if let Some(class) = state.classes.get_mut(place) {
            class.add(hour);
        }
        let consumer = held.map(|(name, _)| name.clone());
        if let Some(name) = &consumer {
            state.consumers.entry(name.clone()).or_default().add(hour);
        }
        let began = (state.generation, state.unread);
        drop(state);
        let pool = Arc::clone(self);
        let ticket = Ticket { pool, class: place, consumer, began, hour, sent: false, settled: false };
        Ok(Admitted { ticket: Box::new(ticket), audit })
    }

    fn judge(
        &self,
        state: &mut State,
        (place, class): (usize, &ClassRule),
        held: Option<(&str, Holder)>,
        now: Duration,
    ) -> Result<(), Refused> {
        let known = state.org.or(self.rules.limit.map(|limit| Usage { used: 0, limit }));
        let Some(org) = known else {
            if state.extra() < UNREAD || self.may_ask(state, (place, state.read), now) {
                return Ok(());
            }
            let detail = format!("{UNREAD} calls were made, and no answer said how the org stands");
            return Err(self.refused(&class.name, false, detail));
        };
        Self::budgets(state, (place, class), held, org.limit, now)?;
        let extra = state.extra();
        let over = |usage: &Usage| usage.used.saturating_add(extra) >= ceiling(usage.limit, class.until);
        let stands = [(Some(org), "org", state.read), (state.app, "app", state.app_read)];
        let full =
            stands.into_iter().find_map(|(usage, whose, read)| Some((usage.filter(over)?, whose, read)));
        // Asked once for both: one call tells how both stand.
        if let Some((usage, whose, read)) = full
            && !self.may_ask(state, (place, read), now)
        {
            let used = usage.used.saturating_add(extra);
            let (limit, until) = (usage.limit, class.until);
            let detail = format!(
                "{used} calls of {limit} of the {whose} are used, and the class passes until {until} %"
            );
            return Err(self.refused(&class.name, used >= limit, detail));
        }
        Ok(())
    }

    /// What the class and the consumer used themselves.
    fn budgets(
        state: &mut State,
        (place, class): (usize, &ClassRule),
        held: Option<(&str, Holder)>,
        limit: u64,
        now: Duration,
    ) -> Result<(), Refused> {
        let hour = hour(now);
        let of_class = state.classes.get_mut(place).map_or(0, |calls| calls.used(hour));
        let of_consumer = held.map(|(name, holder)| {
            (name, holder.share, state.consumers.get_mut(name).map_or(0, |calls| calls.used(hour)))
        });
        let shares = [(&*class.name, class.share, of_class)];
        for (whose, share, used) in shares.into_iter().chain(of_consumer) {
            if share.is_some_and(|share| used >= ceiling(limit, share)) {
                let left = Duration::from_secs((hour + 1) * 3600).saturating_sub(now);
                let detail = format!("{whose} has used its share: {used} calls of {limit} in 24 hours");
                return Err(Refused {
                    class: Arc::clone(&class.name),
                    exhausted: false,
                    retry_after: left,
                    detail,
                });
            }
        }
        Ok(())
    }

    /// True where what was `read` then is so old that one refused call may find out anew.
    fn may_ask(&self, state: &mut State, (place, read): (usize, Duration), now: Duration) -> bool {
        let patience = self.rules.refresh.saturating_mul(u32::try_from(place + 1).unwrap_or(u32::MAX));
        let Some(asked) = state.asked.get_mut(place) else { return false };
        let rested = asked.is_none_or(|asked| now.saturating_sub(asked) >= self.rules.refresh);
        let may = rested && now.saturating_sub(read) >= patience;
        if may {
            *asked = Some(now);
        }
        may
    }

    fn refused(&self, class: &Arc<str>, exhausted: bool, detail: String) -> Refused {
        Refused { class: Arc::clone(class), exhausted, retry_after: self.rules.refresh, detail }
    }

    /// How the org stands.
    pub fn standing(&self, now: Duration) -> Standing {
        let mut state = self.state();
        state.age(now);
        Standing {
            used: state.org.map(|org| org.used.saturating_add(state.extra())),
            limit: state.org.map(|org| org.limit).or(self.rules.limit),
            age: state.org.map(|_| now.saturating_sub(state.read)),
            open: state.open,
            ignored: self.ignored.load(Ordering::Relaxed),
        }
    }

    /// How the classes stand, the most important first.
    pub fn classes(&self, now: Duration) -> Vec<ClassStanding> {
        let mut state = self.state();
        let rules = self.rules.classes.iter().zip(&self.counts).enumerate();
        rules
            .map(|(place, (class, counts))| ClassStanding {
                name: Arc::clone(&class.name),
                until: class.until,
                admitted: counts.admitted.load(Ordering::Relaxed),
                refused: counts.refused.load(Ordering::Relaxed),
                used: state.classes.get_mut(place).map_or(0, |calls| calls.used(hour(now))),
            })
            .collect()
    }

    /// Name of the class, admitted and refused calls of the class at this place.
    pub fn counted(&self, place: usize) -> Option<(&Arc<str>, u64, u64)> {
        let (class, counts) = (self.rules.classes.get(place)?, self.counts.get(place)?);
        Some((&class.name, counts.admitted.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed)))
    }
}

impl Ticket {
    /// Name of its class.
    pub fn class(&self) -> Option<&Arc<str>> {
        self.pool.rules.classes.get(self.class).map(|class| &class.name)
    }

    /// The call leaves: from now on it counts, whatever comes of it.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// The call was never made after all: nothing of it reached the org.
    pub fn unsent(&mut self) {
        self.sent = false;
    }

    /// The org has answered.
    pub fn answered(mut self, headers: &HeaderMap, now: Duration) {
        self.settled = true;
        let told = usage::told(headers).unwrap_or_else(|_| {
            self.pool.ignored.fetch_add(1, Ordering::Relaxed);
            None
        });
        let mut state = self.pool.state();
        state.open = state.open.saturating_sub(1);
        match told {
            Some(told) if told.org.is_some() => state.take(told, &self.pool.rules, self.began, now),
            _ => state.silent(hour(now)),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut state = self.pool.state();
        state.open = state.open.saturating_sub(1);
        if self.sent {
            // By when it began: when it ended, nobody says.
            state.silent(self.hour);
            return;
        }
        if let Some(class) = state.classes.get_mut(self.class) {
            class.take_back(self.hour);
        }
        if let Some(calls) = self.consumer.as_ref().and_then(|name| state.consumers.get_mut(name)) {
            calls.take_back(self.hour);
        }
    }
}
