//! Pods as the webhook changes them, each asked for twice.

use foregate_control::injection::pod::{Injected, inject};
use foregate_control::injection::settings::Injection;
use serde_json::{Value, json};

pub fn settings() -> Injection {
    serde_json::from_value(
        json!({ "image": "foregate:test", "control": "https://foregate-control.foregate.svc:8443" }),
    )
    .unwrap()
}

fn patched(pod: &Value, settings: &Injection) -> Value {
    let injected = inject(pod, settings).unwrap_or_else(|why| panic!("{why}"));
    let Injected::Patch(operations, _) = injected else { panic!("{injected:?}") };
    let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// As the API server does: again where another webhook has changed something.
fn injected(pod: &Value, settings: &Injection) -> Value {
    let once = patched(pod, settings);
    let Injected::Patch(more, _) = inject(&once, settings).unwrap() else { panic!("it was injected") };
    assert_eq!(more, Vec::<Value>::new(), "asked again, nothing is to be done");
    once
}

fn pod(spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "leads", "labels": { "app": "leads" } }, "spec": spec })
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let all = pod["spec"][list].as_array().unwrap();
    all.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn app() -> Value {
    json!({
        "name": "app", "image": "app",
        "ports": [{ "name": "http", "containerPort": 8080 }],
        "livenessProbe": { "httpGet": { "path": "/live", "port": "http", "httpHeaders": [{ "name": "X", "value": "y" }] }, "timeoutSeconds": 2, "periodSeconds": 7 },
        "readinessProbe": { "tcpSocket": { "port": 5432 } },
        "startupProbe": { "grpc": { "port": 50051, "service": "crm.v1.Leads" } },
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } }
    })
}

/// The profile `restricted` of Pod Security: what it demands of every container.
fn is_restricted(pod: &Value, container: &Value) -> Result<(), String> {
    let context = &container["securityContext"];
    let of_pod = &pod["spec"]["securityContext"];
    let either = |field: &str| if context[field].is_null() { &of_pod[field] } else { &context[field] };
    let checks = [
        ("allowPrivilegeEscalation", context["allowPrivilegeEscalation"] == false),
        ("privileged", context["privileged"] != true),
        (
            "capabilities.drop",
            context["capabilities"]["drop"].as_array().is_some_and(|drop| drop.contains(&json!("ALL"))),
        ),
        (
            "capabilities.add",
            context["capabilities"]["add"]
                .as_array()
                .is_none_or(|add| add.iter().all(|one| one == "NET_BIND_SERVICE")),
        ),
        ("runAsNonRoot", either("runAsNonRoot") == true),
        ("runAsUser", *either("runAsUser") != 0),
        (
            "seccompProfile",
            ["RuntimeDefault", "Localhost"].iter().any(|kind| either("seccompProfile")["type"] == *kind),
        ),
        (
            "hostPort",
            container["ports"]
                .as_array()
                .is_none_or(|ports| ports.iter().all(|port| port["hostPort"].is_null())),
        ),
    ];
    match checks.into_iter().find(|(_, good)| !good) {
        Some((field, _)) => Err(field.to_owned()),
        None => Ok(()),
    }
}

#[test]
fn a_pod_gets_redirection_and_a_native_sidecar_before_everything_else() {
    let spec = json!({ "initContainers": [{ "name": "migrate", "image": "app" }], "containers": [app()], "volumes": [{ "name": "mine", "emptyDir": {} }] });
    let pod = injected(&pod(&spec), &settings());
    assert_eq!(names(&pod, "initContainers"), ["foregate-init", "foregate-proxy", "migrate"]);
    assert_eq!(names(&pod, "containers"), ["app"]);
    assert_eq!(names(&pod, "volumes"), ["foregate-token", "foregate-roots", "foregate-state", "mine"]);
    let (init, proxy) = (&pod["spec"]["initContainers"][0], &pod["spec"]["initContainers"][1]);
    assert_eq!(
        init["args"],
        json!([
            "init",
            "--proxy-uid",
            "2102",
            "--inbound-port",
            "15006",
            "--outbound-port",
            "15001",
            "--skip-inbound-ports",
            "15021"
        ])
    );
    assert_eq!(init["securityContext"]["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN"] }));
    assert_eq!(proxy["restartPolicy"], "Always");
    assert!(proxy["startupProbe"].is_object() && proxy["readinessProbe"].is_object());
    is_restricted(&pod, proxy).unwrap();
    assert_eq!(proxy["securityContext"]["readOnlyRootFilesystem"], true);
    let token = &pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!((&token["audience"], &token["path"]), (&json!("foregate-control"), &json!("token")));
    let mounts = proxy["volumeMounts"].as_array().unwrap();
    let arguments: Vec<&str> = proxy["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for (flag, mount) in [("--control-token", 0), ("--control-ca", 1), ("--state-dir", 2)] {
        let at = arguments.iter().position(|argument| *argument == flag).unwrap();
        assert!(arguments[at + 1].starts_with(mounts[mount]["mountPath"].as_str().unwrap()), "{flag}");
    }
}

