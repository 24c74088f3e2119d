//! `foregate token`: tokens and keys for development.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use foregate_filters::units::TimeSpan;
use foregate_policy::files;
use serde_json::{Map, Value};

use crate::cli::token_key::TokenKey;
use crate::cli::{USAGE, output};
use crate::clock;
use crate::issuer::{Issuer, IssuerError, generate_pem};

/// Longest life of a token: what lives longer is no token for development.
const MAX_TTL: Duration = Duration::from_hours(24);
/// Largest key file that is read, in bytes.
const MAX_KEY: u64 = 16 << 10;
/// Claims that have options of their own.
const OWN: [&str; 6] = ["iss", "aud", "sub", "scope", "iat", "exp"];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Token {
    #[command(subcommand)]
    command: Option<Kind>,
    /// P-256 private key that signs, PEM (PKCS #8).
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// Makes a key, writes it to a file that does not exist yet, and prints the key set for `jwks` of a policy.
    #[arg(long, value_name = "FILE", exclusive = true)]
    new_key: Option<PathBuf>,
    /// `iss`: the issuer that a policy trusts.
    #[arg(long, value_name = "URL", required_unless_present = "new_key")]
    issuer: Option<String>,
    /// `aud`. Repeatable.
    #[arg(long, value_name = "AUDIENCE", required_unless_present = "new_key")]
    audience: Vec<String>,
    /// `scope`: words with spaces between them.
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// `sub`.
    #[arg(long, value_name = "NAME", default_value = "dev")]
    subject: String,
    /// Time until the token runs out, at most 24h.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: TimeSpan,
    /// Another claim. The value is JSON, or text where it is no JSON. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_claim)]
    claim: Vec<(String, Value)>,
}

/// What else than a bearer token is made.
#[derive(Debug, Subcommand)]
enum Kind {
    /// Makes an API key, prints it once, and the `Consumer` document that holds its hash.
    Key(TokenKey),
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Key(PathBuf, IssuerError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

fn parse_ttl(text: &str) -> Result<TimeSpan, String> {
    let span: TimeSpan = text.parse().map_err(|error| format!("{error}"))?;
    if span.0 < Duration::from_secs(1) || span.0 > MAX_TTL {
        return Err("it must be from 1s to 24h".to_owned());
    }
    Ok(span)
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        return Err("the claim has no name".to_owned());
    }
    if OWN.contains(&name) {
        return Err(format!("`{name}` has an option of its own"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

impl Token {
    pub(super) fn run(self) -> ExitCode {
        if let Some(Kind::Key(key)) = self.command {
            return key.run();
        }
        let outcome = match (&self.new_key, &self.key) {
            (Some(file), _) => make(file),
            (None, Some(file)) => self.sign(file),
            (None, None) => return ExitCode::from(USAGE),
        };
        match outcome {
            Ok(text) => {
                output::line(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn sign(&self, file: &Path) -> Result<String, TokenError> {
        let pem = read(file).map_err(|error| TokenError::File(file.to_owned(), error))?;
        let issuer = self.issuer.as_deref().unwrap_or_default();
        let issuer =
            Issuer::from_pem(issuer, &pem).map_err(|error| TokenError::Key(file.to_owned(), error))?;
        Ok(issuer.token(&self.claims(clock::now().unix_seconds()))?)
    }

    fn claims(&self, now: u64) -> Map<String, Value> {
        let mut claims: Map<String, Value> = self.claim.iter().cloned().collect();
        let audience = match self.audience.as_slice() {
            [one] => Value::from(one.as_str()),
            several => Value::from(several),
        };
        claims.insert("aud".to_owned(), audience);
        claims.insert("sub".to_owned(), self.subject.as_str().into());
        if let Some(scope) = &self.scope {
            claims.insert("scope".to_owned(), scope.as_str().into());
        }
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), (now + self.ttl.0.as_secs()).into());
        claims
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_KEY).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a new key where there is no file yet, readable by its owner only; gives its key set.
fn make(file: &Path) -> Result<String, TokenError> {
    let pem = generate_pem()?;
    let jwks = Issuer::from_pem("", &pem)?.jwks();
    files::write_new(file, pem.as_bytes()).map_err(|error| TokenError::File(file.to_owned(), error))?;
    Ok(jwks.to_string())
}
