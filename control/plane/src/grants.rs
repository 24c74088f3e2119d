//! Which workloads may have which gateways: what no grant allows is not sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foregate_filters::peer::{PeerPattern, SpiffeId};
use foregate_policy::document::ObjectName;
use serde::Deserialize;

use crate::withdrawn::Withdrawn;

/// A label with which a proxy asks for one of its gateways alone: `namespace/name`, or `name`.
pub const GATEWAY_LABEL: &str = "gateway";

/// One grant, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantSpec {
    /// SPIFFE ids; `/*` at the end stands for every id below.
    pub identities: Vec<String>,
    /// `namespace/name` of gateways; `*` in either place stands for any, at the end of a name for any ending.
    pub gateways: Vec<String>,
    /// Labels that a proxy must have besides. Proxies say them themselves: they narrow, and prove nothing.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `namespace/name`, either with `*` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamePattern {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Grant {
    identities: Vec<PeerPattern>,
    gateways: Vec<NamePattern>,
    labels: BTreeMap<String, String>,
}

/// All grants, and the workloads that none is for.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    grants: Vec<Grant>,
    withdrawn: Withdrawn,
}

fn fits(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

impl NamePattern {
    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or((ObjectName::DEFAULT_NAMESPACE, text));
        let letter =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let plain = |part: &str| {
            let body = part.strip_suffix('*').unwrap_or(part);
            !part.is_empty() && body.bytes().all(letter)
        };
        (plain(namespace) && plain(name))
            .then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn matches(&self, gateway: &ObjectName) -> bool {
        fits(&self.namespace, &gateway.namespace) && fits(&self.name, &gateway.name)
    }
}

impl Grants {
    /// # Errors
    /// What is wrong with the first grant that cannot be read.
    pub fn new(specs: &[GrantSpec]) -> Result<Self, String> {
        let grants = specs.iter().map(|spec| {
            if spec.identities.is_empty() || spec.gateways.is_empty() {
                return Err("a grant names `identities` and `gateways`".to_owned());
            }
            let identities = spec
                .identities
                .iter()
                .map(|text| PeerPattern::parse(text).map_err(|error| format!("`{text}`: {error}")));
            let gateways = spec.gateways.iter().map(|text| {
                NamePattern::parse(text).ok_or_else(|| format!("`{text}` is not namespace/name of gateways"))
            });
            Ok(Grant {
                identities: identities.collect::<Result<_, _>>()?,
                gateways: gateways.collect::<Result<_, _>>()?,
                labels: spec.labels.clone(),
            })
        });
        Ok(Self { grants: grants.collect::<Result<_, _>>()?, withdrawn: Withdrawn::default() })
    }

    /// The same, and nothing for these.
    #[must_use]
    pub fn without(self, withdrawn: Withdrawn) -> Self {
        Self { withdrawn, ..self }
    }

    /// True where this workload gets nothing, whatever there is.
    pub fn withdrawn(&self, id: &SpiffeId) -> bool {
        self.withdrawn.names(id)
    }

    /// The grants that are about this proxy.
    fn with<'s>(
        &'s self,
        id: &'s SpiffeId,
        labels: &'s HashMap<String, String>,
    ) -> impl Iterator<Item = &'s Grant> {
        let grants = if self.withdrawn(id) { &[] } else { self.grants.as_slice() };
        grants
            .iter()
            .filter(|grant| grant.identities.iter().any(|pattern| pattern.matches(id)))
            .filter(|grant| grant.labels.iter().all(|(name, value)| labels.get(name) == Some(value)))
    }

    /// Says why this proxy has none, where it has.
    pub fn why_nothing(&self, id: &SpiffeId, labels: &HashMap<String, String>) -> String {
        if self.withdrawn(id) {
            return format!(
                "{} is withdrawn: `identity.withdrawn` of the control plane names it",
                id.as_str()
            );
        }
        let asked = labels.get(GATEWAY_LABEL).map(|name| format!(" and label {GATEWAY_LABEL}={name}"));
        let asked = asked.unwrap_or_default();
        if self.with(id, labels).next().is_some() {
            format!("no Gateway is there that the grants of {}{asked} name", id.as_str())
        } else {
            format!("no grant of the control plane is for {} with its labels", id.as_str())
        }
    }

    /// True where some grant is for this workload, whatever its labels.
    pub fn name(&self, id: &SpiffeId) -> bool {
        let of = |grant: &Grant| grant.identities.iter().any(|pattern| pattern.matches(id));
        !self.withdrawn(id) && self.grants.iter().any(of)
    }

    /// Those of `gateways` that this proxy may have, and asks for.
    pub fn of<'g>(
        &self,
        id: &SpiffeId,
        labels: &HashMap<String, String>,
        gateways: impl Iterator<Item = &'g ObjectName>,
    ) -> BTreeSet<ObjectName> {
        let mine: Vec<&Grant> = self.with(id, labels).collect();
        let wanted = labels.get(GATEWAY_LABEL).map(|text| {
            let (namespace, name) = text.split_once('/').map_or((None, text.as_str()), |(a, b)| (Some(a), b));
            ObjectName::new(namespace, name)
        });
        let granted = |gateway: &ObjectName| {
            mine.iter().any(|grant| grant.gateways.iter().any(|pattern| pattern.matches(gateway)))
        };
        gateways
            .filter(|gateway| wanted.as_ref().is_none_or(|wanted| wanted == *gateway) && granted(gateway))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use foregate_filters::peer::SpiffeId;
    use foregate_policy::document::ObjectName;

    use super::{GrantSpec, Grants};
    use crate::withdrawn::Withdrawn;

    fn granted(id: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let spec = |identity: &str, gateway: &str, labels: &[(&str, &str)]| GrantSpec {
            identities: vec![identity.to_owned()],
            gateways: vec![gateway.to_owned()],
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let grants = Grants::new(&[
            spec("spiffe://example.org/ns/a/*", "a/*", &[]),
            spec("spiffe://example.org/ns/b/sa/edge", "b/edge-*", &[("tier", "front")]),
        ])
        .unwrap();
        let gateways: Vec<_> = [("a", "one"), ("a", "two"), ("b", "edge-1"), ("b", "inner"), ("ab", "one")]
            .map(|(namespace, name)| ObjectName::new(Some(namespace), name))
            .into();
        let labels: HashMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let id = SpiffeId::parse(id).unwrap();
        grants.of(&id, &labels, gateways.iter()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_workload_gets_what_a_grant_names_and_nothing_else() {
        assert_eq!(granted("spiffe://example.org/ns/a/sa/x", &[]), ["a/one", "a/two"]);
        assert_eq!(granted("spiffe://example.org/ns/a/sa/x", &[("gateway", "a/two")]), ["a/two"]);
        assert!(granted("spiffe://example.org/ns/a/sa/x", &[("gateway", "b/edge-1")]).is_empty());
        assert!(granted("spiffe://example.org/ns/b/sa/edge", &[]).is_empty());
        assert_eq!(granted("spiffe://example.org/ns/b/sa/edge", &[("tier", "front")]), ["b/edge-1"]);
        assert!(granted("spiffe://example.org/ns/ab/sa/x", &[]).is_empty());
        assert!(granted("spiffe://elsewhere.org/ns/a/sa/x", &[]).is_empty());
    }

    #[test]
    fn a_workload_that_no_grant_is_for_is_known_by_its_id_alone() {
        let spec = GrantSpec {
            identities: vec!["spiffe://example.org/ns/a/*".to_owned()],
            gateways: vec!["a/*".to_owned()],
            labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
        };
        let grants = Grants::new(&[spec]).unwrap();
        let name = |id: &str| grants.name(&SpiffeId::parse(id).unwrap());
        assert!(name("spiffe://example.org/ns/a/sa/x") && !name("spiffe://example.org/ns/ab/sa/x"));
    }

    #[test]
    fn a_withdrawn_workload_is_granted_nothing_and_told_why() {
        let spec = GrantSpec {
            identities: vec!["spiffe://example.org/ns/a/*".to_owned()],
            gateways: vec!["a/*".to_owned()],
            labels: BTreeMap::default(),
        };
        let withdrawn =
            Withdrawn::new(&["spiffe://example.org/ns/a/sa/x".to_owned()], "example.org").unwrap();
        let grants = Grants::new(&[spec]).unwrap().without(withdrawn);
        let gateways = [ObjectName::new(Some("a"), "one")];
        for (id, count) in [("spiffe://example.org/ns/a/sa/x", 0), ("spiffe://example.org/ns/a/sa/y", 1)] {
            let id = SpiffeId::parse(id).unwrap();
            assert_eq!(grants.of(&id, &HashMap::new(), gateways.iter()).len(), count);
            assert_eq!(grants.name(&id), count == 1);
        }
        let id = SpiffeId::parse("spiffe://example.org/ns/a/sa/x").unwrap();
        assert!(grants.why_nothing(&id, &HashMap::new()).contains("identity.withdrawn"));
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        let spec = |identity: &str, gateway: &str| GrantSpec {
            identities: vec![identity.to_owned()],
            gateways: vec![gateway.to_owned()],
            labels: BTreeMap::default(),
        };
        for (identity, gateway, why) in [
            ("example.org/ns/a", "a/*", "example.org/ns/a"),
            ("spiffe://example.org/ns/a/*", "a/*/b", "not namespace/name"),
            ("spiffe://example.org/ns/a/*", "*a/b", "not namespace/name"),
        ] {
            let refused = Grants::new(&[spec(identity, gateway)]).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
