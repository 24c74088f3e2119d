//! Secrets as they are now: read by reference, read anew when their files change.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use foregate_filters::secret::{MAX_SECRET_BYTES, Secret, SecretRef};

/// One secret, and what is known of it now.
#[derive(Debug)]
pub struct LiveSecret {
    source: Source,
    current: ArcSwap<Secret>,
}

#[derive(Debug)]
enum Source {
    Env(String),
    File(PathBuf),
}

/// Why a secret cannot be had or used. It never tells any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("no secret is named")]
    Unnamed,
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("cannot read `{path}`: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("{0} is empty")]
    Empty(String),
    #[error("{0} is over 64 KiB")]
    TooLarge(String),
    #[error("it is not a private key in PEM for {0}")]
    NotAKey(&'static str),
    #[error("it holds what a header or form cannot carry")]
    NotText,
}

/// Something made of a secret, made anew when the secret has changed.
pub struct Derived<T> {
    secret: Arc<LiveSecret>,
    made: ArcSwap<Made<T>>,
    make: Make<T>,
}

type Make<T> = Box<dyn Fn(&Secret) -> Result<T, SecretError> + Send + Sync>;

struct Made<T> {
    of: Arc<Secret>,
    value: Arc<T>,
}

impl LiveSecret {
    /// Reads the secret; blocks for as long as the disk does. Paths are anchored by now.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(reference: &SecretRef) -> Result<Self, SecretError> {
        let source = match reference {
            SecretRef { env: Some(name), .. } => Source::Env(name.clone()),
            SecretRef { file: Some(file), .. } => Source::File(file.into()),
            _ => return Err(SecretError::Unnamed),
        };
        let current = ArcSwap::from_pointee(source.read()?);
        Ok(Self { source, current })
    }

    pub fn current(&self) -> Arc<Secret> {
        self.current.load_full()
    }

    /// Reads the secret anew. Where that fails the old one stays.
    ///
    /// # Errors
    /// Why it failed.
    pub fn reload(&self) -> Result<(), SecretError> {
        let new = self.source.read()?;
        if **self.current.load() != new {
            self.current.store(Arc::new(new));
        }
        Ok(())
    }

    /// The file it comes from, where it comes from one.
    pub fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            Source::Env(_) => None,
        }
    }
}

impl Source {
    fn read(&self) -> Result<Secret, SecretError> {
        let (name, bytes) = match self {
            Self::Env(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SecretError::Unset(name.clone()))?;
                (format!("the environment variable `{name}`"), value.into_vec())
            }
            Self::File(path) => (format!("`{}`", path.display()), read(path)?),
        };
        let long = bytes.len() > MAX_SECRET_BYTES;
        // Taken over first, so that it is overwritten whatever is wrong with it.
        let secret = Secret::new(bytes);
        if long {
            return Err(SecretError::TooLarge(name));
        }
        if secret.expose().is_empty() {
            return Err(SecretError::Empty(name));
        }
        Ok(secret)
    }
}

/// Reads one byte over the bound at most: a device or a pipe is never read to its end.
fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let failed = |error| SecretError::Read { path: path.display().to_string(), error };
    let bound = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    // Room for all of it at once: growing would leave copies behind.
    let mut bytes = Vec::with_capacity(MAX_SECRET_BYTES + 1);
    File::open(path).map_err(failed)?.take(bound).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

impl<T> Derived<T> {
    /// Makes the value once.
    ///
    /// # Errors
    /// Where the secret is not fit for it.
    pub fn new(
        secret: Arc<LiveSecret>,
        make: impl Fn(&Secret) -> Result<T, SecretError> + Send + Sync + 'static,
    ) -> Result<Self, SecretError> {
        let of = secret.current();
        let value = Arc::new(make(&of)?);
        Ok(Self { secret, made: ArcSwap::from_pointee(Made { of, value }), make: Box::new(make) })
    }

    /// The value for the secret as it is now; while that is not fit for it, the value before.
    pub fn value(&self) -> Arc<T> {
        let made = self.made.load();
        let current = self.secret.current();
        if !Arc::ptr_eq(&made.of, &current)
            && let Ok(value) = (self.make)(&current)
        {
            let value = Arc::new(value);
            self.made.store(Arc::new(Made { of: current, value: Arc::clone(&value) }));
            return value;
        }
        Arc::clone(&made.value)
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").field("secret", &self.secret).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Derived, LiveSecret, SecretError};
    use foregate_filters::secret::SecretRef;
    use std::sync::Arc;

    fn of(file: &std::path::Path) -> SecretRef {
        SecretRef { file: Some(file.display().to_string()), ..SecretRef::default() }
    }

    #[test]
    fn a_file_is_read_anew_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        assert!(LiveSecret::open(&of(&file)).is_err());
        std::fs::write(&file, "one\n").unwrap();
        let secret = Arc::new(LiveSecret::open(&of(&file)).unwrap());
        let length = |secret: &foregate_filters::secret::Secret| match secret.expose_text() {
            Some(text) if text != "bad" => Ok(text.len()),
            _ => Err(SecretError::NotText),
        };
        let derived = Derived::new(Arc::clone(&secret), length).unwrap();
        assert_eq!(*derived.value(), 3);
        for (text, error) in [("", true), ("bad", false)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(secret.reload().is_err(), error, "{text}");
            assert_eq!(*derived.value(), 3, "{text}");
        }
        std::fs::write(&file, "seven!!").unwrap();
        secret.reload().unwrap();
        assert_eq!(*derived.value(), 7);
        std::fs::write(&file, vec![b'a'; 64 * 1024 + 1]).unwrap();
        assert!(secret.reload().unwrap_err().to_string().ends_with("is over 64 KiB"));
        assert!(!format!("{secret:?} {derived:?}").contains("seven"));
    }
}
