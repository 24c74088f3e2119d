//! `foregate-control check`: every fault of a folder of policies, before any proxy reads them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::declared::Declared;
use crate::whole::Folder;
use clap::{Args, ValueEnum};
use foregate_policy::compile::{Options, check_cases, compile};
use foregate_policy::diagnostic::{Diagnostic, Severity, sort};
use foregate_policy::load::load_folder;
use foregate_policy::render::{Format, render};

/// Configuration refused, as `foregate check` has it.
const REFUSED: u8 = 3;

/// Checks the policies of a folder. Exit codes: 0 fine, also with warnings; 1 the diagnostics could not be
/// written; 2 usage; 3 policies refused.
///
/// Keys, certificates, authorities and secrets that lie beside the policies are looked at; those that do not are taken
/// as declared, as models are. Keys are not fetched.
#[derive(Debug, Args)]
pub struct Check {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// How diagnostics are written.
    #[arg(long, value_enum, default_value_t = Output::Human)]
    format: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// With the line and a caret.
    Human,
    /// One JSON object a line.
    Json,
    /// A SARIF 2.1.0 log.
    Sarif,
    /// Workflow commands of GitHub.
    Github,
}

impl Check {
    pub fn run(self) -> ExitCode {
        let diagnostics = check(&self.policies);
        let mut out = std::io::stdout().lock();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let format = match self.format {
            Output::Human => Format::Human { color: out.is_terminal() && !plain },
            Output::Json => Format::Json,
            Output::Sarif => Format::Sarif,
            Output::Github => Format::Github,
        };
        if out.write_all(render(&diagnostics, format).as_bytes()).and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            return ExitCode::from(REFUSED);
        }
        ExitCode::SUCCESS
    }
}

/// Every fault and warning below `folder`, those of cases included.
fn check(folder: &Path) -> Vec<Diagnostic> {
    let sources = match load_folder(folder) {
        Ok(sources) => sources,
        Err(faults) => return faults,
    };
    let compiled =
        compile(&sources, &Declared::beside(&sources.root, &Folder(&sources.root)), Options::default());
    let mut diagnostics = compiled.map_or_else(|faults| faults, |snapshot| snapshot.warnings);
    diagnostics.extend(check_cases(&sources));
    sort(&mut diagnostics);
    diagnostics
}
