//! Days and months of a time zone as windows of a quota.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bits of [`Calendar::cached`] that hold the length of the window; a month has 2,682,000 seconds at most.
const LENGTH_BITS: u32 = 24;
const LENGTH: u64 = (1 << LENGTH_BITS) - 1;
/// A window where no calendar can tell one: beyond the year 9999.
const NEVER: (u64, u64) = (0, u64::MAX);

/// What a quota is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Period {
    Day,
    Month,
}

/// The days or months of one time zone.
#[derive(Debug)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
    /// The window that was asked for last: its start, and its length in the lower bits. Zero: none yet.
    cached: AtomicU64,
}

impl Calendar {
    /// The calendar of a zone of the IANA database, by name; `None` where there is no such zone.
    pub fn new(period: Period, zone: &str) -> Option<Self> {
        let zone = TimeZone::get(zone).ok()?;
        Some(Self { period, zone, cached: AtomicU64::new(0) })
    }

    pub fn period(&self) -> Period {
        self.period
    }

    /// Name of the zone.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The window that a time since 1970 lies in: its first second, and the first second after it.
    ///
    /// Windows follow each other without gap or overlap, whatever the clocks of the zone do. Takes a
    /// comparison while the window stays the same.
    pub fn window(&self, unix: Duration) -> (u64, u64) {
        let now = unix.as_secs();
        let cached = self.cached.load(Ordering::Relaxed);
        let (start, length) = (cached >> LENGTH_BITS, cached & LENGTH);
        if (start..start.saturating_add(length)).contains(&now) {
            return (start, start.saturating_add(length));
        }
        let Some((start, end)) = self.find(now) else { return NEVER };
        let length = end.saturating_sub(start);
        if length <= LENGTH && start <= u64::MAX >> LENGTH_BITS {
            self.cached.store(start << LENGTH_BITS | length, Ordering::Relaxed);
        }
        (start, end)
    }

    /// Clocks that go back over midnight show a date twice: the window of a date ends where the next
    /// date begins first.
    fn find(&self, now: u64) -> Option<(u64, u64)> {
        let moment = Timestamp::from_second(i64::try_from(now).ok()?).ok()?;
        let first = self.first(moment.to_zoned_datetime(self.zone.clone()).date());
        let (start, next) = (self.start(first)?, self.next(first)?);
        if now < self.start(next)? {
            return Some((start, self.start(next)?));
        }
        Some((self.start(next)?, self.start(self.next(next)?)?))
    }

    fn first(&self, date: Date) -> Date {
        match self.period {
            Period::Day => date,
            Period::Month => date.first_of_month(),
        }
    }

    fn next(&self, date: Date) -> Option<Date> {
        match self.period {
            Period::Day => date.tomorrow().ok(),
            Period::Month => date.last_of_month().tomorrow().ok(),
        }
    }

    /// The first second of a date. A midnight that the clocks leave out is where they go on.
    fn start(&self, date: Date) -> Option<u64> {
        let second = date.to_zoned_datetime(self.zone.clone()).ok()?.timestamp().as_second();
        // Before 1970 no request was made.
        Some(u64::try_from(second).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Calendar, Period};

    /// Hours of the window of this zone that holds this second, and its first second.
    fn window(period: Period, zone: &str, unix: u64) -> (u64, u64) {
        let (start, end) = Calendar::new(period, zone).unwrap().window(Duration::from_secs(unix));
        (start, (end - start) / 3_600)
    }

    #[test]
    fn days_and_months_are_as_long_as_their_zone_says() {
        for (period, zone, unix, start, hours) in [
            (Period::Day, "UTC", 1_767_225_599, 1_767_139_200, 24),
            (Period::Day, "UTC", 1_767_225_600, 1_767_225_600, 24),
            // Summer time begins on 2026-03-29 and ends on 2026-10-25.
            (Period::Day, "Europe/Berlin", 1_774_800_000, 1_774_738_800, 23),
            (Period::Day, "Europe/Berlin", 1_792_900_000, 1_792_879_200, 25),
            // Samoa had no 30 December 2011: the 29th is followed by the 31st.
            (Period::Day, "Pacific/Apia", 1_325_239_199, 1_325_152_800, 24),
            (Period::Day, "Pacific/Apia", 1_325_239_200, 1_325_239_200, 24),
            // February of a leap year, and one of none; a month with a short day.
            (Period::Month, "UTC", 1_708_000_000, 1_706_745_600, 29 * 24),
            (Period::Month, "UTC", 1_771_000_000, 1_769_904_000, 28 * 24),
            (Period::Month, "Europe/Berlin", 1_774_000_000, 1_772_319_600, 31 * 24 - 1),
        ] {
            assert_eq!(window(period, zone, unix), (start, hours), "{period:?} {zone} {unix}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_over_midnight_begins_no_day_twice() {
        // St John's set its clocks back at 00:01 until 2011: on 6 November 2010's night, 23:01 came twice.
        let calendar = Calendar::new(Period::Day, "America/St_Johns").unwrap();
        let midnight = 1_289_097_000;
        let before = calendar.window(Duration::from_secs(midnight - 1));
        assert_eq!(before.1, midnight);
        for minute in [0, 1, 2, 30, 60, 61, 62] {
            let (start, end) = calendar.window(Duration::from_secs(midnight + minute * 60));
            assert_eq!((start, (end - start) / 3_600), (midnight, 25), "minute {minute}");
        }
    }

    #[test]
    fn a_zone_that_does_not_exist_has_no_calendar() {
        for zone in ["Europe/Berln", "", "+02:00", "Berlin"] {
            assert!(Calendar::new(Period::Day, zone).is_none(), "{zone}");
        }
        assert_eq!(Calendar::new(Period::Day, "europe/berlin").unwrap().zone(), "Europe/Berlin");
    }
}
