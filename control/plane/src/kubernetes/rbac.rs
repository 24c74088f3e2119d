//! What the code asks of the API server: no more need be allowed.

use crate::kubernetes::kinds::{FOREGATE_GROUP, GATEWAY_GROUP, Resource};

/// What may be done with resources of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub group: &'static str,
    /// With `/status` for the subresource.
    pub resources: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// Within the namespace of the control plane alone.
    pub at_home: bool,
}

/// Everything, by part.
pub const RULES: [Rule; 10] = [
    // What is compiled.
    Rule {
        group: GATEWAY_GROUP,
        resources: &[
            "gatewayclasses",
            "gateways",
            "httproutes",
            "grpcroutes",
            "tlsroutes",
            "tcproutes",
            "referencegrants",
            "backendtlspolicies",
        ],
        verbs: &["list", "watch"],
        at_home: false,
    },
    Rule {
        group: FOREGATE_GROUP,
        resources: &["upstreams", "policies", "models", "consumers", "stores"],
        verbs: &["list", "watch"],
        at_home: false,
    },
    // Statuses, by server-side apply.
    Rule {
        group: GATEWAY_GROUP,
        resources: &[
            "gatewayclasses/status",
            "gateways/status",
            "httproutes/status",
            "grpcroutes/status",
            "tlsroutes/status",
            "tcproutes/status",
            "backendtlspolicies/status",
        ],
        verbs: &["patch"],
        at_home: false,
    },
    Rule {
        group: FOREGATE_GROUP,
        resources: &[
            "upstreams/status",
            "policies/status",
            "models/status",
            "consumers/status",
            "stores/status",
        ],
        verbs: &["patch"],
        at_home: false,
    },
    // Endpoints, and labels of namespaces.
    Rule { group: "", resources: &["services", "namespaces"], verbs: &["list", "watch"], at_home: false },
    Rule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: &["list", "watch"],
        at_home: false,
    },
    // One by one, by name, once an object refers to them. Whoever wants this narrower binds it in namespaces alone.
    Rule { group: "", resources: &["secrets", "configmaps"], verbs: &["list", "watch"], at_home: false },
    // The roots of the control plane, in namespaces whose pods get sidecars.
    Rule { group: "", resources: &["configmaps"], verbs: &["create", "patch"], at_home: false },
    // Who leads.
    Rule {
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "create", "update"],
        at_home: true,
    },
    // The certificate of the webhooks.
    Rule { group: "", resources: &["secrets"], verbs: &["get", "create", "update"], at_home: true },
];

/// The authority in the configurations of the webhooks, each by its name alone.
pub const WEBHOOKS: Rule = Rule {
    group: "admissionregistration.k8s.io",
    resources: &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
    verbs: &["list", "watch", "patch"],
    at_home: false,
};

/// True where some rule allows this verb.
pub fn allows(group: &str, resource: &str, verb: &str) -> bool {
    let fits =
        |rule: &Rule| rule.group == group && rule.resources.contains(&resource) && rule.verbs.contains(&verb);
    RULES.iter().any(fits) || fits(&WEBHOOKS)
}

/// Kinds that are watched whole, with their group, and verbs of their status.
pub fn watched() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    Resource::ALL.into_iter().map(|resource| (resource.group(), resource.plural(), resource.has_status()))
}

#[cfg(test)]
mod tests {
    use super::{RULES, allows, watched};

    #[test]
    fn every_kind_that_is_compiled_may_be_watched_and_its_status_written_and_no_other() {
        for (group, plural, has_status) in watched() {
            assert!(allows(group, plural, "list") && allows(group, plural, "watch"), "{plural}");
            assert_eq!(allows(group, &format!("{plural}/status"), "patch"), has_status, "{plural}");
        }
        let kinds: Vec<&str> = watched().map(|(_, plural, _)| plural).collect();
        for rule in RULES.iter().filter(|rule| rule.group.contains("gateway") || rule.group == "foregate.dev")
        {
            for resource in rule.resources {
                assert!(kinds.contains(&resource.trim_end_matches("/status")), "{resource}");
            }
        }
    }
}
