//! What passes between pods, and what is seen of it on the wire.

use crate::mesh::{Mesh, NAMES};
use crate::support::netns::{allowed, wire};
use crate::support::within;

const WEB: &str = "/ns/shop/sa/web";

/// True where these bytes are somewhere in those.
fn holds(all: &[u8], part: &str) -> bool {
    all.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Requests and connections of both families pass, and nothing of them can be read between the pods.
async fn is_plain_inside_and_secret_between(init: &[&str]) {
    let mesh = Mesh::start(WEB, init).await;
    let (_folder, file) = wire();
    let _ear = mesh.orders.resident(&["listen", "eth0", file.to_str().unwrap()]).await;
    for name in ["orders-4.test", "orders-6.test"] {
        let url = format!("http://{name}:8080/orders-in-the-clear");
        let body = format!("question-in-the-clear-of-{name}");
        let (status, reply) = mesh.web.curl(&[&NAMES[..], &["-d", &body, &url]].concat());
        assert_eq!(status, 200, "{reply}{}", mesh.calling.records.text());
        assert!(reply.contains("answer-in-the-clear") && reply.contains(&body), "{reply}");
        let record = mesh.serving.record("/orders-in-the-clear").await;
        assert!(record.contains("spiffe://example.org/ns/shop/sa/web"), "{record}");
    }
    for host in [mesh.orders.four, mesh.orders.six] {
        let said = mesh.web.talk(host, "2525", "line-in-the-clear");
        let said = said.unwrap_or_else(|| panic!("{host}: {}", mesh.calling.records.text()));
        assert_eq!(said["first"], "220 greeting-in-the-clear");
        assert_eq!(said["answer"], "250 line-in-the-clear");
    }
    // What passes past the sidecars is heard, so that the ear is known to hear.
    let (status, _) = mesh.web.curl_as_proxy(&["http://10.77.0.2:8080/unsealed"]);
    assert_eq!(status, 0, "nobody is served in the clear");
    let heard = within("the ear to hear what is not sealed", async {
        loop {
            let heard = std::fs::read(&file).unwrap();
            if holds(&heard, "GET /unsealed HTTP/1.1") {
                break heard;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!holds(&heard, "in-the-clear"), "something was sent in the clear");
    for hello in [&b"\x16\x03\x01"[..], &b"\x17\x03\x03"[..]] {
        assert!(heard.windows(hello.len()).filter(|bytes| *bytes == hello).count() >= 4, "no TLS was seen");
    }
}

#[tokio::test]
async fn what_pods_say_to_one_another_is_plain_inside_and_secret_between() {
    if allowed() {
        is_plain_inside_and_secret_between(&[]).await;
    }
}

#[tokio::test]
async fn rules_of_iptables_do_the_same() {
    if allowed() {
        is_plain_inside_and_secret_between(&["--backend", "iptables"]).await;
    }
}

#[tokio::test]
async fn an_address_of_a_service_means_its_upstream() {
    if !allowed() {
        return;
    }
    let mesh = Mesh::start(WEB, &[]).await;
    // Nobody has it: only the sidecar knows who is behind it. A way is needed for the kernel to begin.
    mesh.web.says("ip", "route add default via 10.77.0.2");
    let resolve = ["--resolve", "orders-4.test:8080:10.96.0.10"];
    let (status, reply) = mesh.web.curl(&[&resolve[..], &["http://orders-4.test:8080/a"]].concat());
    assert_eq!(status, 200, "{reply}{}", mesh.calling.records.text());
    // The same address with a port that no route of requests is for.
    let resolve = ["--resolve", "orders-4.test:80:10.96.0.10"];
    let (status, _) = mesh.web.curl(&[&resolve[..], &["http://orders-4.test/a"]].concat());
    assert_eq!(status, 0, "{}", mesh.calling.records.text());
    mesh.calling.decided(&mesh.web, "no upstream of a route has 10.96.0.10:80").await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_a_sidecar_ends() {
    if !allowed() {
        return;
    }
    let mut mesh = Mesh::start(WEB, &[]).await;
    let mut slow = mesh.web.command("curl");
    let slow = slow.args(["-sS", "-g", "--max-time", "25"]).args(NAMES).arg("http://orders-4.test:8080/slow");
    let slow = slow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    mesh.application.lines.wait("the slow request", |line| line["slow"] == true).await;
    mesh.serving.signal("TERM");
    mesh.serving.events.wait("the drain", |event| event["event.name"] == "drain started").await;
    // Past the sidecar, on loopback: the application may go on.
    assert_eq!(mesh.orders.curl(&["http://127.0.0.1:8080/go"]).0, 200);
    let reply = slow.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&reply.stdout);
    assert!(text.contains("\"/slow\""), "{text}{}", mesh.serving.records.text());
    assert!(mesh.serving.exit().await.success());
    mesh.calling.signal("TERM");
    assert!(mesh.calling.exit().await.success());
    // Without a sidecar there is no way in or out: nothing passes in the clear.
    assert_eq!(mesh.web.curl(&["http://10.77.0.2:8080/"]).0, 0);
}
