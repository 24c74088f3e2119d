//! Has the linker lay the program out, so that a start reads little of it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=layout.ld");
    println!("cargo::rerun-if-env-changed=FOREGATE_LAYOUT");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    // Relative relocations (DT_RELR) take a bit each in place of 24 bytes that every start reads through. Linkers that do
    // not know them say so and go on; systems need glibc 2.36 or musl 1.2.4.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // What runs lies together: pages of code that are never used are not mapped with it. Linkers that take no script
    // (mold): FOREGATE_LAYOUT=off.
    let usual = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if usual && is("PROFILE", "release") && !is("FOREGATE_LAYOUT", "off") {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/layout.ld");
    }
}
