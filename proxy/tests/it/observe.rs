//! What operators see: metrics that add up, one line a request, and no secret anywhere.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::certificates::Authority;
use crate::support::client::{Client, Reply};
use crate::support::guarded::{bundle, model, routes};
use crate::support::idp::Idp;
use crate::support::policies;
use crate::support::process::{Foregate, Options, served};
use crate::support::raw::{self, RawClient};
use crate::support::upstream::{Feed, Speak, Upstream, fed, full};

/// One family of a scrape.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: bool,
    /// By name and labels, as written; with the exemplar where there is one.
    samples: BTreeMap<String, (f64, Option<String>)>,
}

/// Reads a scrape strictly: every sample belongs to a family told before it, and none comes twice.
fn parse(text: &str, open_metrics: bool) -> BTreeMap<String, Metric> {
    let mut families = BTreeMap::<String, Metric>::new();
    let mut current = String::new();
    let mut ended = false;
    for line in text.lines() {
        assert!(!ended, "something behind the end: {line}");
        if line == "# EOF" {
            ended = true;
        } else if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, told) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(["foregate_", "http_", "process_"].iter().any(|of| name.starts_with(of)), "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            if name != current {
                assert!(!families.contains_key(name), "a family in two places: {line}");
                name.clone_into(&mut current);
            }
            let family = families.entry(name.to_owned()).or_default();
            match what {
                "HELP" => assert!(!std::mem::replace(&mut family.help, true) && !told.is_empty(), "{line}"),
                "TYPE" => told.clone_into(&mut family.kind),
                "UNIT" => assert!(open_metrics && name.ends_with(told), "{line}"),
                _ => panic!("{line}"),
            }
        } else {
            let (sample, exemplar) = match line.split_once(" # ") {
                Some((sample, exemplar)) => (sample, Some(exemplar.to_owned())),
                None => (line, None),
            };
            assert!(exemplar.is_none() || open_metrics, "an exemplar in the classic format: {line}");
            let (series, value) = sample.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&*current).unwrap_or_else(|| panic!("{line} under {current}"));
            let family = families.get_mut(&current).unwrap();
            let suffixes: &[&str] = match (family.kind.as_str(), open_metrics) {
                ("counter", true) => &["_total"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                ("info", _) => &["_info"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line} in a {}", family.kind);
            let before = family.samples.insert(series.to_owned(), (value.parse().unwrap(), exemplar));
            assert!(before.is_none(), "twice: {line}");
        }
    }
    assert_eq!(ended, open_metrics, "OpenMetrics has an end mark, the classic format none");
    assert!(families.values().all(|family| family.help && !family.kind.is_empty()), "{families:#?}");
    families
}

/// A scrape as Prometheus asks for it.
async fn scrape(gateway: &Foregate, open_metrics: bool) -> BTreeMap<String, Metric> {
    let mut client = Client::http1(gateway.admin()).await;
    let mut request = client.request("GET", "/metrics").header("host", "localhost");
    if open_metrics {
        request = request.header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    }
    let reply = client.send_empty(request).await;
    let media = if open_metrics {
        "application/openmetrics-text; version=1.0.0"
    } else {
        "text/plain; version=0.0.4"
    };
    assert!(reply.header("content-type").starts_with(media), "{reply:?}");
    parse(&reply.text(), open_metrics)
}

/// All samples of all families.
fn samples(families: &BTreeMap<String, Metric>) -> BTreeMap<&str, f64> {
    let all = families.values().flat_map(|family| &family.samples);
    all.map(|(series, (value, _))| (series.as_str(), *value)).collect()
}

/// Labels of which the list says when they are there.
const SOMETIMES: [&str; 2] = ["rpc_response_status_code", "error_type"];

