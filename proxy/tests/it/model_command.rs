//! `foregate model`: bundles looked at, signatures proven, rollouts moved on and back.

use std::fs;
use std::path::Path;

use foregate::decision_log::keys::SigningKey;
use serde_json::Value;

use crate::support::command::foregate;
use crate::support::guarded::{bundle, copy_bundle};

const POLICIES: &str = "\
# Who scores leads.
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: other }
spec: { bundle: { path: TREES } }
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: lead }
spec:
  versions:
  - { name: v1, bundle: { path: TREES } } # trees
  - { name: v2, bundle: { path: LOGISTIC } }
  rollout:
    # What decides.
    production: v1 # since May
    canary: # on trial
      version: v2
      percent: 10
    guardrails: { p99: 5ms }
    GATE
";

/// A folder with these policies, and the text of the file.
fn policies(gate: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| bundle(name).display().to_string();
    let text =
        POLICIES.replace("TREES", &path("lead-score")).replace("LOGISTIC", &path("lead-score-logistic"));
    let text = text.replace("GATE", gate);
    fs::write(folder.path().join("models.yaml"), &text).unwrap();
    (folder, text)
}

fn read(folder: &Path) -> String {
    fs::read_to_string(folder.join("models.yaml")).unwrap()
}

/// Exit code and output of `foregate model` with these words, the folder in the place of `.`.
fn model(folder: &Path, words: &[&str]) -> (i32, String) {
    let folder = folder.to_str().unwrap();
    let words = words.iter().map(|word| if *word == "." { folder } else { word });
    let args: Vec<&str> = std::iter::once("model").chain(words).collect();
    let ended = foregate(&args);
    (ended.code, ended.out + &ended.err)
}

#[test]
fn a_canary_is_promoted_and_rolled_back_in_the_file_and_comments_stay() {
    let (folder, before) = policies("gate: { metrics: { auc: { min: 0.6 } }, p99: 900ms }");
    let folder = folder.path();
    let (code, told) = model(folder, &["promote", ".", "lead", "--dry-run"]);
    assert!(code == 0 && told.contains("would change") && read(folder) == before, "{told}");
    let (code, told) = model(folder, &["promote", ".", "lead"]);
    assert_eq!(code, 0, "{told}");
    for part in [
        "passed   golden vectors",
        "passed   schema",
        "passed   metric auc >= 0.6: 0.6896",
        "passed   p99 <= 900ms",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains("production v1 -> v2, previous v1, canary removed"), "{told}");
    let after = read(folder);
    let canary = "    canary: # on trial\n      version: v2\n      percent: 10\n";
    let expected = before
        .replace(canary, "")
        .replace("production: v1 # since May", "production: v2 # since May\n    previous: v1");
    assert_eq!(after, expected);
    assert_eq!(model(folder, &["promote", ".", "lead"]).0, 1, "nothing is on trial");
    let (code, told) = model(folder, &["rollback", ".", "lead"]);
    assert!(code == 0 && told.contains("production v2 -> v1"), "{told}");
    assert_eq!(read(folder), before.replace(canary, ""));
    let (code, told) = model(folder, &["rollback", ".", "lead"]);
    assert!(code == 1 && told.contains("neither a canary nor a version"), "{told}");
    let (code, told) = model(folder, &["promote", ".", "lead", "--version", "v2"]);
    assert!(code == 0 && read(folder).contains("production: v2 # since May"), "{told}");
}

#[test]
fn rollback_takes_a_canary_off_first() {
    let (folder, before) = policies("previous: v2");
    let (code, told) = model(folder.path(), &["rollback", ".", "lead"]);
    assert!(
        code == 0 && told.contains("canary v2 removed, production v1 decides about everything"),
        "{told}"
    );
    let canary = "    canary: # on trial\n      version: v2\n      percent: 10\n";
    assert_eq!(read(folder.path()), before.replace(canary, ""));
}

#[test]
fn a_version_that_is_production_again_is_a_shadow_no_longer() {
    let (folder, before) = policies("previous: v2");
    let canary = "    canary: # on trial\n      version: v2\n      percent: 10\n";
    let shadowed = before.replace(canary, "    shadow: { version: v2 }\n");
    fs::write(folder.path().join("models.yaml"), &shadowed).unwrap();
    let (code, told) = model(folder.path(), &["rollback", ".", "lead"]);
    assert!(
        code == 0 && told.contains("production v1 -> v2, previous removed, shadow removed"),
        "{code} {told}"
    );
    let after = read(folder.path());
    assert!(after.contains("production: v2") && !after.contains("shadow:"), "{after}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside the file");
}

