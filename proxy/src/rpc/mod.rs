//! gRPC calls of the gateway itself: connections, requests, and what comes back.
//!
//! Frames are those of `foregate_inference::protocol`: whoever serves and whoever calls writes the same ones.

pub mod answer;
pub mod connect;
pub mod endpoint;

use http::Request;
use http::header::{CONTENT_TYPE, TE};
use http::request::Builder;

/// The head of a call; `uri` has a scheme and an authority too.
pub fn request(uri: &str) -> Builder {
    Request::post(uri).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers")
}

/// An error with what it comes from.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
