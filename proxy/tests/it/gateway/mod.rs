//! Forwarding: versions of HTTP, routing, headers, upstreams that fail, streams.

mod forwarding;
mod headers;
mod routing;
mod streams;
mod upstreams;
