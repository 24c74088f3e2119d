//! Compiles what objects come to, and leaves out what does not compile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use foregate_filters::fault::{Path, PathItem};
use foregate_policy::codes;
use foregate_policy::compile::Options;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::Document;
use foregate_policy::load::{MAX_FILE, Sources};
use foregate_policy::node::{Node, NodeKind};

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::{Key, World};
use crate::kubernetes::references::{Needed, References};
use crate::kubernetes::render::{Exclusions, Rendered, render};
use crate::kubernetes::report::{Report, Verdict};
use crate::whole::{Whole, whole};

/// Compilations of one state of the cluster at most; each but the last leaves something more out.
const MAX_ROUNDS: usize = 16;

/// What compiles, and what became of each object.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub rendered: Rendered,
    /// What cannot be put down to any object: nothing of this is to be served.
    pub stuck: Vec<String>,
}

/// Renders and compiles until nothing is at fault.
pub fn judge(world: &World, references: &References) -> Outcome {
    let mut excluded = Exclusions::default();
    let mut needed = Needed::new();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut rendered = render(world, references, &excluded);
        // What is left out for the content of a Secret comes back once that changes.
        for (reference, keys) in &rendered.needed {
            needed.entry(reference.clone()).or_default().extend(keys.iter().cloned());
        }
        let sources = sources(&rendered);
        let Whole { faults: diagnostics, warnings, files } = whole(&sources, &rendered, Options::default());
        if diagnostics.is_empty() {
            // What nobody refers to in the end is given to nobody.
            let used: BTreeSet<_> = files.into_iter().flatten().collect();
            rendered.secrets.retain(|way, _| used.contains(way));
            remark(&mut rendered, &sources, &warnings);
            rendered.needed = needed;
            return Outcome { rendered, stuck: Vec::new() };
        }
        let before = excluded.count();
        let mut stuck = Vec::new();
        for diagnostic in &diagnostics {
            if !excluded.add(&rendered, &sources, diagnostic) {
                stuck.push(told(diagnostic, None));
            }
        }
        if excluded.count() == before || rounds == MAX_ROUNDS {
            if stuck.is_empty() {
                stuck.push("faults are found one after another without an end".to_owned());
            }
            rendered.needed = needed;
            return Outcome { rendered, stuck };
        }
    }
}

/// What was rendered, as the compiler takes it.
fn sources(rendered: &Rendered) -> Sources {
    let mut sources = Sources::default();
    for (path, file) in &rendered.files {
        if file.text.len() as u64 > MAX_FILE {
            let message = format!("what the object becomes is larger than {} KiB", MAX_FILE >> 10);
            sources.faults.push(Diagnostic::file(path.as_ref().as_ref(), codes::FILE_UNREADABLE, message));
        } else {
            sources.add(PathBuf::from(&**path), file.text.to_string());
        }
    }
    sources
}

impl Exclusions {
    fn count(&self) -> usize {
        self.whole.len() + self.listeners.len() + self.parents.len()
    }

    /// Leaves out what a fault is about; false where nobody knows what that is.
    fn add(&mut self, rendered: &Rendered, sources: &Sources, fault: &Diagnostic) -> bool {
        let origin = rendered.files.get(&*fault.file).and_then(|file| file.origin.clone());
        let Some(key) = origin else { return false };
        let way = way(sources, fault);
        let verdict = Verdict::bad(reason(&key), told(fault, way.as_ref()));
        let entry = way.as_ref().and_then(|way| entry(way, rendered.places.get(&key)?));
        match entry {
            Some(("listeners", index)) => {
                let verdict = Verdict { reason: "Invalid", ..verdict };
                append(self.listeners.entry((key, index)).or_insert_with(|| verdict.clone()), &verdict);
            }
            Some(("parentRefs", index)) => {
                append(self.parents.entry((key, index)).or_insert_with(|| verdict.clone()), &verdict);
            }
            _ => append(self.whole.entry(key).or_insert_with(|| verdict.clone()), &verdict),
        }
        true
    }
}

/// The reason of a condition for what does not compile.
const fn reason(key: &Key) -> &'static str {
    match key.resource {
        Resource::HttpRoute | Resource::GrpcRoute | Resource::TlsRoute | Resource::TcpRoute => {
            "UnsupportedValue"
        }
        _ => "Invalid",
    }
}

