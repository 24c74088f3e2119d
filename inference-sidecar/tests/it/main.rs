//! Model bundles, features and scorers, end to end.

mod shipped;
