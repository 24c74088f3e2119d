//! The calls of an org over the wire: the unimportant are refused first.

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::client::{Client, Reply};
use crate::support::guarded::policy;
use crate::support::org::Org;
use crate::support::policies::{GATEWAY, route, upstream};
use crate::support::process::{Foregate, Options};

const QUOTA: &str = "orgQuota: { limit: 100, classes: [{ name: interactive, until: 100 }, { name: sync, until: 80 }, { name: bulk, until: 50 }], consumers: { desk: { class: interactive }, erp: { class: sync } }";

fn policies(org: &Org, more: &str) -> String {
    let rules = "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: org }]";
    let key = "orgQuota: { key: 'request.headers[\"x-client\"]' }";
    let quota = format!("{QUOTA}{more} }}");
    let named = policy("all", key).replace("metadata: { name: all }", "metadata: { name: named }");
    [GATEWAY, &route("all", rules), &upstream("org", org.address(), &quota), &named].concat()
}

async fn call(client: &mut Client, who: &str) -> Reply {
    let request = client.request("GET", "/services/data/v62.0/sobjects").header("x-client", who);
    client.send_empty(request).await
}

#[tokio::test]
async fn the_pool_runs_low_for_the_unimportant_first() {
    let org = Org::start(100).await;
    let gateway = Foregate::start(&policies(&org, ""), Options::default()).await;
    let address = gateway.address("edge/http");
    // A burst from nothing: all at once, on many connections.
    let burst =
        join_all((0..120).map(async |_| call(&mut Client::http1(address).await, "nightly").await.status));
    let passed = burst.await.into_iter().filter(|status| *status == 200).count();
    assert!(passed <= 50 && org.received() == passed, "{passed}");
    let mut client = Client::http1(address).await;
    while call(&mut client, "nightly").await.status == 200 {}
    assert_eq!(org.used(), 50, "exactly what the class has, once nothing is under way");
    let refused = call(&mut client, "nightly").await;
    assert_eq!((refused.status, refused.reason().as_str()), (429, "OrgQuotaReserved"));
    assert_eq!(refused.header("retry-after"), "60");
    let record = gateway.record(refused.decision()).await;
    assert_eq!((&record["foregate.step"], &record["foregate.rule"]), (&"dispatch".into(), &"bulk".into()));
    assert_eq!(
        record["foregate.org_quota"],
        serde_json::json!({ "class": "bulk", "used": 50, "limit": 100 })
    );
    while call(&mut client, "erp").await.status == 200 {}
    assert_eq!((org.used(), call(&mut client, "nightly").await.status), (80, 429));
    while call(&mut client, "desk").await.status == 200 {}
    assert_eq!(org.used(), 100);
    let exhausted = call(&mut client, "desk").await;
    assert_eq!((exhausted.status, exhausted.reason().as_str()), (503, "OrgQuotaExhausted"));
    for (class, admitted) in [("bulk", 50.0), ("sync", 30.0), ("interactive", 20.0)] {
        let series = format!("foregate_org_quota_admitted_total{{upstream=\"org\",class=\"{class}\"}}");
        assert_eq!(gateway.sample(&series).await, Some(admitted));
        let series = format!("foregate_org_quota_refused_total{{upstream=\"org\",class=\"{class}\"}}");
        assert!(gateway.sample(&series).await.unwrap() >= 1.0);
    }
    assert_eq!(gateway.sample("foregate_org_quota_used{upstream=\"org\"}").await, Some(100.0));
    assert_eq!(gateway.sample("foregate_org_quota_limit{upstream=\"org\"}").await, Some(100.0));
    let page: Value = serde_json::from_str(&gateway.admin_page("/upstreams").await.1).unwrap();
    let shown = &page[0]["org_quota"];
    assert_eq!(
        (&shown["used"], &shown["classes"][2]["name"], &shown["classes"][2]["admitted"]),
        (&100.into(), &"bulk".into(), &50.into())
    );
    let nobody = client.get("/").await;
    assert_eq!((nobody.status, nobody.reason().as_str()), (403, "RuleError"));
}

#[tokio::test]
async fn what_others_use_is_noticed_and_what_falls_out_too() {
    let org = Org::start(100).await;
    let gateway = Foregate::start(&policies(&org, ", refresh: 1s"), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(call(&mut client, "nightly").await.status, 200);
    org.others(60);
    // The next answer tells of it.
    assert_eq!(call(&mut client, "nightly").await.status, 200);
    assert_eq!(call(&mut client, "nightly").await.status, 429);
    assert_eq!(call(&mut client, "erp").await.status, 200);
    org.others(-60);
    assert_eq!(call(&mut client, "erp").await.status, 200);
    assert_eq!(call(&mut client, "nightly").await.status, 200, "a call that was let through has told");
    // With nobody else there, one refused call in a while finds out.
    org.others(90);
    assert_eq!(call(&mut client, "desk").await.status, 200);
    org.others(-90);
    let mut refused = 0;
    while call(&mut client, "nightly").await.status == 429 {
        refused += 1;
    }
    assert!(refused > 0);
    assert_eq!(call(&mut client, "nightly").await.status, 200);
}

#[tokio::test]
async fn hostile_usage_is_ignored_and_counted_and_reloads_forget_nothing() {
    let org = Org::start(100).await;
    let gateway = Foregate::start(&policies(&org, ""), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..10 {
        assert_eq!(call(&mut client, "erp").await.status, 200);
    }
    for (number, text) in
        ["api-usage=0/0", "api-usage=1/99999999999999999999", "nonsense"].into_iter().enumerate()
    {
        org.says(Some(text));
        assert_eq!(call(&mut client, "erp").await.status, 200);
        let ignored = gateway.sample("foregate_org_quota_ignored_total{upstream=\"org\"}").await;
        #[expect(clippy::cast_precision_loss, reason = "three is exact")]
        let expected = (number + 1) as f64;
        assert_eq!(ignored, Some(expected), "{text}");
    }
    let used = "foregate_org_quota_used{upstream=\"org\"}";
    assert_eq!(gateway.sample(used).await, Some(13.0), "calls count, whatever is said of them");
    gateway.publish(&policies(&org, ", mode: audit")).await;
    assert_eq!(gateway.sample(used).await, Some(13.0));
    org.says(None);
    org.others(80);
    assert_eq!(call(&mut client, "erp").await.status, 200);
    let audited = call(&mut client, "erp").await;
    assert_eq!(audited.status, 200);
    let record = gateway.record(audited.decision()).await;
    assert_eq!(record["foregate.audits"][0]["rule"], "sync");
    assert_eq!(record["foregate.audits"][0]["step"], "dispatch");
}

#[tokio::test]
async fn replays_use_no_calls() {
    let org = Org::start(100).await;
    let text = policies(&org, "");
    let text = text.replace(
        "  orgQuota: { key",
        "  idempotency: { scope: 'request.headers[\"x-client\"]' }\n  orgQuota: { key",
    );
    let gateway = Foregate::start(&text, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..3 {
        let request =
            client.request("POST", "/services/data").header("x-client", "erp").header("idempotency-key", "k");
        assert_eq!(client.send_empty(request).await.status, 200);
    }
    assert_eq!(org.used(), 1);
}
