//! Measures parts of requests, and a fleet; serves as peer and as origin.

mod bundles;
mod echo;
mod fleet;
mod inference;
mod keys;
mod limits;
mod materials;
mod measure;
mod memory;
mod micro;
mod origin;
mod picks;
mod policies;
mod schemas;

use std::io::Write;

use anyhow::{Context, Result, bail};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str =
    "usage: foregate-benches micro [WORD IN THE NAME] | fleet [PROXIES] | echo ADDRESS | origin ADDRESS";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = std::io::stdout().lock();
    match words.as_slice() {
        ["micro"] => micro::run(&mut out, "")?,
        ["micro", only] => micro::run(&mut out, only)?,
        ["echo", address] => echo::run(address.parse()?)?,
        ["origin", address] => origin::run(address.parse()?)?,
        ["fleet"] => fleet::run(&mut out, 1_000)?,
        ["fleet", proxies] => fleet::run(&mut out, proxies.parse().context(USAGE)?)?,
        _ => bail!(USAGE),
    }
    Ok(out.flush()?)
}
