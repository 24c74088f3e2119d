//! The configurations of the webhooks: who is asked about what, and whether anybody answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_filters::fault::Code;
use foregate_policy::codes;
use http::Method;
use serde_json::{Value, json};

use crate::injection::roots::LABEL;
use crate::inspect::Inspection;
use crate::inspect::read::{items, text};
use crate::inspect::secret::{Kept, service_name};

/// A kind of configuration, and the webhook of ours in it.
struct Kind {
    word: &'static str,
    plural: &'static str,
    hook: &'static str,
    injects: bool,
    absent: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        word: "mutatingwebhookconfiguration",
        plural: "mutatingwebhookconfigurations",
        hook: "inject.foregate.dev",
        injects: true,
        absent: "install it, or no pod gets a sidecar; the chart does so with control.injection.enabled",
    },
    Kind {
        word: "validatingwebhookconfiguration",
        plural: "validatingwebhookconfigurations",
        hook: "validate.foregate.dev",
        injects: false,
        absent: "install it, or objects with faults are stored; the chart does so with control.validation.enabled",
    },
];
/// A rule that no schema refuses, and our webhook does.
const REFUSED_RULE: &str = "no rule (";

impl Inspection {
    pub(super) async fn webhooks(&mut self) {
        let kept = self.certificate().await;
        for Kind { word, plural, hook: hook_name, injects, absent } in KINDS {
            let list = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
            let query = self.names.configuration.as_ref();
            let query =
                query.map(|name| format!("&fieldSelector=metadata.name%3D{name}")).unwrap_or_default();
            let asked = self.reader.list(&list, &query).await;
            let Some(all) = self.read(word, asked) else { continue };
            let named = |hook: &Value| text(hook, "/name") == hook_name;
            let found = all.iter().find_map(|configuration| {
                let hook = items(configuration, "/webhooks").iter().find(|hook| named(hook))?;
                Some((text(configuration, "/metadata/name"), hook))
            });
            let Some((name, hook)) = found else {
                let message = format!("no configuration has the webhook {hook_name}");
                self.warning(word, codes::WEBHOOK_ABSENT, message, absent);
                continue;
            };
            let object = format!("{word}/{name}");
            self.names.configuration.get_or_insert_with(|| name.to_owned());
            self.authority(&object, hook, kept.as_ref());
            self.scope(&object, hook, injects);
            if self.service(&object, hook, kept.as_ref()).await && !injects {
                self.dry_run(&object).await;
            }
        }
    }

    fn authority(&mut self, object: &str, hook: &Value, kept: Option<&Kept>) {
        let Some(kept) = kept else { return };
        if text(hook, "/clientConfig/caBundle") != STANDARD.encode(&kept.authority) {
            let help = "foregate-control writes it within seconds: look at its logs, and whether the configuration is \
                        called as `kubernetes.webhooks.configuration` says";
            let message =
                "its caBundle is not the authority of the webhooks: the API server trusts no answer";
            self.error(object, codes::WEBHOOK_AUTHORITY, message, help);
        }
    }

    fn scope(&mut self, object: &str, hook: &Value, injects: bool) {
        let fails = text(hook, "/failurePolicy") != "Ignore";
        if injects && !fails {
            let help = "failurePolicy: Fail, with a namespaceSelector";
            let message =
                "failurePolicy is Ignore: while no control plane answers, pods start without a sidecar";
            self.warning(object, codes::WEBHOOK_SCOPE, message, help);
        }
        let selector = hook.get("namespaceSelector").cloned().unwrap_or_default();
        let selects = !items(&selector, "/matchExpressions").is_empty()
            || selector
                .get("matchLabels")
                .and_then(Value::as_object)
                .is_some_and(|labels| !labels.is_empty());
        if injects && !selects {
            let (label, value) = LABEL;
            let help = format!("namespaceSelector: {{ matchLabels: {{ {label}: {value} }} }}");
            let message = "it has no namespaceSelector: it is asked about every pod of the cluster, those of the control \
                           plane included";
            if fails {
                self.error(object, codes::WEBHOOK_SCOPE, message, help);
            } else {
                self.warning(object, codes::WEBHOOK_SCOPE, message, help);
            }
        }
    }