fn append(all: &mut Verdict, one: &Verdict) {
    if !all.message.contains(&one.message) {
        all.message.push('\n');
        all.message.push_str(&one.message);
    }
}

/// The list and place in the object of what a fault is about.
fn entry(way: &Path, places: &[usize]) -> Option<(&'static str, usize)> {
    let [PathItem::Key(spec), PathItem::Key(list), PathItem::Index(index), ..] = way.0.as_slice() else {
        return None;
    };
    let list = ["listeners", "parentRefs"].into_iter().find(|known| spec == "spec" && known == list)?;
    places.get(*index).map(|place| (list, *place))
}

/// The way to what a fault points at.
pub fn way(sources: &Sources, fault: &Diagnostic) -> Option<Path> {
    let here = |document: &&Document| document.file.path.as_os_str() == fault.file.as_str();
    let here: Vec<&Document> = sources.documents.iter().filter(here).collect();
    let document = match here.as_slice() {
        [only] => only,
        several => several.iter().find(|document| encloses(document, fault))?,
    };
    let mut way = Path::default();
    descend(document, &document.root, fault, &mut way);
    (!way.0.is_empty()).then_some(way)
}

fn encloses(document: &Document, fault: &Diagnostic) -> bool {
    let (start, end) =
        (document.file.position(document.root.span.start), document.file.position(document.root.span.end));
    (start.line, start.column) <= (fault.line, fault.column)
        && (fault.line, fault.column) <= (end.line, end.column)
}

/// Follows the values that stand at or around the place of the fault.
fn descend(document: &Document, node: &Node, fault: &Diagnostic, way: &mut Path) {
    let at = |offset: usize| {
        let position = document.file.position(offset);
        (position.line, position.column)
    };
    let place = (fault.line, fault.column);
    let next = match &node.kind {
        NodeKind::Map(members) => {
            members.iter().rfind(|member| at(member.key_span.start) <= place).map(|member| {
                (PathItem::Key(member.key.clone()), &member.value, at(member.key_span.start) == place)
            })
        }
        NodeKind::List(items) => items
            .iter()
            .enumerate()
            .rfind(|(_, item)| at(item.span.start) <= place)
            .map(|(index, item)| (PathItem::Index(index), item, false)),
        _ => None,
    };
    let Some((item, value, ends)) = next else { return };
    way.0.push(item);
    if !ends {
        descend(document, value, fault, way);
    }
}

/// A fault in one line, with the way to it in the place of a line.
pub fn told(fault: &Diagnostic, way: Option<&Path>) -> String {
    let mut text = format!("{}: {}", fault.code, fault.message);
    if let Some(way) = way {
        let _ = write!(text, " (at {})", spell(way));
    }
    if let Some(help) = &fault.help {
        let _ = write!(text, "; {help}");
    }
    text
}

/// `spec.rules[0].backendRefs`.
pub fn spell(way: &Path) -> String {
    let mut text = String::new();
    for item in &way.0 {
        match item {
            PathItem::Key(key) if text.is_empty() => text.push_str(key),
            PathItem::Key(key) => {
                let _ = write!(text, ".{key}");
            }
            PathItem::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
    }
    text
}

/// Adds warnings to what is reported of objects that are served.
fn remark(rendered: &mut Rendered, sources: &Sources, warnings: &[Diagnostic]) {
    let mut by_key: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for warning in warnings {
        let origin = rendered.files.get(&*warning.file).and_then(|file| file.origin.clone());
        if let Some(key) = origin {
            by_key.entry(key).or_default().push(told(warning, way(sources, warning).as_ref()));
        }
    }
    for (key, warnings) in by_key {
        let text = format!("warnings: {}", warnings.join("\n"));
        let Some(report) = rendered.reports.get_mut(&key) else { continue };
        let verdicts: Vec<&mut Verdict> = match report {
            Report::Class(verdict) | Report::Plain(verdict) => vec![verdict],
            Report::Gateway(gateway) => vec![&mut gateway.accepted],
            Report::Route(route) => route.parents.iter_mut().map(|parent| &mut parent.accepted).collect(),
            Report::Policy(policy) => policy.ancestors.iter_mut().map(|(_, verdict)| verdict).collect(),
        };
        for verdict in verdicts.into_iter().filter(|verdict| verdict.ok && verdict.message.is_empty()) {
            verdict.message.clone_from(&text);
        }
    }
}
