//! `foregate explain`: what the code of a diagnostic means, or how a decision came about.

use std::process::ExitCode;

use clap::Args;
use foregate_filters::fault::closest;
use foregate_policy::codes;
use reqwest::StatusCode;
use serde_json::Value;

use crate::cli::admin::{Admin, AdminError};
use crate::cli::explained::page;
use crate::cli::output::{self, TextFormat};
use crate::telemetry::record::DecisionId;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A code such as FG0102, or the id of a decision, which every response bears as x-foregate-decision;
    /// all codes are listed where absent.
    #[arg(value_name = "CODE|DECISION")]
    what: Option<String>,
    #[command(flatten)]
    admin: Admin,
    /// How a decision is told.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

/// Why a decision cannot be explained.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(
        "decision {0} is not kept, or not any more.\n\
         Refusals, audits and failures are kept as long as there is room, and one in 16 of the rest:\n\
         `foregate run --decision-sample 1/1 --decisions N` keeps every one. The access log and the decision log \
         have a line for each."
    )]
    Unkept(DecisionId),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Explain {
    pub(super) fn run(self) -> ExitCode {
        let Some(what) = &self.what else {
            for entry in codes::all() {
                output::line(&format!("{}  {}", entry.code, entry.title));
            }
            return ExitCode::SUCCESS;
        };
        if let Some(entry) = codes::find(what) {
            output::text(&entry.page());
            return ExitCode::SUCCESS;
        }
        if let Ok(id) = what.parse::<DecisionId>() {
            return self.decision(id);
        }
        let known: Vec<String> = codes::all().map(|entry| entry.code.to_string()).collect();
        let hint = match closest(what, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "a code looks like FG0102, the id of a decision like a UUID".to_owned(),
        };
        output::error(&format!("foregate: there is no code `{what}`; {hint} `foregate explain` lists all."));
        ExitCode::FAILURE
    }

    fn decision(&self, id: DecisionId) -> ExitCode {
        match (self.admin.block_on(self.ask(id)).map_err(|error| unkept(error, id)), self.format) {
            (Ok((text, _)), TextFormat::Json) => output::line(text.trim_end()),
            (Ok((_, decision)), TextFormat::Human) => output::text(&page(&decision)),
            (Err(error), _) => {
                output::error(&format!("foregate: {error}"));
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }

    /// The decision as the admin endpoint tells it, and as it is read.
    async fn ask(&self, id: DecisionId) -> Result<(String, Value), AdminError> {
        let path = "/decisions/";
        let (text, decision) = self.admin.ask(&self.admin.client()?, path, &id.to_string()).await?;
        let told = decision.get("foregate.decision").is_some();
        if told { Ok((text, decision)) } else { Err(self.admin.strange(path)) }
    }
}

fn unkept(error: AdminError, id: DecisionId) -> ExplainError {
    match error.status() {
        Some(StatusCode::NOT_FOUND) => ExplainError::Unkept(id),
        _ => error.into(),
    }
}
