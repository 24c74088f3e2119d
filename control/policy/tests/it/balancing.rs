//! Endpoints, balancing, checks and retries: what they compile to, and their faults.

use std::time::Duration;

use foregate_policy::balancing::{Algorithm, Budget, Carried, CheckKind, HashOn};

use crate::materials::{BASE, CRM, brief, compiled, route};

const SECOND: Duration = Duration::from_secs(1);

/// The base, with another spec of its upstream, and a route to it.
fn with(spec: &str, rule: &str) -> String {
    let base = BASE.replace("endpoints: ['crm:80']", spec);
    base + &route("web", &format!("rules:\n- {{ {CRM}{rule} }}"))
}

fn codes(text: &str) -> Vec<String> {
    brief(&compiled(text).map(|_| ()).unwrap_err())
}

#[test]
fn what_is_said_is_compiled_and_the_rest_has_defaults() {
    let text = with(
        "endpoints: ['crm:80', { address: '[::1]:81', weight: 3, zone: a, priority: 2 }, { srv: _http._tcp.crm, priority: 1 }], \
         endpointsFile: crm.endpoints, \
         loadBalancing: { policy: Maglev, hashOn: { header: X-Org }, panicThreshold: 10 }, \
         healthCheck: { type: HTTP, path: /healthz, interval: 2s }, \
         retryConstraint: { budget: { percent: 10, interval: 20s }, minRetryRate: { count: 3, interval: 10s } }",
        ", retry: { codes: [503], attempts: 3, backoff: 20ms }, timeouts: { backendRequest: 1s }",
    );
    let snapshot = compiled(&text).unwrap();
    let upstream = &snapshot.upstreams[0];
    let seen: Vec<_> = upstream
        .endpoints
        .iter()
        .chain(&upstream.services)
        .map(|it| (&*it.host, it.port, it.weight, it.zone.as_deref(), it.priority))
        .collect();
    assert_eq!(
        seen,
        [("crm", 80, 1, None, 0), ("::1", 81, 3, Some("a"), 2), ("_http._tcp.crm", 0, 1, None, 1)]
    );
    assert!(upstream.endpoints_file.as_ref().is_some_and(|file| file.ends_with("crm.endpoints")));
    let how = &upstream.balancing;
    assert_eq!((how.policy, how.panic_threshold), (Algorithm::Maglev, 10));
    assert_eq!(how.hash_on, Some(HashOn::Header("x-org".parse().unwrap())));
    let check = how.check.as_ref().unwrap();
    assert!(matches!(&check.kind, CheckKind::Http { path, .. } if **path == *"/healthz"));
    assert_eq!((check.interval, check.timeout), (2 * SECOND, SECOND));
    assert_eq!(how.budget, Budget { percent: 10, interval: 20 * SECOND, least: 6 });
    assert_eq!((how.outliers.consecutive, how.breaker.consecutive), (5, 5));
    let retry = snapshot.routes.all()[0].retry.as_ref().unwrap();
    assert_eq!((&*retry.codes, retry.attempts, retry.backoff), (&[503][..], 3, SECOND / 50));

    let snapshot = compiled(&with("endpoints: ['crm:80'], sessionPersistence: {}", "")).unwrap();
    let how = &snapshot.upstreams[0].balancing;
    let session = how.session.as_ref().unwrap();
    assert_eq!(session.carried, Carried::Cookie("foregate-session".into()));
    assert_eq!((session.max_age, session.absolute, session.idle), (None, None, None));
    assert_eq!((how.policy, how.panic_threshold, &how.check), (Algorithm::PeakEwma, 25, &None));
    assert_eq!(how.budget, Budget { percent: 20, interval: 10 * SECOND, least: 100 });
    assert!(snapshot.routes.all()[0].retry.is_none());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn faults_have_code_and_place() {
    let mut differences = Vec::new();
    for (spec, rule, want) in [
        ("endpointsFile: ''", "", "FG0107 9:24 the text is empty"),
        ("endpoints: [{ weight: 2 }]", "", "FG0630 9:23 an endpoint has either an address or a name"),
        (
            "endpoints: [{ address: 'a:1', srv: b }]",
            "",
            "FG0630 9:23 an endpoint has either an address or a name",
        ),
        ("endpoints: [{ address: a }]", "", "FG0301 9:32 `a` is not host:port"),
        ("endpoints: [{ srv: '1.2.3.4' }]", "", "FG0301 9:28 `1.2.3.4` is not a name with SRV records"),
        ("endpoints: [{ srv: a.b, weight: 2 }]", "", "FG0630 9:41 SRV records bring weights of their own"),
        ("endpoints: [{ address: 'a:1', weight: 0 }]", "", "FG0107 9:47 the number must be at least 1"),
        ("endpoints: [{ adress: 'a:1' }]", "", "FG0102 9:23 unknown field `adress`"),
        (
            "endpoints: ['a:1'], healthCheck: { type: TCP, path: / }",
            "",
            "FG0632 9:61 `path` goes with type HTTP",
        ),
        ("endpoints: ['a:1'], healthCheck: { type: GRPC }", "", "FG0632 9:50 gRPC is spoken on HTTP/2"),
        (
            "endpoints: ['a:1'], healthCheck: { type: HTTP, interval: 1ms }",
            "",
            "FG0301 9:66 the time must be between 50ms and 3600s",
        ),
        (
            "endpoints: ['a:1'], loadBalancing: { hashOn: { header: x } }",
            "",
            "FG0633 9:46 only the policy Maglev hashes",
        ),
        (
            "endpoints: ['a:1'], loadBalancing: { policy: Maglev, hashOn: {} }",
            "",
            "FG0633 9:62 a key is one of header, cookie, expression",
        ),
        (
            "endpoints: ['a:1'], loadBalancing: { policy: Maglev, hashOn: { expression: 'jwt.org + reqest.path' } }",
            "",
            "FG0402 9:",
        ),
        (
            "endpoints: ['a:1'], loadBalancing: { policy: Maglev, slowStart: 9s }",
            "",
            "FG0633 9:73 equal keys go to equal endpoints",
        ),
        (
            "endpoints: ['a:1'], loadBalancing: { policy: Fastest }",
            "",
            "FG0106 9:54 `Fastest` is not a value of this field",
        ),
        (
            "endpoints: ['a:1'], sessionPersistence: { type: Header, absoluteTimeout: 1h }",
            "",
            "FG0633 9:82 a header has no time to live",
        ),
        (
            "endpoints: ['a:1'], outlierDetection: { baseEjectionTime: 1m, maxEjectionTime: 1s }",
            "",
            "FG0302 9:88 the longest time is shorter than the first",
        ),
        (
            "endpoints: ['a:1'], dns: { minTtl: 1m, maxTtl: 1s }",
            "",
            "FG0302 9:56 maxTtl is shorter than minTtl",
        ),
        ("endpoints: ['a:1'], dns: { server: ns1 }", "", "FG0301"),
        ("endpoints: ['a:1']", ", retry: { attempts: 99 }", "FG0107"),
        ("endpoints: ['a:1']", ", retry: { codes: [200] }", "FG0107"),
        ("endpoints: ['a:1']", ", retry: { backoff: 2m }", "FG0634"),
    ] {
        let got = codes(&with(spec, rule));
        if got.len() != 1 || !got[0].starts_with(want) {
            differences.push(format!("{spec}{rule}\n  want {want}\n  got  {got:?}"));
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn what_is_idle_or_pointless_is_told() {
    for (spec, rule, want) in [
        ("endpoints: ['10.0.0.1:80'], loadBalancing: {}", "", "FG0710"),
        ("endpoints: ['10.0.0.1:80'], circuitBreaker: {}", "", "FG0710"),
        ("endpoints: ['crm:80'], loadBalancing: {}", "", ""),
        ("endpoints: ['10.0.0.1:80', '10.0.0.2:80'], loadBalancing: {}", "", ""),
        ("endpoints: ['crm:80']", ", retry: { attempts: 2 }", "FG0711"),
        ("endpoints: ['crm:80']", ", retry: { attempts: 2 }, timeouts: { backendRequest: 1s }", ""),
        (
            "endpoints: ['crm:80']",
            ", retry: { codes: [404, 429] }, timeouts: { backendRequest: 1s }",
            "FG0712",
        ),
    ] {
        let warnings = brief(&compiled(&with(spec, rule)).unwrap().warnings);
        let told: Vec<&str> = warnings.iter().filter_map(|warning| warning.split(' ').next()).collect();
        let wanted: Vec<&str> = Some(want).into_iter().filter(|want| !want.is_empty()).collect();
        assert_eq!(told, wanted, "{spec}{rule}: {warnings:?}");
    }
}

#[test]
fn sessions_of_routes_are_compiled() {
    let routed = |session: &str| {
        compiled(
            &(BASE.to_owned()
                + &route("web", &format!("rules: [{{ sessionPersistence: {session}, {CRM} }}]"))),
        )
    };
    for (said, carried, max_age, absolute, idle) in [
        ("{}", Carried::Cookie("foregate-session".into()), None, None, None),
        (
            "{ sessionName: sid, absoluteTimeout: 1h, idleTimeout: 60s }",
            Carried::Cookie("sid".into()),
            None,
            Some(3600 * SECOND),
            Some(60 * SECOND),
        ),
        (
            "{ absoluteTimeout: 1h, cookieConfig: { lifetimeType: Permanent } }",
            Carried::Cookie("foregate-session".into()),
            Some(3600 * SECOND),
            Some(3600 * SECOND),
            None,
        ),
        (
            "{ type: Header, sessionName: X-Session, idleTimeout: 1m }",
            Carried::Header("x-session".parse().unwrap()),
            None,
            None,
            Some(60 * SECOND),
        ),
    ] {
        let snapshot = routed(said).unwrap();
        let session = snapshot.routes.all()[0].session.clone().unwrap();
        assert_eq!(session.carried, carried, "{said}");
        assert_eq!((session.max_age, session.absolute, session.idle), (max_age, absolute, idle), "{said}");
    }
    for (said, want) in [
        ("{ type: Header, cookieConfig: {} }", "FG0734 23:"),
        ("{ cookieConfig: { lifetimeType: Permanent } }", "FG0734 23:"),
        ("{ absoluteTimeout: 1m, idleTimeout: 2m }", "FG0734 23:"),
        ("{ absoluteTimeout: 1ms }", "FG0301 23:"),
        ("{ sessionName: 'a b' }", "FG0116 23:"),
    ] {
        let told = brief(&routed(said).map(drop).unwrap_err());
        assert!(told.iter().any(|told| told.starts_with(want)), "{said}: {told:?}");
    }
}
