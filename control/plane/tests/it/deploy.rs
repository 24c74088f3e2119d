//! Chart, manifests, images and workflows below `deploy`, looked at by programs of others.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the tests of a file in `deploy/tests`, with the folder of the commands that are deployed.
fn passes(file: &str) {
    let python = std::env::var("FOREGATE_DEPLOY_PYTHON")
        .expect("FOREGATE_DEPLOY_PYTHON names no Python with Helm: run `bash .ci/test`, which makes one");
    let control = Path::new(env!("CARGO_BIN_EXE_foregate-control"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/tests");
    let output = Command::new(python)
        .args(["-B", file])
        .current_dir(tests)
        .env("FOREGATE_BINARIES", control.parent().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}:\n{said}");
    // A file without tests passes, too.
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|ran| ran > 0), "{file} ran nothing:\n{said}");
}

#[test]
fn the_chart_renders_valid_and_hardened_manifests_in_every_mode() {
    passes("test_chart.py");
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    passes("test_values.py");
}

#[test]
fn manifests_start_the_commands_with_what_they_take() {
    passes("test_commands.py");
}

#[test]
fn kustomize_deploys_what_the_chart_deploys() {
    passes("test_kustomize.py");
}

#[test]
fn images_and_compose_files_are_well_made() {
    passes("test_images.py");
}

#[test]
fn dashboards_are_what_the_code_makes_of_them_and_lead_to_runbooks() {
    passes("test_dashboards.py");
}

#[test]
fn every_alert_fires_and_clears_and_leaves_a_healthy_gateway_alone() {
    passes("test_rules.py");
}

#[test]
fn prometheus_sees_all_that_happens_to_a_gateway() {
    passes("test_observed.py");
}

#[test]
fn workflows_are_valid_and_may_do_little() {
    passes("test_workflows.py");
}

#[test]
fn a_release_is_the_same_twice_installs_and_is_documented() {
    passes("test_release.py");
}

#[test]
fn the_book_is_built_with_every_link_and_without_a_network() {
    passes("test_book.py");
}
