//! gRPC with grpcio on both sides: calls of every kind, deadlines, statuses of refusals, health.

use std::time::Duration;

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::client::{Client, Reply};
use crate::support::grpc::{GrpcClient, GrpcServer};
use crate::support::otlp::Collector;
use crate::support::process::{Foregate, Options, served};
use crate::support::upstream::{Speak, Upstream, empty, fed};
use crate::support::{policies, unused_address, within};

const LEADS: &str = "backendRefs: [{ group: foregate.dev, kind: Upstream, name: leads }]";

/// A gateway that takes all calls to the server; with further documents.
async fn serving(server: &GrpcServer, rules: &str, more: &str) -> Foregate {
    let documents = [
        policies::GATEWAY,
        &policies::grpc_route("calls", rules),
        &policies::upstream("leads", server.address, "protocol: Http2"),
        more,
    ];
    Foregate::start(&documents.concat(), Options::default()).await
}

#[tokio::test]
async fn calls_of_every_kind_pass_with_metadata_trailers_and_status() {
    let server = GrpcServer::start().await;
    let gateway = serving(&server, &format!("  - {LEADS}"), "").await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));

    let told = client.unary("Get", "7", &[("x-tenant", "blue")]).await;
    assert_eq!((&told["code"], &told["replies"]), (&json!("OK"), &json!(["got 7"])), "{told}");
    assert_eq!((&told["initial"]["x-initial"], &told["trailing"]["x-trailing"]), (&json!("1"), &json!("2")));
    assert!(told["initial"]["x-foregate-decision"].is_string(), "{told}");
    let seen = server.saw("Get", "answered").await;
    assert_eq!((&seen["metadata"]["x-tenant"], &seen["left"]), (&json!("blue"), &Value::Null), "{seen}");

    for (method, kind, messages, replies) in [
        ("List", "stream", json!(["3"]), json!(["0", "1", "2"])),
        ("List", "stream", json!(["0"]), json!([])),
        ("Collect", "collect", json!(["a", "b", "c"]), json!(["a+b+c"])),
        ("Chat", "chat", json!(["a", "b", "c"]), json!(["A", "B", "C"])),
    ] {
        let call = json!({ "method": format!("/crm.v1.Leads/{method}"), "kind": kind, "messages": messages });
        let told = client.call(call).await;
        assert_eq!((&told["code"], &told["replies"]), (&json!("OK"), &replies), "{method}: {told}");
    }

    let told = client.unary("Fail", "7", &[]).await;
    assert_eq!((&told["code"], &told["details"]), (&json!("NOT_FOUND"), &json!("no lead: é %")), "{told}");
    assert_eq!(told["trailing"]["x-trailing"], "3", "{told}");
}

#[tokio::test]
async fn rules_choose_by_service_method_and_metadata() {
    let (leads, others) = (GrpcServer::start().await, GrpcServer::start().await);
    let rules = format!(
        "  - matches: [{{ method: {{ service: crm.v1.Leads }} }}]
    {LEADS}
  - matches:
    - {{ method: {{ service: crm.v1.Leads, method: Get }}, headers: [{{ name: x-tenant, value: blue }}] }}
    - {{ method: {{ type: RegularExpression, service: 'crm[.]v[0-9]+[.]Acc.*', method: 'G.t' }} }}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{ set: [{{ name: x-routed, value: other }}] }}
    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: others }}]"
    );
    let more = policies::upstream("others", others.address, "protocol: Http2");
    let gateway = serving(&leads, &rules, &more).await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));
    for (method, tenant, code, by_others) in [
        ("/crm.v1.Leads/Get", "red", "OK", false),
        ("/crm.v1.Leads/Get", "blue", "OK", true),
        ("/crm.v1.Accounts/Get", "red", "OK", true),
        ("/crm.v1.Leads/Nothing", "red", "UNIMPLEMENTED", false),
        // No rule: the gateway says so itself.
        ("/crm.v1.Accounts/Put", "red", "NOT_FOUND", false),
        ("/crm.v2.Leads/Get", "red", "NOT_FOUND", false),
    ] {
        let before = others.count();
        let call = json!({
            "method": method, "kind": "unary", "messages": ["1"], "metadata": [["x-tenant", tenant]],
        });
        let told = client.call(call).await;
        assert_eq!(told["code"], code, "{method} {tenant}: {told}");
        others.calls(before + usize::from(by_others)).await;
        assert_eq!(others.count(), before + usize::from(by_others), "{method} {tenant}");
    }
    assert_eq!(others.calls(1).await[0]["metadata"]["x-routed"], "other");
}

