//! Shared counters of this process alone: for cases, which need no store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::limiter::{Decision, Limiter};
use super::shared::{Admits, Decisions, SharedCounters, Take, Taking};
use super::store::lock;
use super::windows::WindowCounter;
use crate::moment::Moment;

/// Keys that one counter remembers.
const KEYS: usize = 16_384;

/// Counts as a store would, one request after the other.
#[derive(Debug, Default)]
pub struct InProcess {
    counters: Mutex<HashMap<Arc<str>, Local>>,
}

#[derive(Clone, Debug)]
enum Local {
    Rate(Arc<Limiter>),
    Window(Arc<WindowCounter>),
}

impl InProcess {
    fn counter(counters: &mut HashMap<Arc<str>, Local>, take: &Take) -> Local {
        let counter = &take.counter;
        let make = || match &counter.admits {
            Admits::Rate(rate) => Local::Rate(Arc::new(Limiter::new(*rate, KEYS))),
            Admits::Window { .. } => Local::Window(Arc::new(WindowCounter::new([0; 16], KEYS))),
        };
        counters.entry(Arc::clone(&counter.name)).or_insert_with(make).clone()
    }

    fn decide(local: &Local, take: &Take, moment: Moment) -> Decision {
        match (local, &take.counter.admits) {
            (Local::Window(counter), Admits::Window { limit, calendar }) => {
                let limit = u32::try_from(*limit).unwrap_or(u32::MAX);
                counter.take(&take.key, take.cost, limit, calendar, moment)
            }
            (Local::Rate(limiter), _) => limiter.take(&take.key, take.cost, moment),
            (Local::Window(_), Admits::Rate(_)) => Decision::NONE,
        }
    }

    fn undo(local: &Local, take: &Take, moment: Moment) {
        match (local, &take.counter.admits) {
            (Local::Rate(limiter), _) => limiter.give_back(limiter.key(&take.key), take.cost, moment),
            (Local::Window(counter), Admits::Window { calendar, .. }) => {
                counter.give_back(counter.key(&take.key), take.cost, calendar.window(moment.unix).0);
            }
            (Local::Window(_), Admits::Rate(_)) => {}
        }
    }
}

impl SharedCounters for InProcess {
    fn take_at_once(&self, takes: &[Take], moment: Moment) -> Option<Decisions> {
        let mut counters = lock(&self.counters);
        let locals: Vec<Local> = takes.iter().map(|take| Self::counter(&mut counters, take)).collect();
        let asked = locals.iter().zip(takes);
        let decisions: Decisions =
            asked.clone().map(|(local, take)| Self::decide(local, take, moment)).collect();
        if decisions.iter().any(|decision| !decision.admitted) {
            for ((local, take), _) in asked.zip(&decisions).filter(|(_, decision)| decision.admitted) {
                Self::undo(local, take, moment);
            }
        }
        Some(decisions)
    }

    fn take<'a>(&'a self, takes: &'a [Take], moment: Moment) -> Taking<'a> {
        Box::pin(std::future::ready(Ok(self.take_at_once(takes, moment).unwrap_or_default())))
    }

    fn give_back(&self, takes: &[Take], moment: Moment) {
        let mut counters = lock(&self.counters);
        for take in takes {
            let local = Self::counter(&mut counters, take);
            Self::undo(&local, take, moment);
        }
    }
}
