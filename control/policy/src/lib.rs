//! Policy documents, compiled to one immutable `Snapshot`; routes, diagnostics, cases.

pub mod balancing;
pub mod cases;
pub mod codes;
pub mod compile;
mod de;
pub mod description;
pub mod diagnostic;
pub mod document;
pub mod documents;
pub mod edit;
pub mod fleet;
pub mod lease;
pub mod load;
pub mod model;
pub mod node;
pub mod parse;
pub mod redis_store;
pub mod references;
pub mod render;
pub mod route;
pub mod routes;
pub mod schema;
pub mod shape;
pub mod snapshot;
pub mod source;
pub mod store;
mod unsupported;
