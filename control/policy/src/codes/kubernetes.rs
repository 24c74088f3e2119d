//! What is told about codes of objects in Kubernetes, in order.

use super::{
    BACKEND_KIND, Entry, FILE_FOREIGN, LOCAL_FILE, NAME_RESERVED, OBJECT_REFUSED, SERVICE_UNKNOWN, entry,
};

/// Codes from 790, in order.
pub const OF_KUBERNETES: &[Entry] = &[
    entry(
        BACKEND_KIND,
        "A backend that is not said whole",
        "A route leads to an Upstream (group foregate.dev, no port: its endpoints have theirs) or to a Service (the core group, with the number of a port). Where group and kind are left out, a Service is meant, as Gateway API has it.",
        "backendRefs: [{ kind: Upstream, name: crm }]",
        "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]",
    ),
    entry(
        SERVICE_UNKNOWN,
        "A Service that is not known here",
        "The endpoints of Services come from Kubernetes, by way of the control plane, which writes an Upstream for each port that a route leads to. In a folder there are none, but an Upstream `service.NAME.PORT` of the same namespace stands in for one (`service.NAME.PORT.grpc` for a GRPCRoute, `.tcp` for TCPRoute and TLSRoute).",
        "backendRefs: [{ name: leads, port: 8080 }]",
        "backendRefs: [{ group: foregate.dev, kind: Upstream, name: leads }]",
    ),
    entry(
        LOCAL_FILE,
        "A file of a machine in an object of Kubernetes",
        "Objects come from whoever may write to a namespace, and files and environment variables belong to whoever runs the proxies: an object that names one could have it sent anywhere. Secrets and ConfigMaps of the same namespace are there instead.",
        "credentials: { static: { header: authorization, value: { file: /etc/token } } }",
        "credentials: { static: { header: authorization, value: { secretRef: { name: crm, key: token } } } }",
    ),
    entry(
        NAME_RESERVED,
        "A name that is kept for Services",
        "Upstreams named service.NAME.PORT are written by the control plane for the ports of Services.",
        "kind: Upstream\nmetadata: { name: service.leads.8080 }",
        "kind: Upstream\nmetadata: { name: leads }",
    ),
    entry(
        OBJECT_REFUSED,
        "What rests on a refused object is refused as well",
        "A Policy with a fault is not in force, and what it was to guard would be open without it; the same holds for a BackendTLSPolicy and the connections it was to secure. So its targets are not served until it is mended. A Secret or ConfigMap that is missing or not as it must be has the same effect.",
        "kind: Policy\nspec: { targetRefs: [..], authorize: [{ name: a, allow: 'jwt.scop' }] }",
        "kind: Policy\nspec: { targetRefs: [..], authorize: [{ name: a, allow: '\"crm\" in jwt.scopes' }] }",
    ),
    entry(
        FILE_FOREIGN,
        "A document refers to a file of another source",
        "Secrets and other files stand at one place, whichever source they come from. Documents of a source with `namespaces` may refer to those that the same source brings, or another one that is bound to their namespace too: else a team could have the secrets of others sent to its own endpoints.",
        "sources:\n- { name: secrets, folder: { path: /etc/foregate/secrets } }\n- { name: leads, folder: { path: /srv/leads }, namespaces: [leads] }   # and a secretRef in it",
        "sources:\n- { name: secrets-of-leads, folder: { path: /etc/foregate/leads }, namespaces: [leads] }\n- { name: leads, folder: { path: /srv/leads }, namespaces: [leads] }",
    ),
];
