//! What the process as a whole takes on: bodies, connections, streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::bodies::Bodies;
use crate::admission::clients::Clients;
use crate::admission::load::Load;
use crate::frames::FLOODS;
use crate::stall::STALLED;
use crate::stream::RESTING;
use crate::telemetry::Telemetry;
use crate::telemetry::sources::Kind;

/// Bounds of the process.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all collected request bodies.
    pub bodies: u64,
    /// Connections of one client address.
    pub client_connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Requests on one connection, one after the other or at once, before it is asked to end.
    pub requests: u32,
}

/// The bounds, and how much of them is used.
#[derive(Debug)]
pub struct Capacity {
    pub bodies: Arc<Bodies>,
    pub clients: Arc<Clients>,
    pub load: Arc<Load>,
    pub streams: u32,
    pub requests: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bodies: 256 << 20, client_connections: 10_000, streams: 128, requests: 100_000 }
    }
}

impl Capacity {
    /// Registers what is used and refused.
    pub fn new(bounds: Bounds, telemetry: &Telemetry) -> Self {
        let Bounds { bodies, client_connections, streams, requests } = bounds;
        let (bodies, clients) = (Bodies::new(bodies), Clients::new(client_connections));
        let load = Arc::new(Load::default());
        let add = |kind, name: &str, help: &str, read: Box<dyn Fn() -> f64 + Send + Sync>| {
            telemetry.register_source(kind, name, help, &[], read);
        };
        let it = Arc::clone(&bodies);
        let help = "Bytes of request bodies that are collected for filters.";
        add(Kind::Gauge, "foregate_bodies_held_bytes", help, Box::new(move || number(it.held())));
        let it = Arc::clone(&bodies);
        let help = "Request bodies refused because all together would be too large.";
        add(Kind::Counter, "foregate_bodies_refused_total", help, Box::new(move || number(it.refused())));
        let it = Arc::clone(&clients);
        let help = "Connections refused because their client address has too many.";
        let name = "foregate_connections_refused_total";
        add(Kind::Counter, name, help, Box::new(move || number(it.refused())));
        let it = Arc::clone(&load);
        let help = "How late the event loops of the workers are.";
        let name = "foregate_event_loop_delay_seconds";
        add(Kind::Gauge, name, help, Box::new(move || it.delay().as_secs_f64()));
        let it = Arc::clone(&load);
        let help = "Requests refused because a worker did not keep up.";
        add(Kind::Counter, "foregate_requests_shed_total", help, Box::new(move || number(it.shed())));
        let help = "HTTP/2 connections ended because their clients sent too many frames to no purpose.";
        let read = || number(FLOODS.load(Ordering::Relaxed));
        add(Kind::Counter, "foregate_http2_floods_total", help, Box::new(read));
        let help = "HTTP/2 streams ended because their clients took nothing of the response.";
        let read = || number(STALLED.load(Ordering::Relaxed));
        add(Kind::Counter, "foregate_http2_streams_stalled_total", help, Box::new(read));
        let help = "HTTP/1 connections that wait for a request and hold no buffers for it.";
        let read = || number(RESTING.load(Ordering::Relaxed));
        add(Kind::Gauge, "foregate_connections_resting", help, Box::new(read));
        Self { bodies, clients, load, streams, requests }
    }
}

/// A count as metrics have it.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn number(count: u64) -> f64 {
    count as f64
}
