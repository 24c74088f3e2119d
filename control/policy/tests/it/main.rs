//! Policy text to diagnostics, snapshots, routes and verdicts of cases.

mod cases;
mod compile;
mod faults;
mod folder;
mod materials;
mod routing;
