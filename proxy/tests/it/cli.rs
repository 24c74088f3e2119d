//! The command line: what it says, and with which code it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::command::foregate;

const POLICY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec: { gatewayClassName: foregate, listeners: [{ name: http, protocol: HTTP, port: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: crm }
spec: { endpoints: ['127.0.0.1:1'] }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: readers }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: web }]
  authorize: [{ name: readers, allow: 'request.method == \"GET\"' }]
";

const CASES: &str = "
apiVersion: foregate.dev/v1alpha1
kind: Case
metadata: { name: reads pass }
spec: { request: { path: / }, expect: { route: web/0 } }
---
apiVersion: foregate.dev/v1alpha1
kind: Case
metadata: { name: writes are refused }
spec: { request: { method: POST, path: / }, expect: { reply: 403, rule: default } }
";

/// A folder for one test.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        for (file, text) in files {
            folder.write(file, text);
        }
        folder
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), text).unwrap();
    }

    /// A file in it; the folder itself where the name is empty.
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn shipped() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/crm-gateway").to_owned()
}

#[test]
fn check_tells_that_a_sound_folder_is_sound() {
    let folder = Folder::new(&[("a.yaml", POLICY), ("a.cases.yaml", CASES)]);
    foregate(&["check", &folder.path("")]).is(0, &["2 files, 6 documents, 1 route: no faults\n"], &[]);
    // The shipped example has no keys in git.
    foregate(&["check", &shipped()]).is(3, &[], &["FG0305", "edge-cert"]);
    foregate(&["check", "--without-secrets", "--deny-warnings", &shipped()]).is(0, &["no faults\n"], &[]);
}

#[test]
fn check_tells_every_fault_with_place_and_advice() {
    let misspelt = POLICY.replace("authorize:", "authorise:").replace("name: crm }] }]", "name: crn }] }]");
    let cases = CASES.replace("expect: { route", "expekt: { route");
    let folder = Folder::new(&[("a.yaml", &misspelt), ("a.cases.yaml", &cases)]);
    foregate(&["check", &folder.path("")]).is(
        3,
        &[],
        &[
            "FG0102",
            "authorise",
            "did you mean `authorize`",
            "a.yaml:24:3",
            "FG0304",
            "`crn`",
            "a.cases.yaml:5:31",
            "4 faults;",
        ],
    );
    let json = foregate(&["check", "--format", "json", &folder.path("")]).is(3, &[], &[]);
    let codes: Vec<String> = json
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["code"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        codes.iter().any(|code| code == "FG0102") && codes.iter().any(|code| code == "FG0304"),
        "{codes:?}"
    );
    let sarif = foregate(&["check", "--format", "sarif", &folder.path("")]).is(3, &["2.1.0"], &[]);
    serde_json::from_str::<Value>(&sarif.out).unwrap();
    foregate(&["check", "--format", "github", &folder.path("")]).is(3, &["::error file="], &[]);
    assert!(!foregate(&["check", &folder.path("")]).err.contains('\u{1b}'), "colour without a terminal");
}

#[test]
fn check_refuses_what_is_not_there() {
    foregate(&["check", "/nowhere/at/all"]).is(3, &[], &["FG0112", "no such file or folder"]);
    let empty = Folder::new(&[]);
    foregate(&["check", &empty.path("")]).is(3, &[], &["FG0113"]);
    let model = "---\napiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: m }\nspec: { bundle: { path: models/none } }\n";
    let folder = Folder::new(&[("a.yaml", &format!("{POLICY}{model}"))]);
    foregate(&["check", &folder.path("")]).is(3, &[], &["FG0501", "a.yaml:", "models/none"]);
    foregate(&["check"]).is(2, &[], &["FOLDER"]);
    foregate(&["chek"]).is(2, &[], &["check"]);
}

#[test]
fn warnings_fail_a_check_only_where_that_is_asked() {
    let unused = "---\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: old }\nspec: { endpoints: ['127.0.0.1:1'] }\n";
    let folder = Folder::new(&[("a.yaml", &format!("{POLICY}{unused}"))]);
    foregate(&["check", &folder.path("")]).is(0, &["no faults, 1 warning\n"], &["FG0602"]);
    foregate(&["check", "--deny-warnings", &folder.path("")]).is(1, &[], &["FG0602"]);
}

