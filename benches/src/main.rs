//! Measures the parts of a request one by one, and a fleet as a whole.

mod fleet;
mod inference;
mod keys;
mod limits;
mod materials;
mod measure;
mod memory;
mod micro;
mod picks;
mod policies;
mod schemas;

use std::io::Write;

use anyhow::{Context, Result, bail};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (command, only) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let usage = "usage: foregate-benches micro [WORD IN THE NAME] | fleet [PROXIES]";
    if words.next().is_some() {
        bail!(usage);
    }
    let mut out = std::io::stdout().lock();
    match command.as_str() {
        "micro" => micro::run(&mut out, &only)?,
        "fleet" => {
            let proxies = if only.is_empty() { 1_000 } else { only.parse().context(usage)? };
            fleet::run(&mut out, proxies)?;
        }
        _ => bail!(usage),
    }
    Ok(out.flush()?)
}
