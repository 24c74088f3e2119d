//! Reads a folder of policy files, as Kubernetes or git lays it out.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foregate_filters::fault::closest;

use crate::codes;
use crate::diagnostic::{Diagnostic, sort};
use crate::document::{Document, Kind, ObjectName};
use crate::node::{Node, NodeKind};
use crate::parse::parse;
use crate::source::SourceFile;
use crate::unsupported;

/// Largest policy file in bytes, that of a Kubernetes object.
pub const MAX_FILE: u64 = 1 << 20;
/// Files in a folder, as many as the objects of a large cluster: more are not policies.
const MAX_FILES: usize = 16_384;
/// Folders within folders.
const MAX_DEPTH: usize = 8;

/// Everything that was read. Faults of the text stay here until [`crate::compile::compile`] tells them
/// together with all others.
#[derive(Debug, Default)]
pub struct Sources {
    /// The folder; `secrets` is below it.
    pub root: PathBuf,
    pub files: Vec<Arc<SourceFile>>,
    /// In order of files and lines; structure not yet checked.
    pub documents: Vec<Document>,
    /// Documents of `*.cases.yaml`.
    pub cases: Vec<Document>,
    pub faults: Vec<Diagnostic>,
    /// True where a document could not be read at all, so that names may be missing.
    pub incomplete: bool,
}

/// Reads every `*.yaml` and `*.yml` below `path`, sorted by name; `secrets` and hidden folders are left out.
///
/// `path` may also be one file. Fails only where there is nothing to read.
pub fn load_folder(path: &Path) -> Result<Sources, Vec<Diagnostic>> {
    let metadata = fs::metadata(path).map_err(|error| vec![unreadable(path, &error)])?;
    let mut found = Vec::new();
    let mut faults = Vec::new();
    let root = if metadata.is_dir() {
        walk(path, 0, &mut found, &mut faults);
        path.to_owned()
    } else {
        found.push(path.to_owned());
        path.parent().unwrap_or(Path::new("")).to_owned()
    };
    found.sort();
    let mut sources = Sources { root, faults, ..Sources::default() };
    if found.len() > MAX_FILES {
        let message = format!("the folder holds more than {MAX_FILES} policy files");
        return Err(vec![Diagnostic::file(path, codes::FILE_UNREADABLE, message)]);
    }
    for file in found.iter().filter(|file| !is_contract(file) && !is_bundle(file)) {
        match read(file) {
            Ok(text) => sources.add(file.clone(), text),
            Err(diagnostic) => {
                sources.faults.push(*diagnostic);
                sources.incomplete = true;
            }
        }
    }
    if sources.files.is_empty() {
        if sources.faults.is_empty() {
            let fault = Diagnostic::file(path, codes::NO_POLICY, "there is no policy file here")
                .help("policy files end in .yaml or .yml");
            sources.faults.push(fault);
        }
        sort(&mut sources.faults);
        return Err(sources.faults);
    }
    Ok(sources)
}

impl Sources {
    /// Adds one file; its name says whether it holds cases.
    pub fn add(&mut self, path: PathBuf, text: String) {
        let file = Arc::new(SourceFile::new(path, text));
        let is_cases = file.is_cases();
        let parsed = parse(&file.text);
        self.incomplete |= parsed.incomplete && !is_cases;
        for fault in parsed.faults {
            let diagnostic = Diagnostic::spanned(&file, &fault.span, fault.code, fault.message);
            self.faults.push(Diagnostic { help: fault.help.map(str::to_owned), ..diagnostic });
        }
        for root in parsed.documents {
            if root.kind == NodeKind::Null {
                continue;
            }
            match identify(&file, root) {
                Ok(document) if (document.kind == Kind::Case) != is_cases => {
                    let message = format!("{} documents do not belong in this file", document.kind.word());
                    let help = "cases stand alone in files named *.cases.yaml";
                    let at = foregate_filters::fault::Path::default().key("kind");
                    self.faults.push(Diagnostic::at(&document, &at, codes::CASE_FILE, message).help(help));
                }
                Ok(document) if is_cases => self.cases.push(document),
                Ok(document) => self.documents.push(document),
                Err(diagnostic) => self.faults.push(*diagnostic),
            }
        }
        self.files.push(file);
    }
}

/// True for a file that begins with `openapi:`, as no policy file does: a contract lies beside the policy that names
/// it, and may be larger than any policy.
fn is_contract(path: &Path) -> bool {
    let text = beginning(path);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#', '%']));
    lines.find(|line| line.trim_end() != "---").is_some_and(|line| line.starts_with("openapi:"))
}