#[test]
fn probes_of_every_kind_go_through_the_sidecar_which_is_told_what_they_were() {
    let mut other = app();
    other["name"] = "other".into();
    other["livenessProbe"] = json!({ "httpGet": { "host": "10.1.1.1", "port": 80 } });
    other["readinessProbe"] = json!({ "exec": { "command": ["true"] } });
    other["startupProbe"] = Value::Null;
    let pod = injected(&pod(&json!({ "containers": [app(), other.clone()] })), &settings());
    let container = &pod["spec"]["containers"][0];
    let led = |kind: &str| json!({ "path": format!("/probes/app/{kind}"), "port": 15021, "scheme": "HTTP" });
    assert_eq!(
        container["livenessProbe"],
        json!({ "timeoutSeconds": 2, "periodSeconds": 7, "httpGet": led("liveness") })
    );
    assert_eq!(container["readinessProbe"], json!({ "httpGet": led("readiness") }));
    assert_eq!(container["startupProbe"], json!({ "httpGet": led("startup") }));
    assert_eq!(pod["spec"]["containers"][1], other, "what goes elsewhere or nowhere stays");
    let told = pod["metadata"]["annotations"]["foregate.dev/probes"].as_str().unwrap();
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!(
        told,
        json!({
            "app/liveness": { "httpGet": { "port": 8080, "path": "/live", "httpHeaders": [{ "name": "X", "value": "y" }] }, "timeoutSeconds": 2 },
            "app/readiness": { "tcpSocket": { "port": 5432 } },
            "app/startup": { "grpc": { "port": 50051, "service": "crm.v1.Leads" } }
        })
    );
    let variables = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let path = &variables.iter().find(|one| one["name"] == "FOREGATE_PROBES").unwrap()["valueFrom"]["fieldRef"]
        ["fieldPath"];
    assert_eq!(path, "metadata.annotations['foregate.dev/probes']");
}

