//! Every decision about one request: the vocabulary, the `Filter` trait, the filters.

pub mod addresses;
pub mod api_key;
pub mod authorize;
pub mod chain;
pub mod consumer;
pub mod consumers;
pub mod context;
pub mod edits;
pub mod enrich;
pub mod expression;
pub mod fault;
pub mod filter;
pub mod identified;
pub mod json;
pub mod jwt;
pub mod keys;
pub mod moment;
pub mod peer;
pub mod principal;
pub mod rate_limit;
pub mod reason;
pub mod resources;
pub mod rule_index;
pub mod score;
pub mod shadow;
pub mod spec;
pub mod step;
#[cfg(test)]
pub mod testing;
pub mod timestamp;
pub mod units;
pub mod verdict;
