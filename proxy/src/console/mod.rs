//! The console: one page for operators, and what it asks for.

mod assets;
mod history;
mod overview;
mod policies;
mod scores;
mod scrape;
pub mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use crate::admin::{AdminState, as_json};
use crate::clock;
pub(crate) use crate::console::assets::{FOREVER, PAGE};
use crate::console::history::History;
use crate::console::overview::overview;
use crate::console::scrape::Scrape;

/// Between two looks at the metrics while nobody asks.
const TICK: Duration = Duration::from_secs(10);

/// Numbers this old are read anew for whoever asks.
const FRESH: Duration = Duration::from_secs(1);

/// Looking may take one part in this many of the time of the admin thread.
const SHARE: u32 = 50;

/// What the console knows beside what the admin endpoint knows.
#[derive(Debug)]
struct Console {
    admin: Arc<AdminState>,
    history: Mutex<History>,
}

impl Console {
    /// Reads the metrics, unless they were read just now; gives the time to leave them alone.
    fn look(&self) -> Duration {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = clock::now();
        if history.age(moment.monotonic).is_none_or(|age| age >= history.rest.max(FRESH)) {
            let scrape = Scrape::parse(&self.admin.telemetry.exposition(true));
            history.push(moment, scrape);
            history.rest = clock::monotonic().saturating_sub(moment.monotonic) * SHARE;
        }
        history.rest
    }
}

/// Page, numbers and stream; keeps the numbers of the last minutes as long as the router lives.
pub fn routes(admin: &Arc<AdminState>) -> Router<Arc<AdminState>> {
    let history = Mutex::new(History::default());
    let console = Arc::new(Console { admin: Arc::clone(admin), history });
    let kept = Arc::downgrade(&console);
    tokio::spawn(async move {
        while let Some(console) = kept.upgrade() {
            let pause = console.look().max(TICK);
            drop(console);
            tokio::time::sleep(pause).await;
        }
    });
    let numbers = Router::new().route("/api/overview", get(answer)).with_state(console);
    Router::new().route("/decisions/stream", get(stream::stream)).merge(numbers).merge(assets::routes())
}

async fn answer(State(console): State<Arc<Console>>) -> Response {
    console.look();
    let history = console.history.lock().unwrap_or_else(PoisonError::into_inner);
    as_json(&overview(&console.admin, &history))
}
