//! Whether the control plane may do what its code does.

use std::collections::BTreeMap;

use foregate_policy::codes;
use futures_util::StreamExt;
use futures_util::stream;
use http::Method;
use serde_json::{Value, json};

use crate::inspect::read::{Reader, Unread};
use crate::inspect::{Inspection, Names};
use crate::kubernetes::rbac::{RULES, Rule, WEBHOOKS};

/// Questions at once.
const AT_ONCE: usize = 8;

/// One right: what, and which verb.
#[derive(Clone, Debug)]
struct Right {
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    namespace: Option<String>,
    name: Option<String>,
}

impl Inspection {
    pub(super) async fn access(&mut self) {
        let rights = rights(&self.names);
        let (reader, names) = (&self.reader, &self.names);
        let ask = |right: Right| async move {
            let allowed = allowed(reader, names, &right).await;
            (right, allowed)
        };
        let answers: Vec<_> = stream::iter(rights).map(ask).buffered(AT_ONCE).collect().await;
        let mut missing: BTreeMap<(&str, &str, bool), Vec<&str>> = BTreeMap::new();
        for (right, allowed) in answers {
            match allowed {
                Ok(true) => {}
                Ok(false) => {
                    let key = (right.group, right.resource, right.namespace.is_some());
                    missing.entry(key).or_default().push(right.verb);
                }
                // One finding is enough: all of them are asked in the same way.
                Err(unread) => {
                    self.read::<()>("subjectaccessreview", Err(unread));
                    return;
                }
            }
        }
        let who = match &self.names.account {
            Some(account) => format!("serviceaccount/{}/{account}", self.names.namespace),
            None => "selfsubjectaccessreview".to_owned(),
        };
        for ((group, resource, at_home), verbs) in missing {
            let whole = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            let place =
                if at_home { format!(" in namespace {}", self.names.namespace) } else { String::new() };
            let message = format!("{} of {whole} is not allowed{place}", verbs.join(", "));
            let bound_narrower = !at_home
                && ["secrets", "configmaps"].contains(&resource)
                && verbs.iter().all(|verb| ["list", "watch"].contains(verb));
            if bound_narrower {
                let help = "fine where it is allowed in each namespace whose objects name Secrets and ConfigMaps; else \
                            grant it";
                self.warning(&who, codes::ACCESS, message, help);
            } else {
                let help =
                    "install the ClusterRole and Role of the chart or the kustomize base, and bind both";
                self.error(&who, codes::ACCESS, message, help);
            }
        }
    }
}

fn rights(names: &Names) -> Vec<Right> {
    let mut all = Vec::new();
    // They may be allowed by their name alone, which is known once there are any.
    let hooks = names.configuration.as_ref().map(|_| &WEBHOOKS);
    for rule in RULES.iter().chain(hooks) {
        for &resource in rule.resources {
            // A certificate and its roots are kept for webhooks alone.
            let of_hooks =
                (rule.at_home && resource == "secrets") || (!rule.at_home && rule.verbs.contains(&"create"));
            if of_hooks && !names.webhooks {
                continue;
            }
            for &verb in rule.verbs {
                let namespace = rule.at_home.then(|| names.namespace.clone());
                let name = name_of(rule, resource, verb, names);
                all.push(Right { group: rule.group, resource, verb, namespace, name });
            }
        }
    }
    all
}

/// Roles may allow by name what has one name alone.
fn name_of(rule: &Rule, resource: &str, verb: &str, names: &Names) -> Option<String> {
    match (resource, verb) {
        (_, "create") => None,
        ("leases", _) => names.leases.first().cloned(),
        ("secrets", _) if rule.at_home => names.secrets.first().cloned(),
        ("configmaps", "patch") => Some(names.roots.clone()),
        _ if *rule == WEBHOOKS => names.configuration.clone(),
        _ => None,
    }
}

async fn allowed(reader: &Reader, names: &Names, right: &Right) -> Result<bool, Unread> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let attributes = json!({
        "group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb,
        "namespace": right.namespace.as_deref().unwrap_or_default(),
        "name": right.name.as_deref().unwrap_or_default(),
    });
    let mut spec = json!({ "resourceAttributes": attributes });
    let kind = match (&names.account, spec.as_object_mut()) {
        (Some(account), Some(spec)) => {
            let namespace = &names.namespace;
            spec.insert("user".to_owned(), format!("system:serviceaccount:{namespace}:{account}").into());
            let groups = [
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ];
            spec.insert("groups".to_owned(), json!(groups));
            "SubjectAccessReview"
        }
        _ => "SelfSubjectAccessReview",
    };
    let review =
        json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {}, "spec": spec });
    let path = format!("/apis/authorization.k8s.io/v1/{}s", kind.to_lowercase());
    let answer = reader.send(Method::POST, &path, Some(&review)).await?.good()?;
    Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
}
