//! Endpoints from DNS and from files: found, changed, lost.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use http::Response;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::name_server::{NameServer, Said};
use super::{documents, shown};
use crate::support::client::Client;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, empty, full};
use crate::support::within;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn dns(server: &NameServer, more: &str) -> String {
    format!("dns: {{ server: \"{}\", minTtl: 1s{more} }}", server.address)
}

/// The same port on two addresses of loopback.
async fn two_on_one_port() -> (Upstream, SocketAddr) {
    let first = Upstream::answering("first").await;
    let second = SocketAddr::from(([127, 0, 0, 2], first.address.port()));
    (first, second)
}

async fn wait_addresses(gateway: &Foregate, wanted: &[SocketAddr]) {
    let wanted: HashSet<String> = wanted.iter().map(ToString::to_string).collect();
    let fits = async {
        loop {
            let seen = shown(gateway).await;
            let seen: HashSet<String> =
                seen.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect();
            if seen == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(&format!("endpoints {wanted:?}"), fits).await;
}

#[tokio::test]
async fn a_name_follows_its_addresses() {
    let server = NameServer::start().await;
    let (first, second) = two_on_one_port().await;
    let name = "crm.example.com";
    server.say(name, Said::Addresses(vec![LOCAL]));
    let spec = format!("endpoints: [\"{name}:{}\"], {}", first.address.port(), dns(&server, ""));
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "first");
    server.say(name, Said::Addresses(vec![LOCAL, Ipv4Addr::new(127, 0, 0, 2)]));
    wait_addresses(&gateway, &[first.address, second]).await;
    server.say(name, Said::Addresses(vec![Ipv4Addr::new(127, 0, 0, 2)]));
    wait_addresses(&gateway, &[second]).await;
    // The kept connection to the address that is gone serves nobody any more; nobody listens on the other one.
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (503, "UpstreamUnreachable"));
}

#[tokio::test]
async fn the_last_answer_is_used_while_dns_fails_and_within_a_bound() {
    let server = NameServer::start().await;
    let upstream = Upstream::answering("crm").await;
    let name = "crm.example.com";
    server.say(name, Said::Addresses(vec![LOCAL]));
    let spec = |more| format!("endpoints: [\"{name}:{}\"], {}", upstream.address.port(), dns(&server, more));
    let gateway = Foregate::start(&documents("", &spec("")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "crm");
    server.fail(true);
    let event = gateway.event("resolution failed").await;
    assert_eq!((event["upstream"].as_str(), event["endpoints"].as_u64()), (Some("crm"), Some(1)));
    assert_eq!(client.get("/").await.text(), "crm");
    // A new document begins with what the old one knew, and with a bound that is soon reached.
    gateway.publish(&documents("", &spec(", maxStale: 1s"))).await;
    let lost = |event: &serde_json::Value| {
        event["event.name"] == "resolution failed" && event["endpoints"].as_u64() == Some(0)
    };
    gateway.events().wait("the answer to be given up", lost).await;
    wait_addresses(&gateway, &[]).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (503, "UpstreamUnreachable"));
    server.fail(false);
    wait_addresses(&gateway, &[upstream.address]).await;
    assert_eq!(client.get("/").await.text(), "crm");
    assert!(server.questions() > 3);
}

#[tokio::test]
async fn a_name_that_is_not_answered_holds_up_no_other() {
    let server = NameServer::start().await;
    let (first, second) = two_on_one_port().await;
    let (slow, quick) = ("slow.example.com", "quick.example.com");
    server.say(slow, Said::Addresses(vec![Ipv4Addr::new(127, 0, 0, 3)]));
    server.say(quick, Said::Addresses(vec![LOCAL]));
    // Of one upstream, and of two.
    let port = first.address.port();
    let spec = format!("endpoints: [\"{slow}:{port}\", \"{quick}:{port}\"], {}", dns(&server, ""));
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let others = SocketAddr::from(([127, 0, 0, 3], port));
    wait_addresses(&gateway, &[others, first.address]).await;
    server.keep_silent(slow);
    server.asked_again(slow, 1).await;
    let failed = || {
        let events = gateway.events().all();
        events.iter().filter(|event| event["event.name"] == "resolution failed").count()
    };
    assert_eq!(failed(), 0);
    server.say(quick, Said::Addresses(vec![Ipv4Addr::new(127, 0, 0, 2)]));
    wait_addresses(&gateway, &[others, second]).await;
    assert_eq!(failed(), 0, "the other name is waited for still");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_503() {
    let server = NameServer::start().await;
    let spec = format!("endpoints: [\"nobody.example.com:80\"], {}", dns(&server, ""));
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (503, "UpstreamUnreachable"));
}

