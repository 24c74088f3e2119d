//! A new process takes over under load: no request fails, nothing closes unannounced.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foregate::handover::talk::{self, Answer};
use foregate::handover::wire;
use tokio::task::JoinSet;

use crate::support::client::{Client, Reply, connect};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Upstream, empty};
use crate::support::within;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Clients that send one request after the other, and what became of them.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<Result<(), String>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut all = JoinSet::new();
        for number in 0..clients {
            all.spawn(client(address, number % 2 == 1, Arc::clone(&stop), Arc::clone(&answered)));
        }
        Self { stop, answered, clients: all }
    }

    async fn wait_more(&self, more: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + more;
        within("more answers", async {
            while self.answered.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Every fault of every client.
    async fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut faults = Vec::new();
        while let Some(outcome) = within("the clients", self.clients.join_next()).await {
            faults.extend(outcome.unwrap().err());
        }
        faults
    }
}

/// Connects anew only where the other side has said that it closes.
async fn client(
    address: SocketAddr,
    http2: bool,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Result<(), String> {
    while !stop.load(Ordering::SeqCst) {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        loop {
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            // After GOAWAY the connection takes nothing more, and says so before anything is sent.
            if http2 && !client.ready().await {
                break;
            }
            let request = client.request("GET", "/").body(empty()).unwrap();
            let reply = match client.exchange(request).await {
                Ok(reply) => reply,
                // Not sent, or named by GOAWAY as not looked at (RFC 9113, section 6.8): sent anew.
                Err(error) if http2 && told_to_go(&error) => break,
                Err(error) => return Err(format!("http2 {http2}: {error:?}")),
            };
            let reply = Reply::read(reply).await.map_err(|error| format!("http2 {http2}: {error:?}"))?;
            if reply.status != 200 {
                return Err(format!("http2 {http2}: {}", reply.status));
            }
            let closes = reply.header("connection") == "close";
            answered.fetch_add(1, Ordering::SeqCst);
            if closes {
                break;
            }
        }
    }
    Ok(())
}

fn told_to_go(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || format!("{error:?}").contains("GoAway(b\"\", NO_ERROR")
}

fn handover(socket: &std::path::Path) -> Options {
    let socket = socket.to_str().unwrap();
    Options::default().args(&["--upgrade-socket", socket, "--drain-timeout", "25s", "--drain-notice", "2s"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_over_and_no_request_fails() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let policies = policies::plain(upstream.address);
    let mut old = Foregate::start(&policies, handover(&socket)).await;
    let (address, admin) = (old.address("edge/http"), old.admin());
    let mode = std::fs::metadata(&socket).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600, "for this user alone");
    let load = Load::start(address, 8);
    load.wait_more(200).await;
    for _ in 0..2 {
        let options = handover(&socket).args(&["--upgrade"]);
        let new = Foregate::start(&policies, options).await;
        assert_eq!((new.address("edge/http"), new.admin()), (address, admin), "the very same sockets");
        new.event("took over").await;
        old.event("handed over").await;
        load.wait_more(200).await;
        let ended = old.event("drain ended").await;
        assert_eq!(ended["complete"], true, "{ended}");
        assert!(old.exit().await.success());
        load.wait_more(200).await;
        old = new;
    }
    let faults = load.end().await;
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(old.admin_page("/readyz").await.0, 200);
    old.terminate();
    assert!(old.exit().await.success());
    assert!(!socket.exists(), "the last process takes the socket with it");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody holds the port open");
}

#[tokio::test]
async fn where_the_new_process_cannot_start_the_old_one_goes_on() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let policies = policies::plain(upstream.address);
    let old = Foregate::start(&policies, handover(&socket)).await;
    let mut client = Client::http1(old.address("edge/http")).await;
    assert_eq!(client.get("/").await.status, 200);
    // Policies that are refused: nobody was asked for anything.
    let bad = policies.replace("backendRefs", "backendRef");
    let (status, _) = Foregate::refused(&bad, handover(&socket).args(&["--upgrade"])).await;
    assert_eq!(status.code(), Some(3));
    // A port that somebody else has: the sockets were given already, and nothing was accepted on them.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = policies.replace(
        "{ name: http, protocol: HTTP, port: 8080 }",
        &format!(
            "{{ name: http, protocol: HTTP, port: 8080 }}\n  - {{ name: more, protocol: HTTP, port: {} }}",
            taken.local_addr().unwrap().port()
        ),
    );
    let bind = format!("edge/more={}", taken.local_addr().unwrap());
    let options = handover(&socket).args(&["--upgrade", "--bind", &bind]);
    let (status, told) = Foregate::refused(&more, options).await;
    assert_eq!(status.code(), Some(1), "{told}");
    old.event("sockets given").await;
    old.event("handover failed").await;
    // The old one serves on, on old connections and new ones, and can still be relieved.
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, ""));
    assert_eq!(Client::http1(old.address("edge/http")).await.get("/").await.status, 200);
    assert_eq!(old.admin_page("/readyz").await.0, 200);
    let new = Foregate::start(&policies, handover(&socket).args(&["--upgrade"])).await;
    assert_eq!(new.address("edge/http"), old.address("edge/http"));
}

