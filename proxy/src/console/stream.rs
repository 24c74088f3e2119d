//! Decisions as they are made, as Server-Sent Events.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::admin::{AdminState, Problem};
use crate::telemetry::filter::Filter;
use crate::telemetry::json;
use crate::telemetry::record::Record;
use crate::telemetry::watch::{Seen, Watcher};

/// Most decisions sent to one client in a second: people read no more, and whoever is under attack has other
/// things to do.
const PER_SECOND: u32 = 1_000;

/// Between two signs of life.
const ALIVE: Duration = Duration::from_secs(15);

/// How often it is looked whether the budget is new, something was missed, or the process ends.
const TICK: Duration = Duration::from_secs(1);

/// Events with the number of decisions that passed the filter and were not sent, and with the most that it may be.
pub const DROPPED: &str = "dropped";
pub const DROPPED_AT_MOST: &str = "dropped-at-most";

/// One client, and what it still has to be told.
struct Following {
    admin: Arc<AdminState>,
    filter: Filter,
    watcher: Watcher,
    tick: Interval,
    /// Decisions that may still be sent in this second.
    left: u32,
    /// Of those that pass the filter.
    dropped: u64,
    /// Gone before the filter saw them: some may have passed it.
    unseen: u64,
    /// The process drained already when the client came.
    in_drain: bool,
}

/// `?route=..&status=..&step=..&reason=..&rule=..&consumer=..&refused=true`: those that fit, from now on.
pub(super) async fn stream(
    State(admin): State<Arc<AdminState>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        // It could read nothing, but would take the place of somebody who can.
        return Problem::new(StatusCode::FORBIDDEN, "Pages of other sites get no stream.").into_response();
    }
    let pairs = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let filter = match Filter::parse(pairs.iter().map(|(word, value)| (word.as_str(), value.as_str()))) {
        Ok(filter) => filter,
        Err(error) => return Problem::new(StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let Some(watcher) = admin.telemetry.watch() else {
        let detail = "As many watch already as may; end one of them.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        return ([(RETRY_AFTER, "5")], problem).into_response();
    };
    let following = Following::new(admin, filter, watcher);
    let events = unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

impl Following {
    fn new(admin: Arc<AdminState>, filter: Filter, watcher: Watcher) -> Self {
        let mut tick = interval(TICK);
        // Not at once: the first allowance is for the first second.
        tick.reset();
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let in_drain = admin.draining.load(Ordering::Acquire);
        Self { admin, filter, watcher, tick, left: PER_SECOND, dropped: 0, unseen: 0, in_drain }
    }

    /// The next event; `None` once the process ends, so that the client finds the one that takes its place.
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                seen = self.watcher.next() => match seen? {
                    Seen::Missed(missed) if self.filter == Filter::default() => self.dropped += missed,
                    Seen::Missed(missed) => self.unseen += missed,
                    Seen::Decision(record) if !self.filter.passes(&record) => {}
                    Seen::Decision(_) if self.left == 0 => self.dropped += 1,
                    Seen::Decision(record) => {
                        self.left -= 1;
                        if let Some(event) = told(&record) {
                            return Some(event);
                        }
                    }
                },
                _ = self.tick.tick() => {
                    if self.admin.draining.load(Ordering::Acquire) && !self.in_drain {
                        return None;
                    }
                    self.left = PER_SECOND;
                    let unseen = std::mem::take(&mut self.unseen);
                    let dropped = std::mem::take(&mut self.dropped) + unseen;
                    if dropped > 0 {
                        let name = if unseen > 0 { DROPPED_AT_MOST } else { DROPPED };
                        return Some(Event::default().event(name).data(dropped.to_string()));
                    }
                }
            }
        }
    }
}

fn told(record: &Record) -> Option<Event> {
    let mut text = Vec::new();
    json::write(record, &mut text).ok()?;
    Some(Event::default().event("decision").data(String::from_utf8(text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Following, PER_SECOND};
    use crate::admin::AdminState;
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::filter::Filter;
    use crate::telemetry::testing::{full_record, record};
    use crate::telemetry::watch::MAX_WATCHERS;
    use crate::telemetry::{Telemetry, TelemetryOptions};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn admin() -> Arc<AdminState> {
        let options = TelemetryOptions { access_log: AccessLog::Off, sample: 1, ..Default::default() };
        Arc::new(AdminState::new(Telemetry::new(options).unwrap()))
    }

    fn following(admin: &Arc<AdminState>, words: &[(&str, &str)]) -> Following {
        let filter = Filter::parse(words.iter().copied()).unwrap();
        Following::new(Arc::clone(admin), filter, admin.telemetry.watch().unwrap())
    }

    fn refuse(admin: &AdminState, times: usize) {
        let route = admin.telemetry.route("leads");
        for _ in 0..times {
            admin.telemetry.record(full_record(), &route);
        }
    }

    async fn next(following: &mut Following) -> String {
        format!("{:?}", following.next().await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_fits_is_told_and_nothing_else() {
        let admin = admin();
        let mut refused = following(&admin, &[("refused", "true"), ("route", "leads")]);
        let route = admin.telemetry.route("leads");
        admin.telemetry.record(record(), &route);
        let wanted = full_record();
        let id = wanted.id.to_string();
        admin.telemetry.record(wanted, &route);
        let event = next(&mut refused).await;
        assert!(event.contains("decision") && event.contains(&id), "{event}");
        assert!(!event.contains("claim-not-to-be-seen"), "{event}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_reads_slowly_is_told_how_many_were_dropped() {
        let admin = admin();
        let mut slow = following(&admin, &[]);
        refuse(&admin, 2_000);
        let mut decisions = 0;
        let dropped = loop {
            let event = next(&mut slow).await;
            if event.contains("event: dropped") {
                break event;
            }
            decisions += 1;
        };
        assert_eq!(decisions, 512);
        assert!(dropped.contains("data: 1488"), "{dropped}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_filter_has_seen_is_told_as_an_upper_bound() {
        let admin = admin();
        let mut other = following(&admin, &[("route", "other")]);
        refuse(&admin, 2_000);
        let event = next(&mut other).await;
        assert!(event.contains("event: dropped-at-most") && event.contains("data: 1488"), "{event}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_sent_more_than_can_be_read() {
        let admin = admin();
        let mut flooded = following(&admin, &[]);
        let mut decisions = 0;
        let dropped = loop {
            refuse(&admin, 1);
            let event = tokio::time::timeout(std::time::Duration::from_millis(1), flooded.next()).await;
            match event.map(|event| format!("{:?}", event.unwrap())) {
                Ok(event) if event.contains("event: dropped") => break event,
                Ok(_) => decisions += 1,
                Err(_) => {}
            }
        };
        assert_eq!(decisions, PER_SECOND, "{dropped}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_the_process_begins_to() {
        let admin = admin();
        let mut before = following(&admin, &[]);
        admin.draining.store(true, Ordering::Release);
        assert!(before.next().await.is_none());
        let mut after = following(&admin, &[]);
        refuse(&admin, 1);
        assert!(next(&mut after).await.contains("decision"), "an operator may watch the drain");
        drop((before, after));
        let all: Vec<_> = (0..MAX_WATCHERS).map(|_| following(&admin, &[])).collect();
        assert!(admin.telemetry.watch().is_none());
        drop(all);
        assert!(admin.telemetry.watch().is_some());
    }
}
