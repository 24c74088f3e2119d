//! `foregate-control crds`: the definitions of our kinds, for `kubectl apply`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use foregate_control::kubernetes::crds::file;
use foregate_control::kubernetes::kinds::Resource;

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
