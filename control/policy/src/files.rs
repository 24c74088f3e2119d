//! Files and folders of state: for this user alone, replaced whole.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Permissions of a file for this user alone.
const PRIVATE: u32 = 0o600;

/// How the name of a file ends that is written beside another.
const NEW: &[u8] = b".new";

/// Age from which such a file is what a crash left behind: what is being written changes, and is soon whole.
const LEFT: Duration = Duration::from_mins(10);

/// A file that is written beside another: it takes the place of that one, or leaves nothing behind. Several may be
/// written for the same file at once, also by processes that share no more than the folder: the last one stays.
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
        let (new, begins) = hidden(path)?;
        let file = create_new(&new, mode)?;
        let this = Self { path, new, file };
        sweep(folder_of(path), &begins, &this.file.metadata()?);
        Ok(this)
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
    let (new, begins) = hidden(link)?;
    symlink(target, &new)?;
    let outcome = fs::symlink_metadata(&new).and_then(|now| {
        sweep(folder_of(link), &begins, &now);
        put(&new, link)
    });
    if outcome.is_err() {
        let _ = fs::remove_file(&new);
    }
    outcome
}

/// A name beside `path` that nobody else takes, and how all such names of it begin. Hidden, so that nobody who
/// reads the folder takes it for something else.
fn hidden(path: &Path) -> io::Result<(PathBuf, Vec<u8>)> {
    let mut name = b".".to_vec();
    name.extend_from_slice(path.file_name().ok_or(io::ErrorKind::InvalidInput)?.as_bytes());
    name.push(b'.');
    let begins = name.clone();
    // Process ids are the same in several containers; these keys come from the random numbers of the system.
    name.extend_from_slice(format!("{:016x}", RandomState::new().hash_one(std::process::id())).as_bytes());
    name.extend_from_slice(NEW);
    Ok((folder_of(path).join(OsString::from_vec(name)), begins))
}

/// Puts what is on disk, a file or a folder, at another place of the same folder, and waits until that is on disk too.
///
/// # Errors
/// What the system says.
pub fn put(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// Removes what crashes left behind of files and links whose names begin so. It may hold keys; where it cannot be
/// removed, the next one tries again. Ages are those of the file system, against a file that was made `now`.
fn sweep(folder: &Path, begins: &[u8], now: &Metadata) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let between = name.as_bytes().strip_prefix(begins).and_then(|rest| rest.strip_suffix(NEW));
        if !between.is_some_and(|it| !it.is_empty() && it.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        // Of the entry, not of what a link leads to.
        let left = entry.metadata().ok().filter(|it| it.is_file() || it.is_symlink()).is_some_and(|it| {
            let times = now.modified().ok().zip(it.modified().ok());
            times.and_then(|(now, then)| now.duration_since(then).ok()).is_some_and(|age| age > LEFT)
        });
        if left {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};
    use std::time::UNIX_EPOCH;

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
        replace(&file, b"new").unwrap();
        assert_eq!(std::io::read_to_string(reads).unwrap(), "old");
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("new", 0o600));
        assert_eq!(folder.names(), ["key"], "nothing is left over");
        assert!(write_new(&file, b"newer").is_err(), "there is one");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn what_a_crash_left_behind_is_removed_and_what_others_write_is_not() {
        let folder = Folder::new("left");
        let old = fs::FileTimes::new().set_modified(UNIX_EPOCH);
        // The first names are those of a crash; of the others, one is young and the rest are none or of other files.
        let names =
            [".key.1.new", ".key.00c0ffee00c0ffee.new", ".key.2.new", ".key.old.3.new", ".key..new", "a.new"];
        for (place, name) in names.into_iter().enumerate() {
            fs::write(folder.0.join(name), "half of what was to be").unwrap();
            if place != 2 {
                fs::File::options().write(true).open(folder.0.join(name)).unwrap().set_times(old).unwrap();
            }
        }
        replace(&folder.0.join("key"), b"new").unwrap();
        assert_eq!(folder.names(), [".key..new", ".key.2.new", ".key.old.3.new", "a.new", "key"]);
    }

    #[test]
    fn several_write_the_same_file_at_once_and_the_last_one_stays() {
        let folder = Folder::new("at-once");
        let file = folder.0.join("key");
        let (mut first, mut second) = (Beside::private(&file).unwrap(), Beside::private(&file).unwrap());
        first.file().write_all(b"first").unwrap();
        second.file().write_all(b"second").unwrap();
        second.put().unwrap();
        first.put().unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), folder.names().len()), ("first", 1));
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
        // What is no link is not replaced, and nothing is left beside it.
        fs::create_dir(folder.0.join("taken")).unwrap();
        assert!(point(&folder.0.join("taken"), Path::new("trees/3")).is_err());
        assert_eq!(folder.names(), ["current", "taken"]);
    }
}
