//! `foregate schema`: the JSON Schema of policy files, for editors.

use std::process::ExitCode;

use clap::Args;
use foregate_policy::schema;

use crate::cli::output;

#[derive(Debug, Args)]
pub(super) struct Schema {}

impl Schema {
    #[expect(clippy::unused_self, reason = "every command runs alike")]
    pub(super) fn run(self) -> ExitCode {
        output::text(&schema::text());
        ExitCode::SUCCESS
    }
}