/// What is told is what the list of metrics says: type and labels.
fn as_listed(families: &BTreeMap<String, Metric>) {
    let list = include_str!("../../METRICS.md");
    let rows = list.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        Some((cells.first()?.trim_end_matches('`'), (*cells.get(1)?, cells.get(2)?.replace('`', ""))))
    });
    let rows: BTreeMap<&str, (&str, String)> = rows.collect();
    for (name, family) in families {
        let (kind, labels) = rows.get(&**name).unwrap_or_else(|| panic!("{name} is not listed"));
        // The classic format has no kind for info.
        assert_eq!(family.kind, kind.replace("info", "gauge"), "{name}");
        let listed: BTreeSet<&str> = labels.split(", ").filter(|label| !label.is_empty()).collect();
        for series in family.samples.keys() {
            let told = series.split_once('{').map_or("", |(_, labels)| labels);
            let told = told.split("=\"").map(|part| part.rsplit([',', '"', '{']).next().unwrap_or(part));
            let told: BTreeSet<&str> =
                told.filter(|name| !name.is_empty() && *name != "}" && *name != "le").collect();
            let always: BTreeSet<&str> =
                listed.iter().copied().filter(|label| !SOMETIMES.contains(label)).collect();
            assert!(told.is_superset(&always) && told.is_subset(&listed), "{series}: {listed:?}");
        }
    }
}

/// Two routes: `/token` for bearers within a limit, `/lead` scored, for those with a header.
fn guarded(upstream: &Upstream, idp: &Idp) -> String {
    let token = format!(
        "jwt:\n{}authorize: [{{ name: readers, allow: 'request.method == \"GET\"' }}]
rateLimit: [{{ name: per-subject, key: jwt.subject, limit: 2, per: 24h }}]\n",
        idp.by_url()
    );
    let lead = "
enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: x-lead-score, body: /Lead_Score__c } }]
authorize:
- { name: staff, allow: 'int(request.headers[\"x-level\"]) > 1' }
- { name: low, deny: 'enrich.lead.score < 0.05' }
- { name: tried, deny: 'enrich.lead.ok', mode: audit }";
    [
        routes(upstream.address, &[("token", &token), ("lead", lead)]),
        model("lead-score", &bundle("lead-score")),
    ]
    .concat()
}

/// Method, target, token, body, the status that must come back, how often.
type Scripted<'a> = (&'a str, &'a str, Option<&'a str>, &'static str, u16, usize);

