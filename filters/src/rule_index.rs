//! Finds the rules that may be true of a request without looking at the others.

use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;

use crate::expression::gate::{Gate, Methods, PathGate};
use crate::expression::probe::{KeyGate, Probe};
use crate::expression::{BoolExpression, Scope};

/// Places of rules in their list, ascending.
pub type Places = SmallVec<[u32; 16]>;

/// Values that are read to look rules up by; each costs every request, and rules beyond stay general.
const MAX_PROBES: usize = 4;

/// Fewer rules than this on one value are evaluated sooner than looked up.
const WORTH_A_PROBE: usize = 8;

/// Rules by the method and path that they need, and by the strings they compare values with.
#[derive(Debug, Default)]
pub struct RuleIndex {
    /// Of every rule.
    methods: Vec<Methods>,
    /// Rules that need no path of their own.
    always: Vec<u32>,
    exact: AHashMap<Box<str>, Vec<u32>>,
    /// Ascending.
    prefixes: Vec<Prefix>,
    keyed: Vec<Keyed>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<str>,
    rules: Vec<u32>,
    /// The longest other prefix with which this one begins.
    parent: Option<usize>,
}

/// Rules that compare one value with strings.
#[derive(Debug)]
struct Keyed {
    probe: Arc<Probe>,
    rules: AHashMap<Box<str>, Vec<u32>>,
    /// All of them, for requests of which nothing is known.
    all: Vec<u32>,
}

/// How many rules each look-up would still leave.
#[derive(Default)]
struct Crowds<'g> {
    exact: AHashMap<&'g str, usize>,
    prefixes: AHashMap<&'g str, usize>,
    keyed: Vec<(Arc<Probe>, usize, AHashMap<&'g str, usize>)>,
}

