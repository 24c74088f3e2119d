//! `foregate model pull`: bundles from a registry that may be down, slow or lying.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foregate::decision_log::keys::SigningKey;
use http::{Response, StatusCode};
use serde_json::json;

use crate::support::command::{Ended, foregate};
use crate::support::guarded::bundle;
use crate::support::unused_address;
use crate::support::upstream::{Body, Upstream, empty, full};

const SOURCE: &str = "mlflow-artifacts:/1/run/artifacts/bundle";

/// What a registry answers, by path.
type Answers = BTreeMap<String, Vec<u8>>;

/// A registry that knows the shipped bundle of leads under the alias `candidate`.
fn honest() -> Answers {
    let version = json!({ "model_version": { "name": "lead", "version": "7", "source": SOURCE } });
    let mut answers =
        BTreeMap::from([("/api/2.0/mlflow/registered-models/alias".to_owned(), version.to_string().into())]);
    for entry in fs::read_dir(bundle("lead-score")).unwrap() {
        let entry = entry.unwrap();
        answers.insert(artifact(entry.file_name().to_str().unwrap()), fs::read(entry.path()).unwrap());
    }
    answers
}

fn artifact(name: &str) -> String {
    format!("/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/bundle/{name}")
}

async fn registry(answers: Answers) -> Upstream {
    let answers = Arc::new(answers);
    Upstream::start(move |request| {
        let answers = Arc::clone(&answers);
        async move {
            match answers.get(request.uri.path()) {
                // Nothing: it never answers.
                Some(body) if body.is_empty() => pending().await,
                Some(body) => Response::new(full(body.clone())),
                None => {
                    let mut answer: Response<Body> = Response::new(empty());
                    *answer.status_mut() = StatusCode::NOT_FOUND;
                    answer
                }
            }
        }
    })
    .await
}

