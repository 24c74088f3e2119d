//! A decision told step by step: admin endpoint and command line, places, and no secret.

use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::command::foregate;
use crate::support::guarded::{bundle, guarded, model, policy, routes};
use crate::support::idp::Idp;
use crate::support::policies::upstream;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};

/// Occurs in every secret, and nowhere else.
const MARKER: &str = "hunter2";

const SCORED: &str = "enrich: [{ name: lead, model: lead-score, deadline: 900ms }]\n";

/// One route for each step that can refuse.
fn policies(crm: &Upstream, idp: &Idp) -> String {
    let identify = format!(
        "jwt:\n{}authorize:\n- {{ name: readers, allow: '\"crm.read\" in jwt.scopes' }}\n",
        idp.by_url()
    );
    let limit = format!(
        "jwt:\n{}authorize:\n- {{ name: everybody, allow: 'true' }}
rateLimit:
- {{ name: loose, key: source.address, limit: 1000, per: 1s }}
- {{ name: per-secret, key: jwt.secret, limit: 1, per: 24h }}\n",
        idp.by_url()
    );
    let admit = "authorize:
- { name: readers, allow: 'request.method == \"GET\"' }
- { name: staff, allow: '\"x-staff\" in request.headers && request.headers[\"x-staff\"] == \"yes\"' }
- { name: no-admin, deny: 'request.path.startsWith(\"/admit/admin\")' }
- { name: level, deny: 'int(request.headers[\"x-level\"]) > 7' }\n";
    let decide = format!(
        "{SCORED}authorize:\n- {{ name: anyone, allow: 'true' }}\n- {{ name: low, deny: 'enrich.lead.score < 1.1' }}\n"
    );
    let audit = "authorize:
- { name: anyone, allow: 'true' }
- { name: tried, deny: 'request.method == \"GET\"', mode: audit }\n";
    let open = "insecure: { anonymous: true }\n";
    let specs = [
        ("guard", &*format!("{open}addresses:\n  deny: [127.0.0.0/8]\n")),
        ("identify", &*identify),
        ("admit", admit),
        ("limit", &*limit),
        ("enrich", &*format!("{open}{SCORED}")),
        ("decide", &*decide),
        ("audit", audit),
    ];
    let gone = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: gone }
spec:
  parentRefs: [{ name: edge }]
  rules:
  - name: rule
    matches: [{ path: { type: PathPrefix, value: /gone } }]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: gone }]
---";
    [
        routes(crm.address, &specs),
        gone.to_owned(),
        policy("gone", open),
        upstream("gone", "127.0.0.1:1", ""),
        model("lead-score", &bundle("lead-score")),
    ]
    .concat()
}

/// The line of the only place where this text stands, from 1.
#[track_caller]
fn line(policies: &str, text: &str) -> u64 {
    assert_eq!(policies.matches(text).count(), 1, "{text}");
    policies[..policies.find(text).unwrap()].lines().count().max(1) as u64
        + u64::from(policies[..policies.find(text).unwrap()].ends_with('\n'))
}

struct Explained {
    gateway: Foregate,
    policies: String,
    client: Client,
    _crm: Upstream,
    idp: Idp,
}

impl Explained {
    async fn start(args: &[&str]) -> Self {
        let (crm, idp) = (Upstream::answering("ok").await, Idp::start().await);
        let policies = policies(&crm, &idp);
        let gateway = Foregate::start(&policies, Options::default().args(args)).await;
        gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
        let client = Client::http1(gateway.address("edge/http")).await;
        Self { gateway, policies, client, _crm: crm, idp }
    }

    async fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let target = format!("{target}?{MARKER}={MARKER}");
        let mut request = self.client.request(method, &target).header("cookie", MARKER);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = self.client.send(request.body(full(body.to_owned())).unwrap()).await;
        // Recorded, and so kept, before anything is asked about it.
        self.gateway.record(reply.decision()).await;
        reply
    }

    /// A decision by the admin endpoint and by the command line, as JSON and as text.
    async fn told(&self, reply: &Reply) -> (Value, String) {
        let id = reply.decision();
        let (status, page) = self.gateway.admin_page(&format!("/decisions/{id}")).await;
        assert_eq!(status, 200, "{page}");
        let admin = self.gateway.admin().to_string();
        let json = foregate(&["explain", id, "--admin", &format!("http://{admin}"), "--format", "json"]);
        let json = json.is(0, &[], &[]).out;
        let decision: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(decision, serde_json::from_str::<Value>(&page).unwrap());
        assert_eq!(json.lines().count(), 1);
        let text = foregate(&["explain", id, "--admin", &admin]).is(0, &[id], &[]).out;
        for (what, told) in [("admin", &page), ("json", &json), ("text", &text)] {
            assert!(!told.contains(MARKER), "{what}: {told}");
        }
        (decision, text)
    }

    /// The step that refused, which both ways of telling place at this line.
    async fn refused(&self, reply: &Reply, rule: &str, place: &str) -> Value {
        let (decision, text) = self.told(reply).await;
        let steps = decision["foregate.steps"].as_array().unwrap();
        let refused: Vec<&Value> = steps.iter().filter(|step| step["verdict"] == "refused").collect();
        assert_eq!(refused.len(), 1, "{decision:#}");
        let refused = refused[0].clone();
        assert_eq!(refused["reason"], reply.reason(), "{decision:#}");
        assert_eq!(refused["step"], decision["foregate.step"], "{decision:#}");
        assert_eq!(refused["rule"].as_str().unwrap_or_default(), rule, "{decision:#}");
        let line = line(&self.policies, place);
        assert_eq!(refused["line"], line, "{decision:#}");
        assert!(refused["file"].as_str().unwrap().ends_with("/policies.yaml"), "{refused}");
        let step = refused["step"].as_str().unwrap();
        let row = text.lines().find(|row| row.starts_with(step) && row.contains("refused")).unwrap();
        assert!(row.contains(&format!("policies.yaml:{line}")), "{text}");
        let reason = format!("reason: {}", reply.reason());
        assert!(text.contains(&reason) && text.contains("to do: "), "{text}");
        refused
    }
}

