//! What `foregate-control check` says, and the exit codes it says it with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Routes with a token from a file, a model and a certificate that are not here.
const GOOD: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: edge-cert }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: leads }
spec:
  parentRefs: [{ name: edge }]
  rules:
  - matches: [{ path: { type: PathPrefix, value: /leads } }]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: crm }
spec: { endpoints: ["crm.internal:8080"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: lead-score }
spec: { bundle: { path: ../bundles/lead-score } }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: leads }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: leads }]
  jwt: [{ issuer: "https://idp.example.com", audiences: [crm], jwks: { file: jwks.json } }]
  enrich: [{ name: lead, model: lead-score, deadline: 3ms, onError: continue, default: 0.0, set: { header: x-lead-score } }]
  authorize: [{ name: writers, allow: '"crm.write" in jwt.scopes' }]
"#;

/// The public key of RFC 7515, appendix A.3.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256",
"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn folder(name: &str, policies: &str, keys: Option<&str>) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("control-check-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policies.yaml"), policies).unwrap();
    if let Some(keys) = keys {
        fs::write(folder.join("jwks.json"), keys).unwrap();
    }
    folder
}

fn check(folder: &Path, format: &str) -> (Option<i32>, String) {
    let command = env!("CARGO_BIN_EXE_foregate-control");
    let Output { status, stdout, stderr } =
        Command::new(command).arg("check").arg(folder).args(["--format", format]).output().unwrap();
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn models_and_certificates_are_taken_as_declared() {
    let folder = folder("good", GOOD, Some(KEYS));
    assert_eq!(check(&folder, "human"), (Some(0), String::new()));
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let policies =
        GOOD.replace("jwt.scopes", "jwt.scope_s && nothing").replace("name: crm }]", "name: crn }]");
    let (code, out) = check(&folder("faults", &policies, None), "json");
    assert_eq!(code, Some(3), "{out}");
    let diagnostics: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let codes: Vec<&str> =
        diagnostics.iter().map(|diagnostic| diagnostic["code"].as_str().unwrap()).collect();
    for wanted in ["FG0304", "FG0305", "FG0402"] {
        assert!(codes.contains(&wanted), "no {wanted} in {out}");
    }
    assert!(diagnostics.iter().all(|diagnostic| diagnostic["line"].as_u64().unwrap() > 0), "{out}");
}

#[test]
fn a_key_file_is_read_and_a_malformed_one_is_refused() {
    let folder = folder("keys", GOOD, Some(r#"{"keys":[]}"#));
    let (code, out) = check(&folder, "human");
    assert_eq!(code, Some(3));
    assert!(out.contains("no key of the set can verify signatures"), "{out}");
}

#[test]
fn a_warning_alone_does_not_fail() {
    let idle = "---\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: idle }\nspec: { endpoints: [\"idle:1\"] }\n";
    let (code, out) = check(&folder("warning", &format!("{GOOD}{idle}"), Some(KEYS)), "json");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(r#""severity":"warning""#), "{out}");
}

#[test]
fn usage_and_missing_folders_have_codes_of_their_own() {
    let status = Command::new(env!("CARGO_BIN_EXE_foregate-control")).arg("chekc").output().unwrap().status;
    assert_eq!(status.code(), Some(2));
    let (code, out) = check(Path::new("no-such-folder"), "sarif");
    assert_eq!(code, Some(3), "{out}");
    let log: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(log["runs"][0]["results"][0]["level"], "error");
}
