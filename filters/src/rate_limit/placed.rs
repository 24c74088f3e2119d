//! Limits of one policy at the steps where what they read is known.

use super::RateLimit;
use super::limit::Limit;
use crate::expression::Reads;
use crate::filter::BodyNeed;
use crate::spec::FilterSpec;

/// The limits of one policy, each where what it reads is known.
#[derive(Debug, Default)]
pub struct Limits {
    /// Read neither the token nor a score: run in *guard*.
    pub flood: Vec<Limit>,
    /// Read the token: run in *admit*.
    pub admit: Vec<Limit>,
    /// Read the body: run in *admit* too, once it is there.
    pub body: Vec<Limit>,
    /// Read a score: run in *decide*.
    pub score: Vec<Limit>,
    /// The next filter to be taken is not the last that may give back to it.
    pub(crate) followed: bool,
}

impl Limits {
    /// Where a limit runs that reads so much.
    pub(super) fn list(&mut self, reads: Reads) -> &mut Vec<Limit> {
        if reads.contains(Reads::SCORE) {
            &mut self.score
        } else if reads.contains(Reads::BODY) {
            &mut self.body
        } else if reads.contains(Reads::PRINCIPAL) {
            &mut self.admit
        } else {
            &mut self.flood
        }
    }

    fn at(&mut self, spec: FilterSpec) -> Option<&mut Vec<Limit>> {
        match spec {
            FilterSpec::FloodLimit => Some(&mut self.flood),
            FilterSpec::RateLimit => Some(&mut self.admit),
            FilterSpec::BodyLimit => Some(&mut self.body),
            FilterSpec::ScoreLimit => Some(&mut self.score),
            _ => None,
        }
    }

    /// Filters still to be taken whose refusal, or whose taking, has to do with that of `spec`.
    pub(crate) fn waiting(&self, spec: FilterSpec) -> usize {
        if spec == FilterSpec::FloodLimit {
            return usize::from(!self.flood.is_empty());
        }
        [&self.admit, &self.body, &self.score].into_iter().filter(|limits| !limits.is_empty()).count()
    }

    /// The filter of those that run as `spec`.
    pub(crate) fn take(&mut self, spec: FilterSpec) -> Option<RateLimit> {
        let limits = std::mem::take(self.at(spec)?);
        if limits.is_empty() {
            return None;
        }
        let whole = limits.iter().any(Limit::reads_body);
        let body = if whole { BodyNeed::Whole } else { BodyNeed::None };
        Some(RateLimit::new(spec.step(), limits, body, self.followed))
    }

    /// The part of the policy that asks for the filter.
    pub(crate) fn section(&mut self, spec: FilterSpec) -> &'static str {
        let first = self.at(spec).and_then(|limits| limits.first());
        first.map_or(spec.section(), Limit::list)
    }
}