#[test]
fn test_runs_cases_and_tells_which_failed() {
    let folder = Folder::new(&[("a.yaml", POLICY), ("a.cases.yaml", CASES)]);
    foregate(&["test", &folder.path("")]).is(0, &["2 passed, 0 failed\n"], &[]);
    folder.write("a.cases.yaml", &CASES.replace("reply: 403", "reply: 401"));
    foregate(&["test", &folder.path("")]).is(
        1,
        &[
            "writes are refused",
            "a.cases.yaml:9",
            "expected reply 401",
            "403 AccessDenied",
            "1 passed, 1 failed\n",
        ],
        &[],
    );
    let json = foregate(&["test", "--format", "json", &folder.path("")]).is(1, &[], &[]);
    let passed: Vec<Value> =
        json.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["passed"].clone()).collect();
    assert_eq!(passed, [Value::Bool(true), Value::Bool(false)]);
    fs::remove_file(folder.path("a.cases.yaml")).unwrap();
    foregate(&["test", &folder.path("")]).is(1, &[], &["no case"]);
    folder.write("a.yaml", "kind: [");
    foregate(&["test", &folder.path("")]).is(3, &[], &["FG0101"]);
}

#[test]
fn test_signs_tokens_with_any_algorithm_a_policy_accepts() {
    let jwt = "\n  jwt: [{ issuer: 'https://idp/', audiences: [crm], algorithms: [RS256], jwks: { uri: 'https://idp/keys' } }]\n  authorize";
    let case = |token: &str, expect: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Case\nmetadata: {{ name: a }}\nspec: {{ request: {{ path: /, token: {token} }}, expect: {expect} }}\n---\n"
        )
    };
    let cases = case("{ iss: 'https://idp/', aud: crm }", "{ route: web/0 }")
        + &case("{ iss: 'https://idp/', aud: crm, signedBy: other }", "{ reply: 401, reason: TokenInvalid }")
        + &case("{ iss: 'https://idp/', aud: crm, exp: null }", "{ reply: 401, reason: TokenInvalid }");
    let folder = Folder::new(&[("a.yaml", &POLICY.replace("\n  authorize", jwt)), ("a.cases.yaml", &cases)]);
    foregate(&["test", &folder.path("")]).is(0, &["3 passed, 0 failed\n"], &[]);
}

#[test]
fn explain_knows_every_code_it_lists() {
    let listed = foregate(&["explain"]).is(0, &["FG0102  Unknown field\n"], &[]);
    for line in listed.out.lines() {
        let (code, title) = line.split_once("  ").unwrap();
        foregate(&["explain", code]).is(0, &[code, title, "Wrong:", "Right:"], &[]);
    }
    foregate(&["explain", "FG0199"]).is(1, &[], &["no code `FG0199`", "did you mean FG01"]);
    foregate(&["explain", "nonsense"]).is(
        1,
        &[],
        &["a code looks like FG0102, the id of a decision like a UUID"],
    );
}

#[test]
fn schema_prints_the_committed_schema() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/schema.json");
    assert_eq!(foregate(&["schema"]).is(0, &[], &[]).out, fs::read_to_string(committed).unwrap());
}

#[test]
fn tokens_are_signed_with_a_key_that_only_its_owner_reads() {
    let folder = Folder::new(&[]);
    let key = folder.path("dev.pem");
    let jwks = foregate(&["token", "--new-key", &key]).is(0, &["\"keys\"", "\"P-256\""], &[]).out;
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!jwks.contains("\"d\""), "the private key is printed");
    foregate(&["token", "--new-key", &key]).is(1, &[], &["dev.pem"]);
    let args = ["token", "--key", &key, "--issuer", "https://dev/", "--audience", "crm"];
    let more = ["--scope", "crm.read", "--ttl", "10m", "--claim", "org_id=00D5e", "--claim", "n=2"];
    let token = foregate(&[&args[..], &more[..]].concat()).is(0, &[], &[]).out;
    let claims = claims(token.trim_end());
    for (name, value) in
        [("iss", "https://dev/"), ("aud", "crm"), ("sub", "dev"), ("scope", "crm.read"), ("org_id", "00D5e")]
    {
        assert_eq!(claims[name], value);
    }
    assert_eq!(claims["n"], 2);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    verifies(&jwks, token.trim_end());
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    let middle = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(middle).unwrap()).unwrap()
}