/// A policy folder whose model is to be pulled.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new(uri: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead }}
spec:
  bundle: {{ path: models/lead, mlflow: {{ uri: '{uri}', model: lead, alias: candidate }} }}
{more}"
        );
        fs::write(folder.path().join("model.yaml"), text).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn run(&self, words: &'static [&'static str]) -> Ended {
        let folder = self.0.path().to_str().unwrap().to_owned();
        let run = move || foregate(&[words, &[folder.as_str()]].concat());
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn pull(&self) -> Ended {
        self.run(&["model", "pull", "--timeout", "2s"]).await
    }

    /// Nothing of a bundle that was refused is left.
    fn is_clean(&self) {
        let left: Vec<_> =
            fs::read_dir(self.path("models")).map(|entries| entries.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn same(left: &Path, right: &Path) -> bool {
    ["model.yaml", "model.onnx", "golden.json", "reference.json", "CARD.md"]
        .iter()
        .all(|file| fs::read(left.join(file)).unwrap() == fs::read(right.join(file)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_bundle_comes_byte_for_byte_and_takes_the_place_of_the_old_one() {
    let registry = registry(honest()).await;
    let stage = Stage::new(&format!("http://{}", registry.address), "");
    stage.run(&["check"]).await.is(3, &[], &["FG0501"]);
    stage.pull().await.is(0, &["version 7 of lead@candidate"], &[]);
    assert!(same(&stage.path("models/lead"), &bundle("lead-score")));
    stage.run(&["check"]).await.is(0, &["no faults"], &[]);
    let asked = registry.received()[0].uri.query().unwrap().to_owned();
    assert_eq!(asked, "name=lead&alias=candidate");
    fs::write(stage.path("models/lead/model.onnx"), "damaged").unwrap();
    stage.pull().await.is(0, &[], &[]);
    assert!(same(&stage.path("models/lead"), &bundle("lead-score")));
    assert_eq!(fs::read_dir(stage.path("models")).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_anything_but_a_bundle_is_not_replaced() {
    let registry = registry(honest()).await;
    let stage = Stage::new(&format!("http://{}", registry.address), "");
    let folder = stage.path("models/lead");
    fs::create_dir_all(&folder).unwrap();
    stage.pull().await.is(0, &[], &[]);
    for (name, directory) in [("notes.txt", false), ("other", true)] {
        let path = folder.join(name);
        if directory {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "mine").unwrap();
        }
        let part = format!("model.yaml does not name {name}");
        stage.pull().await.is(1, &[], &["is not replaced", &part]);
        assert!(path.exists() && same(&folder, &bundle("lead-score")));
        if directory { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    fs::remove_file(folder.join("model.yaml")).unwrap();
    stage.pull().await.is(1, &[], &["it is not empty and has no model.yaml"]);
    assert!(folder.join("model.onnx").exists());
    assert_eq!(fs::read_dir(stage.path("models")).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_or_is_slow_is_refused_with_the_reason() {
    let version = "/api/2.0/mlflow/registered-models/alias";
    let manifest = String::from_utf8(honest()[&artifact("model.yaml")].clone()).unwrap();
    let elsewhere =
        json!({ "model_version": { "version": "7", "source": "s3://bucket/bundle" } }).to_string();
    let mut flipped = honest()[&artifact("model.onnx")].clone();
    flipped[5_000] ^= 1;
    let cases: [(&str, Option<Vec<u8>>, &str); 9] = [
        (version, None, "answers 404 to /api/2.0/mlflow/registered-models/alias"),
        (version, Some(b"<html>".to_vec()), "no version of a model"),
        (version, Some(elsewhere.into()), "kept at s3://bucket/bundle"),
        (version, Some(vec![b' '; 300 << 10]), "over 262144 bytes"),
        (version, Some(Vec::new()), "was not done after 2s"),
        ("model.onnx", Some(Vec::new()), "was not done after 2s"),
        ("model.onnx", Some(flipped), "sha256"),
        ("golden.json", None, "answers 404"),
        (
            "model.yaml",
            Some(manifest.replace("path: golden.json", "path: ../golden.json").into()),
            "lies outside",
        ),
    ];
    for (path, answer, part) in cases {
        let mut answers = honest();
        let path = if path.starts_with('/') { path.to_owned() } else { artifact(path) };
        match answer {
            Some(answer) => answers.insert(path, answer),
            None => answers.remove(&path),
        };
        let registry = registry(answers).await;
        let stage = Stage::new(&format!("http://{}", registry.address), "");
        stage.pull().await.is(1, &[], &["lead@candidate was not pulled", part]);
        stage.is_clean();
    }
    let stage = Stage::new(&format!("http://{}", unused_address().await), "");
    stage.pull().await.is(1, &[], &["cannot be reached"]);
    for uri in ["http://mlflow.example.com:5000", "ftp://127.0.0.1", "http://user:word@127.0.0.1"] {
        Stage::new(uri, "").pull().await.is(
            1,
            &[],
            &["must be https, http on this host, or http with `signedBy`"],
        );
    }
    let none = tempfile::tempdir().unwrap();
    fs::write(none.path().join("a.yaml"), "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: a }\nspec: { bundle: { path: a } }\n").unwrap();
    Stage(none).pull().await.is(1, &[], &["names a registry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_signed_is_pulled_only_where_it_is() {
    let (key, _, public) = SigningKey::generate().unwrap();
    let signed_by = "  signedBy: [{ file: key.pem }]\n";
    let mut answers = honest();
    let unsigned = registry(answers.clone()).await;
    let signature = key.sign(&answers[&artifact("model.yaml")]);
    answers.insert(artifact("bundle.sig"), signature);
    let signed = registry(answers).await;
    for (registry, code, part) in [(&unsigned, 1, "bundle.sig"), (&signed, 0, "")] {
        let stage = Stage::new(&format!("http://{}", registry.address), signed_by);
        stage.pull().await.is(1, &[], &["key.pem"]);
        fs::write(stage.path("key.pem"), &public).unwrap();
        stage.pull().await.is(code, &[], &[part]);
        assert_eq!(stage.path("models/lead/bundle.sig").exists(), code == 0);
    }
    let asked = |name: &str| unsigned.received().iter().any(|request| request.uri.path() == artifact(name));
    assert!(asked("model.yaml") && !asked("model.onnx"), "nothing is fetched of what nobody signed");
    let stage = Stage::new(&format!("http://{}", unsigned.address), "  signedBy: [{ path: key.pem }]\n");
    stage.pull().await.is(1, &[], &["spec.signedBy[0] names no file"]);
}
