//! Verification keys kept current: inline, from files, from URLs.
