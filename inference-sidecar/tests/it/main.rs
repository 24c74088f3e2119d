//! Model bundles, features, scorers: end to end.
