//! What attackers send: refused before any backend sees it, and the gateway goes on.

mod floods;
mod heads;
pub(crate) mod http2;
mod slow;
mod smuggling;

use crate::support::client::Client;
use crate::support::process::Foregate;

/// The gateway still serves, in both versions.
async fn still_serves(gateway: &Foregate) {
    let address = gateway.address("edge/http");
    assert_eq!(Client::http1(address).await.get("/fine").await.status, 200);
    assert_eq!(Client::http2(address).await.get("/fine").await.status, 200);
}
