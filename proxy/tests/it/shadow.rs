//! Policies on trial: compared and counted, never obeyed.

use crate::support::client::Client;
use crate::support::consumers::known;
use crate::support::guarded::{guarded, policy};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

#[tokio::test]
async fn a_policy_on_trial_is_compared_and_refuses_nobody() {
    let upstream = Upstream::answering("ok").await;
    let sales = known("sales");
    let real = "authorize: [{ name: reads, allow: 'request.method == \"GET\"' }]";
    let trial = "mode: shadow
apiKey: {}
rateLimit: [{ name: few, key: consumer.name, limit: 2, per: 24h }]
authorize: [{ name: orders, allow: 'request.path == \"/orders\"' }]";
    let policies = guarded(upstream.address, real)
        + &policy("all", trial).replace("metadata: { name: all }", "metadata: { name: trial }")
        + &sales.document("", "");
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (method, target, key, status, verdict, rule) in [
        ("GET", "/orders", true, 200, "allow", None),
        ("GET", "/orders", false, 200, "refuse", Some("trial")),
        ("GET", "/other", true, 200, "refuse", Some("default")),
        ("PUT", "/orders", true, 403, "allow", None),
        ("PUT", "/orders", true, 403, "refuse", Some("few")),
        ("GET", "/orders", true, 200, "refuse", Some("few")),
    ] {
        let mut request = client.request(method, target);
        if key {
            request = request.header("x-api-key", &sales.key);
        }
        let reply = client.send_empty(request).await;
        assert_eq!(reply.status, status, "{method} {target}");
        assert_eq!(reply.header("ratelimit"), "", "callers learn nothing of it");
        let record = gateway.record(reply.decision()).await;
        let shadow = &record["foregate.shadows"][0];
        assert_eq!((&shadow["policy"], &shadow["verdict"]), (&"trial".into(), &verdict.into()), "{record}");
        assert_eq!(shadow["real"], if status == 200 { "allow" } else { "refuse" });
        assert_eq!(shadow.get("rule").and_then(|rule| rule.as_str()), rule);
        assert_eq!(record.get("foregate.consumer"), None, "nobody is identified by it");
    }
    // The key is the caller's own affair: a policy on trial takes nothing away.
    assert!(upstream.received().iter().any(|it| it.headers.contains_key("x-api-key")));
    for (verdict, real, rule, count) in [
        ("allow", "allow", "", 1.0),
        ("refuse", "allow", "trial", 1.0),
        ("refuse", "allow", "default", 1.0),
        ("refuse", "allow", "few", 1.0),
        ("allow", "refuse", "", 1.0),
        ("refuse", "refuse", "few", 1.0),
    ] {
        let series = format!(
            "foregate_policy_shadow_total{{policy=\"trial\",verdict=\"{verdict}\",real=\"{real}\",rule=\"{rule}\"}}"
        );
        gateway.wait_sample(&series, |value| (value - count).abs() < 0.5).await;
    }
}
