//! Outbound messages and events of Salesforce: delivered at least once, taken once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Response;

use super::{replayed, start};
use crate::support::client::{Client, Reply};
use crate::support::upstream::{Received, Upstream, full};

fn message(session: &str, ids: &[&str]) -> String {
    let one = |id: &&str| {
        format!(
            "<Notification><Id>{id}</Id><sObject xsi:type=\"sf:Lead\" xmlns:sf=\"urn:sobject.enterprise.soap.sforce.com\"><sf:Id>00Q5e000001AbCdEAK</sf:Id></sObject></Notification>"
        )
    };
    let notifications: String = ids.iter().map(one).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body><notifications xmlns=\"http://soap.sforce.com/2005/09/outbound\"><OrganizationId>00D5e000000AbCdEAK</OrganizationId><ActionId>04k5e0000004C92AAE</ActionId><SessionId>{session}</SessionId>{notifications}</notifications></soapenv:Body></soapenv:Envelope>"
    )
}

const ACK: &str = "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body><notificationsResponse xmlns=\"http://soap.sforce.com/2005/09/outbound\"><Ack>true</Ack></notificationsResponse></soapenv:Body></soapenv:Envelope>";

/// A listener for outbound messages, which takes none with this id.
async fn listener(refuses: &'static str) -> Upstream {
    Upstream::start(move |request: Received| async move {
        let taken = !String::from_utf8_lossy(&request.body).contains(refuses);
        let ack = if taken { ACK.to_owned() } else { ACK.replace("true", "false") };
        Response::builder().header("content-type", "text/xml; charset=utf-8").body(full(ack)).unwrap()
    })
    .await
}

async fn deliver(client: &mut Client, session: &str, ids: &[&str]) -> Reply {
    let request = client.request("POST", "/om").header("content-type", "text/xml; charset=UTF-8");
    client.send(request.body(full(message(session, ids))).unwrap()).await
}

const POLICY: &str = "insecure: { anonymous: true }\nidempotency: { key: { salesforce: Notification }, scope: '\"outbound\"' }\n";
const A: &str = "04l5e0000009abcAAA";
const B: &str = "04l5e0000009abdAAA";
const C: &str = "04l5e0000009abeAAA";

#[tokio::test]
async fn a_notification_that_comes_again_gets_the_kept_ack_to_the_byte() {
    let upstream = listener("nothing of the kind").await;
    let (_gateway, mut client) = start(&upstream, POLICY).await;
    let first = deliver(&mut client, "one", &[A, B]).await;
    assert_eq!((first.status, first.text().as_str()), (200, ACK));
    // Another session, another order, fewer of them: the same notifications.
    for ids in [&[A, B][..], &[B, A], &[B]] {
        let again = deliver(&mut client, "two", ids).await;
        assert_eq!((again.status, again.text().as_str(), replayed(&again)), (200, ACK, true), "{ids:?}");
        assert_eq!(again.header("content-type"), "text/xml; charset=utf-8");
    }
    assert_eq!(upstream.received().len(), 1);
    let mixed = deliver(&mut client, "three", &[A, C]).await;
    assert_eq!((mixed.text().as_str(), replayed(&mixed)), (ACK, false));
    let passed = upstream.last();
    assert_eq!(passed.body, message("three", &[C]), "what was taken before is taken out");
    assert_eq!(passed.header("content-length"), passed.body.len().to_string());
    assert!(replayed(&deliver(&mut client, "four", &[C, B, A]).await));
}

#[tokio::test]
async fn what_was_not_acknowledged_is_delivered_again() {
    let upstream = listener(B).await;
    let (_gateway, mut client) = start(&upstream, POLICY).await;
    for count in 1..=2 {
        let reply = deliver(&mut client, "one", &[B]).await;
        assert!(reply.text().contains("<Ack>false</Ack>") && !replayed(&reply));
        assert_eq!(upstream.received().len(), count);
    }
    let wrong = client.post("/om", "<a/>").await;
    assert_eq!((wrong.status, wrong.reason().as_str()), (400, "IdempotencyKeyInvalid"));
}

#[tokio::test]
async fn what_had_no_answer_is_delivered_again() {
    let (first, calls) = (AtomicBool::new(true), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let upstream = Upstream::start(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let breaks_off = first.swap(false, Ordering::Relaxed);
        async move {
            assert!(!breaks_off, "broken off by the test");
            Response::builder().header("content-type", "text/xml; charset=utf-8").body(full(ACK)).unwrap()
        }
    })
    .await;
    let (_gateway, mut client) = start(&upstream, POLICY).await;
    assert_eq!(deliver(&mut client, "one", &[A]).await.status, 502);
    let again = deliver(&mut client, "two", &[A]).await;
    assert_eq!((again.text().as_str(), replayed(&again)), (ACK, false));
    assert!(replayed(&deliver(&mut client, "three", &[A]).await));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_event_that_comes_again_is_known_by_its_uuid() {
    let upstream = Upstream::answering("taken").await;
    let policy = "insecure: { anonymous: true }\nidempotency: { key: { salesforce: EventUuid }, scope: '\"events\"', required: false }\n";
    let (_gateway, mut client) = start(&upstream, policy).await;
    let event = |replay: u32| {
        format!(
            "{{\"schema\":\"x\",\"payload\":{{\"a\":1}},\"event\":{{\"EventUuid\":\"a2bca1a6-3d3a-4c1a-9d0e-1f2a3b4c5d6e\",\"replayId\":{replay}}}}}"
        )
    };
    assert!(!replayed(&client.post("/events", event(1)).await));
    assert!(replayed(&client.post("/events", event(2)).await));
    assert!(!replayed(&client.post("/events", "{}").await), "what has no name may come again");
    assert!(!replayed(&client.post("/events", "{}").await));
    assert_eq!(upstream.received().len(), 3);
}
