//! OAuth as a client: tokens are asked about, and had for upstreams.

pub mod assertion;
pub mod credential;
pub mod form;
pub mod grant;
pub mod http;
pub mod introspect;
pub mod proof;
