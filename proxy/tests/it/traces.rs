//! Traces reach a collector with the right parents; its troubles reach no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::client::Client;
use crate::support::guarded::{bundle, golden, guarded, model, routes};
use crate::support::otlp::Collector;
use crate::support::process::{Foregate, Options};
use crate::support::trouble::Sent;
use crate::support::upstream::{Body, Upstream, empty, full};
use crate::support::{policies, unused_address};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

const RULES: &str = "addresses: { deny: [10.0.0.0/8] }
authorize: [{ name: readers, allow: 'request.method == \"GET\"' }]";

/// A gateway that sends its spans there, with a rule that lets GET through alone.
async fn traced(upstream: &Upstream, url: &str, options: Options) -> Foregate {
    let options = options.args(&["--traces", url]);
    Foregate::start(&guarded(upstream.address, RULES), options).await
}

/// The `traceparent` of a caller whose trace is sampled, or not.
fn parent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

/// The `traceparent` that an upstream is told of a client span.
fn below(span: &Value) -> String {
    format!("00-{}-{}-01", span["trace"].as_str().unwrap(), span["span"].as_str().unwrap())
}

#[tokio::test]
async fn spans_reach_a_collector_by_grpc_and_http_with_the_right_parents() {
    let upstream = Upstream::answering("ok").await;
    for scheme in ["grpc", "http"] {
        let collector = Collector::start(&["accept"]).await;
        let options = Options::default()
            .env("OTEL_SERVICE_NAME", "edge")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20one");
        let gateway = traced(&upstream, &collector.url(scheme), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let request = client.request("GET", "/a?secret=hunter2").header("traceparent", parent(true));
        let reply = client.send_empty(request.header("tracestate", "a=1")).await;
        assert_eq!(reply.status, 200);

        let server = collector.span(TRACE, "GET all/rule").await;
        assert_eq!(
            (&server["parent"], &server["kind"], &server["state"]),
            (&PARENT.into(), &2.into(), &"a=1".into())
        );
        assert_eq!(server["attributes"]["foregate.decision"], reply.decision());
        assert_eq!(server["attributes"]["url.path"], "/a");
        assert_eq!(server["attributes"]["http.response.status_code"], 200);
        let sent = collector.span(TRACE, "GET").await;
        assert_eq!((&sent["parent"], &sent["kind"]), (&server["span"], &3.into()));
        assert_eq!(sent["attributes"]["server.port"], upstream.address.port());
        for name in ["guard addresses", "admit authorize"] {
            let step = collector.span(TRACE, name).await;
            assert_eq!(step["parent"], server["span"], "{step}");
            let at = |span: &Value, end: &str| span[end].as_u64().unwrap();
            assert!(at(&server, "start") <= at(&step, "start") && at(&step, "end") <= at(&server, "end"));
        }
        // What the upstream does is below the span of what it was sent.
        assert_eq!(upstream.last().header("traceparent"), below(&sent));

        let export = collector.lines().wait("an export", |line| line["export"] == scheme).await;
        assert_eq!(export["headers"]["x-tenant"], "blue one");
        assert_eq!(export["resource"]["service.name"], "edge");
        assert_eq!(export["resource"]["deployment.environment.name"], "test");
        assert!(!collector.lines().text().contains("hunter2"));
        gateway.wait_sample("foregate_spans_exported_total", |count| (count - 4.0).abs() < 0.5).await;
    }
}

#[tokio::test]
async fn a_collector_in_tls_is_known_by_the_authority_that_is_named() {
    let (upstream, authority) = (Upstream::answering("ok").await, Authority::new());
    let (leaf, folder) = (authority.leaf(&["localhost"]), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (chain, key) = (file("tls.crt", &leaf.certificate), file("tls.key", &leaf.key));
    let collector = Collector::start(&["accept", &chain, &key]).await;
    let url = collector.url("grpcs");
    let headers = file("headers", "authorization: Bearer hunter2\n");
    let known = ["--traces-ca", &file("ca.crt", authority.pem()), "--traces-headers", &headers];
    let gateway = traced(&upstream, &url, Options::default().args(&known)).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/").header("traceparent", parent(true));
    assert_eq!(client.send_empty(request).await.status, 200);
    collector.span(TRACE, "GET all/rule").await;
    let export = collector.lines().wait("an export", |line| line["export"] == "grpc").await;
    assert_eq!(export["headers"]["authorization"], "Bearer hunter2");
    assert!(!gateway.events().text().contains("hunter2"));

    // One that another authority vouches for gets nothing.
    let strange = ["--traces-ca", &file("other.crt", Authority::new().pem())];
    let gateway = traced(&upstream, &url, Options::default().args(&strange)).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/").header("traceparent", parent(true));
    assert_eq!(client.send_empty(request).await.status, 200);
    gateway.wait_sample("foregate_span_exports_failed_total", |count| count >= 1.0).await;
    assert!(
        gateway.event("spans not sent").await["error"].as_str().unwrap().contains("invalid peer certificate")
    );
}

#[tokio::test]
async fn what_is_not_sampled_is_not_told_and_refusals_are_up_to_a_rate() {
    let (upstream, collector) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let options = Options::default().args(&["--trace-sample", "0", "--trace-refusals", "1000/s"]);
    let gateway = traced(&upstream, &collector.url("grpc"), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let request = client.request("GET", "/").header("traceparent", parent(false));
    assert_eq!(client.send_empty(request).await.status, 200);
    let refused = client.post("/", "x").await;
    assert_eq!(refused.status, 403);
    let kept = collector.lines().wait("the refusal", |line| line["name"] == "POST all/rule").await;
    assert_eq!(kept["attributes"]["foregate.decision"], refused.decision());
    assert_eq!(kept["attributes"]["foregate.reason"], "AccessDenied");
    assert_eq!(kept["parent"], "");
    let spans = collector.lines().all().into_iter().filter(|line| line["span"].is_string()).count();
    assert_eq!(spans, 1, "{}", collector.lines().text());

    let all = Options::default().args(&["--trace-sample", "1"]);
    let gateway = traced(&upstream, &collector.url("grpc"), all).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    let is = |line: &Value| line["attributes"]["foregate.decision"] == reply.decision();
    let root = collector.lines().wait("a root", is).await;
    let sent = collector.span(root["trace"].as_str().unwrap(), "GET").await;
    assert_eq!((&sent["parent"], upstream.last().header("traceparent")), (&root["span"], &*below(&sent)));
}

/// A gateway before these endpoints whose traces are all sent.
async fn retrying(collector: &Collector, endpoints: &str, rule: &str) -> Foregate {
    let rules = format!(
        "  - name: rule\n    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}]\n    {rule}\n"
    );
    let documents =
        [policies::GATEWAY, &policies::route("all", &rules), &policies::upstream("crm", endpoints, "")]
            .concat();
    let options = Options::default().args(&["--traces", &collector.url("grpc"), "--trace-sample", "1"]);
    Foregate::start(&documents, options).await
}

/// The client spans of a trace, as many as these, in the order in which they began.
async fn clients(collector: &Collector, trace: &Value, count: usize) -> Vec<Value> {
    let is = |line: &Value| line["kind"] == 3 && line["trace"] == *trace;
    let mut spans = collector.lines().wait_count("client spans", count, is).await;
    spans.sort_by_key(|span| span["start"].as_u64());
    spans
}

#[tokio::test]
async fn an_upstream_is_told_the_span_of_each_attempt() {
    // The first request of all is answered with 503, by whichever endpoint it came to.
    let seen = Arc::new(AtomicUsize::new(0));
    let upstream = || {
        let seen = Arc::clone(&seen);
        Upstream::start(move |_| {
            let status = if seen.fetch_add(1, Ordering::SeqCst) == 0 { 503 } else { 200 };
            async move { Response::builder().status(status).body(full("ok")).unwrap() }
        })
    };
    let (one, other) = (upstream().await, upstream().await);
    let collector = Collector::start(&["accept"]).await;
    let endpoints = format!("{}\", \"{}", one.address, other.address);
    let gateway = retrying(&collector, &endpoints, "retry: { attempts: 3, codes: [503] }").await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!(reply.status, 200);

    let server = collector.server(reply.decision()).await;
    let dispatch = collector.span(server["trace"].as_str().unwrap(), "dispatch").await;
    assert_eq!((&dispatch["parent"], &dispatch["kind"]), (&server["span"], &1.into()));
    let spans = clients(&collector, &server["trace"], 2).await;
    let mut sent: Vec<_> = [&one, &other].iter().flat_map(|upstream| upstream.received()).collect();
    assert_eq!(sent.len(), 2);
    sent.sort_by_key(|received| received.header("traceparent") != below(&spans[0]));
    for (number, (span, received)) in spans.iter().zip(&sent).enumerate() {
        assert_eq!((&span["name"], &span["parent"]), (&"GET".into(), &dispatch["span"]));
        assert_eq!(received.header("traceparent"), below(span));
        let attributes = &span["attributes"];
        assert_eq!(attributes["server.address"], "127.0.0.1");
        let resent = if number == 0 { Value::Null } else { number.into() };
        assert_eq!(attributes["http.request.resend_count"], resent);
    }
    let told = |span: &Value, name: &str| span["attributes"][name].clone();
    assert_eq!(
        (told(&spans[0], "http.response.status_code"), told(&spans[0], "error.type")),
        (503.into(), "503".into())
    );
    assert_eq!(
        (told(&spans[1], "http.response.status_code"), told(&spans[1], "error.type")),
        (200.into(), Value::Null)
    );
    assert_ne!(told(&spans[0], "server.port"), told(&spans[1], "server.port"));
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_an_attempt_with_an_error() {
    let (dead, alive) = (unused_address().await, Upstream::answering("ok").await);
    let collector = Collector::start(&["accept"]).await;
    let gateway =
        retrying(&collector, &format!("{dead}\", \"{}", alive.address), "retry: { attempts: 3 }").await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    // One of the two is asked first, as chance has it; after some failures the dead one is left out.
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let again = |line: &Value| line["attributes"]["http.request.resend_count"] == 1;
    let second = collector.lines().wait("a second attempt", again).await;
    let spans = clients(&collector, &second["trace"], 2).await;
    let dispatch = collector.span(second["trace"].as_str().unwrap(), "dispatch").await;
    let first = spans.iter().find(|span| span["span"] != second["span"]).unwrap();
    assert_eq!((&first["parent"], &second["parent"]), (&dispatch["span"], &dispatch["span"]));
    assert_eq!((&first["error"], &first["attributes"]["server.port"]), (&true.into(), &dead.port().into()));
    assert_eq!(first["attributes"]["error.type"], "UpstreamUnreachable");
    assert_eq!((&second["error"], &dispatch["error"]), (&false.into(), &false.into()));
}

#[tokio::test]
async fn an_attempt_that_is_given_up_is_told_with_the_span_that_the_upstream_knows() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<Body>>()).await;
    let collector = Collector::start(&["accept"]).await;
    let endpoint = upstream.address.to_string();
    let gateway = retrying(&collector, &endpoint, "timeouts: { request: 300ms }").await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!(reply.status, 504);
    let server = collector.server(reply.decision()).await;
    let sent = &clients(&collector, &server["trace"], 1).await[0];
    assert_eq!((&sent["parent"], upstream.last().header("traceparent")), (&server["span"], &*below(sent)));
    assert_eq!(
        (&sent["error"], &sent["attributes"]["error.type"]),
        (&true.into(), &"UpstreamTimeout".into())
    );

    // The same of a client that leaves first.
    upstream.forget();
    let gateway = retrying(&collector, &endpoint, "retry: { attempts: 1 }").await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/gone").body(empty()).unwrap();
    let mut exchange = Box::pin(client.exchange(request));
    tokio::select! {
        _ = &mut exchange => panic!("nobody answers"),
        () = upstream.wait_received(2) => {}
    }
    drop(exchange);
    client.abort().await;
    let gone = |line: &Value| line["attributes"]["error.type"] == "client_gone" && line["kind"] == 3;
    let sent = collector.lines().wait("the attempt", gone).await;
    assert_eq!(upstream.last().header("traceparent"), below(&sent));
}

#[tokio::test]
async fn every_model_that_was_asked_is_a_span() {
    let (upstream, collector) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let spec = "insecure: { anonymous: true }
enrich:
- { name: lead, model: lead-score, deadline: 900ms, set: { header: X-Lead-Score } }
- { name: linear, model: lead-score-logistic, deadline: 900ms, set: { header: X-Linear-Score } }\n";
    let names = ["lead-score", "lead-score-logistic"];
    let models: String = names.iter().map(|name| model(name, &bundle(name))).collect();
    let options = Options::default().args(&["--traces", &collector.url("http"), "--trace-sample", "1"]);
    let gateway = Foregate::start(&[guarded(upstream.address, spec), models].concat(), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let (record, _) = golden(&bundle("lead-score")).swap_remove(0);
    let request = client.request("POST", "/").header("content-type", "application/json");
    let reply = client.send(request.body(full(record.to_string())).unwrap()).await;
    assert_eq!(reply.status, 200);
    let server = collector.server(reply.decision()).await;
    let trace = server["trace"].as_str().unwrap();
    let enrich = collector.span(trace, "enrich enrich").await;
    let decision = gateway.record(reply.decision()).await;
    for (place, name) in names.iter().enumerate() {
        let span = collector.span(trace, &format!("score {name}")).await;
        assert_eq!((&span["parent"], &span["kind"]), (&enrich["span"], &1.into()));
        let score = &decision["foregate.scores"][place];
        let attributes = &span["attributes"];
        assert_eq!(
            (&attributes["foregate.model"], &attributes["foregate.rule"]),
            (&score["model"], &score["rule"])
        );
        assert_eq!(attributes["foregate.model.version"], score["version"]);
        assert_eq!(attributes["foregate.model.outcome"], "scored");
        let near = attributes["foregate.score"].as_f64().unwrap() - score["scores"][0].as_f64().unwrap();
        assert!(near.abs() < 1e-6, "{span} {score}");
        let at = |span: &Value, end: &str| span[end].as_u64().unwrap();
        assert!(at(&enrich, "start") <= at(&span, "start") && at(&span, "end") <= at(&enrich, "end"));
    }
}

#[tokio::test]
async fn a_collector_in_trouble_delays_no_request_and_is_counted() {
    let sent = Sent {
        args: &["--trace-sample", "1", "--traces"],
        failed: "foregate_span_exports_failed_total",
        dropped: "foregate_spans_dropped_total",
    };
    sent.meets_trouble().await;
}

#[tokio::test]
async fn a_collector_that_asks_for_time_is_given_it() {
    let upstream = Upstream::answering("ok").await;
    for scheme in ["grpc", "http"] {
        let collector = Collector::start(&["busy"]).await;
        let options = Options::default().args(&["--trace-sample", "1"]);
        let gateway = traced(&upstream, &collector.url(scheme), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        assert_eq!(client.get("/").await.status, 200);
        let exports = collector.lines().wait_count("two exports", 2, |line| line["export"] == scheme).await;
        let at = |export: &Value| export["at"].as_f64().unwrap();
        let pause = at(&exports[1]) - at(&exports[0]);
        // Without a word of it, half a second.
        assert!(pause >= 2.0, "{scheme}: {pause}");
        gateway.wait_sample("foregate_spans_exported_total", |count| count >= 1.0).await;
        assert_eq!(gateway.sample("foregate_span_exports_failed_total").await, Some(1.0));
        assert_eq!(gateway.sample("foregate_spans_dropped_total{reason=\"refused\"}").await, Some(0.0));
        assert_eq!(gateway.sample("foregate_spans_waiting").await, Some(0.0));
    }
}

#[tokio::test]
async fn what_waits_is_sent_when_the_process_ends() {
    let (upstream, collector) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let options = Options::default().args(&["--trace-sample", "1", "--drain-notice", "0s"]);
    let mut gateway = traced(&upstream, &collector.url("http"), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    gateway.terminate();
    assert!(gateway.exit().await.success());
    let is = |line: &Value| line["attributes"]["foregate.decision"] == reply.decision();
    collector.lines().wait("the last span", is).await;
}

#[tokio::test]
async fn a_collector_that_cannot_be_is_said_before_anything_starts() {
    let documents = routes("127.0.0.1:1", &[]);
    for (arguments, said) in [
        (["--traces", "127.0.0.1:4317"], "--traces: `127.0.0.1:4317` is no collector"),
        (["--traces", "http://user:hunter2@a:1"], "--traces-headers"),
        (["--trace-sample", "2"], "from 0 to 1"),
        (["--trace-refusals", "10"], "expected N/s"),
    ] {
        let (status, text) = Foregate::refused(&documents, Options::default().args(&arguments)).await;
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains(said) && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn headers_leave_the_machine_in_tls_alone_unless_somebody_wants_it_otherwise() {
    let upstream = Upstream::answering("ok").await;
    let documents = guarded(upstream.address, RULES);
    let options = |flag: &str, url: &str, more: &[&str]| {
        let options = Options::default().args(&[flag, url, "--trace-sample", "0"]).args(more);
        options.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2")
    };
    for (flag, url) in [("--traces", "grpc://192.0.2.1:4317"), ("--logs", "http://192.0.2.1:4318")] {
        let (status, text) = Foregate::refused(&documents, options(flag, url, &[])).await;
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(
            text.contains(flag) && text.contains("--insecure-otlp-headers") && !text.contains("hunter2"),
            "{text}"
        );
        let gateway = Foregate::start(&documents, options(flag, url, &["--insecure-otlp-headers"])).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        assert_eq!(client.get("/").await.status, 200);
    }
}
