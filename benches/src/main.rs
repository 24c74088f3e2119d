//! Measures the parts of a request, one by one: nanoseconds an operation.

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

use anyhow::{Result, bail};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (command, only) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if command != "micro" || words.next().is_some() {
        bail!("usage: foregate-benches micro [WORD IN THE NAME]");
    }
    let mut out = std::io::stdout().lock();
    micro::run(&mut out, &only)?;
    Ok(out.flush()?)
}
