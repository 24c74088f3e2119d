//! Clients that others wrote, through the gateway: curl, h2load, a WebSocket and an SSE client.

use std::io::Write;

use http::Response;
use tokio::sync::mpsc;

use crate::support::command::program;
use crate::support::grpc::Peer;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, fed};
use crate::support::within;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
async fn h2load_is_served_over_both_versions_without_a_failure() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::to(upstream.address, ""), Options::default()).await;
    let url = format!("http://{}/", gateway.address("edge/http"));
    for version in [&["-m", "10"][..], &["--h1"]] {
        let args = [words(&["-n", "1000", "-c", "8"]), words(version), words(&[&url])].concat();
        let output = program("h2load", args).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
        assert!(text.contains("status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    }
    assert_eq!(upstream.received().len(), 2_000);
}

#[tokio::test]
async fn curl_uploads_what_is_larger_than_its_patience() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::to(upstream.address, ""), Options::default()).await;
    let url = format!("http://{}/upload", gateway.address("edge/http"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    // Above a mebibyte curl asks first (Expect: 100-continue).
    std::fs::File::create(&file).unwrap().write_all(&vec![b'x'; 2 << 20]).unwrap();
    let body = format!("@{}", file.display());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let args = ["-sS", version, "--data-binary", &body, "-w", " %{http_code} %{size_upload}", &url];
        let output = program("curl", words(&args)).await;
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told, format!("hello 200 {}", 2 << 20), "{version} {output:?}");
    }
    let received = upstream.received();
    assert!(received.iter().all(|request| request.body.len() == 2 << 20), "every byte arrived");
    assert_eq!(received.len(), 2);
}

#[tokio::test]
async fn a_websocket_client_and_server_of_others_agree_through_the_gateway() {
    let server = Peer::run("web_peer.py", &["echo"]);
    let told = server.lines.wait("the port of the echo", |line| line["port"].is_u64()).await;
    let port = u16::try_from(told["port"].as_u64().unwrap()).unwrap();
    let gateway = Foregate::start(&policies::to(format!("127.0.0.1:{port}"), ""), Options::default()).await;
    let url = format!("ws://{}/socket", gateway.address("edge/http"));
    let client = Peer::run("web_peer.py", &["socket", &url]);
    let told = client.lines.wait("what came back", |line| line["same"].is_array()).await;
    assert!(told["same"].as_array().unwrap().iter().all(|same| same == true), "{told}");
    assert_eq!((&told["code"], &told["compressed"]), (&1000.into(), &true.into()), "{told}");
}

#[tokio::test]
async fn an_sse_client_gets_each_event_when_it_is_sent() {
    let (sender, mut feeds) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_| {
        let (feed, body) = fed();
        sender.send(feed).unwrap();
        async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let gateway = Foregate::start(&policies::to(upstream.address, ""), Options::default()).await;
    let client = Peer::run(
        "web_peer.py",
        &["events", &format!("http://{}/events", gateway.address("edge/http")), "3"],
    );
    let feed = within("the request", feeds.recv()).await.unwrap();
    for number in 1..=3 {
        // The next is sent when this one has come: nothing holds an event back.
        assert!(feed.data(format!("id: {number}\nevent: lead\ndata: {{\"n\":\ndata: {number}}}\n\n")).await);
        let id = number.to_string();
        let event = client.lines.wait("the event", |line| line["id"] == id.as_str()).await;
        assert_eq!(
            (&event["event"], &event["data"]),
            (&"lead".into(), &format!("{{\"n\":\n{number}}}").into())
        );
    }
    feed.dropped().await;
}
