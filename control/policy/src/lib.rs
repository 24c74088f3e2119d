//! Policy documents, compiled to one immutable `Snapshot`; routes, diagnostics, cases.

pub mod compile;
pub mod diagnostic;
pub mod route;
pub mod routes;
pub mod snapshot;
pub mod store;