impl RuleIndex {
    /// Indexes rules in the order of their expressions.
    pub fn new<'a>(expressions: impl Iterator<Item = &'a BoolExpression> + Clone) -> Self {
        let gates = expressions.map(|expression| (expression.gate(), expression.keys()));
        let crowds = Crowds::of(gates.clone());
        let mut this = Self::default();
        let mut prefixes: Vec<(Box<str>, u32)> = Vec::new();
        for (place, (gate, keys)) in (0..).zip(gates) {
            this.methods.push(gate.methods);
            if let Some(key) = crowds.best(gate, keys) {
                this.key(key, place);
                continue;
            }
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

    fn key(&mut self, key: &KeyGate, place: u32) {
        let at = self.keyed.iter().position(|keyed| keyed.probe == key.probe).unwrap_or(self.keyed.len());
        if at == self.keyed.len() {
            let probe = Arc::clone(&key.probe);
            self.keyed.push(Keyed { probe, rules: AHashMap::new(), all: Vec::new() });
        }
        if let Some(keyed) = self.keyed.get_mut(at) {
            keyed.rules.entry(key.wanted.clone()).or_default().push(place);
            keyed.all.push(place);
        }
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
    pub fn candidates(&self, scope: &Scope<'_>) -> Places {
        let path = scope.head.uri.path();
        let method = Methods::of(&scope.head.method);
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
        for keyed in &self.keyed {
            let known = keyed.probe.strings(scope, |text| {
                places.extend(keyed.rules.get(text).into_iter().flatten().copied().filter(fits));
            });
            if !known {
                places.extend(keyed.all.iter().copied().filter(fits));
            }
        }
        if places.len() > general {
            places.sort_unstable();
            // A list may hold a string twice.
            places.dedup();
        }
        places
    }
}

impl<'g> Crowds<'g> {
    fn of(gates: impl Iterator<Item = (&'g Gate, &'g [KeyGate])>) -> Self {
        let mut this = Self::default();
        for (gate, keys) in gates {
            match &gate.path {
                PathGate::Any => {}
                PathGate::Exact(path) => *this.exact.entry(path).or_default() += 1,
                PathGate::Prefix(prefix) => *this.prefixes.entry(prefix).or_default() += 1,
            }
            for key in keys {
                let known = this.keyed.iter().position(|(probe, ..)| *probe == key.probe);
                let at = known.unwrap_or(this.keyed.len());
                if known.is_none() {
                    this.keyed.push((Arc::clone(&key.probe), 0, AHashMap::new()));
                }
                if let Some((_, all, crowds)) = this.keyed.get_mut(at) {
                    *all += 1;
                    *crowds.entry(&key.wanted).or_default() += 1;
                }
            }
        }
        this.keyed.retain(|(_, all, _)| *all >= WORTH_A_PROBE);
        this.keyed.sort_by_key(|(_, all, _)| std::cmp::Reverse(*all));
        this.keyed.truncate(MAX_PROBES);
        this
    }

    /// The string by which a rule is found among fewer others than by its path; `None` where there is none.
    fn best<'k>(&self, gate: &Gate, keys: &'k [KeyGate]) -> Option<&'k KeyGate> {
        let by_path = match &gate.path {
            PathGate::Any => usize::MAX,
            PathGate::Exact(path) => self.exact.get(&**path).copied().unwrap_or(0),
            PathGate::Prefix(prefix) => self.prefixes.get(&**prefix).copied().unwrap_or(0),
        };
        let crowd = |key: &KeyGate| {
            let (.., crowds) = self.keyed.iter().find(|(probe, ..)| *probe == key.probe)?;
            crowds.get(&*key.wanted).copied()
        };
        let counted = keys.iter().filter_map(|key| Some((crowd(key)?, key)));
        counted.min_by_key(|(crowd, _)| *crowd).filter(|(crowd, _)| *crowd < by_path).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::RuleIndex;
    use crate::expression::{BoolExpression, Environment, Scope};
    use crate::fault::Path;
    use crate::principal::Principal;
    use crate::testing::get;
    use std::sync::Arc;

    fn expressions(texts: &[String]) -> Vec<BoolExpression> {
        let environment = Environment { principal: true, ..Environment::default() };
        let new = |text: &String| BoolExpression::new(text, &environment, &Path::default()).unwrap();
        texts.iter().map(new).collect()
    }

    fn principal(claims: &str) -> Arc<Principal> {
        let claims: serde_json::Value = serde_json::from_str(claims).unwrap();
        let scopes = claims["scope"].as_str().unwrap_or_default().split(' ').map(Into::into).collect();
        Arc::new(Principal {
            issuer: "".into(),
            subject: "".into(),
            scopes,
            claims: claims.as_object().unwrap().clone().into(),
            expires: 0,
        })
    }

    #[test]
    fn the_rules_that_are_true_or_fail_are_found_in_order() {
        let paths = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/a/c", "/a/b!"];
        let conditions = [
            r#"request.path == "PATH""#,
            r#"request.path.startsWith("PATH")"#,
            r#"jwt.org == "ONUMBER""#,
            r#"request.path.startsWith("PATH") && jwt.org == "O1""#,
            r#""sNUMBER" in jwt.scopes && jwt.org == "O2""#,
            r#"request.headers["x-tenant"] == "ONUMBER" && request.path.startsWith("/a")"#,
            "jwt.level > 3",
        ];
        let methods = ["", r#"request.method == "GET" && "#, r#"request.method == "POST" && "#];
        let mut texts = Vec::new();
        for number in 0..240 {
            let condition = conditions[number % 7].replace("PATH", paths[number % 9]);
            let condition = condition.replace("NUMBER", &(number % 5).to_string());
            texts.push(format!("{}{condition}", methods[number % 3]));
        }
        let rules = expressions(&texts);
        let index = RuleIndex::new(rules.iter());
        assert!(
            index.keyed.len() == 3 && index.always.len() < 40,
            "{} {:?}",
            index.always.len(),
            index.keyed
        );
        let principals = [
            None,
            Some(principal(r#"{"org":"O1","level":4}"#)),
            Some(principal(r#"{"org":"O2","level":1,"scope":"s1 s4 s1"}"#)),
            Some(principal(r#"{"org":7}"#)),
            Some(principal(r#"{"org":"other","level":"x"}"#)),
        ];
        for principal in &principals {
            for (method, tenant) in [("GET", None), ("POST", Some("O3")), ("TRACE", Some("none"))] {
                for path in paths.into_iter().chain(["/a/bc", "/a/b/c/d", "/abc", "/z", "/a/b!x"]) {
                    let mut call = get(path).method(method);
                    if let Some(tenant) = tenant {
                        call = call.header("x-tenant", tenant);
                    }
                    let (head, mut ctx) = (call.head(), call.context());
                    ctx.principal.clone_from(principal);
                    let scope = Scope { head: &head, ctx: &ctx };
                    let found = index.candidates(&scope);
                    assert!(found.is_sorted_by(|a, b| a < b));
                    for (place, rule) in (0..).zip(&rules) {
                        if !found.contains(&place) {
                            assert_eq!(rule.evaluate(&scope), Ok(false), "{method} {path} {}", rule.source());
                        }
                    }
                    assert!(found.len() < rules.len() / 2 || principal.is_none() || tenant.is_none());
                }
            }
        }
    }

    #[test]
    fn the_string_that_tells_most_is_looked_up() {
        let rule = |number: usize| {
            format!(r#"request.path.startsWith("/api") && "crm" in jwt.scopes && jwt.org == "O{number}""#)
        };
        let rules = expressions(&(0..100).map(rule).collect::<Vec<_>>());
        let index = RuleIndex::new(rules.iter());
        let call = get("/api/x");
        let (head, mut ctx) = (call.head(), call.context());
        ctx.principal = Some(principal(r#"{"org":"O42","scope":"crm"}"#));
        assert_eq!(index.candidates(&Scope { head: &head, ctx: &ctx }).as_slice(), [42]);
    }
}
