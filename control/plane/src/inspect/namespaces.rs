//! Namespaces whose pods get sidecars: Pod Security, and the roots that sidecars start with.

use std::time::Duration;

use foregate_policy::codes;

use crate::injection::roots::LABEL;
use crate::injection::settings::Interception;
use crate::inspect::Inspection;
use crate::inspect::read::text;

/// What is enforced in a namespace.
const ENFORCE: &str = "/metadata/labels/pod-security.kubernetes.io~1enforce";
/// Roots are replaced with an overlap of days.
const SOON: Duration = Duration::from_hours(14 * 24);

impl Inspection {
    pub(super) async fn namespaces(&mut self) {
        let (label, value) = LABEL;
        let query = format!("&labelSelector={}%3D{value}", label.replace('/', "%2F"));
        let asked = self.reader.list("/api/v1/namespaces", &query).await;
        let Some(all) = self.read("namespaces", asked) else { return };
        let pointer = format!("/metadata/labels/{}", label.replace('/', "~1"));
        for namespace in all.iter().filter(|namespace| text(namespace, &pointer) == value) {
            let name = text(namespace, "/metadata/name");
            let object = format!("namespace/{name}");
            if name == self.names.namespace {
                let help = format!("take the label {label} from it");
                let message =
                    "pods of the control plane would get sidecars, and could not start without one that runs";
                self.error(&object, codes::WEBHOOK_SCOPE, message, help);
            }
            let level = text(namespace, ENFORCE);
            if self.names.interception == Interception::Redirect
                && ["baseline", "restricted"].contains(&level)
            {
                let message = format!(
                    "it enforces Pod Security `{level}`, which forbids the capability NET_ADMIN of foregate-init: no \
                     injected pod is let in"
                );
                let help = "interception: none, in the configuration or as the annotation foregate.dev/interception of \
                            the pods, where a network plugin redirects or the application is told of the sidecar; or \
                            enforce `privileged` there";
                self.error(&object, codes::POD_SECURITY, message, help);
            }
            self.roots(name).await;
        }
    }

    /// Without its roots a sidecar knows no control plane, and the kubelet starts no pod that mounts them.
    async fn roots(&mut self, namespace: &str) {
        let object = format!("configmap/{namespace}/{}", self.names.roots);
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{}", self.names.roots);
        let asked = self.reader.get(&path).await;
        let Some(found) = self.read(&object, asked) else { return };
        let help = "foregate-control writes it where it holds the Lease: look at its logs";
        let Some(map) = found else {
            let message = "there is none: pods with a sidecar do not start here";
            self.error(&object, codes::ROOTS, message, help);
            return;
        };
        let pem = text(&map, "/data/ca.crt").as_bytes().to_vec();
        let help = "add the next root, and give it time: see Rotation in control/plane/README.md";
        self.lasts(&object, "the last root of the control plane", &pem, SOON, help);
    }
}