#[tokio::test]
async fn deadlines_are_passed_on_enforced_and_bounded_by_the_route() {
    let server = GrpcServer::start().await;
    // An HTTPRoute, for it can say how long: calls may go through either.
    let http = policies::route("timed", &format!("  - timeouts: {{ request: 900ms }}\n    {LEADS}"));
    let documents = [
        policies::GATEWAY,
        &http.replace("  rules:", "  hostnames: [timed.test]\n  rules:"),
        &policies::grpc_route("calls", &format!("  - {LEADS}"))
            .replace("  rules:", "  hostnames: [calls.test]\n  rules:"),
        &policies::upstream("leads", server.address, "protocol: Http2"),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));
    let call = |host: &str, method: &str, kind: &str, timeout: Option<f64>| {
        let method = format!("/crm.v1.Leads/{method}");
        json!({ "method": method, "kind": kind, "messages": ["1"], "timeout": timeout, "host": host })
    };

    let told = client.call(call("calls.test", "Get", "unary", Some(20.0))).await;
    assert_eq!(told["code"], "OK", "{told}");
    let left = server.saw("Get", "answered").await["left"].as_f64().unwrap();
    assert!((10.0..20.0).contains(&left), "{left}");

    // The caller gives more than the route does. Whether the server or the gateway says so first is open.
    let told = client.call(call("timed.test", "Wait", "unary", Some(20.0))).await;
    assert_eq!(told["code"], "DEADLINE_EXCEEDED", "{told}");
    let left = server.saw("Wait", "begun").await["left"].as_f64().unwrap();
    assert!(left < 0.9, "{left}");
    server.saw("Wait", "cancelled").await;

    // The same once an answer has begun, and where the caller names no time.
    let told = client.call(call("timed.test", "Stall", "stream", None)).await;
    assert_eq!((&told["code"], &told["replies"]), (&json!("DEADLINE_EXCEEDED"), &json!(["first"])), "{told}");
    server.saw("Stall", "cancelled").await;

    // A caller that gives up is followed by its upstream.
    let told = client.call(call("calls.test", "Stall", "stream", Some(0.3))).await;
    assert_eq!((&told["code"], &told["replies"]), (&json!("DEADLINE_EXCEEDED"), &json!(["first"])), "{told}");
}

#[tokio::test]
async fn a_call_is_ended_here_where_its_upstream_knows_no_deadline() {
    let upstream = Upstream::speaking(Speak::Http2, |received| async move {
        if received.uri.path().ends_with("/Wait") {
            std::future::pending::<()>().await;
        }
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.data("first").await;
            feed.dropped().await;
        });
        Response::new(body)
    })
    .await;
    let documents = [
        policies::GATEWAY,
        &policies::grpc_route("calls", &format!("  - {LEADS}")),
        &policies::upstream("leads", upstream.address, "protocol: Http2"),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    for method in ["Wait", "Stall"] {
        let request = client.request("POST", &format!("/crm.v1.Leads/{method}"));
        let request = request.header("content-type", "application/grpc").header("grpc-timeout", "300m");
        let reply = client.send_empty(request).await;
        let ended = if method == "Wait" { &reply.headers } else { reply.trailers.as_ref().unwrap() };
        assert_eq!((reply.status, &ended["grpc-status"]), (200, &"4".parse().unwrap()), "{reply:?}");
        assert_eq!(ended["grpc-message"], "DeadlineExceeded: The deadline of the call has passed.");
        assert_eq!(reply.body, if method == "Wait" { "" } else { "first" });
        let passed_on = upstream.last().header("grpc-timeout").to_owned();
        let left: u64 = passed_on.strip_suffix('u').unwrap_or(&passed_on).parse().unwrap();
        assert!((1..300_000).contains(&left), "{passed_on}");
    }
}

