//! Whether a replica leads.

use std::time::Duration;

use foregate_policy::codes;
use serde_json::Value;

use crate::inspect::Inspection;
use crate::inspect::read::text;

/// How long a Lease lasts that does not say so.
const LASTS: u64 = 15;

impl Inspection {
    pub(super) async fn lease(&mut self) {
        let namespace = self.names.namespace.clone();
        let names = self.names.leases.clone();
        let mut found = None;
        for name in &names {
            let object = format!("lease/{namespace}/{name}");
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
            let asked = self.reader.get(&path).await;
            let Some(lease) = self.read(&object, asked) else { return };
            if let Some(lease) = lease {
                found = Some((object, lease));
                self.names.leases = vec![name.clone()];
                break;
            }
        }
        let help =
            "look at the logs of foregate-control; statuses are written and roots kept by the holder alone";
        let Some((object, lease)) = found else {
            let object = format!("lease/{namespace}/{}", names.join(" or "));
            self.error(&object, codes::LEASE, "there is none: no foregate-control has run here", help);
            return;
        };
        let holder = text(&lease, "/spec/holderIdentity");
        if holder.is_empty() {
            self.error(&object, codes::LEASE, "nobody holds it: no foregate-control runs", help);
            return;
        }
        let lasts = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(LASTS);
        let renewed: Option<Duration> = text(&lease, "/spec/renewTime")
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|at| u64::try_from(at.as_second()).ok().map(Duration::from_secs));
        let age = renewed.map(|at| self.now.saturating_sub(at));
        if age.is_none_or(|age| age > Duration::from_secs(lasts)) {
            let since = age.map_or_else(|| "ever".to_owned(), |age| format!("{} s", age.as_secs()));
            let message =
                format!("its holder `{holder}` has not renewed it for {since}, and it lasts {lasts} s");
            self.error(&object, codes::LEASE, message, help);
        }
    }
}
