//! Calls of the last day, counted by the hour.

use std::time::Duration;

/// Parts of the day in which calls of one budget are counted.
const HOURS: usize = 24;

/// Calls of the last 24 hours, by the hour.
#[derive(Clone, Debug, Default)]
pub(super) struct Rolling {
    hours: [u32; HOURS],
    /// The hour that was counted last.
    hour: u64,
}

impl Rolling {
    fn catch_up(&mut self, hour: u64) {
        let passed = hour.saturating_sub(self.hour);
        for past in 1..=passed.min(HOURS as u64) {
            if let Some(slot) = self.slot(self.hour.saturating_add(past)) {
                *slot = 0;
            }
        }
        self.hour = self.hour.max(hour);
    }

    fn slot(&mut self, hour: u64) -> Option<&mut u32> {
        self.hours.get_mut(usize::try_from(hour % HOURS as u64).unwrap_or(0))
    }

    pub(super) fn used(&mut self, hour: u64) -> u64 {
        self.catch_up(hour);
        self.hours.iter().map(|calls| u64::from(*calls)).sum()
    }

    pub(super) fn add(&mut self, hour: u64) {
        self.catch_up(hour);
        if self.reaches(hour)
            && let Some(slot) = self.slot(hour)
        {
            *slot = slot.saturating_add(1);
        }
    }

    pub(super) fn take_back(&mut self, hour: u64) {
        if self.reaches(hour)
            && let Some(slot) = self.slot(hour)
        {
            *slot = slot.saturating_sub(1);
        }
    }

    /// True for hours that are not past yet.
    const fn reaches(&self, hour: u64) -> bool {
        self.hour.saturating_sub(hour) < HOURS as u64
    }
}

pub(super) fn hour(now: Duration) -> u64 {
    now.as_secs() / 3600
}
