//! Every decision about one request: the vocabulary, the `Filter` trait, the filters.

pub mod addresses;
pub mod authorize;
pub mod chain;
pub mod client_auth;
pub mod consumer;
pub mod context;
pub mod decimal;
pub mod edits;
pub mod enrich;
pub mod expression;
pub mod fault;
pub mod filter;
pub mod introspection;
pub mod introspector;
pub mod json;
pub mod jwt;
pub mod keys;
pub mod moment;
pub mod peer;
pub mod principal;
pub mod rate_limit;
pub mod reason;
pub mod resources;
pub mod rule;
pub mod score;
pub mod secret;
pub mod spec;
pub mod step;
#[cfg(test)]
pub mod testing;
pub mod trace;
pub mod units;
pub mod verdict;
