//! Faults on purpose, for whom a policy means them and nobody else.

use crate::gateway_api::{Row, World, answered, rule, to};
use crate::support::client::Client;
use crate::support::guarded::policy;
use crate::support::policies;
use crate::support::upstream::empty;

#[tokio::test]
async fn faults_meet_those_that_ask_for_them() {
    let spec = "insecure: { anonymous: true }
inject:
- { name: late, when: 'request.headers[\"x-try\"] == \"late\"', delay: 300ms }
- { name: down, when: 'request.headers[\"x-try\"] == \"down\"', abort: true }
- { name: both, when: 'request.headers[\"x-try\"] == \"both\"', delay: 1ms, abort: true }
- { name: half, when: 'request.headers[\"x-try\"] == \"half\"', abort: true, percent: 50 }
";
    let route = policies::route("all", &rule("", "one")).split_inclusive("---").next().unwrap().to_owned();
    let world = World::new(&["one"], &[policies::GATEWAY, &route, &policy("all", spec)].concat()).await;
    world
        .check(&[
            to("GET crm.test /", "one"),
            Row { send: &[("x-try", "other")], ..to("GET crm.test /", "one") },
            Row { send: &[("x-try", "down")], ..answered("GET crm.test /", 503) },
            Row { send: &[("x-try", "both")], ..answered("GET crm.test /", 503) },
        ])
        .await;
    let refused =
        "foregate_refusals_total{route=\"all/0\",step=\"decide\",reason=\"FaultInjected\",rule=\"down\"}";
    assert_eq!(world.gateway.sample(refused).await, Some(2.0));
    for (rule, kind) in [("down", "abort"), ("both", "delay"), ("both", "abort")] {
        let sample = format!("foregate_injected_faults_total{{rule=\"{rule}\",kind=\"{kind}\"}}");
        assert_eq!(world.gateway.sample(&sample).await, Some(2.0), "{sample}");
    }

    // One waits, and keeps nobody on its connection waiting.
    let mut client = Client::http2(world.gateway.address("edge/http")).await;
    let late = client.request("GET", "/").header("x-try", "late");
    let requests = [late, client.request("GET", "/")].map(|it| it.body(empty()).unwrap());
    let replies = client.send_all(requests.into()).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let mut times = Vec::new();
    for reply in &replies {
        let record = world.gateway.record(reply.decision()).await;
        times.push(record["foregate.duration_us"].as_f64().unwrap());
    }
    assert!(times[0] >= 300_000.0 && times[1] < 300_000.0, "{times:?}");

    let mut refused = 0;
    for _ in 0..200 {
        let reply = client.send_empty(client.request("GET", "/").header("x-try", "half")).await;
        refused += usize::from(reply.status == 503);
    }
    // Six standard deviations around 100: one run in a billion falls out.
    assert!((58..=142).contains(&refused), "{refused} of 200");
}