#[tokio::test]
async fn a_refusal_in_every_step_names_its_rule_its_line_and_what_it_read() {
    let mut it = Explained::start(&[]).await;
    let json = ("content-type", "application/json");
    let reply = it.send("GET", "/guard", &[], "").await;
    let told = it.refused(&reply, "addresses", "addresses:\n").await;
    assert_eq!(told["inputs"]["source.address"], "127.0.0.1");

    let bearer = |token: &str| format!("Bearer {token}");
    let expired = bearer(&it.idp.sign(&json!({ "exp": 1, "secret": MARKER })));
    let reply = it.send("GET", "/identify", &[("authorization", &expired)], "").await;
    let issuer = it.idp.url().to_owned();
    let (decision, _) = it.told(&reply).await;
    let refused = decision["foregate.steps"].as_array().unwrap().iter().find(|it| it["verdict"] == "refused");
    assert_eq!((&refused.unwrap()["rule"], &refused.unwrap()["kind"]), (&issuer.into(), &"issuer".into()));
    assert_eq!(refused.unwrap()["detail"], "the token has expired");

    let token = bearer(&it.idp.sign(&json!({ "sub": "ada", "scope": "crm.write", "secret": MARKER })));
    let reply = it.send("GET", "/identify", &[("authorization", &token)], "").await;
    let told = it.refused(&reply, "default", "authorize:\n  - { name: readers, allow: '\"crm.read\"").await;
    assert_eq!(told["inputs"], json!({ "jwt.scopes": ["crm.write"] }));

    let level = ("x-level", "1");
    let reply = it.send("GET", "/admit/admin/x", &[level], "").await;
    let told = it.refused(&reply, "no-admin", "- { name: no-admin").await;
    assert_eq!(told["inputs"], json!({ "request.path": "/admit/admin/x" }));
    assert_eq!(told["expression"], "request.path.startsWith(\"/admit/admin\")");
    let reply = it.send("POST", "/admit", &[level, ("x-staff", MARKER)], "").await;
    let told = it.refused(&reply, "default", "authorize:\n  - { name: readers, allow: 'request").await;
    let redacted = json!({ "redacted": true });
    assert_eq!(told["inputs"], json!({ "request.method": "POST", "request.headers[\"x-staff\"]": redacted }));
    let reply = it.send("GET", "/admit", &[], "").await;
    let told = it.refused(&reply, "level", "- { name: level").await;
    assert_eq!(told["inputs"], json!({ "request.headers[\"x-level\"]": null }), "absent, and told so");
    assert_eq!(told["reason"], "RuleError");

    for expected in [200, 429] {
        let reply = it.send("GET", "/limit", &[("authorization", &token)], "").await;
        assert_eq!(reply.status, expected);
        if expected == 429 {
            let told = it.refused(&reply, "per-secret", "- { name: per-secret").await;
            assert_eq!(told["inputs"], json!({ "jwt.claims[\"secret\"]": redacted }));
            assert_eq!(told["limits"][0]["key"].as_str().unwrap().len(), 12, "{told}");
        }
    }

    let reply = it.send("POST", "/enrich", &[json], MARKER).await;
    let told =
        it.refused(&reply, "lead", "enrich: [{ name: lead, model: lead-score, deadline: 900ms }]\n---").await;
    assert_eq!((&told["step"], &told["kind"]), (&"enrich".into(), &"enrich".into()));
    let lead = format!("{{\"Title\":\"CFO\",\"{MARKER}\":\"{MARKER}\"}}");
    let reply = it.send("POST", "/decide", &[json], &lead).await;
    let told = it.refused(&reply, "low", "- { name: low").await;
    assert!(told["inputs"]["enrich.lead.score"].as_f64().is_some_and(|score| score < 1.1), "{told}");
}

