//! The trees of all sources, as one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;

use crate::hex::hex;
use crate::revision::secrets::{Secrets, is_secret};
use crate::revision::{Endpoints, ID_LENGTH, Origin, Resource};
use crate::sources::board::{Place, SourceState};
use crate::whole::{Contents, Files};

/// Files whose names end so hold endpoints, and change without the policies.
pub const ENDPOINTS: &str = ".endpoints";

/// What a file holds, and the source it is from.
pub type Found = (Bytes, usize);

/// All files, each with the source it is from.
#[derive(Debug, Default)]
pub struct Merged {
    /// Digest of all files; of secrets, of their ways alone.
    pub id: String,
    /// Digest of what the secrets hold.
    pub secrets: String,
    pub files: BTreeMap<Arc<str>, Found>,
    pub endpoints: Endpoints,
    /// Sources of endpoints, and those that have the same files as a source before them.
    pub also: BTreeSet<(Arc<str>, usize)>,
    pub origins: Vec<Origin>,
    pub places: Vec<Place>,
    pub warnings: Vec<Diagnostic>,
    pub faults: Vec<Diagnostic>,
}

/// Puts all trees together. `None` while a source has given none, since what it holds must not be taken for removed,
/// and where there is no source.
pub fn merge(states: &[SourceState]) -> Option<Merged> {
    merge_after(states, &Digested::default())
}

/// The same; what has not changed since `before` is not looked at again.
pub fn merge_after(states: &[SourceState], before: &Digested) -> Option<Merged> {
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
    merged.refuse_files_that_are_folders();
    (merged.id, merged.secrets) = before.of(&merged.files).unwrap_or_else(|| merged.digests());
    Some(merged)
}

/// Files of before, and the digests of these.
#[derive(Clone, Debug, Default)]
pub struct Digested(Option<(Digests, BTreeMap<Arc<str>, Found>)>);

/// What names the policies, and what tells one state of secrets from another.
type Digests = (String, String);

impl Digested {
    /// Of what was merged.
    pub fn new(merged: &Merged) -> Self {
        Self(Some(((merged.id.clone(), merged.secrets.clone()), merged.files.clone())))
    }

    /// The digests of these files, where they are the very same: not by content, which would have to be read.
    fn of(&self, files: &BTreeMap<Arc<str>, (Bytes, usize)>) -> Option<Digests> {
        let (digests, before) = self.0.as_ref()?;
        let same = before.len() == files.len()
            && before
                .iter()
                .zip(files)
                .all(|((way, (old, _)), (other, (new, _)))| way == other && is_same(old, new));
        same.then(|| digests.clone())
    }
}

/// True for one content in one place.
pub fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
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
            let resource = Arc::new(Resource::file(&way, content));
            let other = self.endpoints.insert(Arc::clone(&way), Arc::clone(&resource));
            if other.is_some_and(|other| other != resource) {
                let first = self.source(&way).unwrap_or(source);
                self.conflict(&way, first, source);
            }
            self.also.insert((way, source));
            return;
        }
        match self.files.get(&way) {
            Some((other, _)) if *other == content => drop(self.also.insert((way, source))),
            Some((_, first)) => self.conflict(&way.clone(), *first, source),
            None => drop(self.files.insert(way, (content, source))),
        }
    }

    fn conflict(&mut self, way: &str, first: usize, second: usize) {
        let (one, other) = (self.name(first), self.name(second));
        let message = format!("the sources `{one}` and `{other}` hold different files of this name");
        self.differ(way, message);
    }

    /// A name leads to a file or to a folder. Otherwise that shows too late: where secrets in use are written
    /// down, and at the proxies that endpoints are sent to.
    fn refuse_files_that_are_folders(&mut self) {
        let mut found = BTreeMap::new();
        let endpoints = self.also.iter().filter(|(way, _)| self.endpoints.contains_key(way));
        let files = self.files.iter().map(|(way, (_, source))| (way, *source));
        for (way, below) in files.chain(endpoints.map(|(way, source)| (way, *source))) {
            for (end, _) in way.match_indices('/') {
                let folder = way.get(..end).unwrap_or_default();
                if let Some(source) = self.source(folder) {
                    found.entry(Arc::<str>::from(folder)).or_insert((source, below));
                }
            }
        }
        for (way, (file, folder)) in found {
            let (file, folder) = (self.name(file), self.name(folder));
            let message =
                format!("it is a file in the source `{file}`, and a folder in the source `{folder}`");
            self.differ(&way, message);
        }
    }

    fn differ(&mut self, way: &str, message: String) {
        let help = if is_secret(way) {
            "rename one of them: a `mount` does not move what is below `secrets`"
        } else {
            "give one of them a `mount`, or rename the file"
        };
        self.faults.push(Diagnostic::file(Path::new(way), codes::SOURCE_CONFLICT, message).help(help));
    }

    fn name(&self, source: usize) -> &str {
        self.places.get(source).map_or("", |place| &*place.name)
    }

    /// The first source that has a file.
    fn source(&self, way: &str) -> Option<usize> {
        let of_endpoints = || self.also.iter().find(|(known, _)| **known == *way).map(|(_, source)| *source);
        let held = self.files.get(way).map(|(_, source)| *source);
        held.or_else(|| self.endpoints.get(way).and_then(|_| of_endpoints()))
    }

    /// The source a file is from.
    pub fn place(&self, way: &str) -> Option<&Place> {
        self.files.get(way).and_then(|(_, source)| self.places.get(*source))
    }

    /// True where documents of this place may refer to a file: where it is bound to namespaces, to what sources bring that
    /// are bound to the namespace of the document as well, so that none has what is another's sent to it.
    pub fn may_use(&self, place: &Place, namespace: &str, way: &Arc<str>) -> bool {
        let bound = |place: &Place| place.namespaces.iter().any(|own| own == namespace);
        let first = self.files.get(way).map(|(_, source)| *source);
        let also = self.also.range((Arc::clone(way), 0)..=(Arc::clone(way), usize::MAX));
        let mut sources = first.into_iter().chain(also.map(|(_, source)| *source));
        place.namespaces.is_empty() || sources.any(|source| self.places.get(source).is_some_and(bound))
    }

    /// What its secrets hold.
    pub fn secrets(&self) -> Secrets {
        let all = self.files.iter().filter(|(way, _)| is_secret(way));
        all.map(|(way, (content, _))| (Arc::clone(way), content.clone())).collect()
    }

    /// Proxies have the secrets of today whatever revision they have, so that one that was renewed makes no other revision.
    fn digests(&self) -> Digests {
        let (mut policies, mut secrets) = (Context::new(&SHA256), Context::new(&SHA256));
        let add = |hash: &mut Context, part: &[u8]| {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        for (way, (content, _)) in &self.files {
            add(&mut policies, way.as_bytes());
            if is_secret(way) {
                add(&mut secrets, way.as_bytes());
                add(&mut secrets, content);
            } else {
                add(&mut policies, content);
            }
        }
        let mut id = hex(policies.finish().as_ref());
        id.truncate(ID_LENGTH);
        (id, hex(secrets.finish().as_ref()))
    }
}

impl Contents for Merged {
    fn content(&self, way: &str) -> Option<Bytes> {
        self.files.get(way).map(|(content, _)| content.clone())
    }
}

impl Files for Merged {
    fn has(&self, way: &str) -> bool {
        self.files.contains_key(way)
    }

    fn below(&self, folder: &str) -> Vec<Arc<str>> {
        let below = format!("{folder}/");
        let inside = self.files.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded));
        inside.map(|(way, _)| way).take_while(|way| way.starts_with(&below)).cloned().collect()
    }
}