#[test]
fn what_does_not_pass_the_gate_is_not_promoted() {
    for (gate, part) in [
        ("gate: { metrics: { auc: { min: 0.9 } } }", "refused  metric auc >= 0.9: 0.6896"),
        ("gate: { metrics: { f1: { min: 0.1 } } }", "refused  metric f1 >= 0.1: the bundle does not tell it"),
        ("gate: { p99: 1us }", "refused  p99 <= 1us"),
    ] {
        let (folder, before) = policies(gate);
        let (code, told) = model(folder.path(), &["promote", ".", "lead"]);
        assert!(code == 3 && told.contains(part), "{code}: {told}");
        assert_eq!(read(folder.path()), before);
        let (_, told) = model(folder.path(), &["promote", ".", "lead", "--format", "json"]);
        let lines: Vec<Value> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(
            lines.iter().any(|line| line["ok"] == false) && lines[0]["check"] == "golden vectors",
            "{told}"
        );
    }
    // A version that asks for more than production does cannot take its place.
    let strict = tempfile::tempdir().unwrap();
    let country = "pointer: /Country, type: string, default: '',";
    copy_bundle(
        &bundle("lead-score-logistic"),
        strict.path(),
        |manifest| manifest.replace(country, "pointer: /Country, type: string,"),
        |record| record["Country"].is_string(),
    );
    let (folder, before) = policies("");
    let logistic = bundle("lead-score-logistic").display().to_string();
    fs::write(folder.path().join("models.yaml"), before.replace(&logistic, strict.path().to_str().unwrap()))
        .unwrap();
    let (code, told) = model(folder.path(), &["promote", ".", "lead"]);
    assert!(code == 3 && told.contains("refused  schema: no score for golden record"), "{code}: {told}");
    assert!(told.contains("country"), "{told}");
}

#[test]
fn what_is_not_there_or_does_not_compile_is_told() {
    let (folder, before) = policies("");
    let folder = folder.path();
    for (words, part) in [
        (&["promote", ".", "none"][..], "there is no model `none`"),
        (&["promote", ".", "other"], "has one bundle and no rollout"),
        (&["promote", ".", "lead", "--version", "v9"], "has no version `v9`"),
        (&["promote", ".", "lead", "--version", "v1"], "`v1` is production"),
    ] {
        let (code, told) = model(folder, words);
        assert!(code == 1 && told.contains(part), "{code}: {told}");
    }
    assert_eq!(model(folder, &["promote", "."]).0, 2);
    fs::write(folder.join("models.yaml"), before.replace("production: v1", "production: v4")).unwrap();
    let (code, told) = model(folder, &["promote", ".", "lead"]);
    assert!(code == 3 && told.contains("there is no version named `v4`"), "{code}: {told}");
    assert_eq!(model(folder, &["list", "."]).0, 3);
}

#[test]
fn versions_are_listed_with_the_parts_they_play() {
    let (folder, _) = policies("");
    let (code, told) = model(folder.path(), &["list", ".", "--format", "json"]);
    assert_eq!(code, 0, "{told}");
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let told: Vec<_> = lines
        .iter()
        .map(|it| (text(it, "model"), text(it, "version"), text(it, "role"), text(it, "bundle")))
        .collect();
    let expected = [
        ("other", "-", "production", "lead-score 1.0.0"),
        ("lead", "v1", "production", "lead-score 1.0.0"),
        ("lead", "v2", "canary", "lead-score-logistic 1.0.0"),
    ];
    assert_eq!(told, expected.map(|(a, b, c, d)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned())));
    assert_eq!(lines[2]["percent"], 10.0);
    let (_, told) = model(folder.path(), &["list", "."]);
    assert!(told.contains("canary 10 %"), "{told}");
}