fn verifies(jwks: &str, token: &str) {
    use foregate_filters::jwt::{Alg, key_set::KeySet};
    let keys = KeySet::parse(jwks.as_bytes()).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert!(keys.candidates(None, Alg::ES256).any(|key| key.verifies(
        Alg::ES256,
        message.as_bytes(),
        signature
    )));
}

#[test]
fn token_refuses_flags_that_make_no_sense() {
    let folder = Folder::new(&[("not.pem", "nothing")]);
    let not = folder.path("not.pem");
    let base = ["token", "--key", &not, "--issuer", "https://dev/", "--audience", "crm"];
    let with = |more: &[&str]| foregate(&[&base[..], more].concat());
    with(&[]).is(1, &[], &["not.pem"]);
    with(&["--ttl", "25h"]).is(2, &[], &["24h"]);
    with(&["--ttl", "soon"]).is(2, &[], &["--ttl"]);
    with(&["--claim", "org"]).is(2, &[], &["NAME=VALUE"]);
    with(&["--claim", "exp=9"]).is(2, &[], &["`exp` has an option"]);
    with(&["--new-key", "x"]).is(2, &[], &["--new-key"]);
    foregate(&["token", "--key", &not]).is(2, &[], &["--issuer"]);
    foregate(&["token"]).is(2, &[], &["--key"]);
    foregate(&["token", "--key", "/nowhere", "--issuer", "a", "--audience", "b"]).is(1, &[], &["/nowhere"]);
}

#[test]
fn version_names_the_crate_version() {
    let version = env!("CARGO_PKG_VERSION");
    foregate(&["version"]).is(0, &[&format!("foregate {version}\n"), "foregate.dev/v1alpha1"], &[]);
    let json = foregate(&["version", "--format", "json"]).is(0, &[], &[]);
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap()["version"], version);
}

#[test]
fn manual_pages_and_completions_are_written() {
    let folder = Folder::new(&[]);
    foregate(&["man", &folder.path("pages")]).is(0, &[], &[]);
    let page = fs::read_to_string(folder.path("pages/foregate-run.1")).unwrap();
    assert!(
        page.contains(concat!("foregate ", env!("CARGO_PKG_VERSION")))
            && page.contains("drain\\-timeout")
            && page.contains("30m"),
        "{page}"
    );
    foregate(&["man", "/proc/pages"]).is(1, &[], &["/proc/pages"]);
    foregate(&["completions", "zsh"]).is(0, &["#compdef foregate"], &[]);
    foregate(&["completions", "tcsh"]).is(2, &[], &["bash"]);
}

#[test]
fn the_demo_keeps_its_four_promises() {
    let ended = foregate(&["demo", "--once", "--port", "0"]).is(0, &[], &[]);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ended.out);
    for (line, what) in
        lines.iter().zip(["201  score 0.7876", "401  TokenMissing", "403  AccessDenied", "429  RateLimited"])
    {
        assert!(line.starts_with(what) && line.ends_with("as promised"), "{line}");
    }
}

#[test]
fn the_demo_finds_a_free_port_and_leaves_nothing_behind() {
    let folder = Folder::new(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_foregate"))
        .args(["demo", "--port", &port])
        .env("TMPDIR", folder.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut text: Vec<String> = Vec::new();
    while !text.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
        text.push(lines.next().expect("the demo ended early"));
    }
    assert!(text.iter().any(|line| line.ends_with(&format!("(port {port} is taken)"))), "{text:#?}");
    assert_eq!(text.iter().filter(|line| line.starts_with("curl ")).count(), 4, "{text:#?}");
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 1);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0, "the demo left its folder behind");
}
