//! Puts a file that was written beside another in its place.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Waits until `new` is on disk, and has it take the place of `path` in the same folder: readers find one or the other,
/// also after a crash.
///
/// # Errors
/// What the system says; where it could not be put there, the old file is still there.
pub(crate) fn put(new: &Path, path: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::put;

    #[test]
    fn a_file_takes_the_place_of_another_or_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, path) = (folder.path().join("file.new"), folder.path().join("file"));
        fs::write(&path, "old").unwrap();
        assert!(put(&new, &path).is_err(), "there is nothing to put there");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let reads = fs::File::open(&path).unwrap();
        fs::write(&new, "new").unwrap();
        put(&new, &path).unwrap();
        assert_eq!(
            std::io::read_to_string(reads).unwrap(),
            "old",
            "who reads meanwhile reads all of the old one"
        );
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), new.exists()), ("new", false));
    }
}