#[test]
fn a_bundle_is_signed_with_a_key_of_ours_or_of_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let bundled = folder.path().join("lead");
    copy_bundle(&bundle("lead-score"), &bundled, |manifest| manifest, |_| true);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |words: &[&str]| model(folder.path(), words);
    let (code, public) = run(&["key", &at("key.pem")]);
    assert!(code == 0 && public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
    fs::write(at("models.pem"), public).unwrap();
    let (code, told) = run(&["key", &at("key.pem")]);
    assert!(code == 1 && told.contains("key.pem"), "no key is written over: {told}");
    let (key, openssl) = (format!("file:{}", at("key.pem")), format!("file:{}", at("other.pem")));
    let (code, told) = run(&["sign", &at("lead"), "--key", &key]);
    assert!(code == 0 && told.contains("lead-score 1.0.0 signed by "), "{told}");
    let verify = |by: &str| run(&["verify", &at("lead"), "--key", by]);
    let (code, told) = verify(&at("models.pem"));
    assert!(code == 0 && told.contains("; signed by "), "{told}");
    assert_eq!(fs::read(bundled.join("bundle.sig")).unwrap().len(), 64);
    // Keys in the form that openssl writes, without the public half: PKCS #8 of version 1 (RFC 8410, section 10.3).
    fs::write(
        at("other.pem"),
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    fs::write(at("other-public.pem"), other).unwrap();
    assert_eq!(run(&["sign", &at("lead"), "--key", &openssl]).0, 0);
    assert_eq!((verify(&at("other-public.pem")).0, verify(&at("models.pem")).0), (0, 1));
    // What is no key, and what no gateway would take.
    let (code, told) = run(&["sign", &at("lead"), "--key", &format!("file:{}", at("models.pem"))]);
    assert!(code == 3 && told.contains("an Ed25519 private key in PKCS #8 PEM"), "{told}");
    let before = fs::read(bundled.join("bundle.sig")).unwrap();
    fs::write(bundled.join("golden.json"), "{}").unwrap();
    let (code, told) = run(&["sign", &at("lead"), "--key", &key]);
    assert!(code == 1 && told.contains("golden.json"), "{told}");
    assert_eq!(fs::read(bundled.join("bundle.sig")).unwrap(), before);
}

#[test]
fn a_bundle_is_shown_measured_and_proven() {
    let folder = tempfile::tempdir().unwrap();
    let signed = folder.path().join("signed");
    copy_bundle(&bundle("lead-score"), &signed, |manifest| manifest, |_| true);
    let (key, _, public) = SigningKey::generate().unwrap();
    let (_, _, stranger) = SigningKey::generate().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (public, stranger, nonsense) =
        (file("a.pem", &public), file("b.pem", &stranger), file("c.pem", "key"));
    let verify = |words: &[&str]| model(&signed, &[&["verify", "."], words].concat());
    let (code, told) = verify(&[]);
    assert!(
        code == 0 && told.starts_with("ok: lead-score 1.0.0, ") && told.contains("no signature was checked"),
        "{told}"
    );
    let (code, told) = verify(&["--key", &public]);
    assert!(code == 1 && told.contains("bundle.sig"), "{told}");
    fs::write(signed.join("bundle.sig"), key.sign(&fs::read(signed.join("model.yaml")).unwrap())).unwrap();
    let (code, told) = verify(&["--key", &public]);
    assert!(code == 0 && told.contains(&format!("signed by {}", key.id())), "{told}");
    let (code, told) = verify(&["--key", &stranger, "--format", "json"]);
    let line: Value = serde_json::from_str(&told).unwrap();
    assert!(
        code == 1 && line["ok"] == false && line["error"].as_str().unwrap().contains("none of the keys"),
        "{told}"
    );
    assert_eq!(verify(&["--key", &nonsense]).0, 3);
    let (code, told) = model(&signed, &["inspect", ".", "--format", "json"]);
    let line: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (code, &line["object"], &line["task"], &line["engine"]),
        (0, &"Lead".into(), &"classification".into(), &"forest".into())
    );
    assert_eq!(
        (&line["columns"], &line["signature"], &line["metrics"]["auc"]),
        (&27.into(), &true.into(), &0.6938.into())
    );
    assert!(model(&signed, &["inspect", "."]).1.contains("trained on   leadforge 1.0.0"));
    let (code, told) = model(&signed, &["bench", ".", "--calls", "200", "--format", "json"]);
    let line: Value = serde_json::from_str(&told).unwrap();
    let number = |key: &str| line[key].as_f64().unwrap();
    assert_eq!((code, &line["calls"]), (0, &200.into()));
    assert!(
        number("p50_us") > 0.0
            && number("p50_us") <= number("p99_us")
            && number("p99_us") <= number("max_us"),
        "{told}"
    );
    // One byte of one file.
    let mut onnx = fs::read(signed.join("model.onnx")).unwrap();
    onnx[1_000] ^= 1;
    fs::write(signed.join("model.onnx"), onnx).unwrap();
    for words in [&["verify", ".", "--key", &public][..], &["inspect", "."], &["bench", "."]] {
        let (code, told) = model(&signed, words);
        assert!(code == 1 && told.contains("model.onnx") && told.contains("sha256"), "{told}");
    }
}
