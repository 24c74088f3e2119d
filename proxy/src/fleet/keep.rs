//! Policies of the fleet on disk, so that a proxy can start without anybody.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foregate_policy::files;
use log::Level;
use sha2::{Digest, Sha256};

use crate::fleet::arrival::{ArrivalError, Arrived, Change, ENDPOINTS, hex};
use crate::fleet::tree::{self, Held, Holding, MANIFEST, manifest, texts};
use crate::telemetry::event::event;

/// The folder: `current` leads to a tree below `trees`, files of endpoints lie in `endpoints`.
#[derive(Debug)]
pub struct Keep {
    folder: PathBuf,
    /// Number of the tree in force; 0 where there is none.
    tree: u64,
    pub revision: String,
    holding: Holding,
    /// Why the control plane grants none of it any more.
    withheld: Option<Arc<str>>,
    /// Another process followed here when the folder was opened: what `current` leads to may be what that one tried on.
    shared: bool,
}

/// A tree that was made and is not accepted yet.
#[derive(Debug)]
pub struct Candidate {
    tree: u64,
    revision: String,
    holding: Holding,
    /// Files of endpoints that are put in place once it is accepted: the spooled one, and where it belongs.
    endpoints: Vec<(PathBuf, PathBuf)>,
}

impl Keep {
    /// Opens the folder, and takes up what was accepted last, where it is whole.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        for below in ["trees", "endpoints"] {
            files::make_folder(&folder.join(below))?;
        }
        let mut keep = Self {
            folder,
            tree: 0,
            revision: String::new(),
            holding: Holding::new(),
            withheld: None,
            shared: false,
        };
        let lock = keep.open_lock()?;
        keep.shared = lock.try_lock().is_err();
        let restored = keep.restore().and_then(|()| if keep.shared { Ok(()) } else { keep.tidy() });
        if let Err(error) = restored {
            event(Level::Error, "kept policies not used", &[("error", error.to_string().into())]);
            keep.forget();
        }
        Ok(keep)
    }

    /// Where the policies are.
    pub fn current(&self) -> PathBuf {
        self.folder.join("current")
    }

    /// Where parts of changes are collected.
    pub fn incoming(&self) -> PathBuf {
        self.folder.join("incoming")
    }

    pub fn is_empty(&self) -> bool {
        self.tree == 0
    }

    /// The file that a process locks while it follows: during an upgrade, the old one and the new one are both here.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.folder.join("lock"))
    }

    /// Takes up what another process has accepted meanwhile, once that one follows no more; true where something else
    /// may be in force here.
    ///
    /// # Errors
    /// Where it cannot be read; what is held stays then.
    pub fn refresh(&mut self) -> io::Result<bool> {
        let state = |this: &Self| (this.tree, this.revision.clone(), this.withheld.clone());
        let before = state(self);
        if before.0 != 0 {
            self.restore()?;
        }
        let shared = std::mem::take(&mut self.shared);
        self.tidy()?;
        Ok(shared || before != state(self))
    }

    /// Why nothing of it is granted any more.
    pub fn withheld(&self) -> Option<&Arc<str>> {
        self.withheld.as_ref()
    }

    /// Nothing of it is granted any more; the next start knows that, too.
    ///
    /// # Errors
    /// Where that cannot be kept; it holds for this process all the same.
    pub fn withhold(&mut self, why: &str) -> io::Result<()> {
        self.withheld = Some(why.into());
        files::replace(&self.withheld_file(), why.as_bytes())
    }

    /// As long as a change is tried on, what is granted is not withheld; gives what was said before.
    pub fn lift(&mut self) -> Option<Arc<str>> {
        self.withheld.take()
    }

    /// The change was not taken.
    pub fn lower(&mut self, withheld: Option<Arc<str>>) {
        self.withheld = withheld;
    }

    /// Something is granted again.
    ///
    /// # Errors
    /// Where the next start would not know that.
    pub fn regain(&mut self) -> io::Result<()> {
        self.withheld = None;
        fs::remove_file(self.withheld_file())
    }

    /// Has `current` lead to what was accepted, from where a crash may have left it, and removes what nothing leads to.
    /// For the process that holds the lock alone: what another one tries on looks like a remnant.
    fn tidy(&self) -> io::Result<()> {
        if self.tree != 0 {
            files::point(&self.current(), &Path::new("trees").join(self.tree.to_string()))?;
            self.sweep();
        }
        Ok(())
    }

    /// What is held is of no use to this program; on disk it stays until something else is accepted.
    pub fn forget(&mut self) {
        (self.tree, self.revision, self.holding) = (0, String::new(), Holding::new());
    }

    /// Versions of everything that is held.
    pub fn known(&self) -> HashMap<String, String> {
        self.holding.iter().map(|(name, (version, _))| (name.clone(), version.clone())).collect()
    }

    fn tree_folder(&self, tree: u64) -> PathBuf {
        self.folder.join("trees").join(tree.to_string())
    }

    fn accepted_file(&self) -> PathBuf {
        self.folder.join("accepted")
    }

    fn withheld_file(&self) -> PathBuf {
        self.folder.join("withheld")
    }

    /// Reads what was accepted last.
    fn restore(&mut self) -> io::Result<()> {
        self.withheld = match fs::read_to_string(self.withheld_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // Whatever it says: it is there.
            read => Some(read.unwrap_or_default().into()),
        };
        let accepted = match fs::read_to_string(self.accepted_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        let tree: u64 = accepted.trim().parse().map_err(io::Error::other)?;
        let (revision, holding) = tree::read(&self.tree_folder(tree))?;
        (self.tree, self.revision, self.holding) = (tree, revision, holding);
        Ok(())
    }

    /// True where a change is about endpoints alone that are held already.
    pub fn is_endpoints_alone(&self, change: &Change) -> bool {
        let held = |name: &String| name.ends_with(ENDPOINTS) && self.holding.contains_key(name);
        change.removed.is_empty() && change.revision == self.revision && change.changed.keys().all(held)
    }

    /// Takes files of endpoints up, which whoever reads them sees at once.
    ///
    /// # Errors
    /// Where one cannot be put in its place.
    pub fn take_endpoints(&mut self, change: Change) -> io::Result<()> {
        let mut holding = self.holding.clone();
        for (name, arrived) in change.changed {
            let Arrived::File { version, size, spool } = arrived else { continue };
            fs::rename(&spool, self.endpoints_file(&name))?;
            holding.insert(name, (version, Held::File(size)));
        }
        self.holding = holding;
        self.write_manifest()
    }

    /// What is held belongs to another revision as well.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn note(&mut self, revision: String) -> io::Result<()> {
        self.revision = revision;
        self.write_manifest()
    }

    fn write_manifest(&self) -> io::Result<()> {
        let path = self.tree_folder(self.tree).join(MANIFEST);
        files::replace(&path, &manifest(&self.revision, &self.holding))
    }

    /// Files of endpoints keep their place, whatever tree leads to them.
    fn endpoints_file(&self, name: &str) -> PathBuf {
        self.folder.join("endpoints").join(hex(&Sha256::digest(name)))
    }

    /// Makes the tree that a change leads to, beside the one in force.
    ///
    /// # Errors
    /// What does not fit together, or cannot be written; nothing of it is left then.
    pub fn prepare(&self, change: Change) -> Result<Candidate, ArrivalError> {
        let tree = self.next_tree()?;
        let folder = self.tree_folder(tree);
        let made = self.make(tree, &folder, change);
        if made.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        made
    }

    fn next_tree(&self) -> io::Result<u64> {
        let mut highest = self.tree;
        for entry in fs::read_dir(self.folder.join("trees"))?.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
            highest = highest.max(number);
        }
        Ok(highest + 1)
    }

    fn make(&self, tree: u64, folder: &Path, change: Change) -> Result<Candidate, ArrivalError> {
        let mut holding = self.holding.clone();
        for name in &change.removed {
            holding.remove(name);
        }
        let mut spooled = HashMap::new();
        for (name, arrived) in change.changed {
            let (version, held) = match arrived {
                Arrived::Document { version, document } => (version, Held::Document(document)),
                Arrived::File { version, size, spool } => {
                    spooled.insert(name.clone(), spool);
                    (version, Held::File(size))
                }
            };
            holding.insert(name, (version, held));
        }
        files::make_folder(folder)?;
        let before = texts(&self.holding);
        for (path, text) in texts(&holding) {
            let at = place(folder, &path)?;
            // What did not change is on disk already.
            let same = before.get(&path).is_some_and(|before| *before == text);
            if !same || fs::hard_link(self.tree_folder(self.tree).join(&path), &at).is_err() {
                files::write(&at, text.as_bytes())?;
            }
        }
        let mut endpoints = Vec::new();
        for (name, _) in holding.iter().filter(|(_, (_, held))| matches!(held, Held::File(_))) {
            let place = place(folder, name)?;
            if name.ends_with(ENDPOINTS) {
                let stays = self.endpoints_file(name);
                if let Some(spool) = spooled.get(name) {
                    if stays.exists() {
                        endpoints.push((spool.clone(), stays.clone()));
                    } else {
                        fs::rename(spool, &stays)?;
                    }
                }
                let up = "../".repeat(name.matches('/').count() + 2);
                let target = format!("{up}endpoints/{}", hex(&Sha256::digest(name)));
                std::os::unix::fs::symlink(target, &place)?;
            } else if let Some(spool) = spooled.get(name) {
                fs::rename(spool, &place)?;
            } else {
                fs::hard_link(self.tree_folder(self.tree).join(name), &place)?;
            }
        }
        files::write(&folder.join(MANIFEST), &manifest(&change.revision, &holding))?;
        Ok(Candidate { tree, revision: change.revision, holding, endpoints })
    }

    /// Makes the candidate the current tree; it is not accepted yet.
    ///
    /// # Errors
    /// Where the link cannot be changed.
    pub fn try_on(&self, candidate: &Candidate) -> io::Result<()> {
        files::point(&self.current(), &Path::new("trees").join(candidate.tree.to_string()))
    }

    /// Goes back to what was in force, and forgets the candidate.
    pub fn give_up(&self, candidate: &Candidate) {
        let restored = if self.tree == 0 {
            fs::remove_file(self.current())
        } else {
            files::point(&self.current(), &Path::new("trees").join(self.tree.to_string()))
        };
        if let Err(error) = restored {
            event(Level::Error, "kept policies not restored", &[("error", error.to_string().into())]);
        }
        let _ = fs::remove_dir_all(self.tree_folder(candidate.tree));
    }

    /// The candidate is in force: it is what the next start begins with.
    ///
    /// # Errors
    /// Where that cannot be written; it is in force all the same.
    pub fn accept(&mut self, candidate: Candidate) -> io::Result<()> {
        for (spool, place) in &candidate.endpoints {
            fs::rename(spool, place)?;
        }
        (self.tree, self.revision, self.holding) = (candidate.tree, candidate.revision, candidate.holding);
        files::replace(&self.accepted_file(), self.tree.to_string().as_bytes())?;
        self.sweep();
        Ok(())
    }

    /// Removes trees and endpoints that nothing leads to.
    fn sweep(&self) {
        let mine = self.tree.to_string();
        for entry in fs::read_dir(self.folder.join("trees")).into_iter().flatten().flatten() {
            if entry.file_name().to_str() != Some(&mine) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let used: Vec<_> = self.holding.keys().map(|name| self.endpoints_file(name)).collect();
        for entry in fs::read_dir(self.folder.join("endpoints")).into_iter().flatten().flatten() {
            if !used.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Where a file stands in a tree; its folder is made.
fn place(folder: &Path, name: &str) -> Result<PathBuf, ArrivalError> {
    let place = folder.join(name);
    if let Some(parent) = place.parent() {
        files::make_folder(parent)?;
    }
    if place.symlink_metadata().is_ok() {
        return Err(ArrivalError::Path(name.to_owned()));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use bytes::Bytes;
    use foregate_policy::fleet::{Content, Document, PolicyResponse, Resource};
    use sha2::{Digest, Sha256};

    use super::Keep;
    use crate::fleet::arrival::{Arrival, document_version, hex};

    fn document(name: &str, line: u32, text: &str) -> Resource {
        let document = Document { path: "teams/a.yaml".to_owned(), line, text: text.to_owned() };
        let version = document_version(&document);
        Resource {
            name: name.to_owned(),
            version,
            content: Some(Content::Document(document)),
            ..Resource::default()
        }
    }

    fn file(name: &str, content: &'static str) -> Resource {
        let content = Bytes::from_static(content.as_bytes());
        Resource {
            name: name.to_owned(),
            version: hex(&Sha256::digest(&content)),
            size: content.len() as u64,
            content: Some(Content::File(content)),
            offset: 0,
        }
    }

    /// Takes a change, and accepts it where that is wanted.
    fn take(keep: &mut Keep, revision: &str, changed: Vec<Resource>, removed: &[&str], accepted: bool) {
        let mut arrival = Arrival::new(keep.incoming()).unwrap();
        let removed = removed.iter().map(|name| (*name).to_owned()).collect();
        let revision = revision.to_owned();
        arrival
            .take(PolicyResponse { revision, changed, removed, last: true, ..PolicyResponse::default() })
            .unwrap();
        let candidate = keep.prepare(arrival.finish().unwrap()).unwrap();
        keep.try_on(&candidate).unwrap();
        if accepted {
            keep.accept(candidate).unwrap();
        }
    }

    fn read(keep: &Keep, path: &str) -> String {
        fs::read_to_string(keep.current().join(path)).unwrap()
    }

    fn open(folder: &Path) -> Keep {
        Keep::open(folder.join("policies")).unwrap()
    }

    #[test]
    fn what_was_accepted_is_taken_up_again_and_what_was_not_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut keep = open(folder.path());
        let first = vec![
            document("a", 1, "a: 1\n"),
            file("keys/a.json", "{}"),
            file("x/crm.endpoints", "endpoints: []"),
        ];
        take(&mut keep, "1", first, &[], true);
        let second = vec![document("a", 1, "a: 2\n"), file("x/crm.endpoints", "endpoints: [1]")];
        take(&mut keep, "2", second, &["keys/a.json"], false);
        assert_eq!(read(&keep, "teams/a.yaml"), "a: 2\n");
        assert_eq!(read(&keep, "x/crm.endpoints"), "endpoints: []", "not before it is accepted");
        // The process ended before it could go back.
        let mut keep = open(folder.path());
        assert_eq!((keep.revision.as_str(), keep.known().len()), ("1", 3));
        assert_eq!(
            (read(&keep, "teams/a.yaml"), read(&keep, "keys/a.json")),
            ("a: 1\n".to_owned(), "{}".to_owned())
        );
        assert_eq!(fs::read_dir(folder.path().join("policies/trees")).unwrap().count(), 1);
        let third = vec![document("a", 1, "a: 3\n"), file("x/crm.endpoints", "endpoints: [1]")];
        take(&mut keep, "3", third, &[], true);
        assert_eq!(read(&keep, "keys/a.json"), "{}", "what did not change is still there");
        assert_eq!(read(&keep, "x/crm.endpoints"), "endpoints: [1]");
        keep.note("4".to_owned()).unwrap();
        assert_eq!(open(folder.path()).revision, "4");
    }

    #[test]
    fn whoever_comes_while_another_process_follows_leaves_what_that_one_tries_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = open(folder.path());
        let lock = old.open_lock().unwrap();
        lock.try_lock().unwrap();
        take(&mut old, "1", vec![document("a", 1, "a: 1\n")], &[], true);
        take(&mut old, "2", vec![document("a", 1, "a: 2\n")], &[], false);
        let mut new = open(folder.path());
        assert_eq!(new.revision, "1", "the candidate is not accepted");
        assert_eq!(read(&old, "teams/a.yaml"), "a: 2\n", "and is still tried on");
        take(&mut old, "3", vec![document("a", 1, "a: 3\n")], &[], true);
        drop(lock);
        assert!(new.refresh().unwrap());
        assert_eq!((new.revision.as_str(), read(&new, "teams/a.yaml")), ("3", "a: 3\n".to_owned()));
        assert_eq!(fs::read_dir(folder.path().join("policies/trees")).unwrap().count(), 1);
        assert!(!new.refresh().unwrap(), "nothing else since");
    }

    #[test]
    fn what_is_damaged_is_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut keep = open(folder.path());
        let all = vec![document("a", 1, "a: 1\n"), file("x.endpoints", "endpoints: []")];
        take(&mut keep, "1", all, &[], true);
        fs::write(keep.current().join("x.endpoints"), "torn").unwrap();
        let again = open(folder.path());
        assert_eq!((again.revision.as_str(), again.known()["x.endpoints"].as_str()), ("1", ""));
        fs::write(keep.current().join("teams/a.yaml"), "a: 2\n").unwrap();
        assert!(open(folder.path()).is_empty());
    }
}
