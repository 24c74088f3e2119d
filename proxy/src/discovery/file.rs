//! Endpoints from a file, read again when it changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use foregate_policy::documents::endpoints::{Detailed, Endpoint as Said};
use foregate_policy::snapshot::Endpoint as Written;
use serde::Deserialize;

use crate::discovery::{Found, Source};
use crate::dispatch::endpoint::Address;
use crate::dispatch::table::MAX_ENDPOINTS;

/// Largest file, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Between two looks at whether it changed.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    endpoints: Vec<Said>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

/// A watched file.
#[derive(Debug)]
pub struct EndpointsFile {
    path: PathBuf,
    /// Of what was read last, good or bad.
    seen: Option<Stamp>,
    /// That was refused, and told so once.
    refused: bool,
}

impl EndpointsFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, refused: false }
    }
}

#[async_trait]
impl Source for EndpointsFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    async fn look(&mut self) -> Result<Found, String> {
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp == self.seen {
            return Ok(Found::Same(PAUSE));
        }
        if stamp.is_none() && self.refused {
            return Ok(Found::Same(PAUSE));
        }
        self.seen = stamp;
        let read = read(&self.path);
        self.refused = read.is_err();
        Ok(Found::Endpoints(read?, PAUSE))
    }

    fn patience(&self) -> (Option<Duration>, Duration) {
        // Whoever breaks the file will mend it; a night must not take the endpoints away.
        (None, PAUSE)
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp(found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// Reads a file of endpoints.
///
/// # Errors
/// What is wrong with it, in words for whoever wrote it.
pub fn read(path: &Path) -> Result<Vec<Address>, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("{shown}: larger than {} MiB", MAX_BYTES >> 20));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let content: Content = serde_saphyr::from_str(&text).map_err(|error| {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        format!("{shown}: {first}")
    })?;
    if content.endpoints.len() > MAX_ENDPOINTS {
        return Err(format!("{shown}: more than {MAX_ENDPOINTS} endpoints"));
    }
    let read = content.endpoints.into_iter().enumerate();
    read.map(|(index, entry)| address(entry).map_err(|why| format!("{shown}: endpoints[{index}]: {why}")))
        .collect()
}

fn address(entry: Said) -> Result<Address, String> {
    let detailed = match entry {
        Said::Address(address) => Detailed { address: Some(address), ..Detailed::default() },
        Said::Detailed(detailed) => detailed,
    };
    let (Some(text), None) = (&detailed.address, &detailed.srv) else {
        return Err("it has no address".to_owned());
    };
    let written = Written::parse(text).ok_or_else(|| format!("`{text}` is not address:port"))?;
    let weight = detailed.weight.unwrap_or(1);
    if !(1..=1000).contains(&weight) || detailed.priority.is_some_and(|priority| priority > 15) {
        return Err("weight is from 1 to 1000, priority from 0 to 15".to_owned());
    }
    let written = Written {
        weight,
        zone: detailed.zone.as_deref().map(Into::into),
        priority: detailed.priority.unwrap_or(0).into(),
        ..written
    };
    Address::literal(&written).ok_or_else(|| format!("`{text}` is a name; the file holds IP addresses"))
}

#[cfg(test)]
mod tests {
    use super::{EndpointsFile, read};
    use crate::discovery::{Found, Source};

    #[tokio::test]
    async fn a_file_is_read_when_it_changes_and_a_fault_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.yaml");
        std::fs::write(
            &path,
            "endpoints: [\"127.0.0.1:80\", { address: \"[::1]:81\", weight: 3, zone: a, priority: 1 }]",
        )
        .unwrap();
        let mut file = EndpointsFile::new(path.clone());
        let Ok(Found::Endpoints(found, _)) = file.look().await else { panic!("nothing found") };
        let seen: Vec<_> = found
            .iter()
            .map(|at| (at.address.to_string(), at.weight, at.zone.as_deref(), at.priority))
            .collect();
        assert_eq!(seen, [("127.0.0.1:80".to_owned(), 1, None, 0), ("[::1]:81".to_owned(), 3, Some("a"), 1)]);
        assert!(matches!(file.look().await, Ok(Found::Same(_))));
        std::fs::write(&path, "endpoints: [\"crm:80\"]").unwrap();
        assert!(file.look().await.unwrap_err().contains("endpoints[0]: `crm:80` is a name"));
        assert!(matches!(file.look().await, Ok(Found::Same(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(file.look().await, Ok(Found::Same(_))));
    }

    #[test]
    fn what_is_not_endpoints_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.yaml");
        for (text, why) in [
            ("endpoint: []", "endpoint"),
            ("endpoints: [{ weight: 1 }]", "endpoints[0]: it has no address"),
            ("endpoints: [{ address: '1.2.3.4:5', weight: 0 }]", "weight is from 1"),
            ("endpoints: ['1.2.3.4']", "is not address:port"),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = read(&path).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
