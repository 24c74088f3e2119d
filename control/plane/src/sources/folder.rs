//! A folder as a source: a checkout, or what Kubernetes mounts and swaps.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::hex::hex;
use crate::sources::spec::Limits;
use crate::sources::{Source, SourceFault, Tree};

/// Quiet time after a change before files are read.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for quiet.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Readings of a folder that changes meanwhile.
const MAX_READINGS: usize = 8;
/// Between two looks where nothing was told: some file systems tell nothing.
const LOOK: Duration = Duration::from_secs(30);

/// A watched folder.
#[derive(Debug)]
pub struct FolderSource {
    name: String,
    folder: PathBuf,
    limits: Limits,
    watch: Option<Watch>,
    /// Nothing was read yet, or the last attempt failed.
    due: bool,
}

#[derive(Debug)]
struct Watch {
    _watcher: notify::RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl FolderSource {
    pub fn new(name: &str, folder: PathBuf, limits: Limits) -> Self {
        Self { name: name.to_owned(), folder, limits, watch: None, due: true }
    }

    fn watch(&self) -> notify::Result<Watch> {
        let (tell, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            if change.map_or(true, |change| !change.kind.is_access()) {
                let _ = tell.try_send(());
            }
        })?;
        watcher.watch(&self.folder, RecursiveMode::Recursive)?;
        // A folder that is a link is swapped where the link lies.
        if let Some(parent) = self.folder.parent().filter(|_| self.folder.is_symlink()) {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        Ok(Watch { _watcher: watcher, changes })
    }

    /// Waits until the folder may have changed.
    async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else { return sleep(Duration::from_secs(1)).await };
        if timeout(LOOK, watch.changes.recv()).await.is_err() {
            return;
        }
        let quiet = async {
            loop {
                sleep(QUIET).await;
                if watch.changes.try_recv().is_err() {
                    return;
                }
            }
        };
        let _ = timeout(LONGEST_WAIT, quiet).await;
        // What was swapped or made anew is another folder: watch that.
        self.watch = None;
    }
}

#[tonic::async_trait]
impl Source for FolderSource {
    async fn next(&mut self) -> Result<Tree, SourceFault> {
        if !self.due {
            self.changed().await;
        }
        self.due = true;
        if self.watch.is_none() {
            self.watch = self.watch().ok();
        }
        let (name, folder, limits) = (self.name.clone(), self.folder.clone(), self.limits);
        let read = tokio::task::spawn_blocking(move || read(&name, &folder, limits)).await;
        let tree = read.unwrap_or_else(|_| {
            Err(SourceFault::new(&self.name, codes::SOURCE_UNREADABLE, "a defect while reading the folder"))
        })?;
        self.due = false;
        Ok(tree)
    }
}

/// All files below `folder` but hidden ones, as they are at one moment: what is swapped or written while it is read is
/// read again.
///
/// # Errors
/// Every fault of the folder; nothing is left out silently.
pub fn read(name: &str, folder: &Path, limits: Limits) -> Result<Tree, SourceFault> {
    settled(name, || read_once(name, folder, limits))
}

/// What two readings in a row agree on.
fn settled(name: &str, mut read: impl FnMut() -> Result<Tree, SourceFault>) -> Result<Tree, SourceFault> {
    let mut before = read();
    for _ in 0..MAX_READINGS {
        let now = read();
        if now == before {
            return now;
        }
        before = now;
    }
    let fault = SourceFault::new(name, codes::SOURCE_UNREADABLE, "the folder changes whenever it is read");
    Err(fault.help("put a whole state in its place at once, such as by a link that is swapped"))
}

fn read_once(name: &str, folder: &Path, limits: Limits) -> Result<Tree, SourceFault> {
    let unreadable = |error: std::io::Error| {
        SourceFault::new(name, codes::SOURCE_UNREADABLE, format!("{}: {error}", folder.display()))
    };
    let root = folder.canonicalize().map_err(unreadable)?;
    let mut walk =
        Walk { name, root: &root, limits, tree: Tree::default(), left: limits.size(), faults: Vec::new() };
    walk.folder(&root, "", 0);
    if !walk.faults.is_empty() {
        return Err(SourceFault(walk.faults));
    }
    let mut tree = walk.tree;
    tree.revision = digest(&tree);
    Ok(tree)
}

