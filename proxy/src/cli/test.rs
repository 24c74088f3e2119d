//! `foregate test`: requests with the verdicts they must get, run against policies.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use foregate_filters::fault::Code;
use foregate_policy::cases::{Report, run};
use foregate_policy::compile::Options;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::load::load_folder;
use serde_json::json;

use crate::cli::REFUSED;
use crate::cli::case_keys::CaseKeys;
use crate::cli::materials::Lent;
use crate::cli::output::{self, Format, TextFormat};
use crate::clock;
use crate::shared::Shared;

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Folder with policy files and their cases, `*.cases.yaml`.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// How outcomes are written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

/// Runs every case below a folder. Certificates and issuers are not asked: keys made for the run stand in.
///
/// # Errors
/// Every fault of policies and cases.
pub fn run_cases(folder: &Path) -> Result<Vec<Report>, Vec<Diagnostic>> {
    let fault = |why: String| vec![Diagnostic::file(folder, Code::FILE, why)];
    let sources = load_folder(folder)?;
    let keys = CaseKeys::new(&sources).map_err(|error| fault(error.to_string()))?;
    let shared = Shared::new(None, None);
    shared.begin();
    let lent = Lent::to_cases(&shared, &keys).map_err(|error| fault(error.to_string()))?;
    run(&sources, &lent, Options::default(), &keys, clock::now())
}

impl Test {
    pub(super) fn run(self) -> ExitCode {
        let reports = match run_cases(&self.policies) {
            Ok(reports) => reports,
            Err(faults) => {
                let format = match self.format {
                    TextFormat::Human => Format::Human,
                    TextFormat::Json => Format::Json,
                };
                output::diagnostics(&faults, format);
                return ExitCode::from(REFUSED);
            }
        };
        if reports.is_empty() {
            output::error("foregate: there is no case here; cases stand in files named *.cases.yaml");
            return ExitCode::FAILURE;
        }
        let failed = reports.iter().filter(|report| !report.passed()).count();
        match self.format {
            TextFormat::Human => {
                reports.iter().filter(|report| !report.passed()).for_each(tell);
                output::line(&format!("{} passed, {failed} failed", reports.len() - failed));
            }
            TextFormat::Json => reports.iter().for_each(|report| {
                let Report { name, file, line, differences } = report;
                let passed = report.passed();
                let line = json!({ "passed": passed, "name": name, "file": file, "line": line, "differences": differences });
                output::line(&line.to_string());
            }),
        }
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn tell(report: &Report) {
    output::line(&format!("FAILED {}:{}: {}", report.file, report.line, report.name));
    for difference in &report.differences {
        output::line(&format!("    {difference}"));
    }
}
