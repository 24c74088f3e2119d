//! Makes a revision of merged trees: compiled as a whole, or refused with every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foregate_policy::codes;
use foregate_policy::compile::Options;
use foregate_policy::diagnostic::{Diagnostic, sort};
use foregate_policy::document::Document;
use foregate_policy::files;
use foregate_policy::load::{Sources, load_folder};
use foregate_policy::parse::split;
use foregate_policy::source::SourceFile;

use crate::clock;
use crate::revision::closure::Objects;
use crate::revision::merge::Merged;
use crate::revision::secrets::is_secret;
use crate::revision::{Label, Resource, Revision, document_name};
use crate::whole::{Whole, whole};

/// Writes the tree below `folder` and compiles it there.
///
/// # Errors
/// Every fault, with ways as the sources have them. `folder` is then of no further use.
pub fn build(merged: &Merged, folder: &Path) -> Result<Revision, Vec<Diagnostic>> {
    if !merged.faults.is_empty() {
        return Err(merged.faults.clone());
    }
    let tree = folder.join("tree");
    write_tree(merged, &tree).map_err(|error| {
        let message = format!("the revision cannot be written: {error}");
        vec![Diagnostic::file(&tree, codes::SOURCE_UNREADABLE, message)]
    })?;
    let label =
        Label { id: merged.id.clone(), made: clock::now().unix.as_secs(), origins: merged.origins.clone() };
    let revision = compile_tree(merged, &tree, label)?;
    let text = serde_json::to_vec_pretty(&revision.label).unwrap_or_default();
    files::write(&folder.join("revision.json"), &text).map_err(|error| {
        let message = format!("the revision cannot be written: {error}");
        vec![Diagnostic::file(&tree, codes::SOURCE_UNREADABLE, message)]
    })?;
    Ok(revision)
}

fn write_tree(merged: &Merged, tree: &Path) -> io::Result<()> {
    files::make_folder(tree)?;
    let mut made = BTreeSet::new();
    // Secrets are kept apart: a key that is replaced must not lie in each revision of before.
    for (way, (content, _)) in merged.files.iter().filter(|(way, _)| !is_secret(way)) {
        let path = tree.join(&**way);
        let folder = path.parent().unwrap_or(tree).to_owned();
        if made.insert(folder.clone()) {
            files::make_folder(&folder)?;
        }
        files::write_unsynced(&path, content)?;
    }
    Ok(())
}

/// Compiles a tree on disk; `merged` is what is in it.
///
/// # Errors
/// Every fault of every file.
pub fn compile_tree(merged: &Merged, tree: &Path, label: Label) -> Result<Revision, Vec<Diagnostic>> {
    let told = |faults: Vec<Diagnostic>| shown(faults, tree, merged);
    let sources = load_folder(tree).map_err(told)?;
    let options = Options { apart: true, ..Options::default() };
    let Whole { mut faults, mut warnings, files } = whole(&sources, merged, options);
    let (resources, objects) = parts(&sources, files, merged, &mut faults);
    if !faults.is_empty() {
        return Err(told(faults));
    }
    warnings.extend(merged.warnings.iter().cloned());
    Ok(Revision { label, resources, objects, warnings: told(warnings) })
}

/// Ways as people know them, without where the tree lies here.
fn shown(mut diagnostics: Vec<Diagnostic>, tree: &Path, merged: &Merged) -> Vec<Diagnostic> {
    let prefix = format!("{}/", tree.display());
    for diagnostic in &mut diagnostics {
        if diagnostic.file == tree.display().to_string() {
            ".".clone_into(&mut diagnostic.file);
        }
        diagnostic.file = diagnostic.file.replace(&prefix, "");
        diagnostic.message = diagnostic.message.replace(&prefix, "");
        if merged.places.len() > 1
            && let Some(place) = merged.place(&diagnostic.file)
        {
            diagnostic.file = format!("{}:{}", place.name, diagnostic.file);
        }
    }
    sort(&mut diagnostics);
    diagnostics
}

/// The documents, and the files that they refer to.
fn parts(
    sources: &Sources,
    files: Vec<BTreeSet<Arc<str>>>,
    merged: &Merged,
    faults: &mut Vec<Diagnostic>,
) -> (BTreeMap<Arc<str>, Arc<Resource>>, Objects) {
    let mut resources = BTreeMap::new();
    let mut objects = Objects::default();
    let mut pieces: BTreeMap<PathBuf, Pieces> = BTreeMap::new();
    let mut needed = BTreeSet::new();
    for (document, files) in sources.documents.iter().zip(files) {
        let file = &document.file;
        let way = file.path.strip_prefix(&sources.root).unwrap_or(&file.path).display().to_string();
        let place = merged.place(&way);
        if let Some(place) = place.filter(|place| !place.namespaces.is_empty())
            && !place.namespaces.iter().any(|allowed| **allowed == *document.name.namespace)
        {
            let message = format!(
                "the source `{}` holds no documents of the namespace `{}`",
                place.name, document.name.namespace
            );
            let help = format!("its namespaces: {}", place.namespaces.join(", "));
            let at = foregate_filters::fault::Path::default().key("metadata").key("namespace");
            faults.push(Diagnostic::at(document, &at, codes::NAMESPACE_FOREIGN, message).help(help));
        }
        let namespace = &*document.name.namespace;
        let foreign = place.and_then(|place| files.iter().find(|way| !merged.may_use(place, namespace, way)));
        if let Some(foreign) = foreign {
            let message =
                format!("`{foreign}` is brought by no source that is bound to the namespace `{namespace}`");
            let help = "bring the file by this source, or by one whose `namespaces` has this one";
            let at = Document::name_path();
            faults.push(Diagnostic::at(document, &at, codes::FILE_FOREIGN, message).help(help));
        }
        let pieces = pieces.entry(file.path.clone()).or_insert_with(|| Pieces::new(file, &way));
        let way = Arc::clone(&pieces.way);
        let Some((line, text)) = pieces.take(document) else {
            let message = "documents of one file stand apart with a line `---`";
            faults.push(Diagnostic::at(document, &Document::name_path(), codes::DOCUMENTS_TOGETHER, message));
            continue;
        };
        needed.extend(files.iter().cloned());
        let resource = Resource::document(document_name(document.kind, &document.name), &way, line, text);
        objects.add(document, files);
        resources.insert(Arc::clone(&resource.name), Arc::new(resource));
    }
    for way in needed {
        if let Some((content, _)) = merged.files.get(&way) {
            resources.insert(Arc::clone(&way), Arc::new(Resource::file(&way, content.clone())));
        }
    }
    (resources, objects)
}

/// The pieces of a file between `---`, each given away once.
struct Pieces {
    way: Arc<str>,
    file: Arc<SourceFile>,
    rest: Vec<std::ops::Range<usize>>,
}

impl Pieces {
    fn new(file: &Arc<SourceFile>, way: &str) -> Self {
        Self { way: way.into(), file: Arc::clone(file), rest: split(&file.text) }
    }

    /// Line and text of the piece that the document stands in.
    fn take(&mut self, document: &Document) -> Option<(u32, &str)> {
        let start = document.root.span.start;
        let index = self.rest.iter().position(|piece| piece.contains(&start))?;
        let piece = self.rest.swap_remove(index);
        let line = u32::try_from(self.file.position(piece.start).line).ok()?;
        Some((line, self.file.text.get(piece)?))
    }
}

/// Removes a tree that is of no use.
pub fn discard(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}
