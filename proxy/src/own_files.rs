//! Files that this process writes itself, which are no change of its policies.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};

/// Device and inode.
type Node = (u64, u64);

/// Outputs, logs and state of this process.
#[derive(Debug, Default)]
pub struct OwnFiles {
    outputs: Vec<Node>,
    logs: Vec<PathBuf>,
    /// The folder of state, and how the names of what is kept there begin.
    state: Option<(PathBuf, &'static [&'static str])>,
}

impl OwnFiles {
    /// Standard output and error, wherever they lead, and these files.
    pub fn new(logs: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            outputs: [node(io::stdout()), node(io::stderr())].into_iter().flatten().collect(),
            logs: logs.into_iter().map(|log| whole(&log)).collect(),
            state: None,
        }
    }

    /// The same with what is kept in a folder under names that begin so; while it is written, a dot stands before them.
    #[must_use]
    pub fn with_state(self, folder: &Path, names: &'static [&'static str]) -> Self {
        Self { state: Some((whole(folder), names)), ..self }
    }

    pub fn has(&self, path: &Path) -> bool {
        let at = whole(path);
        self.logs.contains(&at)
            || self.state.as_ref().is_some_and(|(folder, names)| is_state(&at, folder, names))
            || fs::metadata(path).is_ok_and(|it| self.outputs.contains(&(it.dev(), it.ino())))
    }
}

fn is_state(path: &Path, folder: &Path, names: &[&str]) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let name = name.strip_prefix('.').unwrap_or(name);
    path.parent() == Some(folder) && names.iter().any(|own| name.starts_with(own))
}

/// The whole way to a file or folder that may be there, links followed.
fn whole(path: &Path) -> PathBuf {
    let there = |path: &Path| path.canonicalize().ok();
    there(path)
        // What is gone was in its folder.
        .or_else(|| Some(there(path.parent()?)?.join(path.file_name()?)))
        .or_else(|| absolute(path).ok())
        .unwrap_or_else(|| path.to_owned())
}

/// Of a file; pipes and terminals are in no folder of policies.
fn node(output: impl AsFd) -> Option<Node> {
    let file = File::from(output.as_fd().try_clone_to_owned().ok()?);
    let facts = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some((facts.dev(), facts.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::OwnFiles;

    #[test]
    fn logs_are_own_and_what_lies_beside_them_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("logs")).unwrap();
        for name in ["logs/access.log", "logs/key.pem", "policy.yaml"] {
            fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), at("link")).unwrap();
        let own = OwnFiles::new([at("logs/access.log"), at("decisions")]);
        for name in ["logs/access.log", "link/logs/access.log", "decisions", "link/decisions"] {
            assert!(own.has(&at(name)), "{name}");
        }
        for name in
            ["policy.yaml", "logs", "logs/key.pem", "logs/access.log.yaml", "decisions/1", "gone.yaml"]
        {
            assert!(!own.has(&at(name)), "{name}");
        }
    }

    #[test]
    fn state_is_own_and_other_files_of_its_folder_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("state")).unwrap();
        let own = OwnFiles::new([]).with_state(&at("state"), &["quotas.", "trials."]);
        for name in ["state/quotas.state", "state/.quotas.state.5f3.new", "state/trials.lock"] {
            assert!(own.has(&at(name)), "{name}");
        }
        for name in ["state/key.pem", "quotas.state", "state/quotas", "state/more/quotas.state", "state"] {
            assert!(!own.has(&at(name)), "{name}");
        }
    }
}
