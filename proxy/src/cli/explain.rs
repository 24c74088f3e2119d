//! `foregate explain`: what the code of a diagnostic means, with an example.

use std::process::ExitCode;

use clap::Args;
use foregate_filters::fault::closest;
use foregate_policy::codes;

use crate::cli::output;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A code such as FG0102; all codes are listed where absent.
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> ExitCode {
        let Some(code) = self.code else {
            for entry in codes::ALL {
                output::line(&format!("{}  {}", entry.code, entry.title));
            }
            return ExitCode::SUCCESS;
        };
        if let Some(entry) = codes::find(&code) {
            output::text(&entry.page());
            return ExitCode::SUCCESS;
        }
        let known: Vec<String> = codes::ALL.iter().map(|entry| entry.code.to_string()).collect();
        let hint = match closest(&code, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "a code looks like FG0102".to_owned(),
        };
        output::error(&format!("foregate: there is no code `{code}`; {hint} `foregate explain` lists all."));
        ExitCode::FAILURE
    }
}
