//! The members that features read, as a trie over their JSON pointers.

/// One member of a record, or the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node(u16);

#[derive(Debug, Default)]
struct Branch {
    /// Sorted by length.
    children: Vec<(Box<str>, Node)>,
    /// Where the children of each length start, by length; one more entry than there are lengths.
    starts: Vec<u16>,
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

impl Branch {
    fn add(&mut self, token: &str, child: Node) {
        let place = self.children.partition_point(|(key, _)| key.len() <= token.len());
        self.children.insert(place, (token.into(), child));
        let longest = self.children.last().map_or(0, |(key, _)| key.len());
        let start = |length| self.children.partition_point(|(key, _)| key.len() < length);
        // There are fewer than 2^16 nodes in all.
        self.starts =
            (0..=longest + 1).map(|length| u16::try_from(start(length)).unwrap_or(u16::MAX)).collect();
    }

    /// Few members are of one length: to look at those costs less than to search among all.
    #[inline]
    fn find(&self, key: &str) -> Option<Node> {
        let [from, to] = *self.starts.get(key.len()..)?.first_chunk()?;
        let alike = self.children.get(usize::from(from)..usize::from(to))?;
        alike.iter().find(|(known, _)| **known == *key).map(|(_, child)| *child)
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
        self.branches.get_mut(parent.index())?.add(token, child);
        self.branches.push(Branch::default());
        Some(child)
    }

    /// The child of this name.
    #[inline]
    pub(super) fn find(&self, at: Node, key: &str) -> Option<Node> {
        self.branches.get(at.index())?.find(key)
    }

    /// True where a pointer goes on below this node.
    pub(super) fn descends(&self, at: Node) -> bool {
        self.branches.get(at.index()).is_some_and(|branch| !branch.children.is_empty())
    }
}
