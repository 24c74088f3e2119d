//! What is told about codes of `foregate-control check --cluster`, in order.

use super::{
    ACCESS, API_ABSENT, CERTIFICATE_ENDS, CLOCKS, CLUSTER_UNREAD, DEFINITION_OTHER, Entry, LEASE,
    POD_SECURITY, ROOTS, WEBHOOK_ABSENT, WEBHOOK_AUTHORITY, WEBHOOK_SCOPE, WEBHOOK_UNREACHED, entry,
};

/// Codes from 774, in order.
pub const OF_CLUSTER: &[Entry] = &[
    entry(
        CLUSTER_UNREAD,
        "Something of the cluster was not looked at",
        "The check asks the API server as whoever runs it. Where there is no answer, or none is allowed, nothing is said of what was asked about: it may be well or not. An administrator of the cluster may read all of it.",
        "kubectl exec -n foregate foregate-control-0 -- foregate-control check --cluster",
        "foregate-control check --cluster --kubeconfig admin.conf --account foregate-control",
    ),
    entry(
        API_ABSENT,
        "The API server does not serve what is needed",
        "Objects are read in one version of their group. A kind that is not installed, or not served in that version, is not seen by the control plane: its routes, grants or policies are not in force. Kinds that nobody writes objects of are warnings.",
        "# Gateway API 1.0, with TLSRoute as v1alpha2",
        "# Gateway API 1.6, standard channel",
    ),
    entry(
        DEFINITION_OTHER,
        "A definition is of another foregate-control",
        "The schema of one of our kinds in the cluster is not the one of this program: what people write is checked by rules of another version, new fields are dropped when an object is stored, and old ones are refused by the controller.",
        "helm upgrade foregate   # which leaves the definitions as they were",
        "foregate-control crds | kubectl apply --server-side -f -",
    ),
    entry(
        WEBHOOK_ABSENT,
        "A webhook is not installed",
        "Without inject.foregate.dev no pod gets a sidecar; without validate.foregate.dev objects with faults are stored, and only their status tells.",
        "control: { injection: { enabled: false } }",
        "control: { injection: { enabled: true } }",
    ),
    entry(
        WEBHOOK_AUTHORITY,
        "The API server does not trust the webhook",
        "`caBundle` of a configuration is not the authority that the webhooks are served below. Every call fails, and what then happens is up to failurePolicy. A running control plane writes it; a tool that applies manifests again and again may take it out.",
        "clientConfig: { caBundle: <of another installation> }",
        "clientConfig: { service: .. }   # without caBundle: foregate-control owns it",
    ),
    entry(
        WEBHOOK_UNREACHED,
        "The API server cannot reach the webhook",
        "The Service that the configuration names is not there, lacks the port, has no endpoint that is ready, or the certificate is not for its name; or the API server has tried, with a dry run of a Policy that must be refused, and had no answer.",
        "clientConfig: { service: { name: foregate-control, namespace: foregate, port: 8443 } }",
        "clientConfig: { service: { name: foregate-control, namespace: foregate, port: 443 } }",
    ),
    entry(
        WEBHOOK_SCOPE,
        "A webhook is asked too much, or is passed by",
        "Injection that is asked about all pods of a cluster holds up those of the system and of the control plane itself while it does not answer; one that may fail silently lets pods start without a sidecar, in plain and unguarded.",
        "failurePolicy: Ignore\nnamespaceSelector: {}",
        "failurePolicy: Fail\nnamespaceSelector: { matchLabels: { foregate.dev/inject: enabled } }",
    ),
    entry(
        CERTIFICATE_ENDS,
        "A certificate has ended, or ends soon",
        "The certificate of the webhooks is renewed with a third of its 30 days left; its authority lives for ten years; roots of the control plane are those of `authority.roots`. One that has ended is trusted by nobody.",
        "# tls.crt of the Secret ended yesterday, since no foregate-control runs",
        "# foregate-control runs, and may update the Secret",
    ),
    entry(
        CLOCKS,
        "Clocks do not agree",
        "Certificates of workloads begin a minute before they are made and end by the clock, as tokens do. Where clocks are further apart than that, a new certificate is not good yet at the other side.",
        "# the clock of the machine is 90 s behind",
        "# both follow a time server",
    ),
    entry(
        POD_SECURITY,
        "Pod Security forbids the injected pod",
        "`baseline` and `restricted` forbid the capability NET_ADMIN, which foregate-init needs to have the kernel redirect connections. The sidecar itself passes `restricted`. The pods of such a namespace are refused once they are injected.",
        "metadata: { labels: { foregate.dev/inject: enabled, pod-security.kubernetes.io/enforce: restricted } }",
        "# pods with the annotation foregate.dev/interception: none",
    ),
    entry(
        ACCESS,
        "The control plane may not do what it does",
        "The rights that the code uses are listed, and each is asked for in a SubjectAccessReview: those of whoever runs the check, or with --account those of a service account. A right that is missing shows as a kind that is not watched, a status that is not written, or a Lease that nobody holds.",
        "foregate-control check --cluster --account default",
        "foregate-control check --cluster --account foregate-control",
    ),
    entry(
        LEASE,
        "No replica leads",
        "Statuses and roots are written by the replica that holds the Lease. Where it was not renewed for as long as it lasts, no replica runs, or none can reach the API server.",
        "# renewTime an hour ago",
        "kubectl -n foregate rollout restart statefulset/foregate-control",
    ),
    entry(
        ROOTS,
        "A namespace lacks the roots of the control plane",
        "A sidecar knows the control plane by the ConfigMap with its roots, which is written to every namespace whose pods get sidecars. Until it is there, the kubelet starts none of these pods.",
        "kubectl delete configmap foregate-roots",
        "# foregate-control may create and patch configmaps, and holds the Lease",
    ),
];
