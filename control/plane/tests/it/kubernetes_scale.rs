//! A thousand Services with ten thousand endpoints: memory, and the way of a change.

use std::collections::BTreeMap;
use std::time::Duration;

use foregate_control::clock::monotonic;
use serde_json::{Value, json};

use crate::apiserver::Cluster;
use crate::kubernetes::{CLASS, GATEWAY, control};

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;
/// Changes that are timed.
const CHANGES: usize = 50;

fn of(service: usize, first: usize) -> Value {
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|index| {
            let address = format!("10.{}.{}.{}", service / 250, service % 250, first + index);
            json!({
                "addresses": [address], "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", index % 7), "zone": format!("zone-{}", index % 3),
                "targetRef": { "kind": "Pod", "name": format!("service-{service}-{index}"), "namespace": "crm", "uid": "0b4bd9ae-3b5f-4d1b-9d2e-2f7a0f3f4c11" }
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("service-{service}-x"), "namespace": "crm", "labels": { "kubernetes.io/service-name": format!("service-{service}") } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }], "endpoints": endpoints
    })
}

fn fill(cluster: &Cluster) {
    let store = cluster.store();
    let create = |group: &str, version: &str, plural: &str, object: Value| {
        let at = ("crm".to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        store.create(&(group.to_owned(), version.to_owned(), plural.to_owned()), &at, object).unwrap();
    };
    for service in 0..SERVICES {
        let name = format!("service-{service}");
        create(
            "",
            "v1",
            "services",
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        );
        create("discovery.k8s.io", "v1", "endpointslices", of(service, 1));
        create(
            "gateway.networking.k8s.io",
            "v1",
            "httproutes",
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
                "spec": {
                    "parentRefs": [{ "name": "edge" }], "hostnames": [format!("{name}.crm.test")],
                    "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }], "backendRefs": [{ "name": name, "port": 80 }] }]
                }
            }),
        );
    }
    create(
        "foregate.dev",
        "v1alpha1",
        "policies",
        json!({
            "apiVersion": "foregate.dev/v1alpha1", "kind": "Policy", "metadata": { "name": "all" },
            "spec": { "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" }], "authorize": [{ "name": "all", "allow": "true" }] }
        }),
    );
}

/// Memory of this process in KiB, as the kernel counts it.
fn resident() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let number = |text: &str| text.trim().trim_end_matches(" kB").parse().ok();
    lines.filter_map(|(name, value)| Some((name.to_owned(), number(value)?))).collect()
}

/// The API server runs in a process of its own, so that only the controller is measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test -p foregate-control --test it -- --ignored --nocapture scale"]
async fn a_thousand_services_with_ten_thousand_endpoints() {
    let mut server = Server::start();
    let cluster = Cluster::at(&server.url);
    let began = monotonic();
    let controlled = control(&cluster);
    let last = format!("kubernetes/crm/Service/service-{}.80.endpoints", SERVICES - 1);
    controlled.tree("all endpoints are there", |tree| tree.text(&last).contains("10.3.249.10")).await;
    let ready = monotonic().saturating_sub(began);
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let service = change * (SERVICES / CHANGES);
        let path = format!("kubernetes/crm/Service/service-{service}.80.endpoints");
        let wanted = format!("10.{}.{}.{}:", service / 250, service % 250, 100 + ENDPOINTS - 1);
        let mut tree = controlled.running.tree.clone();
        let began = monotonic();
        cluster.put(&of(service, 100)).await;
        tokio::time::timeout(
            Duration::from_secs(30),
            tree.wait_for(|tree| tree.text(&path).contains(&wanted)),
        )
        .await
        .unwrap()
        .unwrap();
        times.push(monotonic().saturating_sub(began));
    }
    times.sort();
    let memory = resident();
    println!(
        "{SERVICES} Services, {} endpoints: first tree after {ready:.2?}; an endpoint change, write included: p50 {:.2?}, max {:.2?}; RSS {} MiB, peak {} MiB",
        SERVICES * ENDPOINTS,
        times[CHANGES / 2],
        times[CHANGES - 1],
        memory["VmRSS"] / 1024,
        memory["VmHWM"] / 1024,
    );
    assert!(times[CHANGES - 1] < Duration::from_secs(1), "{times:?}");
    server.end();
}

/// This binary once more, as an API server with everything in it.
struct Server {
    child: std::process::Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        use std::io::{BufRead, BufReader};
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact", "kubernetes_scale::serve_for_the_measurement"])
            .env("FOREGATE_SCALE_SERVER", "1")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.find_map(|line| line.split_once("serving ").map(|(_, url)| url.to_owned())).unwrap();
        Self { child, url }
    }

    fn end(&mut self) {
        // It ends with its standard input.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[tokio::test]
#[ignore = "started by the measurement"]
async fn serve_for_the_measurement() {
    if std::env::var_os("FOREGATE_SCALE_SERVER").is_none() {
        return;
    }
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY] {
        cluster.apply(text).await;
    }
    fill(&cluster);
    println!("\nserving {}", cluster.url());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await
        .unwrap()
        .unwrap();
}
