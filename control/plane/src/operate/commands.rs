//! The commands that ask a running control plane.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use foregate_filters::units::TimeSpan;
use serde_json::Value;

use crate::config::{Config, ConfigError};
use crate::operate::Wanted;
use crate::operate::socket::{CallError, call};

/// Which control plane is asked.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Configuration of the control plane that runs on this machine.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Shows roots and issuers, and what will change when.
    Status(Which),
    /// Makes a new root and issuer: the root is trusted at once, the issuer signs after the overlap, and the old root
    /// goes once the last certificate below it has expired. For an authority that was generated.
    Rotate(Which),
    /// Trusts an old root no longer, before its time: whoever has a certificate below it must join again.
    Withdraw(Withdraw),
    /// Prints the roots to trust, in PEM: what proxies know the control plane by.
    Roots(Which),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a join token and prints it, once.
    Create(Create),
}

#[derive(Debug, Args)]
pub struct Withdraw {
    #[command(flatten)]
    which: Which,
    /// Fingerprint of the root, as `foregate-control authority status` shows it.
    #[arg(value_name = "SHA256")]
    sha256: String,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    which: Which,
    /// Workload that the token is for, such as `ns/crm/sa/leads`.
    #[arg(long, value_name = "PATH", value_parser = crate::attest::parse_path)]
    identity: String,
    /// Time after which it is worth nothing.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    expires: TimeSpan,
    /// Certificates that it is good for, 1 to `joinTokens.uses` of the configuration.
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Start(#[from] io::Error),
    #[error("the answer lacks a token")]
    Answer,
}

impl Which {
    /// Asks; `body` makes it a change.
    ///
    /// # Errors
    /// Where the configuration cannot be read, or there is no answer.
    pub fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, CommandError> {
        let config = Config::load(&self.config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(call(&config.state_dir, path, body))?)
    }
}

impl AuthorityCommand {
    pub fn run(&self) -> ExitCode {
        let answer = match self {
            Self::Status(which) => which.ask("/authority", None),
            Self::Rotate(which) => which.ask("/authority/rotate", Some(&Value::Null)),
            Self::Withdraw(Withdraw { which, sha256 }) => {
                which.ask("/authority/withdraw", Some(&Value::String(sha256.to_ascii_lowercase())))
            }
            Self::Roots(which) => which.ask("/authority/roots", None),
        };
        finish(&answer.map(|answer| match answer {
            Value::String(text) => text.trim_end().to_owned(),
            other => format!("{other:#}"),
        }))
    }
}

impl TokenCommand {
    pub fn run(&self) -> ExitCode {
        let Self::Create(Create { which, identity, expires, uses }) = self;
        let wanted = Wanted { identity: identity.clone(), expires: *expires, uses: *uses };
        let token = serde_json::to_value(wanted).map_err(|error| CommandError::Start(error.into()));
        let token = token.and_then(|wanted| which.ask("/tokens", Some(&wanted)));
        finish(&token.and_then(|answer| {
            let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
            token.ok_or(CommandError::Answer)
        }))
    }
}

/// Prints an answer, or why there is none.
pub fn finish(answer: &Result<String, CommandError>) -> ExitCode {
    let written = match answer {
        Ok(answer) => writeln!(io::stdout(), "{answer}"),
        Err(error) => writeln!(io::stderr(), "foregate-control: {error}"),
    };
    if written.is_ok() && answer.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
