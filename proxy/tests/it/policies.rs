//! The policies people start from: they compile, and their cases pass.

use std::path::{Path, PathBuf};

use foregate::cli::test::run_cases;

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// Asserts that the cases of a folder pass, and that there are at least so many.
fn passes(folder: &Path, at_least: usize) {
    let reports = run_cases(folder).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(reports.len() >= at_least, "{} cases in {}", reports.len(), folder.display());
}

#[test]
fn every_folder_passes_its_cases() {
    let mut folders = 0;
    for entry in std::fs::read_dir(policies()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            passes(&path, 5);
            folders += 1;
        }
    }
    assert!(folders >= 2);
}

#[test]
fn all_folders_together_are_one_sound_configuration() {
    passes(&policies(), 30);
}
