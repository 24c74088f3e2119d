//! `foregate-control crds`: the definitions of our kinds, for `kubectl apply`.

use std::io::Write;
use std::process::ExitCode;

use crate::kubernetes::crds::file;
use crate::kubernetes::kinds::Resource;
use clap::Args;

/// Prints the `CustomResourceDefinitions` of the kinds of foregate.dev.
#[derive(Debug, Args)]
pub struct Crds {}

impl Crds {
    pub fn run() -> ExitCode {
        let texts = Resource::OURS.map(|resource| file(resource).1);
        let mut out = std::io::stdout().lock();
        if out.write_all(texts.join("---\n").as_bytes()).and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}