#[tokio::test]
async fn what_passed_failed_or_was_audited_is_told_as_well() {
    let mut it = Explained::start(&["--decision-sample", "1/1"]).await;
    let reply = it.send("GET", "/gone", &[], "").await;
    let told = it.refused(&reply, "gone", "metadata: { name: gone }\nspec: { endpoints").await;
    assert_eq!(told["step"], "dispatch");

    let reply = it.send("GET", "/audit", &[], "").await;
    assert_eq!(reply.status, 200);
    let (decision, text) = it.told(&reply).await;
    let steps = decision["foregate.steps"].as_array().unwrap();
    let verdicts: Vec<String> = steps
        .iter()
        .map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(verdicts, ["pin passed", "route passed", "admit passed", "dispatch passed", "respond passed"]);
    let admit = &steps[2];
    let allowed = line(&it.policies, "- { name: anyone, allow: 'true' }\n  - { name: tried");
    assert_eq!((&admit["rule"], &admit["line"]), (&"anyone".into(), &allowed.into()));
    assert_eq!(admit["audits"][0]["rule"], "tried");
    assert_eq!(admit["audits"][0]["line"], allowed + 1);
    assert_eq!(admit["audits"][0]["inputs"], json!({ "request.method": "GET" }));
    assert!(admit["duration_us"].as_f64().is_some_and(|time| time > 0.0), "every decision is timed: {admit}");
    assert!(steps[3]["duration_us"].as_f64().is_some_and(|time| time > 0.0), "{}", steps[3]);
    assert!(
        text.contains(&format!("audit tried: would deny, {}", steps[2]["file"].as_str().unwrap())),
        "{text}"
    );

    // A body that could not be had is refused by no filter.
    let big = "x".repeat(2 << 20);
    let reply = it.send("POST", "/enrich", &[("content-type", "application/json")], &big).await;
    let (decision, _) = it.told(&reply).await;
    let refused = &decision["foregate.steps"][2];
    assert_eq!((&refused["step"], &refused["filter"]), (&"enrich".into(), &"body".into()), "{decision:#}");
    assert_eq!(decision["foregate.steps"][3]["verdict"], "not reached");

    // Nothing matched: there is no chain to tell of.
    let mut client = Client::http1(it.gateway.address("edge/http")).await;
    let reply = client.get("/nowhere").await;
    it.gateway.record(reply.decision()).await;
    let (decision, text) = it.told(&reply).await;
    assert_eq!(decision["foregate.steps"][1]["reason"], "RouteNotFound");
    assert!(text.contains("compare host and path"), "{text}");
}

#[tokio::test]
async fn a_reload_does_not_change_what_is_told_of_a_decision() {
    let upstream = Upstream::answering("ok").await;
    let spec = |name: &str| format!("authorize:\n- {{ name: {name}, allow: 'request.path == \"/x\"' }}\n");
    let before = guarded(upstream.address, &spec("before"));
    let gateway = Foregate::start(&before, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    gateway.record(reply.decision()).await;
    let path = format!("/decisions/{}", reply.decision());
    let told = gateway.admin_page(&path).await;
    gateway.write("policies.yaml", format!("# moved\n# down\n{}", guarded(upstream.address, &spec("after"))));
    gateway.wait_sample("foregate_config_reloads_total{outcome=\"success\"}", |count| count >= 2.0).await;
    assert_eq!(gateway.admin_page(&path).await, told);
    let reply = client.get("/").await;
    gateway.record(reply.decision()).await;
    let (_, after) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
    let line = |page: &str| {
        let decision: Value = serde_json::from_str(page).unwrap();
        decision["foregate.steps"][2]["line"].as_u64().unwrap()
    };
    assert_eq!(line(&after), line(&told.1) + 2);
}

#[tokio::test]
async fn the_ring_stays_bounded_and_what_fell_out_is_told_so() {
    let upstream = Upstream::answering("ok").await;
    let policies = guarded(upstream.address, "authorize: [{ name: none, allow: 'false' }]\n");
    let gateway = Foregate::start(&policies, Options::default().args(&["--decisions", "5"])).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let reply = client.get("/").await;
        gateway.record(reply.decision()).await;
        ids.push(reply.decision().to_owned());
    }
    let (_, page) = gateway.admin_page("/decisions?limit=500").await;
    let kept: Vec<Value> = serde_json::from_str(&page).unwrap();
    let kept: Vec<&str> = kept.iter().map(|it| it["foregate.decision"].as_str().unwrap()).collect();
    assert_eq!(kept, ids[15..].iter().rev().map(String::as_str).collect::<Vec<_>>());
    let admin = gateway.admin().to_string();
    foregate(&["explain", &ids[19], "--admin", &admin]).is(0, &["AccessDenied"], &[]);
    foregate(&["explain", &ids[0], "--admin", &admin]).is(1, &[], &["not kept", "--decision-sample 1/1"]);
    foregate(&["explain", &ids[0], "--admin", "127.0.0.1:1"]).is(1, &[], &["cannot be asked"]);
    foregate(&["explain", &ids[0], "--admin", "ftp://x"]).is(2, &[], &["expected an http URL"]);
    foregate(&["run", ".", "--decision-sample", "1/0"]).is(2, &[], &["expected 1/N"]);
}
