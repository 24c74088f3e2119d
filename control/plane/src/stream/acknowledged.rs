//! Which Gateways proxies have in force, and in which form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foregate_policy::document::{Kind, ObjectName};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::process::Shutdown;
use crate::revision::{Resource, document_name};
use crate::stream::proxies::Proxies;

/// Between two looks.
const TICK: Duration = Duration::from_millis(200);

/// What the proxies have that a Gateway is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Having {
    /// Those that are connected here.
    pub proxies: usize,
    /// Versions of its document that some of them have in force.
    pub versions: BTreeSet<Arc<str>>,
    /// Those that refused the last change.
    pub refusing: usize,
}

/// By the name of the document of each Gateway.
pub type Acknowledged = BTreeMap<Arc<str>, Having>;

/// The name and the version of the document of a Gateway that is the whole of a file.
pub fn identified(name: &ObjectName, path: &str, text: &str) -> (Arc<str>, Arc<str>) {
    let resource = Resource::document(document_name(Kind::Gateway, name), &Arc::from(path), 1, text);
    (resource.name, resource.version)
}

/// True for the name of the document of a Gateway.
pub fn is_gateway(name: &str) -> bool {
    name.strip_prefix(Kind::Gateway.word()).is_some_and(|rest| rest.starts_with(':'))
}

/// Tells of every change, until the process begins to end.
pub async fn tell(proxies: Arc<Proxies>, acknowledged: watch::Sender<Arc<Acknowledged>>, shutdown: Shutdown) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.begun() => return,
        }
        let now = proxies.gateways();
        acknowledged.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
    }
}
