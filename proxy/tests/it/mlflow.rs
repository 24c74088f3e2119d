//! A server of `MLflow`: what training logs to it is pulled from it.

use std::path::Path;
use std::process::Command;

#[test]
fn what_training_logs_is_pulled_as_its_alias_and_its_signature_say() {
    let python = std::env::var("FOREGATE_MLFLOW_PYTHON")
        .expect("FOREGATE_MLFLOW_PYTHON names no Python with mlflow: run `bash .ci/test`, which makes one");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/training/test_tracking.py");
    let ended = Command::new(python).arg(script).arg(env!("CARGO_BIN_EXE_foregate")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&ended.stdout), text(&ended.stderr));
    assert!(ended.status.success(), "{out}{err}");
    for said in ["two bundles are logged", "an alias is pulled as the bundle that it means"] {
        assert!(out.contains(said), "{out}{err}");
    }
}
