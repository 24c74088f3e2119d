//! The record being read: its features so far, and where it may be cut.

use std::ops::Range;

use foregate_filters::json::Scalar;
use smallvec::SmallVec;

use super::trie::Node;

/// The value of one member that features read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Slot<'a> {
    #[default]
    Absent,
    Scalar(Scalar<'a>),
    Container,
}

/// The record being read.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) insert_at: usize,
    /// End of the last member read.
    last_end: usize,
    /// Members that stay.
    pub(super) kept: usize,
    /// True while the member being read is a reserved one.
    removing: bool,
    pub(super) cuts: SmallVec<[Range<usize>; 1]>,
    pub(super) slots: Vec<Slot<'a>>,
    /// True where a member that features read occurs twice.
    pub(super) ambiguous: bool,
    /// Where the record says that it is of another object.
    pub(super) foreign: Option<usize>,
    /// True where the record has said of which object it is.
    pub(super) typed: bool,
}

impl<'a> Draft<'a> {
    /// A draft with room for the members that features read.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            insert_at: 0,
            last_end: 0,
            kept: 0,
            removing: false,
            cuts: SmallVec::new(),
            slots: vec![Slot::Absent; slots],
            ambiguous: false,
            foreign: None,
            typed: false,
        }
    }

    pub(super) fn begin(&mut self, insert_at: usize) {
        self.insert_at = insert_at;
        self.last_end = insert_at;
        self.kept = 0;
        self.removing = false;
        self.cuts.clear();
        self.slots.fill(Slot::Absent);
        self.ambiguous = false;
        self.foreign = None;
        self.typed = false;
    }

    /// A member begins; the first one that stays has no comma before it, so a cut before it takes that comma.
    pub(super) fn key(&mut self, at: usize, removing: bool) {
        self.removing = removing;
        if !removing {
            if let Some(cut) = self.cuts.last_mut().filter(|_| self.kept == 0) {
                cut.end = at;
            }
            self.kept += 1;
        }
    }

    pub(super) fn member_end(&mut self, end: usize) {
        if self.removing {
            let start = if self.kept == 0 { self.insert_at } else { self.last_end };
            match self.cuts.last_mut().filter(|cut| start <= cut.end) {
                Some(cut) => cut.end = end,
                None => self.cuts.push(start..end),
            }
            self.removing = false;
        }
        self.last_end = end;
    }

    pub(super) fn fill(&mut self, node: Node, value: Slot<'a>) {
        if let Some(slot) = self.slots.get_mut(node.index()) {
            self.ambiguous |= !matches!(slot, Slot::Absent);
            *slot = value;
        }
    }

    /// True where the client put a feature or a reserved member into this object.
    pub(super) fn touched(&self) -> bool {
        !self.cuts.is_empty() || self.slots.iter().any(|slot| !matches!(slot, Slot::Absent))
    }
}
