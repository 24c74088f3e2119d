//! Who the request speaks for, once a token has been verified.

use serde_json::{Map, Value};

/// The verified identity behind a request.
#[derive(Debug, PartialEq)]
pub struct Principal {
    /// `iss` of the token.
    pub issuer: Box<str>,
    /// `sub` of the token; empty where the issuer sends none.
    pub subject: Box<str>,
    /// Scopes granted, from `scope` (RFC 8693), `scp` as a list or as a string.
    pub scopes: Vec<Box<str>>,
    /// All claims, as sent.
    pub claims: Map<String, Value>,
    /// `exp` in seconds since the epoch.
    pub expires: u64,
}