    /// True where somebody stands behind the Service.
    async fn service(&mut self, object: &str, hook: &Value, kept: Option<&Kept>) -> bool {
        let unreached: Code = codes::WEBHOOK_UNREACHED;
        let Some(service) = hook.pointer("/clientConfig/service").filter(|service| service.is_object())
        else {
            return true;
        };
        let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let place = format!("service/{namespace}/{name}");
        let asked = self.reader.list(&format!("/api/v1/namespaces/{namespace}/services"), "").await;
        let Some(all) = self.read(&place, asked) else { return false };
        let Some(found) = all.iter().find(|service| text(service, "/metadata/name") == name) else {
            let help =
                "install the Service of foregate-control, or name the right one in clientConfig.service";
            self.error(object, unreached, format!("there is no Service {namespace}/{name}"), help);
            return false;
        };
        let ports = items(found, "/spec/ports");
        if !ports.iter().any(|entry| entry.get("port").and_then(Value::as_u64) == Some(port)) {
            let help = "name a port of it in clientConfig.service.port, such as that which leads to 9443 of the pods";
            self.error(object, unreached, format!("the Service {namespace}/{name} has no port {port}"), help);
            return false;
        }
        if let Some(kept) = kept
            && !kept.names(&service_name(service))
        {
            let help = "add it to `kubernetes.webhooks.names`, and delete the Secret of the certificate";
            let message = format!("the certificate of the webhooks is not for {}", service_name(service));
            self.error(object, unreached, message, help);
        }
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let asked =
            self.reader.list(&path, &format!("&labelSelector=kubernetes.io%2Fservice-name%3D{name}")).await;
        let Some(slices) = self.read(&place, asked) else { return false };
        let of_it =
            slices.iter().filter(|slice| text(slice, "/metadata/labels/kubernetes.io~1service-name") == name);
        let mut endpoints = of_it.flat_map(|slice| items(slice, "/endpoints"));
        if !endpoints.any(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false))) {
            let help =
                "look whether foregate-control runs, is ready, and has the labels that the Service selects";
            self.error(
                object,
                unreached,
                format!("no endpoint of the Service {namespace}/{name} is ready"),
                help,
            );
            return false;
        }
        true
    }

    /// Has the API server ask the webhook about a Policy that it must refuse. Nothing is stored.
    async fn dry_run(&mut self, object: &str) {
        let namespace = self.names.namespace.clone();
        let policy = json!({
            "apiVersion": "foregate.dev/v1alpha1",
            "kind": "Policy",
            "metadata": { "name": "foregate-check", "namespace": namespace },
            "spec": {
                "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "foregate-check" }],
                "authorize": [{ "name": "check", "allow": REFUSED_RULE }],
            },
        });
        let path = format!("/apis/foregate.dev/v1alpha1/namespaces/{namespace}/policies?dryRun=All");
        let asked = self.reader.send(Method::POST, &path, Some(&policy)).await;
        let Some(answer) = self.read(object, asked) else { return };
        let help = "look at the path from the API server to the Service: network policies, firewalls of the nodes, and \
                    the logs of foregate-control";
        let said = answer.message();
        if (200..300).contains(&answer.status) {
            let message =
                "a Policy with a fault was let through: the API server did not ask, or had no answer";
            self.error(object, codes::WEBHOOK_UNREACHED, message, help);
        } else if said.contains("failed calling webhook") {
            self.error(
                object,
                codes::WEBHOOK_UNREACHED,
                format!("the API server cannot call it: {said}"),
                help,
            );
        } else if !said.contains("denied the request") {
            let help = "run the check as somebody who may create a Policy there: nothing is stored";
            self.warning(object, codes::CLUSTER_UNREAD, format!("the webhook was not tried: {said}"), help);
        }
    }
}
