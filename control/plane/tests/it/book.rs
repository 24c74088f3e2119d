//! Settings that the documentation shows: the control plane takes them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use foregate_control::config::Config;

/// What a part of a configuration leaves out.
const REST: [(&str, &str); 5] = [
    ("trustDomain", "example.org"),
    ("listen", "127.0.0.1:8443"),
    ("names", "[control.example.org]"),
    ("stateDir", "state"),
    ("insecure", "{ generateAuthority: true }"),
];
const PAGES: [&str; 3] = ["POLICIES.md", "KUBERNETES.md", "../../docs/src/mesh/control.md"];

/// The blocks of settings in a page.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```yaml control").skip(1);
    blocks.map(|rest| rest.split_once('\n').unwrap().1.split("```").next().unwrap())
}

/// What the control plane says of a block of settings.
fn said_of(block: &str) -> Result<(), String> {
    let mut text = block.to_owned();
    for (name, value) in REST {
        if !block.lines().any(|line| line.starts_with(&format!("{name}:"))) {
            writeln!(text, "{name}: {value}").unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("control.yaml");
    fs::write(&file, text).unwrap();
    Config::load(&file).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn settings_that_are_shown_are_taken() {
    let mut shown = 0;
    for page in PAGES {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        for block in blocks(&fs::read_to_string(file).unwrap()) {
            assert_eq!(said_of(block), Ok(()), "{page}:\n{block}");
            shown += 1;
        }
    }
    assert!(shown >= 5, "{shown} blocks");
    assert!(said_of("grant: []\n").unwrap_err().contains("grant"));
}
