//! A Salesforce org that counts its calls, and tells of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Response;

use crate::support::upstream::{Body, Received, Upstream, full};

/// Answers each call, and tells how many are used.
#[derive(Debug)]
pub struct Org {
    upstream: Upstream,
    used: Arc<AtomicU64>,
    said: Arc<std::sync::Mutex<Option<String>>>,
}

impl Org {
    /// With so many calls a day.
    pub async fn start(limit: u64) -> Self {
        let used = Arc::new(AtomicU64::new(0));
        let said = Arc::new(std::sync::Mutex::new(None::<String>));
        let (count, words) = (Arc::clone(&used), Arc::clone(&said));
        let upstream = Upstream::start(move |_: Received| {
            let used = count.fetch_add(1, Ordering::SeqCst) + 1;
            let text = words.lock().unwrap().clone().unwrap_or_else(|| format!("api-usage={used}/{limit}"));
            async move { answer(used > limit, &text) }
        })
        .await;
        Self { upstream, used, said }
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// Calls used, by whomever.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Others use so many calls, past the gateway; or, negative, calls of a day ago fall out.
    pub fn others(&self, calls: i64) {
        let _ =
            self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| used.checked_add_signed(calls));
    }

    /// Calls that came through the gateway.
    pub fn received(&self) -> usize {
        self.upstream.received().len()
    }

    /// From now on it says this of its usage; the truth again with `None`.
    pub fn says(&self, text: Option<&str>) {
        *self.said.lock().unwrap() = text.map(str::to_owned);
    }
}

fn answer(over: bool, usage: &str) -> Response<Body> {
    let response = Response::builder().header("sforce-limit-info", usage);
    if over {
        let error =
            "[{\"errorCode\":\"REQUEST_LIMIT_EXCEEDED\",\"message\":\"TotalRequests Limit exceeded.\"}]";
        return response.status(403).body(full(error)).unwrap();
    }
    response.body(full("{}")).unwrap()
}
