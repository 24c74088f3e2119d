//! Several endpoints: chosen, checked, spared, tried again, found.

mod affinity;
mod backend_tls;
mod checks;
mod discovery;
mod name_server;
mod outage;
mod retries;
mod shares;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::Foregate;
use crate::support::within;

/// Everything to one upstream, for everybody: further fields of the rule, and the whole spec of the upstream, in
/// flow style.
pub fn documents(rule: &str, upstream: &str) -> String {
    let backend = "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    let rule =
        if rule.is_empty() { format!("  - {{ {backend} }}") } else { format!("  - {{ {backend}, {rule} }}") };
    let upstream = format!(
        "\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: crm }}\nspec: {{ {upstream} }}\n---"
    );
    [policies::GATEWAY, &policies::route("all", &rule), &upstream].concat()
}

/// Where nobody listens.
pub async fn unused_address() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// `endpoints: [..]` of these addresses.
pub fn endpoints(addresses: &[SocketAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("endpoints: [{}]", quoted.join(", "))
}

/// The endpoints that the admin page shows, by address.
pub async fn shown(gateway: &Foregate) -> Vec<Value> {
    let (status, page) = gateway.admin_page("/upstreams").await;
    assert_eq!(status, 200, "{page}");
    let page: Value = serde_json::from_str(&page).unwrap();
    page[0]["endpoints"].as_array().cloned().unwrap_or_default()
}

/// Waits until the admin page shows an endpoint in this state.
pub async fn wait_state(gateway: &Foregate, address: SocketAddr, state: &str) {
    let fits = async {
        loop {
            let shown = shown(gateway).await;
            let here = |endpoint: &&Value| endpoint["address"] == address.to_string();
            if shown.iter().find(here).is_some_and(|endpoint| endpoint["state"] == state) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(&format!("{address} to be {state}"), fits).await;
}

/// Gets `/` until the admin page shows an endpoint in this state.
pub async fn ask_until(gateway: &Foregate, client: &mut Client, address: SocketAddr, state: &str) {
    let fits = async {
        loop {
            client.get("/").await;
            let shown = shown(gateway).await;
            let here = |endpoint: &&Value| endpoint["address"] == address.to_string();
            if shown.iter().find(here).is_some_and(|endpoint| endpoint["state"] == state) {
                return;
            }
        }
    };
    within(&format!("{address} to be {state}"), fits).await;
}