#[test]
fn what_another_webhook_adds_in_between_is_kept_and_led_as_well() {
    let settings = settings();
    let mut pod = injected(&pod(&json!({ "containers": [app()] })), &settings);
    let before = pod["metadata"]["annotations"]["foregate.dev/probes"].clone();
    let mut late = app();
    late["name"] = "late".into();
    pod["spec"]["containers"].as_array_mut().unwrap().push(late);
    pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({ "name": "vault", "image": "vault" }));
    pod["spec"]["initContainers"][2]["volumeMounts"].as_array_mut().unwrap().push(
        json!({ "name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }),
    );
    pod["spec"]["initContainers"][2]["terminationMessagePath"] = "/dev/termination-log".into();
    let pod = injected(&pod, &settings);
    assert_eq!(names(&pod, "initContainers"), ["foregate-init", "foregate-proxy", "vault"]);
    let proxy = &pod["spec"]["initContainers"][1];
    assert_eq!(proxy["volumeMounts"].as_array().unwrap().len(), 4);
    assert_eq!(proxy["terminationMessagePath"], "/dev/termination-log");
    let told = pod["metadata"]["annotations"]["foregate.dev/probes"].as_str().unwrap();
    let (told, before): (Value, Value) =
        (serde_json::from_str(told).unwrap(), serde_json::from_str(before.as_str().unwrap()).unwrap());
    assert_eq!(told["app/liveness"], before["app/liveness"]);
    assert_eq!(told.as_object().unwrap().len(), 6);
}

#[test]
fn annotations_change_what_is_added_and_unclear_ones_are_refused() {
    let annotated = |annotations: Value| {
        let mut pod = pod(&json!({ "containers": [app()] }));
        pod["metadata"]["annotations"] = annotations;
        pod
    };
    let settings = settings();
    let pod = injected(
        &annotated(json!({
            "foregate.dev/skip-inbound-ports": "9000, 9100-9101", "foregate.dev/skip-outbound-ports": "5432",
            "foregate.dev/skip-subnets": "10.0.0.0/8, fd00::/8", "foregate.dev/memory-limit": "1Gi",
            "foregate.dev/cpu-request": "100m", "foregate.dev/rewrite-probes": "false", "example.com/other": "x"
        })),
        &settings,
    );
    let (init, proxy) = (&pod["spec"]["initContainers"][0], &pod["spec"]["initContainers"][1]);
    let arguments: Vec<&str> = init["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(arguments.join(" ").ends_with("--skip-inbound-ports 15021,9000,9100-9101 --skip-outbound-ports 5432 --skip-subnets 10.0.0.0/8,fd00::/8"));
    assert_eq!(
        proxy["resources"],
        json!({ "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "memory": "1Gi" } })
    );
    assert_eq!(pod["spec"]["containers"][0], app());
    // What `foregate init` would refuse in the pod, for ever.
    let many_ports = (1..=65).map(|port| (port * 2).to_string()).collect::<Vec<_>>().join(",");
    let many_subnets =
        (0..=256).map(|net| format!("10.{}.{}.0/24", net / 256, net % 256)).collect::<Vec<_>>().join(",");
    for (annotation, value, wrong) in [
        ("skip-inbound-ports", "80-", "`80-` is no port"),
        ("skip-outbound-ports", "0", "`0` is no port"),
        ("skip-outbound-ports", "+80", "`+80` is no port"),
        ("skip-outbound-ports", &many_ports, "more than 64"),
        // With the one of probes.
        ("skip-inbound-ports", many_ports.rsplit_once(',').unwrap().0, "more than 64"),
        ("inbound-only-ports", " ,", "it names no port"),
        ("skip-subnets", "", "it names no subnet"),
        ("skip-subnets", "10.0.0.256", "`10.0.0.256` is no subnet"),
        ("skip-subnets", "10.0.0.1/8", "write 10.0.0.0/8"),
        ("skip-subnets", &many_subnets, "more than 256"),
        ("memory-limit", "lots", "`lots` is not a quantity"),
        ("cpu-limit", "-1", "`-1` is not a quantity"),
        ("interception", "all", "write redirect or none"),
        ("inject", "maybe", "write \"true\" or \"false\""),
        ("skip-inbound-port", "80", "there is no such annotation"),
    ] {
        let name = format!("foregate.dev/{annotation}");
        let why = inject(&annotated(json!({ name.as_str(): value })), &settings).unwrap_err().to_string();
        assert!(why.starts_with(&format!("metadata.annotations[{name}]: ")) && why.contains(wrong), "{why}");
    }
    let both = json!({ "foregate.dev/inbound-only-ports": "80", "foregate.dev/skip-inbound-ports": "81" });
    assert!(inject(&annotated(both), &settings).is_err());
}

#[test]
fn without_redirection_the_whole_pod_passes_pod_security_restricted() {
    let mut pod = pod(
        &json!({ "containers": [app()], "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } } }),
    );
    pod["metadata"]["annotations"] = json!({ "foregate.dev/interception": "none" });
    let pod = injected(&pod, &settings());
    assert_eq!(names(&pod, "initContainers"), ["foregate-proxy"]);
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().unwrap() {
            is_restricted(&pod, container).unwrap_or_else(|field| panic!("{field} of {container}"));
        }
    }
    let allowed = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for volume in pod["spec"]["volumes"].as_array().unwrap() {
        let kinds: Vec<&String> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert!(kinds.iter().all(|kind| allowed.contains(&kind.as_str())), "{volume}");
    }
    assert_eq!(pod["spec"]["containers"][0], app(), "nothing is redirected, so probes reach it as before");
}

#[test]
fn pods_that_cannot_have_a_sidecar_are_left_alone_or_refused() {
    let settings = settings();
    let host = pod(&json!({ "hostNetwork": true, "containers": [app()] }));
    assert!(matches!(inject(&host, &settings), Ok(Injected::Not(_))));
    let mut unwilling = pod(&json!({ "containers": [app()] }));
    unwilling["metadata"]["labels"] = json!({ "foregate.dev/inject": "false" });
    assert!(matches!(inject(&unwilling, &settings), Ok(Injected::Not(_))));
    let mut same = app();
    same["securityContext"]["runAsUser"] = 2102.into();
    let why = inject(&pod(&json!({ "containers": [same] })), &settings).unwrap_err().to_string();
    assert!(why.starts_with("the container `app` runs as user 2102"), "{why}");
    let mut nameless = app();
    nameless["readinessProbe"] = json!({ "tcpSocket": { "port": "db" } });
    let why = inject(&pod(&json!({ "containers": [nameless] })), &settings).unwrap_err().to_string();
    assert!(why.contains("the readinessProbe of the container `app` names the port `db`"), "{why}");
}

#[test]
fn handlers_of_the_lifecycle_that_the_sidecar_would_refuse_are_warned_of() {
    let lifecycle = json!({
        "postStart": { "httpGet": { "path": "/warm", "port": 8080 } },
        "preStop": { "httpGet": { "path": "/bye", "port": 8080, "host": "10.0.0.9" } },
    });
    let spec = json!({ "containers": [
        { "name": "app", "lifecycle": lifecycle },
        { "name": "other", "lifecycle": { "preStop": { "exec": { "command": ["true"] } } } },
    ] });
    let Injected::Patch(_, warnings) = inject(&pod(&spec), &settings()).unwrap() else { panic!("a patch") };
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("lifecycle.postStart.httpGet of `app`"),
        "{warnings:?}"
    );
    let mut past = pod(&spec);
    past["metadata"]["annotations"] = json!({ "foregate.dev/skip-inbound-ports": "8000-8090" });
    let Injected::Patch(_, warnings) = inject(&past, &settings()).unwrap() else { panic!("a patch") };
    assert!(warnings.is_empty(), "it goes past the sidecar: {warnings:?}");
    let mut none = settings();
    none.interception = foregate_control::injection::settings::Interception::None;
    let Injected::Patch(_, warnings) = inject(&pod(&spec), &none).unwrap() else { panic!("a patch") };
    assert!(warnings.is_empty(), "nothing is redirected: {warnings:?}");
}
