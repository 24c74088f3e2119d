//! Responses against the contract of the service.

use http::Response;

use crate::support::upstream::{Body, Received, Upstream, fed, full};
use crate::support::within;
use crate::validate::Checked;

fn spec(responses: &str) -> String {
    format!(
        "insecure: {{ anonymous: true }}
validate: {{ openapi: {{ file: crm.yaml, basePath: /{responses}, responses: {responses}, undeclaredQuery: continue }} }}"
    )
}

const GOOD: &str = r#"[{"LastName":"Okafor"}]"#;
const BAD: &str = r#"[{"LastName":""}]"#;

/// Answers as the query asks: `status`, then type, then body.
async fn answer(request: Received) -> Response<Body> {
    let (status, content_type, body) = match request.uri.query().unwrap_or_default() {
        "bad" => (200, "application/json", BAD.to_owned()),
        "status" => (500, "application/json", "{}".to_owned()),
        "type" => (200, "text/html", "<html>".to_owned()),
        "broken" => (200, "application/json", "[{".to_owned()),
        "large" => (200, "application/json", format!("[{}{{\"LastName\":\"x\"}}]", " ".repeat(5 << 20))),
        "refused" => (404, "application/problem+json", "no JSON".to_owned()),
        _ => (200, "application/json", GOOD.to_owned()),
    };
    let response = Response::builder().status(status).header("content-type", content_type);
    response.header("x-accept-encoding", request.header("accept-encoding")).body(full(body)).unwrap()
}

#[tokio::test]
async fn what_breaks_the_contract_is_told_in_audit_and_held_back_when_enforced() {
    let (audit, enforce, off) = (spec("audit"), spec("enforce"), spec("off"));
    let specs = [("audit", audit.as_str()), ("enforce", enforce.as_str()), ("off", off.as_str())];
    let mut checked = Checked::start(Upstream::start(answer).await, &specs).await;
    let accept = ("accept-encoding", "gzip, br");
    for (query, status, told) in [
        ("good", 200, ""),
        ("refused", 404, ""),
        ("bad", 200, "response /0/LastName minLength"),
        ("status", 500, "response status"),
        ("type", 200, "response contentType"),
        ("broken", 200, "response json"),
        ("large", 200, "more than 4194304 bytes are not held for a check"),
    ] {
        let off = checked.send("GET", &format!("/off/sobjects/Lead?{query}"), &[accept], "").await;
        let audit = checked.send("GET", &format!("/audit/sobjects/Lead?{query}"), &[accept], "").await;
        assert_eq!((audit.status, &audit.body), (status, &off.body), "{query}: audit changes nothing");
        assert_eq!(audit.header("x-accept-encoding"), "gzip, br");
        let record = checked.gateway.record(audit.decision()).await;
        let detail = record["foregate.audits"][0]["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!(detail.is_empty(), told.is_empty(), "{query}: {record}");
        assert!(detail.contains(told), "{query}: {detail}");
        let enforced = checked.send("GET", &format!("/enforce/sobjects/Lead?{query}"), &[accept], "").await;
        if told.is_empty() {
            assert_eq!((enforced.status, &enforced.body), (status, &off.body), "{query}");
            assert_eq!(enforced.header("x-accept-encoding"), "identity");
        } else {
            assert_eq!((enforced.status, enforced.reason().as_str()), (502, "ResponseInvalid"), "{query}");
            assert!(
                enforced.json().get("errors").is_none(),
                "what a service does wrong is not the caller's to know"
            );
            let record = checked.gateway.record(enforced.decision()).await.to_string();
            assert!(record.contains(told), "{record}");
        }
    }
    let head = checked.send("HEAD", "/enforce/sobjects/Lead?bad", &[], "").await;
    assert_eq!(head.status, 200, "a head has no body to look at");
}

#[tokio::test]
async fn in_audit_a_body_streams_as_it_comes() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::builder().header("content-type", "application/json").body(body).unwrap() }
    })
    .await;
    let mut checked = Checked::start(upstream, &[("audit", &spec("audit"))]).await;
    let request = checked.request("GET", "/audit/sobjects/Lead", &[], "");
    let mut response = checked.client.exchange(request).await.unwrap();
    assert!(feed.data(&b"[{"[..]).await);
    let frame =
        within("the first part", http_body_util::BodyExt::frame(&mut response)).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "[{", "nothing is held back");
    assert!(feed.data(&br#""LastName":""}]"#[..]).await);
    drop(feed);
    let decision = response.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
    let rest = crate::support::client::Reply::read(response).await.unwrap();
    assert_eq!(rest.body, &br#""LastName":""}]"#[..]);
    let record = checked.gateway.record(&decision).await;
    assert!(record.to_string().contains("response /0/LastName minLength"), "{record}");
}
