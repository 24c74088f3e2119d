//! `foregate check`: every fault of a folder of policies, without running them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use foregate_policy::compile::{Options, check_cases, compile};
use foregate_policy::diagnostic::{Diagnostic, sort};
use foregate_policy::load::{Sources, load_folder};
use foregate_policy::snapshot::Snapshot;

use crate::cli::REFUSED;
use crate::cli::materials::Lent;
use crate::cli::output::{self, Format, count};
use crate::shared::Shared;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// Ends with exit code 1 where there are warnings.
    #[arg(long)]
    deny_warnings: bool,
    /// Does not look for certificates and secrets: for machines that have none, such as those of CI.
    #[arg(long)]
    without_secrets: bool,
    /// How faults are written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let (told, summary) = match self.compile() {
            Ok((sources, snapshot, unseen)) => {
                let mut summary = summary(&sources, &snapshot, unseen);
                for bound in &snapshot.leases {
                    summary.insert_str(0, &format!("{bound}\n"));
                }
                (snapshot.warnings, Some(summary))
            }
            Err(faults) => (faults, None),
        };
        output::diagnostics(&told, self.format);
        match summary {
            None => {
                if self.format == Format::Human {
                    let faults = count(told.len(), "fault");
                    output::error(&format!("\n{faults}; `foregate explain CODE` tells more"));
                }
                ExitCode::from(REFUSED)
            }
            Some(summary) => {
                if self.format == Format::Human {
                    output::line(&format!("{summary}{}", tail(told.len())));
                }
                if self.deny_warnings && !told.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
            }
        }
    }

    /// Every fault of policies and cases at once; where there is none, how many secrets were not looked for.
    fn compile(&self) -> Result<(Sources, Snapshot, usize), Vec<Diagnostic>> {
        let sources = load_folder(&self.policies)?;
        let mut faults = check_cases(&sources);
        let shared = Shared::new(None, None);
        shared.begin();
        let lent = Lent::to_check(&shared, !self.without_secrets);
        match compile(&sources, &lent, Options::default()) {
            Ok(snapshot) if faults.is_empty() => Ok((sources, snapshot, lent.unseen())),
            Ok(_) => Err(faults),
            Err(mut more) => {
                faults.append(&mut more);
                sort(&mut faults);
                Err(faults)
            }
        }
    }
}

fn summary(sources: &Sources, snapshot: &Snapshot, unseen: usize) -> String {
    let documents = sources.documents.len() + sources.cases.len();
    let unseen = match unseen {
        0 => String::new(),
        unseen => format!(", {} not looked for", count(unseen, "secret")),
    };
    format!(
        "{}, {}, {}{unseen}",
        count(sources.files.len(), "file"),
        count(documents, "document"),
        count(snapshot.routes.all().len() + snapshot.streams.all().len(), "route")
    )
}

fn tail(warnings: usize) -> String {
    match warnings {
        0 => ": no faults".to_owned(),
        warnings => format!(": no faults, {}", count(warnings, "warning")),
    }
}
