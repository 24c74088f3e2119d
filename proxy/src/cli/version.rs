//! `foregate version`: what this binary is and speaks.

use std::env::consts::{ARCH, OS};
use std::process::ExitCode;

use clap::Args;
use foregate_policy::document::Kind;
use serde_json::json;

use crate::cli::output::{self, TextFormat};

#[derive(Debug, Args)]
pub(super) struct Version {
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };
const SPEAKS: [&str; 4] = ["HTTP/1.1", "HTTP/2", "TLS 1.2", "TLS 1.3"];
const MODELS: [&str; 2] = ["ONNX graphs", "ONNX tree ensembles"];

impl Version {
    pub(super) fn run(self) -> ExitCode {
        let mut apis: Vec<&str> = Kind::ALL.map(Kind::api_version).to_vec();
        apis.dedup();
        let text = match self.format {
            TextFormat::Human => format!(
                "foregate {VERSION}\nplatform {ARCH}-{OS}\nbuild {BUILD}\npolicies {}\nspeaks {}\nmodels {}",
                apis.join(", "),
                SPEAKS.join(", "),
                MODELS.join(", ")
            ),
            TextFormat::Json => json!({
                "version": VERSION,
                "platform": format!("{ARCH}-{OS}"),
                "build": BUILD,
                "policies": apis,
                "speaks": SPEAKS,
                "models": MODELS,
            })
            .to_string(),
        };
        output::line(&text);
        ExitCode::SUCCESS
    }
}
