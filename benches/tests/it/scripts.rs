//! Tests of the scripts, in Python.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_driver_marks_noise_writes_its_results_and_says_what_is_missing() {
    passes("test_peers.py");
}

#[test]
fn the_scaling_model_gives_what_is_known() {
    passes("test_queueing.py");
}

fn passes(script: &str) {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python: run `bash .ci/test`, which makes one");
    let output = Command::new(python)
        .args(["-B", script])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // A file without tests passes, too.
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|ran| ran > 0), "nothing ran:\n{said}");
}
