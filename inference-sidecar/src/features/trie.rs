//! The members that features read, as a trie over their JSON pointers.

/// One member of a record, or the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node(u16);

#[derive(Debug, Default)]
struct Branch {
    /// Sorted by length, then bytes: most lookups end after comparing lengths.
    children: Vec<(Box<str>, Node)>,
}

/// All members that some feature reads, and those on the way to them.
#[derive(Debug)]
pub(super) struct Trie {
    branches: Vec<Branch>,
}

impl Node {
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Trie {
    pub(super) fn new() -> Self {
        Self { branches: vec![Branch::default()] }
    }

    /// Nodes in all, the root included.
    pub(super) fn len(&self) -> usize {
        self.branches.len()
    }

    /// Adds a pointer; `None` where there is no room for more nodes.
    pub(super) fn insert(&mut self, tokens: &[String]) -> Option<Node> {
        let mut at = Node::ROOT;
        for token in tokens {
            at = match self.find(at, token) {
                Some(child) => child,
                None => self.add(at, token)?,
            };
        }
        Some(at)
    }

    fn add(&mut self, parent: Node, token: &str) -> Option<Node> {
        let child = Node(u16::try_from(self.branches.len()).ok()?);
        let children = &mut self.branches.get_mut(parent.index())?.children;
        let place = children.partition_point(|(key, _)| order(key, token).is_lt());
        children.insert(place, (token.into(), child));
        self.branches.push(Branch::default());
        Some(child)
    }

    /// The child of this name.
    #[inline]
    pub(super) fn find(&self, at: Node, key: &str) -> Option<Node> {
        let children = &self.branches.get(at.index())?.children;
        let place = children.binary_search_by(|(known, _)| order(known, key)).ok()?;
        children.get(place).map(|(_, child)| *child)
    }

    /// True where a pointer goes on below this node.
    pub(super) fn descends(&self, at: Node) -> bool {
        self.branches.get(at.index()).is_some_and(|branch| !branch.children.is_empty())
    }
}

fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}
