//! Model bundles, features and scorers, end to end.

mod bundles;
mod features;
mod forests;
mod scorers;
mod shipped;
