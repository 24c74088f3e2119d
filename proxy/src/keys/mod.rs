//! Where verification keys come from: inline text, a file, or a URL kept fresh.

mod fetch;
mod file;
mod schedule;
#[cfg(test)]
mod tests;
mod url;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foregate_filters::jwt::Jwks;
use foregate_filters::jwt::key_set::{KeySet, KeySetError};
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;

pub use crate::keys::fetch::{FetchError, Fetcher, Source};
pub use crate::keys::file::FileKeys;
pub use crate::keys::url::UrlKeys;

/// A future of the keys known when it ends.
type Refetched<'a> = std::pin::Pin<Box<dyn Future<Output = Option<Arc<KeySet>>> + Send + 'a>>;

/// The keys of one issuer, of whatever origin.
#[derive(Clone, Debug)]
pub enum IssuerKeys {
    Fixed(Arc<FixedKeys>),
    File(Arc<FileKeys>),
    Url(Arc<UrlKeys>),
}

/// Keys that never change.
#[derive(Debug)]
pub struct FixedKeys(Option<Arc<KeySet>>);

/// Why keys cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot read `{path}`: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("{0}")]
    Set(#[from] KeySetError),
    #[error("no source of keys is named")]
    NoSource,
}

/// How the keys of an issuer stand, for metrics and the admin page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysStatus {
    /// `inline`, `file` or `url`.
    pub source: &'static str,
    /// Usable keys; 0 while there never were any.
    pub keys: usize,
    /// Reads or fetches that gave keys, since the start.
    pub succeeded: u64,
    /// Reads or fetches that did not.
    pub failed: u64,
    /// Time since keys were last had from their source; `None` where they never were, or never change.
    pub age: Option<Duration>,
    /// Why the last read or fetch failed; `None` where it did not.
    pub fault: Option<String>,
}

impl IssuerKeys {
    /// Opens the keys that `spec` names. Files are relative to `base`, the folder of the policy file.
    ///
    /// Without a fetcher nothing is fetched, and an issuer with a URL has no keys: that is for
    /// checking a policy, where no network may be needed.
    pub fn open(
        issuer: &str,
        spec: &Jwks,
        base: &Path,
        fetcher: Option<&Fetcher>,
    ) -> Result<Self, KeysError> {
        let source = match spec {
            Jwks { inline: Some(text), .. } => {
                let keys = KeySet::parse(text.as_bytes())?;
                return Ok(Self::Fixed(Arc::new(FixedKeys(Some(Arc::new(keys))))));
            }
            Jwks { file: Some(file), .. } => {
                return FileKeys::open(base.join(file)).map(|keys| Self::File(Arc::new(keys)));
            }
            Jwks { uri: Some(uri), .. } => Source::Uri(uri.clone()),
            Jwks { discover: true, .. } => Source::Discovery { issuer: issuer.to_owned() },
            _ => return Err(KeysError::NoSource),
        };
        Ok(match fetcher {
            Some(fetcher) => Self::Url(Arc::new(UrlKeys::start(source, fetcher.clone()))),
            None => Self::Fixed(Arc::new(FixedKeys(None))),
        })
    }

    /// The same keys, as filters know them.
    pub fn keys(&self) -> Arc<dyn Keys> {
        match self {
            Self::Fixed(keys) => Arc::clone(keys) as Arc<dyn Keys>,
            Self::File(keys) => Arc::clone(keys) as Arc<dyn Keys>,
            Self::Url(keys) => Arc::clone(keys) as Arc<dyn Keys>,
        }
    }

    /// Reads a file of keys anew, where there is one. On an error the old keys stay.
    pub fn reload(&self) -> Result<(), KeysError> {
        match self {
            Self::File(keys) => keys.reload(),
            Self::Fixed(_) | Self::Url(_) => Ok(()),
        }
    }

    pub fn status(&self, moment: Moment) -> KeysStatus {
        match self {
            Self::Fixed(keys) => keys.status(),
            Self::File(keys) => keys.status(moment),
            Self::Url(keys) => keys.status(moment),
        }
    }
}

impl FixedKeys {
    pub fn new(keys: Arc<KeySet>) -> Self {
        Self(Some(keys))
    }

    fn status(&self) -> KeysStatus {
        let keys = self.0.as_ref().map_or(0, |keys| keys.count());
        KeysStatus { source: "inline", keys, succeeded: 1, failed: 0, age: None, fault: None }
    }
}

impl Keys for FixedKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.0.clone()
    }
}

/// Usable keys in a slot that is filled later.
fn count(slot: &ArcSwapOption<KeySet>) -> usize {
    slot.load().as_ref().map_or(0, |keys| keys.count())
}
