//! Measures parts of requests, and a fleet; is load, origin and peer of the comparisons.

mod bundles;
mod echo;
mod fleet;
mod histogram;
mod hyper_proxy;
mod inference;
mod instructions;
mod keys;
mod limits;
mod load;
mod materials;
mod measure;
mod memory;
mod micro;
mod origin;
mod picks;
mod policies;
mod prepare;
mod schemas;
mod scorer;
mod tls;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures parts of requests, and a fleet; is load, origin and peer of the comparisons.
#[derive(Debug, Parser)]
enum Command {
    /// Nanoseconds of parts of a request.
    Micro {
        /// Only what has this in its name.
        #[arg(default_value = "")]
        word: String,
    },
    /// Parts of a request, each a fixed number of times: callgrind counts them.
    Instructions,
    /// How soon many simulated proxies have a change.
    Fleet {
        #[arg(default_value_t = 1_000)]
        proxies: usize,
    },
    /// Keys, certificates and tokens for the other commands and the proxies, in a folder.
    Prepare {
        folder: PathBuf,
        /// Tokens of each issuer that are meant to be sent once.
        #[arg(long, default_value_t = 0)]
        once: usize,
    },
    /// Load on a server: says in JSON when it is warm, runs when a line comes, says in JSON what came of it.
    Load(load::Load),
    /// An origin that costs little itself.
    Origin(origin::Origin),
    /// A gRPC server of tonic that says again what it is asked.
    Echo { address: SocketAddr },
    /// A proxy of hyper's server and client, with nothing between them.
    Hyper(hyper_proxy::HyperProxy),
    /// An external processor for Envoy that scores leads with the engine of the gateway.
    Scorer { address: SocketAddr },
}

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    match Command::parse() {
        Command::Micro { word } => micro::run(&mut out, &word)?,
        Command::Instructions => instructions::run()?,
        Command::Fleet { proxies } => fleet::run(&mut out, proxies)?,
        Command::Prepare { folder, once } => prepare::run(&folder, once)?,
        Command::Load(load) => load.run(&mut out)?,
        Command::Origin(origin) => origin.run()?,
        Command::Echo { address } => echo::run(address)?,
        Command::Hyper(proxy) => proxy.run()?,
        Command::Scorer { address } => scorer::run(address)?,
    }
    Ok(out.flush()?)
}