#[tokio::test]
async fn a_new_process_that_is_late_does_not_serve_and_the_old_one_does() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let policies = policies::plain(upstream.address);
    let old = Foregate::start(&policies, handover(&socket).args(&["--upgrade-timeout", "1s"])).await;
    // One that takes the sockets and is not heard of again in time.
    let path = socket.clone();
    let taken = tokio::task::spawn_blocking(move || talk::take(&path, PATIENCE)).await.unwrap();
    let (mut slow, sockets) = taken.unwrap();
    old.event("sockets given").await;
    let failed = old.event("handover failed").await;
    assert_eq!(failed["error"], "the other process is late", "{failed}");
    assert_eq!(Client::http1(old.address("edge/http")).await.get("/").await.status, 200);
    let answer = tokio::task::spawn_blocking(move || talk::ready(&mut slow)).await.unwrap();
    assert_eq!(answer.unwrap(), Answer::Late, "and it is told so when it is");
    drop(sockets);
    let mut old = old;
    let new = Foregate::start(&policies, handover(&socket).args(&["--upgrade"])).await;
    assert!(old.exit().await.success());
    assert_eq!(Client::http1(new.address("edge/http")).await.get("/").await.status, 200);
}

/// An old process that gives nothing, and whose last word this is.
fn predecessor(socket: &Path, last: Option<&'static str>) -> std::thread::JoinHandle<Vec<String>> {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let hello = wire::receive(&mut stream).unwrap().name;
        wire::send(&mut stream, "end", None).unwrap();
        let said = vec![hello, wire::receive(&mut stream).unwrap().name];
        if let Some(last) = last {
            wire::send(&mut stream, last, None).unwrap();
            // Until the other side has gone.
            let _ = wire::receive(&mut stream);
        }
        said
    })
}

#[tokio::test]
async fn a_new_process_serves_only_where_the_old_one_lets_it_or_is_gone() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let policies = policies::plain(upstream.address);
    let socket = folder.path().join("late.sock");
    let old = predecessor(&socket, Some("late"));
    let (status, told) = Foregate::refused(&policies, handover(&socket).args(&["--upgrade"])).await;
    assert!(status.code() == Some(1) && told.contains("serves on"), "{told}");
    assert_eq!(old.join().unwrap()[1], "ready");
    assert!(socket.exists(), "it is that of the other process");

    let socket = folder.path().join("gone.sock");
    let old = predecessor(&socket, None);
    let new = Foregate::start(&policies, handover(&socket).args(&["--upgrade"])).await;
    new.event("the process before is gone").await;
    old.join().unwrap();
    assert_eq!(Client::http1(new.address("edge/http")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn two_processes_do_not_share_an_upgrade_socket_by_mistake() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let policies = policies::plain(upstream.address);
    let options = handover(&socket).args(&["--upgrade"]);
    let (status, told) = Foregate::refused(&policies, options).await;
    assert!(status.code() == Some(1) && told.contains("cannot take over"), "nobody is there: {told}");
    let first = Foregate::start(&policies, handover(&socket)).await;
    let (status, told) = Foregate::refused(&policies, handover(&socket)).await;
    assert!(status.code() == Some(1) && told.contains("--upgrade"), "{told}");
    // Whoever asks for something else is not answered, and does no harm.
    let mut stranger = tokio::net::UnixStream::connect(&socket).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stranger, b"\x05hello").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stranger, &mut rest).await;
    assert!(rest.is_empty());
    assert_eq!(Client::http1(first.address("edge/http")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn idle_connections_of_the_old_process_are_told_before_they_are_closed() {
    let upstream = Upstream::answering("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let policies = policies::plain(upstream.address);
    let mut old = Foregate::start(&policies, handover(&socket)).await;
    let address = old.address("edge/http");
    let mut idle = Client::http1(address).await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut silent = RawClient::connect(address).await;
    let new = Foregate::start(&policies, handover(&socket).args(&["--upgrade"])).await;
    old.event("drain started").await;
    // It belongs to the old process, which still serves it, and says that it closes.
    let reply = idle.get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    let _ = idle.ended().await;
    silent.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = silent.head().await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    drop(silent);
    assert!(old.exit().await.success());
    drop(connect(new.address("edge/http")).await);
}