#[tokio::test]
async fn refusals_are_grpc_statuses_on_both_kinds_of_routes() {
    let server = GrpcServer::start().await;
    let gone = policies::upstream("gone", unused_address().await, "protocol: Http2");
    let guarded = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: guarded }
spec:
  targetRefs:
  - { group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls }
  - { group: gateway.networking.k8s.io, kind: HTTPRoute, name: web }
  rateLimit: [{ name: few, key: 'request.headers[\"x-who\"]', limit: 1, per: 1h, when: '\"x-who\" in request.headers' }]
  authorize:
  - { name: not-fail, deny: 'request.path.endsWith(\"/Fail\")' }
  - { name: all, allow: 'true' }
---";
    let rules =
        |gone: &str| format!("  - {LEADS}\n  - matches: [{gone}]\n    {}", LEADS.replace("leads", "gone"));
    let grpc = policies::grpc_route("calls", &rules("{ method: { service: crm.v1.Gone } }"));
    let http = policies::route("web", &rules("{ path: { value: /crm.v1.Gone } }"));
    let documents = [
        policies::GATEWAY,
        &grpc.replace("  rules:", "  hostnames: [calls.test]\n  rules:"),
        &http.replace("  rules:", "  hostnames: [web.test]\n  rules:"),
        &policies::upstream("leads", server.address, "protocol: Http2"),
        &gone,
        guarded,
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));
    for host in ["calls.test", "web.test"] {
        let limited = format!("limited {host}");
        for (method, who, code, details) in [
            ("/crm.v1.Leads/Get", "", "OK", ""),
            ("/crm.v1.Leads/Get", limited.as_str(), "OK", ""),
            (
                "/crm.v1.Leads/Get",
                limited.as_str(),
                "RESOURCE_EXHAUSTED",
                "RateLimited: The rate limit is used up.",
            ),
            ("/crm.v1.Leads/Fail", "", "PERMISSION_DENIED", "AccessDenied: Access is denied."),
            ("/crm.v1.Gone/Get", "", "UNAVAILABLE", "UpstreamUnreachable: The service cannot be reached."),
        ] {
            let metadata = if who.is_empty() { json!([]) } else { json!([["x-who", who]]) };
            let call = json!({
                "method": method, "kind": "unary", "messages": ["1"], "metadata": metadata, "host": host,
            });
            let told = client.call(call).await;
            assert_eq!((&told["code"], &told["details"]), (&json!(code), &json!(details)), "{host} {method}");
            if code == "RESOURCE_EXHAUSTED" {
                assert!(told["trailing"]["retry-after"].is_string(), "{told}");
            }
        }
    }
    let refused =
        "foregate_refusals_total{route=\"calls/0\",step=\"admit\",reason=\"AccessDenied\",rule=\"not-fail\"}";
    assert_eq!(gateway.sample(refused).await, Some(1.0));
}

/// An upstream of calls: `Deny` is answered by a head alone, `Break` breaks off once it may, `Fail` ends with INTERNAL
/// and all others with OK.
async fn ending(released: watch::Receiver<bool>) -> Upstream {
    Upstream::speaking(Speak::Http2, move |received| {
        let mut released = released.clone();
        async move {
            let method = received.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let response = Response::builder().header("content-type", "application/grpc");
            if method == "Deny" {
                return response.header("grpc-status", "7").body(empty()).unwrap();
            }
            let (feed, body) = fed();
            tokio::spawn(async move {
                feed.data("some").await;
                if method == "Break" {
                    let _ = released.wait_for(|released| *released).await;
                    return feed.fail().await;
                }
                let code = if method == "Fail" { "13" } else { "0" };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.parse().unwrap());
                feed.trailers(trailers).await;
            });
            response.body(body).unwrap()
        }
    })
    .await
}

