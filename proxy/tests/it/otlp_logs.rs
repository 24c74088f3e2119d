//! The access log reaches a collector and joins its spans; its troubles reach no request.

use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::client::Client;
use crate::support::guarded::{guarded, routes};
use crate::support::otlp::Collector;
use crate::support::process::{Foregate, Options};
use crate::support::trouble::Sent;
use crate::support::upstream::Upstream;

const RULES: &str = "authorize: [{ name: readers, allow: 'request.method == \"GET\"' }]";

/// A gateway that sends its access log there, with a rule that lets GET through alone.
async fn logged(upstream: &Upstream, url: &str, options: Options) -> Foregate {
    let options = options.args(&["--logs", url]);
    Foregate::start(&guarded(upstream.address, RULES), options).await
}

/// What the access log says of a decision, without what has fields of its own in a log record.
async fn line(gateway: &Foregate, decision: &str) -> Value {
    let mut line = gateway.record(decision).await;
    for field in ["timestamp", "trace_id", "span_id"] {
        line.as_object_mut().unwrap().remove(field);
    }
    line
}

fn is_log(line: &Value) -> bool {
    line["log"].is_string()
}

#[tokio::test]
async fn log_records_reach_a_collector_by_grpc_and_http_and_join_their_spans() {
    let upstream = Upstream::answering("ok").await;
    for scheme in ["grpc", "http"] {
        let collector = Collector::start(&["accept"]).await;
        let options = Options::default()
            .args(&["--traces", &collector.url(scheme), "--trace-sample", "1"])
            .env("OTEL_SERVICE_NAME", "edge")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20one");
        let gateway = logged(&upstream, &collector.url(scheme), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let (passed, refused) = (client.get("/a?secret=hunter2").await, client.post("/", "x").await);
        assert_eq!((passed.status, refused.status), (200, 403));

        let log = collector.log(passed.decision()).await;
        let server = collector.server(passed.decision()).await;
        assert_eq!((&log["of_trace"], &log["of_span"]), (&server["trace"], &server["span"]));
        assert_eq!((&log["time"], &log["observed"]), (&server["start"], &server["end"]));
        assert_eq!(
            (&log["severity"], &log["severity_text"], &log["flags"]),
            (&9.into(), &"INFO".into(), &1.into())
        );
        assert_eq!((&log["log"], &log["event"]), (&"GET /a 200".into(), &"foregate.decision".into()));
        // It tells what the access log tells, under the same names.
        assert_eq!(log["attributes"], line(&gateway, passed.decision()).await);
        assert_eq!(log["attributes"]["http.route"], "all/rule");

        let log = collector.log(refused.decision()).await;
        let server = collector.server(refused.decision()).await;
        assert_eq!((&log["of_trace"], &log["of_span"]), (&server["trace"], &server["span"]));
        assert_eq!((&log["severity"], &log["log"]), (&13.into(), &"POST / 403 AccessDenied".into()));
        assert_eq!(log["attributes"], line(&gateway, refused.decision()).await);

        let is = |line: &Value| line["export"] == scheme && line["signal"] == "logs";
        let export = collector.lines().wait("an export", is).await;
        assert_eq!(
            (&export["headers"]["x-tenant"], &export["resource"]["service.name"]),
            (&"blue one".into(), &"edge".into())
        );
        assert!(!collector.lines().text().contains("hunter2"));
        gateway.wait_sample("foregate_logs_exported_total", |count| (count - 2.0).abs() < 0.5).await;
    }
}

#[tokio::test]
async fn a_collector_of_others_passes_spans_and_logs_on() {
    let (upstream, behind) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let between = Collector::before(&behind).await;
    for scheme in ["grpc", "http"] {
        let url = between.url(scheme);
        let options = Options::default().args(&["--traces", &url, "--trace-sample", "1", "--logs", &url]);
        let gateway = Foregate::start(&guarded(upstream.address, RULES), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for reply in [client.get("/a").await, client.post("/", "x").await] {
            let log = behind.log(reply.decision()).await;
            let server = behind.server(reply.decision()).await;
            assert_eq!((&log["of_trace"], &log["of_span"]), (&server["trace"], &server["span"]));
            assert_eq!(log["attributes"], line(&gateway, reply.decision()).await);
        }
    }
}

#[tokio::test]
async fn a_sampled_log_that_is_written_nowhere_tells_every_refusal() {
    let (upstream, collector) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let sampled = Options::default().quiet().args(&["--access-log-sample", "1/1048576"]);
    let gateway = logged(&upstream, &collector.url("grpc"), sampled).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let refused = [client.post("/", "x").await, client.post("/", "x").await];
    for reply in &refused {
        let log = collector.log(reply.decision()).await;
        assert_eq!(log["attributes"]["foregate.reason"], "AccessDenied");
        // Nothing is sampled, and the log says which trace it was all the same.
        assert_eq!((log["of_trace"].as_str().unwrap().len(), &log["flags"]), (32, &0.into()));
    }
    assert_eq!(collector.lines().all().iter().filter(|line| is_log(line)).count(), 2);
    assert!(gateway.access_log().all().is_empty());
}

#[tokio::test]
async fn hostile_values_arrive_as_data() {
    let (upstream, collector) = (Upstream::answering("ok").await, Collector::start(&["accept"]).await);
    let gateway = logged(&upstream, &collector.url("http"), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let id = "\"},{\"severity\":\"FATAL\"}]${jndi:ldap://a/b}<script>%0d%0a\\u0000";
    let request = client.request("GET", "/a%0d%0aInjected:%20b/%22%7D%5D").header("x-request-id", id);
    let request = request.header("user-agent", "\"}{{7*7}}").header("authorization", "Bearer hunter2");
    let reply = client.send_empty(request).await;
    let log = collector.log(reply.decision()).await;
    assert_eq!(log["attributes"]["foregate.request_id"], id);
    assert_eq!(log["attributes"], line(&gateway, reply.decision()).await);
    let logs: Vec<Value> = collector.lines().all().into_iter().filter(is_log).collect();
    assert_eq!((logs.len(), &logs[0]["severity"]), (1, &9.into()));
    assert!(!collector.lines().text().contains("hunter2"));
}

#[tokio::test]
async fn a_collector_named_for_spans_gets_logs_where_that_is_said() {
    let upstream = Upstream::answering("ok").await;
    for (said, told) in [(None, false), (Some("otlp"), true)] {
        let collector = Collector::start(&["accept"]).await;
        let mut options = Options::default()
            .args(&["--trace-sample", "1", "--drain-notice", "0s"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url("http"));
        if let Some(said) = said {
            options = options.env("OTEL_LOGS_EXPORTER", said);
        }
        let mut gateway = Foregate::start(&guarded(upstream.address, RULES), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/").await;
        // What waits is sent before the process ends.
        gateway.terminate();
        assert!(gateway.exit().await.success());
        collector.server(reply.decision()).await;
        if told {
            collector.log(reply.decision()).await;
        }
        assert_eq!(collector.lines().all().iter().any(is_log), told, "{said:?}");
    }
}

#[tokio::test]
async fn the_collector_of_logs_has_an_authority_and_headers_of_its_own() {
    let (upstream, authority) = (Upstream::answering("ok").await, Authority::new());
    let (leaf, folder) = (authority.leaf(&["localhost"]), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (chain, key) = (file("tls.crt", &leaf.certificate), file("tls.key", &leaf.key));
    let collector = Collector::start(&["accept", &chain, &key]).await;
    let headers = file("headers", "authorization: Bearer hunter2\n");
    let known = ["--logs-ca", &file("ca.crt", authority.pem()), "--logs-headers", &headers];
    let gateway = logged(&upstream, &collector.url("grpcs"), Options::default().args(&known)).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    collector.log(reply.decision()).await;
    let export = collector.lines().wait("an export", |line| line["signal"] == "logs").await;
    assert_eq!(export["headers"]["authorization"], "Bearer hunter2");

    let strange = ["--logs-ca", &file("other.crt", Authority::new().pem())];
    let gateway = logged(&upstream, &collector.url("grpcs"), Options::default().args(&strange)).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.status, 200);
    let told = gateway.event("logs not sent").await;
    assert!(told["error"].as_str().unwrap().contains("invalid peer certificate"), "{told}");
}

#[tokio::test]
async fn a_collector_in_trouble_delays_no_request_and_is_counted() {
    let sent = Sent {
        args: &["--logs"],
        failed: "foregate_log_exports_failed_total",
        dropped: "foregate_logs_dropped_total",
    };
    sent.meets_trouble().await;
}

#[tokio::test]
async fn a_collector_of_logs_that_cannot_be_is_said_before_anything_starts() {
    let documents = routes("127.0.0.1:1", &[]);
    for (arguments, said) in [
        (["--logs", "127.0.0.1:4317"], "--logs: `127.0.0.1:4317` is no collector"),
        (["--logs", "http://user:hunter2@a:1"], "--logs-headers"),
    ] {
        let (status, text) = Foregate::refused(&documents, Options::default().args(&arguments)).await;
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains(said) && !text.contains("hunter2"), "{text}");
    }
}
