//! What each proxy should have, sent to it by the change.

pub mod acknowledged;
pub mod offer;
pub mod offering;
pub mod proxies;
pub mod session;
pub mod turn;
