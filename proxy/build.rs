//! Has the linker pack relocations, which every start reads through.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relative relocations (DT_RELR) take a bit each in place of 24 bytes that every start reads through. Linkers that do
    // not know them say so and go on; systems need glibc 2.36 or musl 1.2.4.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
