//! `foregate explain`: what the code of a diagnostic means, or how a decision came about.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use foregate_filters::fault::closest;
use foregate_policy::codes;
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

use crate::cli::explained::page;
use crate::cli::output::{self, TextFormat};
use crate::oauth::http::innermost;
use crate::telemetry::record::DecisionId;

/// Time for the answer of the admin endpoint.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes: one decision with its steps takes a few KiB.
const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A code such as FG0102, or the id of a decision, which every response bears as x-foregate-decision;
    /// all codes are listed where absent.
    #[arg(value_name = "CODE|DECISION")]
    what: Option<String>,
    /// Admin endpoint of the gateway that decided, as an URL or an address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", value_parser = parse_admin)]
    admin: Url,
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
    #[error("the admin endpoint {0} cannot be asked: {1}")]
    Unreachable(Url, String),
    #[error("the admin endpoint {0} gave no decision (status {1})")]
    Strange(Url, u16),
}

fn parse_admin(text: &str) -> Result<Url, String> {
    let text = if text.parse::<SocketAddr>().is_ok() { format!("http://{text}") } else { text.to_owned() };
    let url = Url::parse(&text).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err("expected an http URL".to_owned()) }
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let told = runtime
            .map_err(|error| ExplainError::Unreachable(self.admin.clone(), error.to_string()))
            .and_then(|runtime| runtime.block_on(self.ask(id)));
        match (told, self.format) {
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
    async fn ask(&self, id: DecisionId) -> Result<(String, Value), ExplainError> {
        let failed = |error: reqwest::Error| ExplainError::Unreachable(self.admin.clone(), innermost(&error));
        let mut url = self.admin.clone();
        url.set_path(&format!("/decisions/{id}"));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().map_err(failed)?;
        let mut answer = client.get(url).send().await.map_err(failed)?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Err(ExplainError::Unkept(id));
        }
        let strange = || ExplainError::Strange(self.admin.clone(), status.as_u16());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(strange());
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(body).ok().filter(|_| status == StatusCode::OK).ok_or_else(strange)?;
        let decision: Value = serde_json::from_str(&text).map_err(|_| strange())?;
        let told = decision.get("foregate.decision").is_some();
        if told { Ok((text, decision)) } else { Err(strange()) }
    }
}
