//! Collectors that do not take what they are sent.

use std::time::Duration;

use foregate::clock;

use crate::support::client::Client;
use crate::support::guarded::guarded;
use crate::support::otlp::Collector;
use crate::support::process::{Foregate, Options};
use crate::support::unused_address;
use crate::support::upstream::Upstream;

/// How a collector behaves, how it is spoken to, and why what is sent to it is dropped.
const MODES: [(&str, &str, &str); 10] = [
    ("unavailable", "grpc", "late"),
    ("unavailable", "http", "late"),
    ("refuse", "grpc", "refused"),
    ("refuse", "http", "refused"),
    ("exhausted", "grpc", "refused"),
    ("partial", "grpc", "refused"),
    ("partial", "http", "refused"),
    ("slow", "grpc", "late"),
    ("slow", "http", "late"),
    ("down", "grpc", "late"),
];

/// Something that a gateway sends to a collector.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// What it needs besides the flag that names the collector, which comes last.
    pub args: &'static [&'static str],
    /// Metric of attempts that failed.
    pub failed: &'static str,
    /// Metric of what was dropped, by reason.
    pub dropped: &'static str,
}

impl Sent {
    /// No collector delays a request, and what it does not take is counted.
    pub async fn meets_trouble(self) {
        let upstream = Upstream::answering("ok").await;
        let all = MODES.map(|(mode, scheme, reason)| self.meets(&upstream, mode, scheme, reason));
        futures_util::future::join_all(all).await;
    }

    async fn meets(self, upstream: &Upstream, mode: &str, scheme: &str, reason: &str) {
        let down = mode == "down";
        let collector = if down { None } else { Some(Collector::start(&[mode]).await) };
        let url = match &collector {
            Some(collector) => collector.url(scheme),
            None => format!("{scheme}://{}", unused_address().await),
        };
        // Short, for those that never answer.
        let options =
            Options::default().env("OTEL_EXPORTER_OTLP_TIMEOUT", "300").args(self.args).args(&[&url]);
        let spec = "insecure: { anonymous: true }";
        let gateway = Foregate::start(&guarded(upstream.address, spec), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for _ in 0..50 {
            let started = clock::monotonic();
            assert_eq!(client.get("/").await.status, 200);
            // An export has 300 ms, and is tried again for seconds.
            let took = clock::monotonic().saturating_sub(started);
            assert!(took < Duration::from_secs(5), "{mode} {scheme}: {took:?}");
        }
        if mode != "partial" {
            gateway.wait_sample(self.failed, |count| count >= 1.0).await;
        }
        let dropped = format!("{}{{reason=\"{reason}\"}}", self.dropped);
        gateway.wait_sample(&dropped, |count| count >= 1.0).await;
    }
}
