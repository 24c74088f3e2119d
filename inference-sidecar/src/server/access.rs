//! Who may ask: bearer tokens, kept as digests.

use std::fs;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::fault::{Fault, Kind};

/// Bytes of a token at least: 16 random bytes in base64 have 22.
const MIN_TOKEN: usize = 20;
/// Tokens at most.
const MAX_TOKENS: usize = 1_000;
/// Bytes of the file at most.
const MAX_FILE: u64 = 1 << 20;

/// The tokens that are taken; all are where there is no list.
#[derive(Debug, Default)]
pub struct Access {
    digests: Option<Vec<[u8; 32]>>,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{}: {source}", .file.display())]
    File { file: PathBuf, source: std::io::Error },
    #[error("{}: {what}", .file.display())]
    Tokens { file: PathBuf, what: &'static str },
}

impl Access {
    /// Reads a file with one token a line; empty lines and those that begin with `#` are left out.
    pub fn read(file: &Path) -> Result<Self, AccessError> {
        let fault = |source| AccessError::File { file: file.to_owned(), source };
        let refuse = |what| Err(AccessError::Tokens { file: file.to_owned(), what });
        if fs::metadata(file).map_err(fault)?.len() > MAX_FILE {
            return refuse("over 1 MiB");
        }
        let text = fs::read_to_string(file).map_err(fault)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<&str> = lines.collect();
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return refuse("there must be 1 to 1000 tokens, one a line");
        }
        if tokens.iter().any(|token| token.len() < MIN_TOKEN || token.contains(char::is_whitespace)) {
            return refuse(
                "a token has at least 20 characters and no spaces; `openssl rand -base64 24` makes one",
            );
        }
        let digests = tokens.into_iter().map(|token| Sha256::digest(token).into()).collect();
        Ok(Self { digests: Some(digests) })
    }

    /// Refuses a request without one of the tokens.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let Some(digests) = &self.digests else { return Ok(()) };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(refused("a bearer token is needed"));
        };
        let token = value.as_bytes().split_first_chunk::<7>();
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")) else {
            return Err(refused("a bearer token is needed"));
        };
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        // All are compared, so that the time tells neither which nor how many there are.
        let known = digests.iter().fold(Choice::from(0), |known, other| known | digest.ct_eq(other));
        if bool::from(known) { Ok(()) } else { Err(refused("this token is not known here")) }
    }
}

fn refused(message: &str) -> Fault {
    Fault::new(Kind::Unauthenticated, message)
}