/// Path, code and what is told as the error, where it is one.
type Ending = (&'static str, &'static str, Option<&'static str>);

/// Makes a call, and looks at all that tells of it.
async fn tells(gateway: &Foregate, collector: &Collector, response: Response<Incoming>, ending: Ending) {
    let (path, code, failure) = ending;
    assert_eq!(response.status(), 200, "{path}");
    let decision = response.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
    assert_eq!(Reply::read(response).await.is_err(), path.ends_with("/Break"), "{path}");
    let record = gateway.record(&decision).await;
    assert_eq!(record["rpc.response.status_code"], code, "{record}");
    let log = collector.log(&decision).await;
    assert_eq!(log["severity"], if failure.is_some() { 17 } else { 9 }, "{log}");
    let kept = gateway.admin_page(&format!("/decisions/{decision}")).await.0;
    assert_eq!(kept, if failure.is_some() { 200 } else { 404 }, "{path}");
    if let Some(failure) = failure {
        let span = collector.server(&decision).await;
        let attributes = &span["attributes"];
        assert_eq!((&span["error"], &attributes["error.type"]), (&json!(true), &json!(failure)), "{span}");
        assert_eq!(attributes["rpc.response.status_code"], code, "{span}");
    }
}

#[tokio::test]
async fn a_call_that_failed_is_a_failure_to_all_that_tells_of_it() {
    let (release, released) = watch::channel(false);
    let (upstream, collector) = (ending(released).await, Collector::start(&["accept"]).await);
    let gone = LEADS.replace("leads", "gone");
    let rules = format!("  - {LEADS}\n  - matches: [{{ method: {{ service: crm.v1.Gone }} }}]\n    {gone}");
    let documents = [
        policies::GATEWAY,
        &policies::grpc_route("calls", &rules),
        &policies::upstream("leads", upstream.address, "protocol: Http2"),
        &policies::upstream("gone", unused_address().await, "protocol: Http2"),
    ];
    let url = collector.url("grpc");
    let options = Options::default()
        .args(&["--traces", &url, "--trace-sample", "0", "--trace-refusals", "1000/s"])
        .args(&["--logs", &url, "--decision-sample", "1/1048576"]);
    let gateway = Foregate::start(&documents.concat(), options).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    for ending in [
        ("/crm.v1.Leads/Get", "OK", None),
        ("/crm.v1.Leads/Deny", "PERMISSION_DENIED", None),
        ("/crm.v1.Leads/Fail", "INTERNAL", Some("INTERNAL")),
        ("/crm.v1.Leads/Break", "INTERNAL", Some("INTERNAL")),
        ("/crm.v1.Gone/Get", "UNAVAILABLE", Some("UpstreamUnreachable")),
    ] {
        let request = client.request("POST", ending.0).header("content-type", "application/grpc");
        let response = client.exchange(request.body(empty()).unwrap()).await.unwrap();
        // Its head is here: now it may break off.
        release.send_replace(ending.0.ends_with("/Break"));
        tells(&gateway, &collector, response, ending).await;
    }
    let code = "rpc_response_status_code";
    for (route, more, count) in [
        ("calls/0", format!("{code}=\"OK\""), 1.0),
        ("calls/0", format!("{code}=\"PERMISSION_DENIED\""), 1.0),
        ("calls/0", format!("{code}=\"INTERNAL\",error_type=\"INTERNAL\""), 2.0),
        ("calls/1", format!("{code}=\"UNAVAILABLE\",error_type=\"UpstreamUnreachable\""), 1.0),
    ] {
        let series = served("POST", 200, route).replace('}', &format!(",{more}}}"));
        assert_eq!(gateway.sample(&series).await, Some(count), "{series}");
    }
    let broke = served("POST", 200, "calls/0").replace("http_server", "http_client");
    let broke = broke.replace('}', ",error_type=\"UpstreamReset\",foregate_upstream=\"leads\"}");
    assert_eq!(gateway.sample(&broke).await, Some(1.0), "{broke}");
    within("three failures in the overview", async {
        loop {
            let overview: Value = serde_json::from_str(&gateway.admin_page("/api/overview").await.1).unwrap();
            if overview["total"]["failed"] == 3 && overview["total"]["requests"] == 5 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_no_longer_allowed_ends_with_the_status_of_its_refusal() {
    let server = GrpcServer::start().await;
    let documents = |rule: &str| {
        let guarded = format!(
            "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: guarded }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls }}]
  authorize: [{{ name: all, allow: 'true' }}{rule}]
---"
        );
        [
            policies::GATEWAY,
            &policies::grpc_route("calls", &format!("  - {LEADS}")),
            &policies::upstream("leads", server.address, "protocol: Http2"),
            &guarded,
        ]
        .concat()
    };
    let gateway = Foregate::start(&documents(""), Options::default()).await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));
    let call = json!({ "method": "/crm.v1.Leads/Stall", "kind": "stream", "messages": ["1"] });
    let calling = tokio::spawn(async move { client.call(call).await });
    server.saw("Stall", "begun").await;
    gateway.publish(&documents(", { name: closed, deny: 'request.path.endsWith(\"/Stall\")' }")).await;
    let told = calling.await.unwrap();
    assert_eq!((&told["code"], &told["replies"]), (&json!("PERMISSION_DENIED"), &json!(["first"])), "{told}");
    assert_eq!(told["details"], "AccessDenied: Access is denied.");
    server.saw("Stall", "cancelled").await;
}

#[tokio::test]
async fn the_health_service_answers_through_the_gateway() {
    let server = GrpcServer::start().await;
    let rules = format!(
        "  - matches: [{{ method: {{ service: grpc.health.v1.Health, method: Check }} }}]\n    {LEADS}"
    );
    let gateway = serving(&server, &rules, "").await;
    let mut client = GrpcClient::start(gateway.address("edge/http"));
    for (service, code, replies) in [
        ("", "OK", json!(["SERVING"])),
        ("crm.v1.Leads", "OK", json!(["SERVING"])),
        ("crm.v1.Accounts", "OK", json!(["NOT_SERVING"])),
        ("crm.v1.Nothing", "NOT_FOUND", json!([])),
    ] {
        let told = client.call(json!({ "method": "", "kind": "health", "service": service })).await;
        assert_eq!((&told["code"], &told["replies"]), (&json!(code), &replies), "{service}: {told}");
    }
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused_and_one_that_is_over_goes_no_further() {
    let upstream = Upstream::speaking(Speak::Http2, |_| async { Response::new(empty()) }).await;
    let documents = [
        policies::GATEWAY,
        &policies::grpc_route("calls", &format!("  - {LEADS}")),
        &policies::upstream("leads", upstream.address, "protocol: Http2"),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    for (timeout, status, message) in [
        ("1s", "3", "RequestMalformed: The request is malformed."),
        ("", "3", "RequestMalformed: The request is malformed."),
        ("0n", "4", "DeadlineExceeded: The deadline of the call has passed."),
    ] {
        let request = client.request("POST", "/crm.v1.Leads/Get");
        let request = request.header("content-type", "application/grpc").header("grpc-timeout", timeout);
        let reply = client.send_empty(request).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, "application/grpc"), "{timeout}");
        assert_eq!(
            (reply.header("grpc-status"), reply.header("grpc-message")),
            (status, message),
            "{timeout}"
        );
        assert!(reply.body.is_empty() && !reply.decision().is_empty());
        let record = gateway.record(reply.decision()).await;
        assert_eq!(record["http.response.status_code"], 200, "{record}");
    }
    assert!(upstream.received().is_empty());
    // What is no call gets its problem document.
    let plain = client.request("POST", "/crm.v1.Nothing").header("content-type", "application/json");
    assert_eq!(client.send_empty(plain).await.reason(), "RouteNotFound");
}
