//! `foregate token key`: an API key, and the document that knows its hash.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use foregate_filters::api_key::key::{self, Digest, PREFIX_BYTES, SECRET_BYTES};
use foregate_filters::timestamp::Timestamp;
use foregate_filters::units::TimeSpan;

use crate::cli::output;
use crate::clock;

#[derive(Debug, Args)]
pub(super) struct TokenKey {
    /// Name of the `Consumer`.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    consumer: String,
    /// A group it belongs to. Repeatable.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Time until the key expires, such as 2160h; never where absent.
    #[arg(long, value_name = "TIME")]
    expires_in: Option<TimeSpan>,
    /// Makes a client id and a secret instead of a key.
    #[arg(long)]
    client: bool,
}

/// There was no randomness to be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
struct NoRandom;

fn parse_name(text: &str) -> Result<String, String> {
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let ends = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if ends && text.len() <= 253 && text.bytes().all(label) {
        Ok(text.to_owned())
    } else {
        Err("a name has lower-case letters, digits, - and ., such as mule-sales".to_owned())
    }
}

/// Bytes that nobody can guess: from the generator that TLS uses.
fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

impl TokenKey {
    pub(super) fn run(self) -> ExitCode {
        match self.make() {
            Ok(text) => {
                output::text(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    /// What the client needs, line by line; then the document.
    fn make(&self) -> Result<String, NoRandom> {
        let (first, second) = (random::<PREFIX_BYTES>()?, random::<SECRET_BYTES>()?);
        let expires = self
            .expires_in
            .map(|span| format!(", expires: \"{}\"", Timestamp::from_unix(clock::now().unix + span.0)));
        let expires = expires.unwrap_or_default();
        let (shown, known) = if self.client {
            let (id, secret) = (key::client_id(&first), key::secret(&second));
            let digest = Digest::of_secret(&id, &secret);
            let known = format!("client: {{ id: {id:?}, secrets: [{{ hash: \"{digest}\"{expires} }}] }}");
            (format!("{id}\n{secret}\n"), known)
        } else {
            let text = key::key(&first, &second);
            let (digest, prefix) = (Digest::of_key(&text), key::prefix(&text).unwrap_or_default());
            (format!("{text}\n"), format!("keys: [{{ prefix: {prefix:?}, hash: \"{digest}\"{expires} }}]"))
        };
        let mut document = format!(
            "---\napiVersion: foregate.dev/v1alpha1\nkind: Consumer\nmetadata: {{ name: {} }}\nspec:\n  {known}\n",
            self.consumer
        );
        if !self.group.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(document, "  groups: {:?}", self.group);
        }
        Ok(shown + &document)
    }
}

#[cfg(test)]
mod tests {
    use super::TokenKey;
    use foregate_filters::api_key::key::{Digest, prefix};
    use serde_json::Value;

    fn made(client: bool) -> (Vec<String>, Value) {
        let consumer = "mule-sales".to_owned();
        let expires_in = Some("24h".parse().unwrap());
        let text = TokenKey { consumer, group: vec!["a b".to_owned()], expires_in, client }.make().unwrap();
        let (shown, document) = text.split_once("---\n").unwrap();
        (shown.lines().map(str::to_owned).collect(), serde_saphyr::from_str(document).unwrap())
    }

    #[test]
    fn the_document_knows_the_hash_of_the_key_and_not_the_key() {
        let (shown, document) = made(false);
        let key = &document["spec"]["keys"][0];
        assert_eq!(key["prefix"], prefix(&shown[0]).unwrap());
        assert_eq!(key["hash"], Digest::of_key(&shown[0]).to_string());
        assert_eq!((&document["kind"], &document["spec"]["groups"][0]), (&"Consumer".into(), &"a b".into()));
        assert!(!document.to_string().contains(&shown[0]));
        assert_ne!(made(false).0, shown, "no key twice");
        let (shown, document) = made(true);
        let client = &document["spec"]["client"];
        assert_eq!(client["id"], shown[0]);
        assert_eq!(client["secrets"][0]["hash"], Digest::of_secret(&shown[0], &shown[1]).to_string());
        assert!(client["secrets"][0]["expires"].as_str().unwrap().ends_with('Z'));
    }
}
