//! Reading folders: what is taken, what is left out, what cannot be read.

use std::fs;
use std::path::PathBuf;

use foregate_policy::load::load_folder;

use crate::materials::{BASE, brief};

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_mounted_config_map_is_read_once_and_secrets_are_left_out() {
    let root = folder("mounted");
    fs::create_dir_all(root.join("..2026_11_22")).unwrap();
    fs::write(root.join("..2026_11_22/edge.yaml"), BASE).unwrap();
    std::os::unix::fs::symlink("..2026_11_22", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/edge.yaml", root.join("edge.yaml")).unwrap();
    fs::create_dir_all(root.join("secrets")).unwrap();
    fs::write(root.join("secrets/a.yaml"), "not: a policy").unwrap();
    fs::create_dir_all(root.join("teams")).unwrap();
    fs::write(root.join("teams/a.cases.yml"), "").unwrap();
    fs::write(root.join("teams/notes.txt"), "x").unwrap();
    // A model bundle beside the policy that names it.
    fs::create_dir_all(root.join("models/lead")).unwrap();
    let manifest = "# Trained.\napiVersion: foregate.dev/v1alpha1\nkind: ModelBundle\nname: lead\n";
    fs::write(root.join("models/lead/model.yaml"), manifest).unwrap();
    let sources = load_folder(&root).unwrap();
    let names: Vec<String> = sources
        .files
        .iter()
        .map(|file| file.path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["edge.yaml", "teams/a.cases.yml"]);
    assert_eq!((sources.documents.len(), sources.faults.len()), (3, 0));
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn what_cannot_be_read_is_a_diagnostic() {
    let root = folder("unreadable");
    let faults = |path: &std::path::Path| brief(&load_folder(path).map(|_| ()).unwrap_err());
    assert_eq!(faults(&root.join("gone")), ["FG0112 0:0 there is no such file or folder"]);
    assert_eq!(faults(&root), ["FG0113 0:0 there is no policy file here"]);
    fs::write(root.join("a.yaml"), b"a: \xff").unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("b.yaml")).unwrap();
    fs::write(root.join("c.yaml"), "a: ".to_owned() + &"x".repeat(1 << 20)).unwrap();
    let want = [
        "FG0112 0:0 byte 3 is not UTF-8",
        "FG0112 0:0 there is no such file or folder",
        "FG0112 0:0 the file is larger than 1024 KiB",
    ];
    assert_eq!(faults(&root), want);
    std::os::unix::fs::symlink(&root, root.join("ca.yaml")).unwrap();
    fs::write(root.join("d.yaml"), BASE).unwrap();
    let sources = load_folder(&root).unwrap();
    let mut told = brief(&sources.faults);
    told.sort();
    let all = [want[0], "FG0112 0:0 it is not a regular file", want[2], want[1]];
    assert_eq!((told, sources.incomplete), (all.map(str::to_owned).to_vec(), true));
    fs::remove_dir_all(&root).unwrap();
}
