//! Reads the files of a commit, without a working tree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::fault::Code;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use gix::ObjectId;
use gix::objs::tree::EntryKind;

use crate::sources::spec::{GitSpec, Limits};
use crate::sources::{SourceFault, Tree};

/// Longest target of a link, in bytes.
const MAX_LINK: u64 = 4096;
/// Links that lead to links.
const MAX_HOPS: usize = 8;

/// All files below `path` of the commit, but hidden ones.
///
/// # Errors
/// Everything that is beyond the limits, and links that lead out of the tree.
pub fn read(
    repository: &gix::Repository,
    name: &str,
    spec: &GitSpec,
    limits: Limits,
    commit: ObjectId,
) -> Result<Tree, SourceFault> {
    let mut walk = Walk {
        repository,
        name,
        limits,
        left: limits.size(),
        tree: Tree::default(),
        links: BTreeMap::new(),
        faults: Vec::new(),
    };
    let root = repository.find_commit(commit).and_then(|commit| commit.tree());
    let mut root =
        root.map_err(|error| SourceFault::new(name, codes::SOURCE_UNREADABLE, error.to_string()))?;
    if let Some(path) = &spec.path {
        let entry = root.lookup_entry_by_path(path).ok().flatten();
        let folder =
            entry.and_then(|entry| entry.object().ok()).and_then(|object| object.try_into_tree().ok());
        let Some(folder) = folder else {
            let message = format!("commit {commit} has no folder `{path}`");
            return Err(SourceFault::new(name, codes::SOURCE_UNREADABLE, message));
        };
        root = folder;
    }
    walk.folder(&root, "", 0);
    walk.resolve();
    if walk.faults.is_empty() { Ok(walk.tree) } else { Err(SourceFault(walk.faults)) }
}

struct Walk<'r> {
    repository: &'r gix::Repository,
    name: &'r str,
    limits: Limits,
    left: u64,
    tree: Tree,
    /// Links, and where they lead, from the root.
    links: BTreeMap<String, String>,
    faults: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn told(&self, way: &str, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::file(Path::new(&format!("{}:{way}", self.name)), code, message)
    }

    fn fault(&mut self, way: &str, code: Code, message: impl Into<String>) {
        let fault = self.told(way, code, message);
        self.faults.push(fault);
    }

    fn folder(&mut self, folder: &gix::Tree<'_>, way: &str, depth: usize) {
        if depth > self.limits.depth() {
            let message = format!("folders are nested more than {} deep", self.limits.depth());
            return self.fault(way, codes::SOURCE_LIMIT, message);
        }
        for entry in folder.iter() {
            // One fault of size is enough.
            if self.faults.len() > 16 {
                return;
            }
            let Ok(entry) = entry else {
                return self.fault(way, codes::SOURCE_UNREADABLE, "the folder is malformed");
            };
            let Ok(file_name) = std::str::from_utf8(entry.filename()) else {
                self.fault(way, codes::SOURCE_UNREADABLE, "the name of a file is no text");
                continue;
            };
            if file_name.starts_with('.') || file_name.contains(['/', '\\', '\0']) {
                continue;
            }
            let below = if way.is_empty() { file_name.to_owned() } else { format!("{way}/{file_name}") };
            match entry.kind() {
                EntryKind::Tree => match self.repository.find_tree(entry.object_id()) {
                    Ok(tree) => self.folder(&tree, &below, depth + 1),
                    Err(error) => self.fault(&below, codes::SOURCE_UNREADABLE, error.to_string()),
                },
                EntryKind::Blob | EntryKind::BlobExecutable => {
                    if let Some(content) = self.blob(entry.object_id(), &below, self.left) {
                        self.keep(&below, content);
                    }
                }
                EntryKind::Link => self.link(entry.object_id(), way, &below),
                EntryKind::Commit => {
                    let message = "a submodule is left out: name its repository as a source of its own";
                    let warning = self.told(&below, codes::SUBMODULE, message).warning();
                    self.tree.warnings.push(warning);
                }
            }
        }
    }

    /// The content, where it is within `most` bytes: its size is looked at before it is read.
    fn blob(&mut self, id: ObjectId, way: &str, most: u64) -> Option<Bytes> {
        let header = self.repository.find_header(id);
        let too_large = header.as_ref().is_ok_and(|header| header.size() > most);
        if too_large {
            let message = format!("the files are larger than {} KiB together", self.limits.size() >> 10);
            self.fault(way, codes::SOURCE_LIMIT, message);
            return None;
        }
        match self.repository.find_blob(id) {
            Ok(mut blob) => Some(blob.take_data().into()),
            Err(error) => {
                self.fault(way, codes::SOURCE_UNREADABLE, error.to_string());
                None
            }
        }
    }

    fn keep(&mut self, way: &str, content: Bytes) {
        if self.tree.files.len() >= self.limits.files() {
            let message = format!("there are more than {} files", self.limits.files());
            return self.fault(way, codes::SOURCE_LIMIT, message);
        }
        self.left = self.left.saturating_sub(content.len() as u64);
        self.tree.files.insert(Arc::from(way), content);
    }

    fn link(&mut self, id: ObjectId, folder: &str, way: &str) {
        let Some(target) = self.blob(id, way, MAX_LINK) else { return };
        let target = std::str::from_utf8(&target).ok().and_then(|target| normal(folder, target));
        match target {
            Some(target) => drop(self.links.insert(way.to_owned(), target)),
            None => self.fault(way, codes::SOURCE_LINK, "the link leads out of the repository's tree"),
        }
    }

    /// Puts what links lead to in their places.
    fn resolve(&mut self) {
        let links = std::mem::take(&mut self.links);
        for (way, first) in &links {
            let mut target = first.clone();
            let mut hops = 0;
            while let Some(next) = links.get(&target).filter(|_| hops < MAX_HOPS) {
                target.clone_from(next);
                hops += 1;
            }
            let below = format!("{target}/");
            let inside = |path: &str| path.strip_prefix(&below).map(|rest| format!("{way}/{rest}"));
            let found: Vec<(String, Bytes)> = self
                .tree
                .files
                .iter()
                .filter_map(|(path, content)| {
                    let place = if **path == *target { Some(way.clone()) } else { inside(path) };
                    Some((place?, content.clone()))
                })
                .collect();
            if found.is_empty() {
                self.fault(
                    way,
                    codes::SOURCE_LINK,
                    format!("the link leads to `{target}`, which is not there"),
                );
            }
            for (place, content) in found {
                if content.len() as u64 > self.left {
                    return self.fault(
                        way,
                        codes::SOURCE_LIMIT,
                        "the files are larger than is allowed together",
                    );
                }
                self.keep(&place, content);
            }
        }
    }
}

/// Where a link in `folder` leads, from the root; `None` where that is outside.
fn normal(folder: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn links_stay_within_the_tree() {
        assert_eq!(normal("a/b", "../c.yaml").as_deref(), Some("a/c.yaml"));
        assert_eq!(normal("", "./c.yaml").as_deref(), Some("c.yaml"));
        assert_eq!(normal("a", "../../c.yaml"), None);
        assert_eq!(normal("a", "/etc/passwd"), None);
        assert_eq!(normal("a", "b/../../../x"), None);
    }
}
