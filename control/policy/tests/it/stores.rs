//! Stores that gateways share: faults, lints, namespaces, and what leases may let through.

use foregate_policy::diagnostic::Diagnostic;

use crate::materials::{BASE, CRM, compiled, route};

/// A store, and a policy with a limit in it.
fn text(redis: &str, shared: &str) -> String {
    let store = format!(
        "---\napiVersion: foregate.dev/v1alpha1\nkind: Store\nmetadata: {{ name: redis }}\nspec: {{ redis: {redis} }}\n"
    );
    let limit = format!(
        "insecure: {{ anonymous: true }}\n  rateLimit: [{{ name: a, key: source.address, limit: 100, per: 1s{shared} }}]"
    );
    BASE.replace("insecure: { anonymous: true }", &limit)
        + &route("web", &format!("rules: [{{ {CRM} }}]"))
        + &store
}

fn brief(faults: &[Diagnostic]) -> Vec<String> {
    faults.iter().map(|fault| format!("{} {}", fault.code, fault.message)).collect()
}

const SHARED: &str = ", shared: { store: redis }";

#[test]
fn what_does_not_fit_together_is_told() {
    for (redis, told) in [
        ("{ addresses: ['redis'] }", "FG0301 `redis` is not a host and a port"),
        ("{ addresses: ['a:1', 'a:1'] }", "FG0683 `a:1` is named twice"),
        ("{ addresses: ['a:1'], cluster: true, database: 2 }", "FG0683 a cluster has one database"),
        ("{ addresses: ['a:1'], username: me }", "FG0683 a user of a store is known by its password"),
        ("{ addresses: ['a:1'], timeout: 10s }", "FG0301 the time must be between 1ms and 5s"),
        ("{ addresses: ['127.0.0.1:1'], password: {} }", "FG0302 no secret is named"),
        (
            "{ addresses: ['redis.svc:1'], password: { env: A } }",
            "FG0622 the password would be sent over a plain connection",
        ),
        (
            "{ addresses: ['127.0.0.1:1'], cluster: true, password: { env: A } }",
            "FG0622 the password would be sent over a plain connection",
        ),
    ] {
        let faults = brief(&compiled(&text(redis, SHARED)).unwrap_err());
        assert_eq!(faults, [told], "{redis}");
    }
}

#[test]
fn a_password_is_sent_in_clear_only_to_this_machine_or_where_a_switch_says_so() {
    let warnings = |redis: &str| brief(&compiled(&text(redis, SHARED)).unwrap().warnings);
    assert!(warnings("{ addresses: ['127.0.0.1:1', '[::1]:1'], password: { env: A } }").is_empty());
    assert!(warnings("{ addresses: ['a:1'], password: { env: A }, tls: { mode: Simple } }").is_empty());
    let switched = "{ addresses: ['a:1'], password: { env: A } }, insecure: { plainCredentials: true }";
    assert_eq!(warnings(switched), ["FG0622 the password is sent over a plain connection"]);
}

#[test]
fn a_limit_names_a_store_of_its_namespace_and_an_unused_one_is_warned_of() {
    let sound = "{ addresses: ['a:1'] }";
    assert!(compiled(&text(sound, SHARED)).unwrap().warnings.is_empty());
    let unused = compiled(&text(sound, "")).unwrap();
    assert_eq!(
        brief(&unused.warnings),
        ["FG0723 no policy and no model of its namespace uses the store `redis`"]
    );
    let faults = compiled(&text(sound, ", shared: { store: rediss }")).unwrap_err();
    assert_eq!(brief(&faults), ["FG0304 there is no Store named `rediss`"]);
    let elsewhere =
        text(sound, SHARED).replace("{ name: redis }\nspec", "{ name: redis, namespace: other }\nspec");
    let faults = compiled(&elsewhere).unwrap_err();
    assert_eq!(brief(&faults), ["FG0304 there is no Store named `redis`"]);
    // One fault is not told as two.
    assert_eq!(compiled(&text("{ addresses: ['redis'] }", SHARED)).unwrap_err().len(), 1);
}

#[test]
fn a_model_reads_a_stream_of_a_store_of_its_namespace() {
    let model = |store: &str, redis: &str| {
        let stream = format!("stream: {{ store: {store}, name: crm/features }}");
        let features =
            format!("featureStore: {{ path: f.redb, key: {{ env: A }}, nextKey: {{ env: B }}, {stream} }}");
        text(redis, "")
            + "---\napiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead }\n"
            + &format!("spec: {{ bundle: {{ path: lead }}, {features} }}\n")
    };
    let sound = "{ addresses: ['a:1'] }";
    let snapshot = compiled(&model("redis", sound)).unwrap();
    assert!(!brief(&snapshot.warnings).iter().any(|warning| warning.starts_with("FG0723")));
    let features = snapshot.models[0].features.as_ref().unwrap();
    let stream = features.stream.as_ref().unwrap();
    assert_eq!((&*stream.store, &*stream.name), ("redis", "crm/features"));
    assert_eq!(features.next_key.as_ref().unwrap().env.as_deref(), Some("B"));
    let faults = compiled(&model("rediss", sound)).unwrap_err();
    assert_eq!(brief(&faults), ["FG0304 there is no Store named `rediss` in this namespace"]);
    assert_eq!(faults[0].help.as_deref(), Some("did you mean `redis`?"));
    // One fault is not told as two.
    assert_eq!(compiled(&model("redis", "{ addresses: ['redis'] }")).unwrap_err().len(), 1);
    let faults =
        brief(&compiled(&model("redis", sound).replace("crm/features", "'crm features'")).unwrap_err());
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn the_bound_of_a_lease_is_stated() {
    let snapshot =
        compiled(&text("{ addresses: ['a:1'] }", ", shared: { store: redis, lease: 20 }")).unwrap();
    let bounds: Vec<String> = snapshot.leases.iter().map(ToString::to_string).collect();
    assert_eq!(
        bounds,
        [
            "open/a: each process holds at most 20 in advance, so that P processes admit at most 100 at once and 100 per 1s, and \
          20 x P more in any period"
        ]
    );
    let snapshot = compiled(&text("{ addresses: ['a:1'] }", SHARED)).unwrap();
    assert!(snapshot.leases.is_empty());
    let store = &snapshot.stores[0];
    assert_eq!((&*store.prefix, store.timeout.as_millis(), store.database), ("foregate", 50, 0));
}
