//! Files and folders of state: for this user alone, replaced whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// Permissions of a file for this user alone.
const PRIVATE: u32 = 0o600;

/// A file that is written beside another: it takes the place of that one, or leaves nothing behind. Two threads must
/// not write one for the same file at once; two processes may.
#[derive(Debug)]
pub struct Beside<'a> {
    path: &'a Path,
    new: PathBuf,
    file: File,
}

impl<'a> Beside<'a> {
    /// Begins a file for this user alone, from its first byte.
    ///
    /// # Errors
    /// What the system says.
    pub fn private(path: &'a Path) -> io::Result<Self> {
        Self::begin(path, PRIVATE)
    }

    /// Begins a file for everybody whom the process lets read what it makes.
    ///
    /// # Errors
    /// What the system says.
    pub fn public(path: &'a Path) -> io::Result<Self> {
        Self::begin(path, 0o666)
    }

    fn begin(path: &'a Path, mode: u32) -> io::Result<Self> {
        // Hidden, so that nobody who reads the folder takes it for something else.
        let mut name = OsString::from(".");
        name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.new", std::process::id()));
        let new = folder_of(path).join(name);
        // What a crash left behind.
        remove(&new)?;
        let file = create_new(&new, mode)?;
        Ok(Self { path, new, file })
    }

    /// What is to be written to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts it in its place, and waits until it is on disk.
    ///
    /// # Errors
    /// What the system says; where it could not be put there, the old file is still there.
    pub fn put(self) -> io::Result<()> {
        self.file.sync_all()?;
        put(&self.new, self.path)
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // Once it is in its place, there is nothing left of this name.
        let _ = fs::remove_file(&self.new);
    }
}

/// Puts a file in the place of another: readers see one or the other, also after a crash.
///
/// # Errors
/// What the system says; where it could not be put there, the old file is still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = Beside::private(path)?;
    beside.file().write_all(content)?;
    beside.put()
}

/// Makes a folder, and those above it.
///
/// # Errors
/// What the system says.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file over what may have been there; it is on disk when this returns.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Writes a file where there is none yet; it is on disk when this returns.
///
/// # Errors
/// What the system says, `AlreadyExists` where there is one.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = create_new(path, PRIVATE)?;
    file.write_all(content)?;
    file.sync_all()
}

/// As [`write`], and leaves it to the system when it is on disk: for what can be made anew.
///
/// # Errors
/// What the system says.
pub fn write_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    create(path)?.write_all(content)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(path)
}

fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Makes `link` lead to `target` from now on: readers see one or the other.
///
/// # Errors
/// What the system says; where it could not be changed, the link leads where it did.
pub fn point(link: &Path, target: &Path) -> io::Result<()> {
    let beside = link.with_extension("new");
    remove(&beside)?;
    symlink(target, &beside)?;
    put(&beside, link)
}

/// Puts what is on disk, a file or a folder, at another place of the same folder, and waits until that is on disk too.
///
/// # Errors
/// What the system says.
pub fn put(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a file that may be there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use super::{Beside, make_folder, point, replace, write_new};

    /// A folder that goes away.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("foregate-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            make_folder(&folder).unwrap();
            Self(folder)
        }

        fn names(&self) -> Vec<OsString> {
            let mut names: Vec<_> =
                fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_for_this_user_alone() {
        let folder = Folder::new("replaced");
        assert_eq!(mode(&folder.0), 0o700);
        let file = folder.0.join("key");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        // Whoever reads the old one while it is replaced reads all of it.
        let reads = fs::File::open(&file).unwrap();
        // What a crash left behind, open to others.
        let left = folder.0.join(format!(".key.{}.new", std::process::id()));
        fs::write(&left, "half of what was to be").unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(std::io::read_to_string(reads).unwrap(), "old");
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("new", 0o600));
        assert_eq!(folder.names(), ["key"], "nothing is left over");
        assert!(write_new(&file, b"newer").is_err(), "there is one");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn what_is_not_put_in_its_place_leaves_the_old_file_and_nothing_else() {
        let folder = Folder::new("given-up");
        let file = folder.0.join("key");
        replace(&file, b"old").unwrap();
        let mut beside = Beside::private(&file).unwrap();
        beside.file().write_all(b"half").unwrap();
        let hidden = folder.names().into_iter().find(|name| name != "key").unwrap();
        assert!(hidden.to_str().unwrap().starts_with('.'), "{hidden:?}");
        assert_eq!(mode(&folder.0.join(hidden)), 0o600, "also before it is whole");
        drop(beside);
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), folder.names().len()), ("old", 1));
        // A folder that is not empty cannot be replaced by a file.
        fs::create_dir(folder.0.join("taken")).unwrap();
        fs::write(folder.0.join("taken/file"), "").unwrap();
        assert!(replace(&folder.0.join("taken"), b"new").is_err());
        assert!(replace(&folder.0.join("missing/key"), b"new").is_err(), "no folder is made");
        assert_eq!(folder.names(), ["key", "taken"]);
    }

    #[test]
    fn a_link_leads_to_one_or_the_other() {
        let folder = Folder::new("link");
        let link = folder.0.join("current");
        for target in ["trees/1", "trees/2"] {
            point(&link, Path::new(target)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert_eq!(folder.names(), ["current"]);
    }
}
