//! gRPC calls of the gateway itself: connections, requests, and what comes back.
//!
//! Frames are those of `foregate_inference::protocol`: whoever serves and whoever calls writes the same ones.

pub mod answer;
pub mod connect;
pub mod endpoint;

use http::Request;
use http::header::{CONTENT_TYPE, TE};
use http::request::Builder;

pub use foregate_filters::causes::causes;

/// The head of a call; `uri` has a scheme and an authority too.
pub fn request(uri: &str) -> Builder {
    Request::post(uri).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers")
}
