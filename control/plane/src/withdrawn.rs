//! Workloads that are given nothing any more, whatever they prove.

use foregate_filters::peer::{PeerPattern, SpiffeId};

/// Ids of `identity.withdrawn`.
#[derive(Clone, Debug, Default)]
pub struct Withdrawn(Vec<PeerPattern>);

impl Withdrawn {
    /// # Errors
    /// The first entry that names no workload of the trust domain.
    pub fn new(texts: &[String], trust_domain: &str) -> Result<Self, String> {
        let patterns = texts.iter().map(|text| {
            let pattern = PeerPattern::parse(text).map_err(|error| format!("`{text}`: {error}"))?;
            if pattern.trust_domain() == trust_domain {
                Ok(pattern)
            } else {
                Err(format!("`{text}` is of another trust domain than {trust_domain}"))
            }
        });
        patterns.collect::<Result<_, _>>().map(Self)
    }

    pub fn names(&self, id: &SpiffeId) -> bool {
        self.0.iter().any(|pattern| pattern.matches(id))
    }
}

#[cfg(test)]
mod tests {
    use foregate_filters::peer::SpiffeId;

    use super::Withdrawn;

    #[test]
    fn an_entry_names_one_workload_or_all_below_and_none_elsewhere() {
        let texts = ["spiffe://example.org/ns/a/sa/x", "spiffe://example.org/ns/b/*"].map(str::to_owned);
        let withdrawn = Withdrawn::new(&texts, "example.org").unwrap();
        let names = |path: &str| {
            withdrawn.names(&SpiffeId::parse(&format!("spiffe://example.org/ns/{path}")).unwrap())
        };
        assert!(names("a/sa/x") && names("b/sa/x") && !names("a/sa/xy") && !names("ab/sa/x"));
        for (text, want) in
            [("spiffe://elsewhere.org/ns/a/sa/x", "another trust domain"), ("ns/a/sa/x", "`ns/a/sa/x`: ")]
        {
            let said = Withdrawn::new(&[text.to_owned()], "example.org").unwrap_err();
            assert!(said.contains(want), "{said}");
        }
    }
}
