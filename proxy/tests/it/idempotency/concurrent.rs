//! Many requests with one key at once: one reaches the upstream.

use http::Response;
use tokio::sync::mpsc;

use super::{once, order, replayed, start};
use crate::support::client::{Client, Reply};
use crate::support::gate::Gate;
use crate::support::process::Foregate;
use crate::support::upstream::{Upstream, fed};
use crate::support::within;

/// Sends the same request so often on each of so many connections; replies come as they arrive.
fn storm(gateway: &Foregate, http2: bool, connections: usize, each: usize) -> mpsc::UnboundedReceiver<Reply> {
    let (sender, replies) = mpsc::unbounded_channel();
    let address = gateway.address("edge/http");
    for _ in 0..connections {
        let sender = sender.clone();
        tokio::spawn(async move {
            if http2 {
                let client = Client::http2(address).await;
                let client = std::sync::Arc::new(tokio::sync::Mutex::new(client));
                for _ in 0..each {
                    let (client, sender) = (client.clone(), sender.clone());
                    tokio::spawn(async move {
                        let mut client = client.lock().await.another();
                        let _ = sender.send(client.send(order(&client, "k", "{}")).await);
                    });
                }
                return;
            }
            let mut client = Client::http1(address).await;
            for _ in 0..each {
                let _ = sender.send(client.send(order(&client, "k", "{}")).await);
            }
        });
    }
    replies
}

async fn next(replies: &mut mpsc::UnboundedReceiver<Reply>) -> Reply {
    within("a reply", replies.recv()).await.unwrap()
}

#[tokio::test]
async fn of_many_at_once_one_reaches_the_upstream_and_the_rest_are_told_to_come_again() {
    for (http2, connections, each) in [(false, 100, 1), (true, 5, 40)] {
        let gate = Gate::closed();
        let upstream = gate.upstream(201, "made").await;
        let (gateway, mut client) = start(&upstream, &once("")).await;
        let mut replies = storm(&gateway, http2, connections, each);
        // All but the first: it is held up, and the others know nothing of its answer.
        for _ in 1..connections * each {
            let reply = next(&mut replies).await;
            assert_eq!((reply.status, reply.reason().as_str()), (409, "IdempotencyConflict"));
            assert_eq!(reply.header("retry-after"), "1");
        }
        gate.open();
        let first = next(&mut replies).await;
        assert_eq!((first.status, first.text().as_str(), replayed(&first)), (201, "made", false));
        assert!(replayed(&client.send(order(&client, "k", "{}")).await));
        assert_eq!(upstream.received().len(), 1);
    }
}

#[tokio::test]
async fn where_the_policy_says_so_repeats_wait_for_the_first_answer() {
    for (http2, connections, each) in [(false, 60, 1), (true, 3, 40)] {
        let gate = Gate::closed();
        let upstream = gate.upstream(201, "made").await;
        let (gateway, _) = start(&upstream, &once(", concurrent: Wait")).await;
        let mut replies = storm(&gateway, http2, connections, each);
        upstream.wait_received(1).await;
        #[expect(clippy::cast_precision_loss, reason = "a hundred is exact")]
        let all = (connections * each) as f64;
        gateway.wait_sample("http_server_active_requests", |waiting| (waiting - all).abs() < 0.5).await;
        gate.open();
        let mut firsts = 0;
        for _ in 0..connections * each {
            let reply = next(&mut replies).await;
            assert_eq!((reply.status, reply.text().as_str()), (201, "made"));
            firsts += usize::from(!replayed(&reply));
        }
        assert_eq!((firsts, upstream.received().len()), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_passes_by_while_it_is_kept() {
    let (feed, body) = fed();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
    .await;
    let (_gateway, mut client) = start(&upstream, &once("")).await;
    let response = client.exchange(order(&client, "k", "{}")).await.unwrap();
    feed.data("one ").await;
    let mut body = response.into_body();
    let piece = within("the first piece", http_body_util::BodyExt::frame(&mut body)).await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "one ", "while the upstream still speaks");
    feed.data("two").await;
    drop(feed);
    let rest = within("the rest", http_body_util::BodyExt::collect(body)).await.unwrap().to_bytes();
    assert_eq!(rest, "two");
    let again = client.send(order(&client, "k", "{}")).await;
    assert_eq!((again.text().as_str(), replayed(&again)), ("one two", true));
}
