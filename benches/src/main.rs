//! Measures the parts of a request one by one; serves as peer and as origin.

mod bundles;
mod echo;
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

use anyhow::{Result, bail};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let only = match words.as_slice() {
        ["micro"] => "",
        ["micro", only] => only,
        ["echo", address] => return echo::run(address.parse()?),
        ["origin", address] => return origin::run(address.parse()?),
        _ => bail!("usage: foregate-benches micro [WORD IN THE NAME] | echo ADDRESS | origin ADDRESS"),
    };
    let mut out = std::io::stdout().lock();
    micro::run(&mut out, only)?;
    Ok(out.flush()?)
}
