//! Any path becomes one canonical spelling, or is refused.
#![no_main]

#[path = "../../proxy/src/path.rs"]
mod path;

use libfuzzer_sys::fuzz_target;

use crate::path::canonical;

fuzz_target!(|text: &str| {
    let Ok(once) = canonical(text) else { return };
    assert!(once.starts_with('/'), "{once}");
    let again = canonical(&once).unwrap_or_else(|error| panic!("{once}: {error}"));
    assert_eq!(once, again, "a second look changes nothing");
    // No spelling is left that a service could read as another path.
    let lower = once.to_ascii_lowercase();
    for hidden in ["//", "/./", "/../", "\\", "%2f", "%5c", "%00", "%2e"] {
        assert!(!lower.contains(hidden), "{once} holds {hidden}");
    }
    assert!(!lower.ends_with("/.") && !lower.ends_with("/.."), "{once}");
});