/// Twelve hexadecimal digits over all names and contents.
fn digest(tree: &Tree) -> String {
    let mut hash = Context::new(&SHA256);
    for (path, content) in &tree.files {
        hash.update(&(path.len() as u64).to_be_bytes());
        hash.update(path.as_bytes());
        hash.update(&(content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    hex(hash.finish().as_ref().get(..6).unwrap_or_default())
}

struct Walk<'a> {
    name: &'a str,
    root: &'a Path,
    limits: Limits,
    tree: Tree,
    left: u64,
    faults: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn fault(&mut self, way: &str, code: foregate_filters::fault::Code, message: impl Into<String>) {
        let shown = format!("{}:{way}", self.name);
        self.faults.push(Diagnostic::file(Path::new(&shown), code, message));
    }

    fn folder(&mut self, folder: &Path, way: &str, depth: usize) {
        if depth > self.limits.depth() {
            let message = format!("folders are nested more than {} deep", self.limits.depth());
            return self.fault(way, codes::SOURCE_LIMIT, message);
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.fault(way, codes::SOURCE_UNREADABLE, error.to_string()),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.fault(way, codes::SOURCE_UNREADABLE, error.to_string()),
            };
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else {
                self.fault(way, codes::SOURCE_UNREADABLE, format!("{} is no text", file_name.display()));
                continue;
            };
            // A mounted ConfigMap holds `..data` and `..2026_11_22` beside links into them.
            if file_name.starts_with('.') {
                continue;
            }
            let below = if way.is_empty() { file_name.to_owned() } else { format!("{way}/{file_name}") };
            self.entry(&entry.path(), &below, depth);
            if self.faults.len() > 16 {
                return;
            }
        }
    }

    fn entry(&mut self, path: &Path, way: &str, depth: usize) {
        let found = path.canonicalize().and_then(|real| Ok((fs::metadata(&real)?, real)));
        let (metadata, real) = match found {
            Ok(found) => found,
            Err(error) => return self.fault(way, codes::SOURCE_UNREADABLE, error.to_string()),
        };
        if !real.starts_with(self.root) {
            return self.fault(way, codes::SOURCE_LINK, "the link leads out of the folder");
        }
        if metadata.is_dir() {
            return self.folder(&real, way, depth + 1);
        }
        if !metadata.is_file() {
            return self.fault(way, codes::SOURCE_UNREADABLE, "it is not a regular file");
        }
        if self.tree.files.len() >= self.limits.files() {
            let message = format!("there are more than {} files", self.limits.files());
            return self.fault(way, codes::SOURCE_LIMIT, message);
        }
        if metadata.len() > self.left {
            let message = format!("the files are larger than {} KiB together", self.limits.size() >> 10);
            return self.fault(way, codes::SOURCE_LIMIT, message);
        }
        match read_bounded(&real, self.left) {
            Ok(content) => {
                self.left = self.left.saturating_sub(content.len() as u64);
                self.tree.files.insert(Arc::from(way), content);
            }
            Err(error) => self.fault(way, codes::SOURCE_UNREADABLE, error.to_string()),
        }
    }
}

fn read_bounded(path: &Path, most: u64) -> std::io::Result<Bytes> {
    use std::io::Read;
    let mut content = Vec::new();
    fs::File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(std::io::Error::other("it grew while it was read"));
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{MAX_READINGS, settled};
    use crate::sources::Tree;

    fn tree(files: [&'static str; 2]) -> Tree {
        let files = ["a.yaml", "b.yaml"].into_iter().zip(files);
        let files = files.map(|(way, text)| (Arc::from(way), Bytes::from_static(text.as_bytes())));
        Tree { files: files.collect(), ..Tree::default() }
    }

    #[test]
    fn a_folder_that_is_swapped_while_it_is_read_gives_no_mixture() {
        let (mixture, new) = (tree(["old", "new"]), tree(["new", "new"]));
        let mut readings = VecDeque::from([mixture, new.clone(), new.clone()]);
        let read = settled("one", || Ok(readings.pop_front().unwrap())).unwrap();
        assert_eq!((read, readings.len()), (new, 0));
        let mut count = 0;
        let restless = settled("one", || {
            count += 1;
            Ok(Tree { revision: count.to_string(), ..Tree::default() })
        });
        assert!(restless.unwrap_err().to_string().contains("changes whenever"));
        assert_eq!(count, MAX_READINGS + 1);
    }
}
