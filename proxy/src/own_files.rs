//! Files that this process writes itself, which are no change of its policies.

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
    /// Files, and folders with all that is below.
    places: Vec<PathBuf>,
}

impl OwnFiles {
    /// Standard output and error, wherever they lead, and these places; a place that `policies` are in is not the
    /// process's alone.
    pub fn new(places: impl IntoIterator<Item = PathBuf>, policies: &Path) -> Self {
        let policies = whole(policies);
        let places = places.into_iter().map(|place| whole(&place));
        Self {
            outputs: [node(io::stdout()), node(io::stderr())].into_iter().flatten().collect(),
            places: places.filter(|place| !policies.starts_with(place)).collect(),
        }
    }

    pub fn has(&self, path: &Path) -> bool {
        let at = whole(path);
        self.places.iter().any(|place| at.starts_with(place))
            || fs::metadata(path).is_ok_and(|it| self.outputs.contains(&(it.dev(), it.ino())))
    }
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
    fn what_lies_in_own_places_is_own_and_policies_never_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("state/deep")).unwrap();
        for name in ["state/deep/file", "access.log", "policy.yaml"] {
            fs::write(at(name), "").unwrap();
        }
        let link = at("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let own = OwnFiles::new([at("state"), at("access.log")], folder.path());
        for name in ["state/deep/file", "state/gone", "access.log", "link/state/deep/file", "link/access.log"]
        {
            assert!(own.has(&at(name)), "{name}");
        }
        for name in ["policy.yaml", "state.yaml", "access.log.yaml", "gone.yaml"] {
            assert!(!own.has(&at(name)), "{name}");
        }
        // A state folder around the policies.
        let own = OwnFiles::new([folder.path().to_owned()], &at("state"));
        assert!(!own.has(&at("state/deep/file")) && !own.has(&at("policy.yaml")));
    }
}