const LEAD: &str = r#"{"Title":"CFO","Country":"US"}"#;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one gateway, and all that it counts")]
async fn metrics_add_up_to_the_requests_that_were_sent() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let gateway = Foregate::start(&guarded(&upstream, &idp), Options::default()).await;
    gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let (a, b) = (idp.token("a"), idp.token("b"));
    let script: [Scripted<'_>; 10] = [
        ("GET", "/token", Some(&a), "", 200, 2),
        ("GET", "/token", Some(&a), "", 429, 3),
        ("GET", "/token", Some(&b), "", 200, 1),
        ("POST", "/token", Some(&b), "", 403, 4),
        ("GET", "/token", Some("nonsense"), "", 401, 5),
        ("GET", "/token", None, "", 401, 2),
        ("POST", "/lead", None, LEAD, 200, 6),
        ("POST", "/lead", None, "nonsense", 422, 2),
        ("POST", "/lead", None, r#"{"Title":1}"#, 422, 3),
        ("GET", "/elsewhere", None, "", 404, 7),
    ];
    let mut sent = 0_u32;
    for (method, target, token, body, status, times) in script {
        for _ in 0..times {
            let mut request = client.request(method, target).header("x-level", "2");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.header("content-type", "application/json").body(full(body)).unwrap();
            assert_eq!(client.send(request).await.status, status, "{method} {target}");
            sent += 1;
        }
    }
    gateway.access_log().wait_count("every record", sent as usize, |_| true).await;
    let classic = scrape(&gateway, false).await;
    let seen = samples(&classic);
    let sent_to = |upstream: &str, status: u16, route: &str| {
        let served = served("POST", status, route).replace("http_server", "http_client");
        served.replace('}', &format!(",foregate_upstream=\"{upstream}\"}}"))
    };
    let requests = [
        (served("GET", 200, "token/rule"), 3.0),
        (served("GET", 429, "token/rule"), 3.0),
        (served("POST", 403, "token/rule"), 4.0),
        (served("GET", 401, "token/rule"), 7.0),
        (served("POST", 200, "lead/rule"), 6.0),
        (served("POST", 422, "lead/rule"), 5.0),
        (served("GET", 404, ""), 7.0),
        (sent_to("crm", 200, "lead/rule"), 6.0),
    ];
    for (series, value) in requests {
        assert_eq!(seen.get(&*series), Some(&value), "{series} in {seen:#?}");
    }
    as_listed(&classic);
    let expected = [
        (r#"refusals_total{route="token/rule",step="admit",reason="RateLimited",rule="per-subject"}"#, 3.0),
        (r#"refusals_total{route="token/rule",step="admit",reason="AccessDenied",rule="default"}"#, 4.0),
        (r#"refusals_total{route="token/rule",step="identify",reason="TokenMissing",rule="token"}"#, 2.0),
        (r#"refusals_total{route="token/rule",step="identify",reason="TokenInvalid",rule="token"}"#, 5.0),
        (r#"refusals_total{route="lead/rule",step="enrich",reason="BodyUnreadable",rule="lead"}"#, 5.0),
        (r#"refusals_total{route="",step="route",reason="RouteNotFound",rule=""}"#, 7.0),
        (r#"audits_total{route="lead/rule",rule="tried"}"#, 6.0),
        (r#"limit_decisions_total{rule="per-subject",admitted="true"}"#, 3.0),
        (r#"limit_decisions_total{rule="per-subject",admitted="false"}"#, 3.0),
        (r#"scores_total{model="lead-score",outcome="scored"}"#, 6.0),
        (r#"score_value_count{model="lead-score"}"#, 6.0),
        (r#"added_duration_seconds_count{route="lead/rule"}"#, 11.0),
        (r#"config_reloads_total{outcome="success"}"#, 1.0),
        ("config_rejected", 0.0),
        (r#"connections_open{listener="edge/http"}"#, 1.0),
        ("access_log_dropped_total", 0.0),
    ];
    for (series, value) in expected {
        assert_eq!(seen.get(&*format!("foregate_{series}")), Some(&value), "{series} in {seen:#?}");
    }
    assert_eq!(seen.get("http_server_active_requests"), Some(&0.0));
    let total: f64 = seen
        .iter()
        .filter(|(series, _)| series.starts_with("http_server_request_duration_seconds_count{"))
        .map(|(_, value)| value)
        .sum();
    assert!((total - f64::from(sent)).abs() < 0.5, "every request counts once: {total} of {sent}");
    assert_eq!(upstream.received().len(), 9);
}

#[tokio::test]
async fn open_metrics_lead_from_a_histogram_to_a_decision() {
    // Nobody listens there: a failure is kept, and an exemplar leads to a decision that is kept.
    let gateway = Foregate::start(&policies::plain("127.0.0.1:1"), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/only").await;
    gateway.record(reply.decision()).await;
    let families = scrape(&gateway, true).await;
    let durations = &families["http_server_request_duration_seconds"];
    let exemplars: Vec<&String> =
        durations.samples.values().filter_map(|(_, exemplar)| exemplar.as_ref()).collect();
    assert_eq!(exemplars.len(), 1, "one request, one exemplar");
    assert!(
        exemplars[0].starts_with(&format!("{{decision_id=\"{}\"}} 0.", reply.decision())),
        "{exemplars:?}"
    );
    // Both formats tell the same, names included; buckets grow up to the count.
    let classic = scrape(&gateway, false).await;
    for name in
        families.keys().filter(|name| families[*name].kind != "counter" && families[*name].kind != "info")
    {
        assert!(classic.contains_key(name), "{name} is missing in the classic format");
    }
    let mut buckets: Vec<(f64, f64)> = durations
        .samples
        .iter()
        .filter_map(|(series, (value, _))| {
            let bound = series.split("le=\"").nth(1)?.split('"').next()?;
            Some((bound.replace("+Inf", "inf").parse().unwrap(), *value))
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1.0)));
}

/// An upstream that never answers `/token/hang` and `/lead/hang`, and answers `/slow` piece by piece.
async fn unwilling() -> (Upstream, UnboundedReceiver<Feed>) {
    let (feeds, fed_to) = unbounded_channel();
    let upstream = Upstream::start(move |request| {
        let feeds = feeds.clone();
        async move {
            if request.uri.path().ends_with("/hang") {
                std::future::pending::<()>().await;
            }
            if request.uri.path().ends_with("/slow") {
                let (feed, body) = fed();
                feeds.send(feed).unwrap();
                return Response::new(body);
            }
            Response::new(full("ok"))
        }
    })
    .await;
    (upstream, fed_to)
}

/// Path, status and end, as its record tells.
type Told = (&'static str, u64, &'static str);

/// Clients that leave before the answer and within it, and an upstream that breaks off.
async fn leave(
    gateway: &Foregate,
    upstream: &Upstream,
    feeds: &mut UnboundedReceiver<Feed>,
    http2: bool,
) -> [Told; 3] {
    let address = gateway.address("edge/http");
    let connect = async || if http2 { Client::http2(address).await } else { Client::http1(address).await };
    let mut waiting = connect().await;
    let seen = upstream.received().len();
    let request = waiting.request("GET", "/open/hang").body(full("")).unwrap();
    tokio::select! {
        _ = waiting.exchange(request) => panic!("an answer to a request that hangs"),
        () = upstream.wait_received(seen + 1) => {}
    }
    waiting.abort().await;
    let mut reading = connect().await;
    let request = reading.request("GET", "/open/slow").body(full("")).unwrap();
    let response = reading.exchange(request).await.unwrap();
    let feed = feeds.recv().await.unwrap();
    assert!(feed.data("some").await);
    reading.abort().await;
    drop(response);
    feed.dropped().await;
    let mut broken = connect().await;
    let request = broken.request("GET", "/open/slow").body(full("")).unwrap();
    let response = broken.exchange(request).await.unwrap();
    feeds.recv().await.unwrap().fail().await;
    assert!(Reply::read(response).await.is_err());
    [
        ("/open/hang", 499, "client_gone"),
        ("/open/slow", 200, "client_gone"),
        ("/open/slow", 200, "upstream_broke"),
    ]
}

#[tokio::test]
async fn every_request_leaves_exactly_one_line_however_it_ends() {
    let (upstream, mut feeds) = unwilling().await;
    let lead = "insecure: { anonymous: true }\nenrich: [{ name: lead, model: lead-score, deadline: 900ms }]";
    let specs = [("open", "insecure: { anonymous: true }"), ("lead", lead)];
    let policies = [routes(upstream.address, &specs), model("lead-score", &bundle("lead-score"))].concat();
    let mut gateway = Foregate::start(&policies, Options::default().args(&["--drain-notice", "10ms"])).await;
    let address = gateway.address("edge/http");
    let mut expected: Vec<Told> = Vec::new();
    // Answered, refused, malformed.
    let mut client = Client::http1(address).await;
    for (target, status) in [("/open/a", 200), ("/nowhere", 404), ("/lead/a", 422), ("/open/%00", 400)] {
        assert_eq!(client.get(target).await.status, status, "{target}");
        expected.push((if status == 400 { "" } else { target }, u64::from(status), "complete"));
    }
    let twice = "GET /open/twice HTTP/1.1\r\nHost: crm.test\r\nHost: crm.test\r\n\r\n";
    assert_eq!(raw::exchange(address, twice).await.unwrap().status, 400);
    expected.push(("", 400, "complete"));
    // Two heads in one packet are two requests.
    let mut pipelined = RawClient::connect(address).await;
    pipelined.send("GET /open/p HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2)).await;
    for _ in 0..2 {
        assert_eq!(pipelined.response().await.unwrap().status, 200);
        expected.push(("/open/p", 200, "complete"));
    }
    for http2 in [false, true] {
        expected.extend(leave(&gateway, &upstream, &mut feeds, http2).await);
    }
    let mut half = RawClient::connect(address).await;
    half.send("POST /lead/half HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{").await;
    gateway.wait_sample("http_server_active_requests", |requests| requests >= 1.0).await;
    drop(half);
    let all = gateway.access_log().wait_count("every record", expected.len() + 1, |_| true).await;
    // Whether it is told that it broke off, or has left before that: the client is gone.
    let of_half: Vec<&Value> = all.iter().filter(|line| line["url.path"] == "/lead/half").collect();
    assert_eq!(of_half.len(), 1);
    assert!(
        [400, 499].contains(&of_half[0]["http.response.status_code"].as_u64().unwrap()),
        "{}",
        of_half[0]
    );
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let mut told: Vec<(String, u64, String)> = all
        .iter()
        .filter(|line| line["url.path"] != "/lead/half")
        .map(|line| {
            (
                text(line, "url.path"),
                line["http.response.status_code"].as_u64().unwrap(),
                text(line, "foregate.end"),
            )
        })
        .collect();
    told.sort();
    let mut expected: Vec<_> =
        expected.iter().map(|(path, status, end)| ((*path).to_owned(), *status, (*end).to_owned())).collect();
    expected.sort();
    assert_eq!(told, expected);
    // Nothing comes behind, not even at the end of the process; no id comes twice.
    gateway.terminate();
    assert!(gateway.exit().await.success());
    gateway.access_log().ended().await;
    let ids: BTreeSet<String> =
        gateway.access_log().all().iter().map(|line| text(line, "foregate.decision")).collect();
    assert_eq!((ids.len(), gateway.access_log().text().lines().count()), (all.len(), all.len()));
}

#[tokio::test]
async fn other_machines_see_health_and_metrics_and_no_more() {
    let options = Options::default().args(&["--probes", "127.0.0.1:0"]);
    let gateway = Foregate::start(&policies::plain("127.0.0.1:9"), options).await;
    let listening = gateway.event("probes listening").await;
    let probes = listening["address"].as_str().unwrap().parse().unwrap();
    let page = async |path: &str| {
        let mut client = Client::http1(probes).await;
        let request = client.request("GET", path).header("host", probes.to_string());
        client.send_empty(request).await
    };
    assert_eq!(page("/livez").await.status, 200);
    assert_eq!(page("/readyz").await.status, 200);
    assert!(page("/metrics").await.text().contains("foregate_"));
    for path in ["/config", "/decisions", "/upstreams", "/"] {
        assert_eq!(page(path).await.status, 404, "{path}");
        assert_eq!(gateway.admin_page(path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn probes_are_led_to_the_application_behind_a_sidecar() {
    let web = Upstream::start(|request| async move {
        let status = if request.uri.path() == "/healthz" { 200 } else { 500 };
        Response::builder().status(status).body(full("")).unwrap()
    })
    .await;
    let rpc = Upstream::speaking(Speak::Http2, |request| async move {
        assert_eq!(request.uri.path(), "/grpc.health.v1.Health/Check");
        let serving = u8::from(request.body.ends_with(b"crm"));
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, serving])).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            feed.trailers(trailers).await;
        });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    // Of an authority that nobody knows: the kubelet does not look.
    let leaf = Authority::new().leaf(&["crm.internal"]);
    let secured = Upstream::speaking(Speak::Tls(leaf.server(&["http/1.1"])), |_| async {
        Response::new(full("hello"))
    })
    .await;
    let (web, rpc, secured) = (web.address.port(), rpc.address.port(), secured.address.port());
    let told = serde_json::json!({
        "app/liveness": { "httpGet": { "port": web, "path": "/healthz", "scheme": "HTTP" }, "timeoutSeconds": 5 },
        "app/readiness": { "httpGet": { "port": web, "path": "/ready" }, "timeoutSeconds": 5 },
        "tls/liveness": { "httpGet": { "port": secured, "path": "/", "scheme": "HTTPS" }, "timeoutSeconds": 5 },
        "tls/readiness": { "httpGet": { "port": web, "path": "/", "scheme": "HTTPS" }, "timeoutSeconds": 5 },
        "rpc/liveness": { "grpc": { "port": rpc, "service": "crm" }, "timeoutSeconds": 5 },
        "rpc/readiness": { "grpc": { "port": rpc, "service": "other" }, "timeoutSeconds": 5 },
    });
    let options = Options::default().args(&["--probes", "127.0.0.1:0"]);
    let options = options.env("FOREGATE_PROBES", told.to_string()).env("POD_IP", "127.0.0.1");
    let gateway = Foregate::start(&policies::plain("127.0.0.1:9"), options).await;
    let listening = gateway.event("probes listening").await;
    let probes = listening["address"].as_str().unwrap().parse().unwrap();
    for (path, status) in [
        ("/probes/app/liveness", 200),
        ("/probes/app/readiness", 503),
        ("/probes/tls/liveness", 200),
        ("/probes/tls/readiness", 503),
        ("/probes/rpc/liveness", 200),
        ("/probes/rpc/readiness", 503),
        ("/probes/app/startup", 404),
    ] {
        let mut client = Client::http1(probes).await;
        let request = client.request("GET", path).header("host", probes.to_string());
        let reply = client.send_empty(request).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
    let options = Options::default().args(&["--probes", "127.0.0.1:0"]).env("FOREGATE_PROBES", "nonsense");
    let (status, said) = Foregate::refused(&policies::plain("127.0.0.1:9"), options).await;
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("FOREGATE_PROBES"), "{said}");
}
