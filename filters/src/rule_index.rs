//! Finds the rules that may be true of a request without looking at the others.

use ahash::AHashMap;
use http::Method;
use smallvec::SmallVec;

use crate::expression::gate::{Gate, Methods, PathGate};

/// Places of rules in their list, ascending.
pub type Places = SmallVec<[u32; 16]>;

/// Rules by the method and path that they need.
#[derive(Debug, Default)]
pub struct RuleIndex {
    /// Of every rule.
    methods: Vec<Methods>,
    /// Rules that need no path of their own.
    always: Vec<u32>,
    exact: AHashMap<Box<str>, Vec<u32>>,
    /// Ascending.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<str>,
    rules: Vec<u32>,
    /// The longest other prefix with which this one begins.
    parent: Option<usize>,
}

impl RuleIndex {
    /// Indexes rules in the order of their gates.
    pub fn new<'a>(gates: impl IntoIterator<Item = &'a Gate>) -> Self {
        let mut this = Self::default();
        let mut prefixes: Vec<(Box<str>, u32)> = Vec::new();
        for (place, gate) in (0..).zip(gates) {
            this.methods.push(gate.methods);
            match &gate.path {
                PathGate::Any => this.always.push(place),
                PathGate::Exact(path) => this.exact.entry(path.clone()).or_default().push(place),
                PathGate::Prefix(prefix) => prefixes.push((prefix.clone(), place)),
            }
        }
        prefixes.sort();
        for (text, place) in prefixes {
            match this.prefixes.last_mut() {
                Some(last) if last.text == text => last.rules.push(place),
                _ => {
                    let parent = this.ancestor(&text, this.prefixes.len().checked_sub(1));
                    this.prefixes.push(Prefix { text, rules: vec![place], parent });
                }
            }
        }
        this
    }

    /// The prefix nearest to `from`, itself or above it, with which `path` begins.
    fn ancestor(&self, path: &str, mut from: Option<usize>) -> Option<usize> {
        while let Some(prefix) = from.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&*prefix.text) {
                return from;
            }
            from = prefix.parent;
        }
        None
    }

    /// The rules that may be true, in order; all others are false.
    pub fn candidates(&self, method: &Method, path: &str) -> Places {
        let method = Methods::of(method);
        let fits = |place: &u32| self.methods.get(*place as usize).is_some_and(|known| known.meets(method));
        let mut places: Places = self.always.iter().copied().filter(fits).collect();
        let general = places.len();
        if let Some(rules) = self.exact.get(path) {
            places.extend(rules.iter().copied().filter(fits));
        }
        // Every prefix of the path is the greatest one that is not above it, or stands above that one.
        let below = self.prefixes.partition_point(|prefix| *prefix.text <= *path);
        let mut at = self.ancestor(path, below.checked_sub(1));
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            places.extend(prefix.rules.iter().copied().filter(fits));
            at = prefix.parent;
        }
        if places.len() > general {
            places.sort_unstable();
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::RuleIndex;
    use crate::expression::gate::{Gate, Methods, PathGate};
    use http::Method;

    fn holds(gate: &Gate, method: &Method, path: &str) -> bool {
        let fits = match &gate.path {
            PathGate::Any => true,
            PathGate::Exact(exact) => **exact == *path,
            PathGate::Prefix(prefix) => path.starts_with(&**prefix),
        };
        fits && gate.methods.meets(Methods::of(method))
    }

    #[test]
    fn exactly_the_rules_whose_gates_hold_are_found_in_order() {
        let texts = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/a/c", "/a/b!", ""];
        let mut gates = Vec::new();
        for (index, text) in texts.iter().cycle().take(60).enumerate() {
            let methods = match index % 3 {
                0 => Methods::default(),
                1 => Methods::of(&Method::GET),
                _ => Methods::of(&Method::POST),
            };
            let path = match index % 4 {
                0 => PathGate::Exact((*text).into()),
                1 | 2 => PathGate::Prefix((*text).into()),
                _ => PathGate::Any,
            };
            gates.push(Gate { methods, path });
        }
        let index = RuleIndex::new(&gates);
        for method in [Method::GET, Method::POST, Method::TRACE] {
            for path in ["/", "/a", "/a/", "/a/b", "/a/bc", "/a/b/c/d", "/abc", "/a/d", "/z", "/a/b!x", "/0"]
            {
                let wanted: Vec<u32> = (0..)
                    .zip(&gates)
                    .filter(|(_, gate)| holds(gate, &method, path))
                    .map(|(at, _)| at)
                    .collect();
                assert_eq!(index.candidates(&method, path).as_slice(), wanted, "{method} {path}");
            }
        }
    }
}
