//! The trees of all sources, as one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;

use crate::hex::hex;
use crate::revision::{Endpoints, ID_LENGTH, Origin, Resource};
use crate::sources::board::{Place, SourceState};

/// Files whose names end so hold endpoints, and change without the policies.
pub const ENDPOINTS: &str = ".endpoints";

/// All files, each with the source it is from.
#[derive(Debug, Default)]
pub struct Merged {
    pub id: String,
    pub files: BTreeMap<Arc<str>, (Bytes, usize)>,
    pub endpoints: Endpoints,
    pub origins: Vec<Origin>,
    pub places: Vec<Place>,
    pub warnings: Vec<Diagnostic>,
    pub faults: Vec<Diagnostic>,
}

/// Puts all trees together. `None` while a source has given none, since what it holds must not be taken for removed,
/// and where there is no source.
pub fn merge(states: &[SourceState]) -> Option<Merged> {
    if states.is_empty() {
        return None;
    }
    let mut merged = Merged::default();
    for (index, state) in states.iter().enumerate() {
        let tree = state.tree.as_ref()?;
        merged.places.push(state.place.clone());
        merged.origins.push(Origin {
            source: state.place.name.to_string(),
            revision: tree.revision.clone(),
            signer: tree.signer.clone(),
            time: tree.time,
        });
        merged.warnings.extend(tree.warnings.iter().cloned());
        for (way, content) in &tree.files {
            let way = placed(&state.place.mount, way);
            merged.add(way, content.clone(), index);
        }
    }
    merged.id = merged.digest();
    Some(merged)
}

/// Secrets are looked for at the top, wherever the policies are.
fn placed(mount: &str, way: &Arc<str>) -> Arc<str> {
    if mount.is_empty() || way.starts_with("secrets/") {
        return Arc::clone(way);
    }
    format!("{mount}/{way}").into()
}

impl Merged {
    fn add(&mut self, way: Arc<str>, content: Bytes, source: usize) {
        if way.ends_with(ENDPOINTS) {
            let resource = Resource::file(&way, content);
            if self.endpoints.insert(Arc::clone(&way), Arc::new(resource)).is_some() {
                self.conflict(&way, source, source);
            }
            return;
        }
        match self.files.get(&way) {
            Some((other, _)) if *other == content => {}
            Some((_, first)) => self.conflict(&way.clone(), *first, source),
            None => drop(self.files.insert(way, (content, source))),
        }
    }

    fn conflict(&mut self, way: &str, first: usize, second: usize) {
        let name = |index: usize| self.places.get(index).map_or("", |place| &*place.name).to_owned();
        let message =
            format!("the sources `{}` and `{}` hold different files of this name", name(first), name(second));
        let help = "give one of them a `mount`, or rename the file";
        self.faults.push(Diagnostic::file(Path::new(way), codes::SOURCE_CONFLICT, message).help(help));
    }

    /// The source a file is from.
    pub fn place(&self, way: &str) -> Option<&Place> {
        self.files.get(way).and_then(|(_, source)| self.places.get(*source))
    }

    fn digest(&self) -> String {
        let mut hash = Context::new(&SHA256);
        for (way, (content, _)) in &self.files {
            for part in [way.as_bytes(), content] {
                hash.update(&(part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        let mut digest = hex(hash.finish().as_ref());
        digest.truncate(ID_LENGTH);
        digest
    }
}
