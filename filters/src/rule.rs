//! What filters tell of their rules, so that decisions can be explained.

use std::sync::Arc;

use crate::authorize::Mode;
use crate::expression::inputs::Input;
use crate::fault::Path;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    Addresses,
    Issuer,
    Key,
    Allow,
    Deny,
    Limit,
    Quota,
    Concurrency,
    Tenant,
    Enrich,
    /// A choice of a backend.
    Choose,
    /// What messages must be like.
    Validate,
    /// A fault on purpose.
    Inject,
    /// What is carried out once.
    Idempotency,
    /// Whose call it is where an org counts them.
    OrgQuota,
}

/// One rule of a policy, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The very name that the filter puts into its facts, so that a fact finds its rule by address.
    pub name: Arc<str>,
    pub kind: RuleKind,
    pub mode: Mode,
    /// The way to it below the `spec` of its policy, such as `authorize[3]`.
    pub at: Path,
    /// Place in its list, from 0.
    pub place: u16,
    /// What it asks, as written; empty where it asks nothing in words.
    pub source: Box<str>,
    /// What it reads of a request.
    pub reads: Vec<Input>,
}

impl RuleKind {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Limit => "limit",
            Self::Quota => "quota",
            Self::Concurrency => "concurrency",
            Self::Tenant => "tenant",
            Self::Enrich => "enrich",
            Self::Choose => "choose",
            Self::Validate => "validate",
            Self::Inject => "inject",
            Self::Idempotency => "idempotency",
            Self::OrgQuota => "orgQuota",
        }
    }
}

impl Rule {
    /// A rule at a place of the list `list`; it asks and reads nothing yet.
    pub fn listed(name: Arc<str>, kind: RuleKind, list: &str, place: u16) -> Self {
        let at = Path::default().key(list).index(usize::from(place));
        Self { name, kind, mode: Mode::Enforce, at, place, source: Box::default(), reads: Vec::new() }
    }

    /// With names that the filter always reads, each a root and a field.
    #[must_use]
    pub fn reading(mut self, fields: &[(&str, &str)]) -> Self {
        self.reads.extend(fields.iter().map(|(root, field)| Input::new(root, field)));
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestResources, build};

    #[test]
    fn who_identifies_is_a_rule_too() {
        let policy = "apiKey: { groups: [partners] }\nauthorize: [{ name: all, allow: 'true' }]";
        let chain = build(policy, &TestResources::default()).unwrap();
        let rules =
            chain.links().iter().find(|link| link.section == "apiKey").map(|link| link.filter.rules());
        let told: Vec<_> = rules
            .into_iter()
            .flatten()
            .map(|rule| (rule.kind.name(), rule.at.to_string(), rule.reads.len()))
            .collect();
        assert_eq!(told, [("key", "apiKey".to_owned(), 2)]);
    }

    #[test]
    fn every_filter_tells_its_rules_with_their_places_and_what_they_read() {
        let policy = r#"
addresses: { deny: [10.0.0.0/8] }
authorize:
- { name: readers, allow: 'request.method == "GET"' }
- { name: tried, allow: '"x-a" in request.headers', mode: audit }
- { name: no-admin, deny: 'request.path.startsWith("/admin")' }
rateLimit: [{ name: all, key: source.address, when: 'request.headers["x-b"] == "1"', limit: 9, per: 1s }]
"#;
        let chain = build(policy, &TestResources::default()).unwrap();
        let told: Vec<String> = chain
            .links()
            .iter()
            .flat_map(|link| {
                let section = link.section;
                link.filter.rules().into_iter().map(move |rule| {
                    let reads: Vec<String> = rule.reads.iter().map(ToString::to_string).collect();
                    let (kind, at, reads) = (rule.kind.name(), rule.at, reads.join(", "));
                    format!("{section}: {} {kind} {at} `{}` reads {reads}", rule.name, rule.source)
                })
            })
            .collect();
        assert_eq!(
            told,
            [
                "addresses: addresses addresses addresses `` reads source.address, source.peer",
                "rateLimit: all limit rateLimit[0] `source.address` reads source.address, request.headers[\"x-b\"]",
                "authorize: readers allow authorize[0] `request.method == \"GET\"` reads request.method",
                "authorize: tried allow authorize[1] `\"x-a\" in request.headers` reads request.headers[\"x-a\"]",
                "authorize: no-admin deny authorize[2] `request.path.startsWith(\"/admin\")` reads request.path",
            ]
        );
    }
}
