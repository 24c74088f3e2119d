//! Nothing malformed reaches a service, and no more is held or told than must be.

mod oracle;
mod requests;
mod responses;

use bytes::Bytes;

use crate::support::client::{Client, Reply};
use crate::support::guarded::routes;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Body, Upstream, full};

/// The schema and the contract of the example.
const LEAD: &str = include_str!("../../../../policies/contracts/schemas/lead.json");
const CONTRACT: &str = include_str!("../../../../policies/contracts/crm.yaml");

/// A gateway whose policies have schema and contract beside them.
struct Checked {
    upstream: Upstream,
    gateway: Foregate,
    client: Client,
}

impl Checked {
    async fn start(upstream: Upstream, specs: &[(&str, &str)]) -> Self {
        Self::with(upstream, specs, "").await
    }

    /// With documents beside the routes and their policies.
    async fn with(upstream: Upstream, specs: &[(&str, &str)], more: &str) -> Self {
        let options = Options::default().file("lead.json", LEAD).file("crm.yaml", CONTRACT);
        let gateway = Foregate::start(&(routes(upstream.address, specs) + more), options).await;
        let client = Client::http1(gateway.address("edge/http")).await;
        Self { upstream, gateway, client }
    }

    fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Request<Body> {
        let mut request = self.client.request(method, target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(full(body)).unwrap()
    }

    async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let request = self.request(method, target, headers, body);
        self.client.send(request).await
    }
}
