//! The order in which the program is laid out names functions that it holds.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::process::Command;

/// Names without the hash that compilers add, in the order of the file.
fn named() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/layout.ld")).unwrap();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("*(.text.")?.strip_suffix(')'));
    names.filter(|name| !name.contains(' ')).map(|name| name.trim_end_matches('*').to_owned()).collect()
}

/// Also where nothing is optimised: what changes is inlined here and there, not renamed.
#[test]
fn what_the_layout_names_is_in_the_program() {
    let listed =
        Command::new("nm").args(["--defined-only", env!("CARGO_BIN_EXE_foregate")]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let symbols: BTreeSet<&str> = listed.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    let names = named();
    let is_there = |name: &&String| {
        let from = (Bound::Included(name.as_str()), Bound::Unbounded);
        let next = symbols.range::<str, _>(from).next();
        next.is_some_and(|symbol| symbol.starts_with(name.as_str()))
    };
    let there = names.iter().filter(is_there).count();
    assert!(names.len() > 1_000, "{}", names.len());
    assert!(
        there * 10 >= names.len() * 8,
        "{there} of {} names: write the layout anew (benches/compare/layout.py)",
        names.len()
    );
}