/// What a regular file begins with; nothing where it cannot be read.
fn beginning(path: &Path) -> String {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for its writer.
    let read = fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && fs::File::open(path).is_ok_and(|file| file.take(4 << 10).read_to_end(&mut bytes).is_ok());
    if read { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
}

/// True for the manifest of a model bundle: bundles may lie beside the policies that name them.
fn is_bundle(path: &Path) -> bool {
    let manifest = path.file_name().is_some_and(|name| name == "model.yaml");
    manifest && beginning(path).lines().any(|line| line.trim_end() == "kind: ModelBundle")
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>, faults: &mut Vec<Diagnostic>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return faults.push(unreadable(folder, &error)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // A mounted ConfigMap holds `..data` and `..2026_11_22` beside links into them.
        if name.starts_with('.') || found.len() > MAX_FILES {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder {
            if name == "secrets" {
                continue;
            }
            if depth == MAX_DEPTH {
                let message = format!("folders are nested more than {MAX_DEPTH} deep");
                faults.push(Diagnostic::file(&path, codes::FILE_UNREADABLE, message));
            } else {
                walk(&path, depth + 1, found, faults);
            }
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let too_large = || {
        let message = format!("the file is larger than {} KiB", MAX_FILE >> 10);
        Box::new(Diagnostic::file(path, codes::FILE_UNREADABLE, message))
    };
    // Opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(|error| Box::new(unreadable(path, &error)))?;
    if !metadata.is_file() {
        return Err(Box::new(Diagnostic::file(path, codes::FILE_UNREADABLE, "it is not a regular file")));
    }
    let file = fs::File::open(path).map_err(|error| Box::new(unreadable(path, &error)))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| Box::new(unreadable(path, &error)))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to());
        Box::new(Diagnostic::file(path, codes::FILE_UNREADABLE, message))
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let message = match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        ErrorKind::PermissionDenied => "permission to read it is denied".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    Diagnostic::file(path, codes::FILE_UNREADABLE, message)
}

/// Reads `apiVersion` and `kind`, so that the rest is checked against the right schema.
fn identify(file: &Arc<SourceFile>, root: Node) -> Result<Document, Box<Diagnostic>> {
    let fault = |span: &std::ops::Range<usize>, code, message: String| {
        Box::new(Diagnostic::spanned(file, span, code, message))
    };
    let head = root.headline();
    if !matches!(root.kind, NodeKind::Map(_)) {
        return Err(fault(&head, codes::TYPE, format!("a document must be a mapping, not {}", root.noun())));
    }
    let word = |key: &str| {
        let node = root
            .key(key)
            .ok_or_else(|| fault(&head, codes::MISSING_FIELD, format!("the field `{key}` is missing")))?;
        let text = node.text();
        text.map(|text| (text, node.span.clone())).ok_or_else(|| {
            fault(&node.span, codes::TYPE, format!("a string is wanted here, not {}", node.noun()))
        })
    };
    let (kind, kind_span) = word("kind")?;
    let (version, version_span) = word("apiVersion")?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if unsupported::KINDS.contains(&(group, kind)) {
        let message = format!("the kind `{kind}` is not supported by this version");
        return Err(fault(&kind_span, codes::UNSUPPORTED_KIND, message));
    }
    let known = Kind::ALL.into_iter().find(|known| known.word() == kind);
    let Some(known) = known else {
        let words = Kind::ALL.map(Kind::word);
        let help = closest(kind, words).map_or_else(
            || format!("known kinds: {}", words.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        let diagnostic =
            fault(&kind_span, codes::UNKNOWN_KIND, format!("unknown kind `{kind}` of `{version}`"));
        return Err(Box::new(diagnostic.help(help)));
    };
    if known.api_version() != version {
        let message = format!("`{version}` has no kind `{kind}` here");
        let help = format!("the apiVersion of a {kind} is `{}`", known.api_version());
        return Err(Box::new(fault(&version_span, codes::UNKNOWN_KIND, message).help(help)));
    }
    let metadata = root.key("metadata");
    let field = |key: &str| metadata.and_then(|metadata| metadata.key(key)).and_then(Node::text);
    let name = ObjectName::new(field("namespace"), field("name").unwrap_or_default());
    Ok(Document { file: Arc::clone(file), kind: known, name, root })
}