#[tokio::test]
async fn services_bring_ports_weights_and_priorities() {
    let server = NameServer::start().await;
    let (one, three) = (Upstream::answering("one").await, Upstream::answering("three").await);
    let spare = Upstream::answering("spare").await;
    let service = "_http._tcp.crm.example.com";
    for target in ["a.example.com", "b.example.com"] {
        server.say(target, Said::Addresses(vec![LOCAL]));
    }
    let record = |priority, weight, upstream: &Upstream, target: &str| {
        (priority, weight, upstream.address.port(), target.to_owned())
    };
    let records = vec![
        record(10, 1, &one, "a.example.com"),
        record(10, 3, &three, "b.example.com"),
        record(20, 1, &spare, "a.example.com"),
    ];
    server.say(service, Said::Services(records));
    let spec = format!(
        "endpoints: [{{ srv: {service} }}], loadBalancing: {{ policy: RoundRobin }}, {}",
        dns(&server, "")
    );
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..40 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let counts = [&one, &three, &spare].map(|upstream| upstream.received().len());
    assert_eq!(counts, [10, 30, 0]);
    server.say(service, Said::Services(vec![record(20, 1, &spare, "a.example.com")]));
    wait_addresses(&gateway, &[spare.address]).await;
    assert_eq!(client.get("/").await.text(), "spare");
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (one, two) = (Upstream::answering("one").await, Upstream::answering("two").await);
    let file = |address: SocketAddr| format!("endpoints: [{{ address: \"{address}\", weight: 2 }}]\n");
    let options = Options::default().file("found/crm.endpoints", file(one.address));
    let gateway = Foregate::start(&documents("", "endpointsFile: found/crm.endpoints"), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "one");
    gateway.write("found/crm.endpoints", "endpoints: [nonsense]\n");
    let event = gateway.event("resolution failed").await;
    assert!(event["error"].as_str().unwrap().contains("`nonsense` is not address:port"), "{event}");
    assert_eq!(client.get("/").await.text(), "one");
    gateway.write("found/crm.endpoints", file(two.address));
    wait_addresses(&gateway, &[two.address]).await;
    assert_eq!(client.get("/").await.text(), "two");
}

#[tokio::test]
async fn a_file_that_is_unfit_at_the_start_is_refused() {
    let options = Options::default().file("crm.endpoints", "endpoints: [\"crm.example.com:80\"]\n");
    let (status, told) = Foregate::refused(&documents("", "endpointsFile: crm.endpoints"), options).await;
    assert_eq!(status.code(), Some(3));
    assert!(told.contains("FG0631") && told.contains("is a name"), "{told}");
}

#[tokio::test]
async fn a_new_document_keeps_what_is_known_of_its_endpoints() {
    let (bad, good) = (
        Upstream::start(|_| async { http::Response::builder().status(500).body(full("")).unwrap() }).await,
        Upstream::answering("good").await,
    );
    let spec = |more| {
        format!(
            "{}, loadBalancing: {{ policy: RoundRobin }}{more}",
            super::endpoints(&[bad.address, good.address])
        )
    };
    let gateway = Foregate::start(&documents("", &spec("")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    super::ask_until(&gateway, &mut client, bad.address, "ejected").await;
    let before = bad.received().len();
    gateway.publish(&documents("", &spec(", timeouts: { connect: 1s }"))).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert_eq!(bad.received().len(), before);
}

/// Answers everything, and tells of every connection that has ended.
async fn telling(http2: bool) -> (Upstream, mpsc::UnboundedReceiver<()>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = Upstream::raw(move |stream, _| {
        let tell = tell.clone();
        async move {
            let answer = service_fn(|_| async { Ok::<_, hyper::Error>(Response::new(empty())) });
            let stream = TokioIo::new(stream);
            let _ = if http2 {
                http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await
            } else {
                http1::Builder::new().serve_connection(stream, answer).await
            };
            let _ = tell.send(());
        }
    })
    .await;
    (upstream, told)
}

#[tokio::test]
async fn connections_to_an_endpoint_that_leaves_are_closed_at_once() {
    for (http2, protocol) in [(false, "Http1"), (true, "Http2")] {
        let (leaves, mut closed) = telling(http2).await;
        let (stays, mut kept) = telling(http2).await;
        let file = |addresses: &[SocketAddr]| super::endpoints(addresses) + "\n";
        let options = Options::default().file("found/crm.endpoints", file(&[leaves.address, stays.address]));
        let spec = format!(
            "endpointsFile: found/crm.endpoints, protocol: {protocol}, timeouts: {{ idle: 1h }}, \
             loadBalancing: {{ policy: RoundRobin }}"
        );
        let gateway = Foregate::start(&documents("", &spec), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!((leaves.connections(), stays.connections()), (1, 1));
        gateway.write("found/crm.endpoints", file(&[stays.address]));
        // No request comes that would have its thread look.
        within("the connection to be closed", closed.recv()).await.unwrap();
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(stays.connections(), 1, "what stays serves on");
        assert!(kept.try_recv().is_err());
        // The same where the whole upstream is another.
        gateway.publish(&documents("", &format!("{spec}, maxIdlePerThread: 7"))).await;
        within("the other connection to be closed", kept.recv()).await.unwrap();
    }
}
