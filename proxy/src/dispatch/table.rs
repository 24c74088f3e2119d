//! The endpoints of one moment, made ready for the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foregate_policy::balancing::{Algorithm, Balancing};

use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::ewma::nanos;
use crate::dispatch::maglev::{Maglev, mix};

/// Places of a schedule at most: weights are rounded to fit.
const PLACES: u32 = 8_192;

/// Endpoints of one upstream at most.
pub const MAX_ENDPOINTS: usize = 4_096;

/// A level takes its whole share while this part of it is fit, in per cent: what is left can carry as much.
const OVERPROVISION: usize = 140;

/// Keys that fall on an unfit endpoint are hashed again so often at most.
const REHASHES: u64 = 8;

/// What an endpoint of which nothing is known costs while it is asked: more than any latency that is known.
const UNKNOWN: f32 = 1e15;

/// Endpoints that resolution found, by levels of preference.
#[derive(Debug, Default)]
pub struct Members {
    pub endpoints: Box<[Arc<Endpoint>]>,
    levels: Vec<LevelMembers>,
}

#[derive(Debug)]
struct LevelMembers {
    members: Box<[u16]>,
    ring: Option<Maglev>,
}

/// Members, and who of them is fit.
#[derive(Debug, Default)]
pub struct Table {
    pub members: Arc<Members>,
    /// Changes of fitness that were seen.
    pub changes: u64,
    fit: Box<[bool]>,
    levels: Vec<Level>,
    /// True where too few are fit, so that all are used.
    pub panic: bool,
    /// When the next open circuit may be tried by a request that may be repeated, in nanoseconds.
    due: AtomicU64,
    /// The same for any request.
    due_unsafe: AtomicU64,
}

#[derive(Debug)]
struct Level {
    /// Numbers below it, of 2^32, belong to this level or one before.
    below: u64,
    /// Index into `members.levels`.
    of: usize,
    /// Fit members, each as often as its weight says, evenly spread.
    schedule: Box<[u16]>,
}

/// What one choice is made by.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    pub random: u64,
    /// Equal keys go to the same endpoint.
    pub key: Option<u64>,
    /// Pools of endpoints that were tried for this request.
    pub tried: &'a [u64],
    /// Monotonic.
    pub now: Duration,
}

impl Members {
    /// Groups endpoints by priority; within it, those in `zone` come first.
    pub fn new(endpoints: Vec<Arc<Endpoint>>, how: &Balancing, zone: Option<&str>) -> Self {
        let foreign = |endpoint: &Endpoint| {
            zone.is_some() && endpoint.at.zone.as_deref().is_some_and(|its| Some(its) != zone)
        };
        let mut ranked: Vec<((u16, bool), u16)> = endpoints
            .iter()
            .zip(0..)
            .map(|(endpoint, index)| ((endpoint.at.priority, foreign(endpoint)), index))
            .collect();
        ranked.sort_unstable();
        let levels = ranked.chunk_by(|(one, _), (other, _)| one == other).map(|level| {
            let members: Box<[u16]> = level.iter().map(|(_, index)| *index).collect();
            let named = members.iter().filter_map(|index| {
                let endpoint = endpoints.get(usize::from(*index))?;
                Some((*index, endpoint.seed, endpoint.at.weight))
            });
            let ring = if how.policy == Algorithm::Maglev { Maglev::new(named) } else { None };
            LevelMembers { members, ring }
        });
        let levels = levels.collect();
        Self { endpoints: endpoints.into(), levels }
    }

    fn at(&self, index: u16) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(usize::from(index))
    }

    /// The member of a level that a key means, fit or not.
    fn meant(&self, level: &LevelMembers, key: u64) -> Option<u16> {
        match &level.ring {
            Some(ring) => ring.find(mix(key)),
            None => self.highest(level.members.iter(), key),
        }
    }

    /// The one with the highest hash (Thaler and Ravishankar 1998): only the keys of one that leaves move.
    fn highest<'a>(&self, among: impl Iterator<Item = &'a u16>, key: u64) -> Option<u16> {
        let score = |index: &&u16| self.at(**index).map(|endpoint| mix(endpoint.seed ^ key));
        among.max_by_key(score).copied()
    }
}

impl Table {
    /// Looks at every member once; `changes` are those that were heeded.
    pub fn new(members: Arc<Members>, how: &Balancing, changes: u64) -> Self {
        let checked = how.check.is_some();
        let fit = |endpoint: &Arc<Endpoint>| {
            !(checked && endpoint.state.unfit()) && endpoint.state.circuit.closed()
        };
        let mut fit: Box<[bool]> = members.endpoints.iter().map(fit).collect();
        let counts: Vec<(usize, usize)> = members
            .levels
            .iter()
            .map(|level| {
                let is_fit = |index: &&u16| fit.get(usize::from(**index)).copied().unwrap_or(false);
                (level.members.iter().filter(is_fit).count(), level.members.len())
            })
            .collect();
        let threshold = usize::from(how.panic_threshold);
        let enough = |(fit, all): &(usize, usize)| *fit > 0 && fit * 100 >= threshold * all;
        let panic = !members.endpoints.is_empty() && !counts.iter().any(enough);
        if panic {
            fit.fill(true);
        }
        let shares = if panic { by_size(&counts) } else { by_fitness(&counts) };
        let mut below = 0;
        let mut levels = Vec::new();
        for (of, share) in shares.into_iter().enumerate().filter(|(_, share)| *share > 0) {
            below += share;
            let chosen = members.levels.get(of).map(|level| &*level.members).unwrap_or_default();
            let fit = |index: &&u16| fit.get(usize::from(**index)).copied().unwrap_or(false);
            levels.push(Level {
                below,
                of,
                schedule: schedule(&members, chosen.iter().filter(fit).copied()),
            });
        }
        let never = || AtomicU64::new(u64::MAX);
        let table = Self { members, changes, fit, levels, panic, due: never(), due_unsafe: never() };
        table.reckon(how);
        table
    }

