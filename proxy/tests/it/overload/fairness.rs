//! Tenants of a saturated backend: each its share, and what one leaves to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::overload::{Backend, Crowd};
use crate::support::guarded::policy;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::within;

const PLACES: usize = 4;
const SERVICE: Duration = Duration::from_millis(10);

/// A tenant whose callers come again as soon as they are answered.
#[derive(Debug)]
struct Tenant {
    name: &'static str,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Tenant {
    fn start(crowd: &Crowd, name: &'static str, callers: usize) -> Self {
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut set = JoinSet::new();
        for number in 0..callers {
            let (crowd, served, stop) = (crowd.clone(), Arc::clone(&served), Arc::clone(&stop));
            set.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    match crowd.get(number, &[("x-org", name)]).await.status {
                        200 => drop(served.fetch_add(1, Ordering::SeqCst)),
                        // Told to come again; it does so after the time of one request.
                        503 => tokio::time::sleep(SERVICE).await,
                        other => panic!("{other}"),
                    }
                }
            });
        }
        Self { name, served, stop, callers: set }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        within(self.name, self.callers.join_all()).await;
    }
}

/// How many requests of each tenant are served while the backend serves so many.
async fn shares(backend: &Backend, tenants: &[&Tenant], requests: usize) -> Vec<usize> {
    let before: Vec<usize> = tenants.iter().map(|tenant| tenant.served()).collect();
    let end = backend.served() + requests;
    within("requests to be served", async {
        while backend.served() < end {
            tokio::time::sleep(SERVICE / 2).await;
        }
    })
    .await;
    tenants.iter().zip(before).map(|(tenant, before)| tenant.served() - before).collect()
}

/// Asserts that each has its part of all within 10 %.
fn fair(shares: &[usize], weights: &[usize]) {
    let (all, sum) = (shares.iter().sum::<usize>(), weights.iter().sum::<usize>());
    for (share, weight) in shares.iter().zip(weights) {
        let due = all * weight / sum;
        assert!(share.abs_diff(due) * 10 <= due, "{shares:?} for {weights:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_gets_its_share_however_many_requests_the_others_send() {
    let backend = Backend::start(PLACES, SERVICE).await;
    let spec = "insecure: { anonymous: true }
fairness: { key: 'request.headers[\"x-org\"]', weights: { acme: 2 } }";
    let concurrency = "concurrency: { max: 20, adaptive: false, queue: { size: 48, wait: 5s } }";
    let text = policies::to(backend.upstream.address, concurrency)
        .replace(&policies::anonymous("all"), &policy("all", spec));
    let gateway = Foregate::start(&text, Options::default()).await;
    let crowd = Crowd::connect(gateway.address("edge/http"), 2).await;
    let acme = Tenant::start(&crowd, "acme", 24);
    let globex = Tenant::start(&crowd, "globex", 24);
    // Asks for far more than its share.
    let initech = Tenant::start(&crowd, "initech", 80);
    shares(&backend, &[], 50).await;
    let all = shares(&backend, &[&acme, &globex, &initech], 600).await;
    fair(&all, &[2, 1, 1]);

    // What one leaves goes to the others at once, and the backend has no rest.
    acme.stop().await;
    shares(&backend, &[], 50).await;
    let (starved, served) = (backend.starved(), backend.served());
    let rest = shares(&backend, &[&globex, &initech], 400).await;
    fair(&rest, &[1, 1]);
    let (starved, served) = (backend.starved() - starved, backend.served() - served);
    // A tenth, and not a twentieth: this machine may be busy with other tests.
    assert!(starved * 10 <= served, "{starved} of {served}");

    // Whoever is alone has all of it.
    globex.stop().await;
    let alone = shares(&backend, &[&initech], 200).await;
    assert!(alone[0] >= 190, "{alone:?}");
    initech.stop().await;
    gateway.wait_sample("foregate_upstream_requests_in_flight{upstream=\"crm\"}", |count| count == 0.0).await;
}

#[tokio::test]
async fn who_is_of_no_tenant_is_refused() {
    let backend = Backend::start(PLACES, Duration::ZERO).await;
    let spec = "insecure: { anonymous: true }\nfairness: { key: 'request.headers[\"x-org\"]' }";
    let text =
        policies::plain(backend.upstream.address).replace(&policies::anonymous("all"), &policy("all", spec));
    let gateway = Foregate::start(&text, Options::default()).await;
    let crowd = Crowd::connect(gateway.address("edge/http"), 1).await;
    assert_eq!(crowd.get(0, &[("x-org", "acme")]).await.status, 200);
    let refused = crowd.get(0, &[]).await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "RuleError"));
    let (status, page) = gateway.admin_page(&format!("/decisions/{}", refused.decision())).await;
    assert_eq!(status, 200);
    assert!(page.contains("fairness"), "{page}");
}
