//! A tree of policies on disk: its files, and whether they are still right.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use foregate_policy::fleet::{Content, Document, PolicyResponse, Resource};
use prost::Message;

use crate::fleet::arrival::{ENDPOINTS, document_version, file_version};

/// What a tree is made of; hidden, so that nobody takes it for a policy.
pub(super) const MANIFEST: &str = ".manifest";

/// One resource that is held.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    Document(Document),
    /// Of so many bytes.
    File(u64),
}

/// Versions and contents, by name.
pub(super) type Holding = BTreeMap<String, (String, Held)>;

/// Reads what a tree is made of: its revision, and what is held there.
///
/// # Errors
/// Where it cannot be read, or is not what was kept.
pub(super) fn read(folder: &Path) -> io::Result<(String, Holding)> {
    let manifest = PolicyResponse::decode(fs::read(folder.join(MANIFEST))?.as_slice())?;
    let mut holding = Holding::new();
    for resource in manifest.changed {
        let held = match resource.content {
            Some(Content::Document(document)) => Held::Document(document),
            _ => Held::File(resource.size),
        };
        holding.insert(resource.name, (resource.version, held));
    }
    check(folder, &mut holding)?;
    Ok((manifest.revision, holding))
}

/// Compares the tree with what it is said to be made of. Endpoints that differ are asked for again.
fn check(folder: &Path, holding: &mut Holding) -> io::Result<()> {
    let damaged = |path: &Path| io::Error::other(format!("{} is not what was kept", path.display()));
    for (path, text) in texts(holding) {
        let path = folder.join(path);
        if fs::read(&path)? != text.as_bytes() {
            return Err(damaged(&path));
        }
    }
    for (name, (version, held)) in &mut *holding {
        match held {
            Held::Document(document) if document_version(document) != *version => {
                return Err(damaged(&folder.join(&document.path)));
            }
            Held::Document(_) => {}
            Held::File(_) => {
                let found = file_version(&folder.join(name));
                if found.as_ref().is_ok_and(|found| found == version) {
                    continue;
                }
                if !name.ends_with(ENDPOINTS) {
                    return Err(damaged(&folder.join(name)));
                }
                version.clear();
            }
        }
    }
    Ok(())
}

/// The text of every policy file: each document on the lines where its source has it, so that diagnostics name those.
pub(super) fn texts(holding: &Holding) -> BTreeMap<String, String> {
    let mut files: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
    for (_, held) in holding.values() {
        if let Held::Document(document) = held {
            files.entry(&document.path).or_default().push(document);
        }
    }
    let text = |mut documents: Vec<&Document>| {
        documents.sort_by_key(|document| document.line);
        let (mut text, mut line) = (String::new(), 1);
        for document in documents {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
                line += 1;
            }
            // Comments: an empty line might belong to the text before it.
            for _ in line..document.line {
                text.push_str("#\n");
            }
            line = line.max(document.line);
            text.push_str(&document.text);
            line += u32::try_from(document.text.matches('\n').count()).unwrap_or(u32::MAX);
        }
        text
    };
    files.into_iter().map(|(path, documents)| (path.to_owned(), text(documents))).collect()
}

/// The content of [`MANIFEST`].
pub(super) fn manifest(revision: &str, holding: &Holding) -> Vec<u8> {
    let resource = |(name, (version, held)): (&String, &(String, Held))| {
        let (content, size) = match held {
            Held::Document(document) => (Some(Content::Document(document.clone())), 0),
            Held::File(size) => (None, *size),
        };
        Resource { name: name.clone(), version: version.clone(), content, offset: 0, size }
    };
    let manifest = PolicyResponse {
        revision: revision.to_owned(),
        changed: holding.iter().map(resource).collect(),
        last: true,
        ..PolicyResponse::default()
    };
    manifest.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use foregate_policy::fleet::Document;
    use sha2::{Digest, Sha256};

    use super::{Held, Holding, MANIFEST, manifest, read, texts};
    use crate::fleet::arrival::{document_version, hex};

    const FILE: &str = "x/tls.key";
    const TORN: &str = "x.endpoints";

    /// Documents of one file, by their lines.
    fn documents(all: &[(&str, u32, &str)]) -> Holding {
        let held = |(name, line, text): &(&str, u32, &str)| {
            let document =
                Document { path: "teams/a.yaml".to_owned(), line: *line, text: (*text).to_owned() };
            ((*name).to_owned(), (document_version(&document), Held::Document(document)))
        };
        all.iter().map(held).collect()
    }

    /// Two documents and two files, as they are kept.
    fn lay_out(folder: &Path) -> Holding {
        let mut holding = documents(&[("a", 1, "a: 1\n"), ("b", 3, "b: 1\n")]);
        fs::create_dir_all(folder.join("teams")).unwrap();
        fs::create_dir_all(folder.join("x")).unwrap();
        for (path, text) in texts(&holding) {
            fs::write(folder.join(path), text).unwrap();
        }
        for (name, content) in [(FILE, "key"), (TORN, "endpoints: []")] {
            fs::write(folder.join(name), content).unwrap();
            let held = Held::File(content.len() as u64);
            holding.insert(name.to_owned(), (hex(&Sha256::digest(content)), held));
        }
        fs::write(folder.join(MANIFEST), manifest("7", &holding)).unwrap();
        holding
    }

    #[test]
    fn documents_stand_on_the_lines_of_their_source() {
        let holding =
            documents(&[("b", 9, "---\nb: |+\n  text\n"), ("a", 3, "---\na: 1\n"), ("c", 14, "---\nc: 1")]);
        assert_eq!(
            texts(&holding)["teams/a.yaml"],
            "#\n#\n---\na: 1\n#\n#\n#\n#\n---\nb: |+\n  text\n#\n#\n---\nc: 1"
        );
    }

    #[test]
    fn a_tree_is_read_as_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let holding = lay_out(folder.path());
        assert_eq!(read(folder.path()).unwrap(), ("7".to_owned(), holding));
    }

    #[test]
    fn endpoints_that_are_damaged_are_asked_for_again_and_nothing_else_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut holding = lay_out(folder.path());
        fs::write(folder.path().join(TORN), "torn").unwrap();
        holding.get_mut(TORN).unwrap().0.clear();
        assert_eq!(read(folder.path()).unwrap(), ("7".to_owned(), holding));
        for (damaged, content) in [("teams/a.yaml", "a: 2\n"), (FILE, "torn"), (MANIFEST, "\u{7f}")] {
            lay_out(folder.path());
            fs::write(folder.path().join(damaged), content).unwrap();
            assert!(read(folder.path()).is_err(), "{damaged}");
        }
        lay_out(folder.path());
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(read(folder.path()).is_err(), "a file is gone");
    }
}
