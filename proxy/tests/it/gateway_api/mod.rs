//! Gateway API feature by feature: one table each, against echo backends.

mod backends;
mod cors;
mod faults;
mod hosts;
mod matching;
mod mirror;
mod modifiers;

use http::Response;
use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Received, Speak, Upstream, full};

/// A request, and what must come of it.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    /// Method, host and target.
    ask: &'a str,
    send: &'a [(&'a str, &'a str)],
    status: u16,
    /// Who answered; nobody where empty.
    backend: &'a str,
    /// What the backend saw: `path`, `host` or a header; empty where it must be absent.
    seen: &'a [(&'a str, &'a str)],
    /// Headers of the response; empty where they must be absent.
    reply: &'a [(&'a str, &'a str)],
}

/// To be filled in.
const ROW: Row<'static> = Row { ask: "", send: &[], status: 200, backend: "", seen: &[], reply: &[] };

/// A request that this backend answers.
fn to<'a>(ask: &'a str, backend: &'a str) -> Row<'a> {
    Row { ask, backend, ..ROW }
}

/// A request that gets this status from the gateway itself.
fn answered(ask: &str, status: u16) -> Row<'_> {
    Row { ask, status, ..ROW }
}

/// Answers with its name and everything that it saw.
fn echo(name: &str, received: &Received) -> Response<crate::support::upstream::Body> {
    let headers: serde_json::Map<String, Value> = received
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let host = received.uri.authority().map(ToString::to_string);
    let body = json!({
        "backend": name,
        "method": received.method.as_str(),
        "path": received.uri.path_and_query().map(ToString::to_string),
        "host": host.unwrap_or_else(|| received.header("host").to_owned()),
        "headers": headers,
        "body": String::from_utf8_lossy(&received.body),
    });
    Response::builder().header("x-backend", name).body(full(body.to_string())).unwrap()
}

/// A gateway before echo backends.
struct World {
    gateway: Foregate,
    backends: Vec<(&'static str, Upstream)>,
}

impl World {
    /// Backends of these names, as upstreams of the same names; with further documents.
    async fn new(backends: &[&'static str], documents: &str) -> Self {
        Self::speaking(&backends.iter().map(|name| (*name, false)).collect::<Vec<_>>(), documents).await
    }

    /// The same, some of them in HTTP/2.
    async fn speaking(backends: &[(&'static str, bool)], documents: &str) -> Self {
        let mut text = documents.to_owned();
        let mut started = Vec::new();
        for (name, http2) in backends.iter().copied() {
            let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
            let upstream =
                Upstream::speaking(speak, move |received| async move { echo(name, &received) }).await;
            let more = if http2 { "protocol: Http2" } else { "" };
            text.push_str(&policies::upstream(name, upstream.address, more));
            started.push((name, upstream));
        }
        let gateway = Foregate::start(&text, Options::default()).await;
        Self { gateway, backends: started }
    }

    fn backend(&self, name: &str) -> &Upstream {
        &self.backends.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// Checks every row in both versions of HTTP.
    async fn check(&self, rows: &[Row<'_>]) {
        self.check_at("edge/http", rows).await;
    }

    /// The same at another listener.
    async fn check_at(&self, listener: &str, rows: &[Row<'_>]) {
        for http2 in [false, true] {
            let address = self.gateway.address(listener);
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            for row in rows {
                let reply = send(&mut client, row).await;
                let told = format!("{row:?}, HTTP/2: {http2}: {reply:?}");
                assert_eq!((reply.status, reply.header("x-backend")), (row.status, row.backend), "{told}");
                for (name, wanted) in row.reply {
                    let all: Vec<_> =
                        reply.headers.get_all(*name).iter().map(|value| value.to_str().unwrap()).collect();
                    assert_eq!(all.join(", "), *wanted, "{name}: {told}");
                }
                if row.backend.is_empty() {
                    continue;
                }
                let saw = reply.json();
                for (name, wanted) in row.seen {
                    let is = match *name {
                        "path" | "host" | "method" => &saw[*name],
                        name => &saw["headers"][name],
                    };
                    assert_eq!(is.as_str().unwrap_or_default(), *wanted, "{name}: {told}");
                }
            }
        }
    }
}

async fn send(client: &mut Client, row: &Row<'_>) -> Reply {
    let words: Vec<&str> = row.ask.split(' ').collect();
    let mut request = client.request_to(words[1], words[0], words[2]);
    for (name, value) in row.send {
        request = request.header(*name, *value);
    }
    client.send_empty(request).await
}

/// A rule to one backend; `more` stands before it, in flow style.
fn rule(more: &str, backend: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(
        "  - {{ {more}{comma}backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {backend} }}] }}\n"
    )
}

/// A route of the gateway `edge` that serves these hosts, in flow style; all of them where empty.
fn route_at(name: &str, hosts: &str, rules: &str) -> String {
    let route = policies::route(name, rules);
    if hosts.is_empty() {
        return route;
    }
    route.replacen("  rules:", &format!("  hostnames: [{hosts}]\n  rules:"), 1)
}