    /// True where some open circuit may be tried; `safe` where the request may be repeated.
    pub fn is_due(&self, now: Duration, safe: bool) -> bool {
        let due = if safe { &self.due } else { &self.due_unsafe };
        due.load(Ordering::Relaxed) <= nanos(now)
    }

    /// Works out when the next trial is due.
    fn reckon(&self, how: &Balancing) {
        let states = self.members.endpoints.iter().map(|endpoint| &endpoint.state);
        let tried = states.filter(|state| !(how.check.is_some() && state.unfit()));
        let (mut due, mut due_unsafe) = (u64::MAX, u64::MAX);
        for (safe, any) in tried.filter_map(|state| state.circuit.due()) {
            (due, due_unsafe) = (due.min(nanos(safe)), due_unsafe.min(nanos(any)));
        }
        self.due.store(due, Ordering::Relaxed);
        self.due_unsafe.store(due_unsafe, Ordering::Relaxed);
    }

    /// An endpoint that was ejected and may be tried again, by this request; `safe` where that may be repeated. A
    /// request with a key tries none but the one that its key means.
    pub fn trial(
        &self,
        how: &Balancing,
        safe: bool,
        key: Option<u64>,
        now: Duration,
    ) -> Option<&Arc<Endpoint>> {
        let tries = |endpoint: &&Arc<Endpoint>| {
            let state = &endpoint.state;
            !(how.check.is_some() && state.unfit()) && state.circuit.try_once(now, safe)
        };
        let chosen = match key {
            None => self.members.endpoints.iter().find(tries),
            Some(key) => {
                let meant = self.members.levels.iter().filter_map(|level| self.members.meant(level, key));
                meant.filter_map(|index| self.members.at(index)).find(tries)
            }
        };
        // One without a key looked at all of them: the next need not where nothing was due after all.
        if chosen.is_some() || key.is_none() {
            self.reckon(how);
        }
        chosen
    }

    /// True where requests may go to this member.
    pub fn is_fit(&self, index: usize) -> bool {
        self.fit.get(index).copied().unwrap_or(false)
    }

    /// Chooses; `turn` counts for those that go in turn.
    pub fn pick(&self, how: &Balancing, turn: &AtomicUsize, draw: &Draw<'_>) -> Option<&Arc<Endpoint>> {
        let level = self.level(draw.key.map_or(draw.random, mix))?;
        let index = match (draw.key, how.policy) {
            (Some(key), Algorithm::Maglev) => self.hashed(level, key),
            (Some(key), _) => self.highest(level, key),
            (None, Algorithm::RoundRobin) => self.in_turn(level, how, turn, draw),
            (None, Algorithm::LeastRequest) => self.better(level, how, draw, |endpoint| cost(endpoint, 1.0)),
            (None, Algorithm::PeakEwma | Algorithm::Maglev) => {
                self.better(level, how, draw, |endpoint| match endpoint.state.latency.estimate(draw.now) {
                    unknown if unknown <= 0.0 => cost(endpoint, UNKNOWN) - UNKNOWN,
                    latency => cost(endpoint, latency),
                })
            }
        }?;
        let chosen = self.members.at(index)?;
        if draw.tried.contains(&chosen.pool) {
            return self.another(level, draw).or(Some(chosen));
        }
        Some(chosen)
    }

    fn level(&self, number: u64) -> Option<&Level> {
        if let [only] = self.levels.as_slice() {
            return Some(only);
        }
        let number = number >> 32;
        self.levels.iter().find(|level| number < level.below).or(self.levels.last())
    }

    /// One that was not tried yet, of this level or any other.
    fn another(&self, level: &Level, draw: &Draw<'_>) -> Option<&Arc<Endpoint>> {
        let start = scale(draw.random.rotate_left(17), level.schedule.len());
        let (before, from) = level.schedule.split_at_checked(start)?;
        let others = self.levels.iter().flat_map(|level| &level.schedule);
        let mut all = from.iter().chain(before).chain(others).filter_map(|index| self.members.at(*index));
        all.find(|endpoint| !draw.tried.contains(&endpoint.pool))
    }

    fn hashed(&self, level: &Level, key: u64) -> Option<u16> {
        let ring = self.members.levels.get(level.of)?.ring.as_ref()?;
        let mut key = mix(key);
        for _ in 0..REHASHES {
            let index = ring.find(key)?;
            if self.is_fit(usize::from(index)) {
                return Some(index);
            }
            key = mix(key);
        }
        level.schedule.get(scale(key, level.schedule.len())).copied()
    }

    fn highest(&self, level: &Level, key: u64) -> Option<u16> {
        let members = self.members.levels.get(level.of)?.members.iter();
        self.members.highest(members.filter(|index| self.is_fit(usize::from(**index))), key)
    }

    fn in_turn(&self, level: &Level, how: &Balancing, turn: &AtomicUsize, draw: &Draw<'_>) -> Option<u16> {
        let mut chosen = None;
        // One that starts slowly leaves some of its turns to the next.
        for number in 0..4_u32 {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let index = *level.schedule.get(turn.checked_rem(level.schedule.len())?)?;
            chosen = Some(index);
            if self.takes(index, how, draw, number) {
                break;
            }
        }
        chosen
    }

    /// The better of two at random (Mitzenmacher 2001).
    fn better(
        &self,
        level: &Level,
        how: &Balancing,
        draw: &Draw<'_>,
        cost: impl Fn(&Endpoint) -> f32,
    ) -> Option<u16> {
        let count = level.schedule.len();
        let first = scale(draw.random, count);
        let one = *level.schedule.get(first)?;
        if count == 1 {
            return Some(one);
        }
        // Any other place.
        let second = first + 1 + scale(mix(draw.random), count - 1);
        let other = *level.schedule.get(if second >= count { second - count } else { second })?;
        if !self.takes(one, how, draw, 0) {
            return Some(other);
        }
        if !self.takes(other, how, draw, 1) {
            return Some(one);
        }
        let better = cost(self.members.at(other)?) < cost(self.members.at(one)?);
        Some(if better { other } else { one })
    }

    /// False for the part of its share that a slow start withholds.
    fn takes(&self, index: u16, how: &Balancing, draw: &Draw<'_>, number: u32) -> bool {
        if how.slow_start.is_zero() {
            return true;
        }
        let ramp =
            self.members.at(index).map_or(256, |endpoint| endpoint.state.ramp(how.slow_start, draw.now));
        ramp >= 256 || mix(draw.random.rotate_left(8 * (number + 1))) & 0xff < ramp
    }
}

#[expect(clippy::cast_precision_loss, reason = "a comparison")]
fn cost(endpoint: &Endpoint, each: f32) -> f32 {
    each * (1.0 + endpoint.state.outstanding() as f32 / endpoint.at.weight as f32)
}

/// A place below `count` for a random number, by its upper half.
fn scale(random: u64, count: usize) -> usize {
    (((random >> 32) * count as u64) >> 32) as usize
}

/// Shares of 2^32: as many as are fit, with something to spare; what a level cannot take falls to the next.
fn by_fitness(counts: &[(usize, usize)]) -> Vec<u64> {
    // Rounded up: one that is fit among many is better than none.
    let load = |(fit, all): &(usize, usize)| (fit * OVERPROVISION).div_ceil((*all).max(1)).min(100);
    let mut left = 100;
    let parts: Vec<usize> = counts
        .iter()
        .map(|level| {
            let part = load(level).min(left);
            left -= part;
            part
        })
        .collect();
    of_whole(&parts)
}

fn by_size(counts: &[(usize, usize)]) -> Vec<u64> {
    of_whole(&counts.iter().map(|(_, all)| *all).collect::<Vec<_>>())
}

fn of_whole(parts: &[usize]) -> Vec<u64> {
    let whole = parts.iter().sum::<usize>().max(1) as u64;
    parts.iter().map(|part| ((*part as u64) << 32).div_ceil(whole)).collect()
}

/// Every member as often as its weight says, evenly spread.
fn schedule(members: &Members, chosen: impl Iterator<Item = u16>) -> Box<[u16]> {
    let weight = |index: u16| members.at(index).map_or(1, |endpoint| endpoint.at.weight.max(1));
    let chosen: Vec<(u16, u32)> = chosen.map(|index| (index, weight(index))).collect();
    let Some((_, first)) = chosen.first().copied() else { return Box::default() };
    if chosen.iter().all(|(_, weight)| *weight == first) {
        return chosen.iter().map(|(index, _)| *index).collect();
    }
    let sum: u64 = chosen.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let divisor = chosen.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    let fits = sum / u64::from(divisor) <= u64::from(PLACES);
    let places = |weight: u32| {
        if fits {
            return weight / divisor;
        }
        u32::try_from(u64::from(weight) * u64::from(PLACES) / sum).unwrap_or(PLACES).max(1)
    };
    let mut spread: Vec<(f64, u16)> = Vec::new();
    for (index, weight) in chosen {
        let places = places(weight);
        spread.extend((0..places).map(|place| ((f64::from(place) + 0.5) / f64::from(places), index)));
    }
    spread.sort_unstable_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    spread.into_iter().map(|(_, index)| index).collect()
}

fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { gcd(other, one % other) }
}
