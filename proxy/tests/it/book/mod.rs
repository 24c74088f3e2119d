//! The book: its policies compile, and its commands say what it says they say.
//!
//! ```` ```yaml ```` holds policies, whole or in parts; with `file=NAME` it is written where the commands of its page run;
//! with `control` it is configuration of the control plane, which the tests of that read. ```` ```console ```` holds
//! commands behind `$ ` and what they say; a line `...`, and `...` within a line, stand for anything. What is said is not
//! looked at where none of it is shown. ```` ```text ```` is left alone, and nothing else may stand in the book.

mod console;
mod pages;
mod parts;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use self::console::Session;
use self::pages::{Block, Page};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Carries a page out, from top to bottom; gives what is wrong with it.
fn faults(page: &Page) -> Vec<String> {
    let mut session = Session::new(&root());
    let mut faults = Vec::new();
    for block in &page.blocks {
        let found = match block.language() {
            "yaml" => match (block.option("file"), block.is("control")) {
                (Some(name), _) => written(&session, block, name),
                (None, true) => Vec::new(),
                (None, false) => parts::faults(&block.text),
            },
            "console" => session.run(block),
            "text" => Vec::new(),
            other => vec![format!("`{other}` is not run by anything: call it text, or console, or yaml")],
        };
        faults.extend(found.into_iter().map(|fault| format!("{}:{}: {fault}", block.file, block.line)));
    }
    faults
}

fn written(session: &Session, block: &Block, name: &str) -> Vec<String> {
    let file = session.folder().join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, &block.text).unwrap();
    let policies = file.extension().is_some_and(|end| end == "yaml") && !name.ends_with(".cases.yaml");
    let sound = policies && !block.is("control") && !block.is("wrong");
    if sound { parts::faults(&block.text) } else { Vec::new() }
}

#[test]
fn the_book_is_carried_out() {
    let pages = pages::all(&root());
    let blocks = |language: &str| {
        pages.iter().flat_map(|page| &page.blocks).filter(|block| block.language() == language).count()
    };
    assert!(pages.len() > 20 && blocks("console") > 10 && blocks("yaml") > 30, "{} pages", pages.len());
    let ran: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = pages.iter().map(|page| scope.spawn(|| faults(page))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = String::new();
    ran.iter().flatten().for_each(|fault| writeln!(all, "{fault}").unwrap());
    assert!(all.is_empty(), "{all}");
}

#[test]
fn every_page_is_in_the_summary_and_every_entry_is_a_page() {
    let folder = root().join("docs/src");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    let mut named: Vec<&str> =
        summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let pages = pages::all(&root());
    let mut found: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
    named.sort_unstable();
    found.sort_unstable();
    assert_eq!(named, found);
}

/// What is wrong with a page of this text.
fn said_of(text: &str) -> String {
    faults(&pages::parse("docs/src/page.md", text)).join("\n")
}

#[test]
fn a_book_that_is_wrong_is_found_out() {
    assert_eq!(
        said_of("```console\n$ foregate version\nforegate ...\n...\nmodels ... tree ensembles\n```\n"),
        ""
    );
    for (text, part) in [
        ("```console\n$ foregate version --nonsense\n```\n", "ended with 2"),
        ("```console\n$ foregate version\nforegate 99.9.9\n...\n```\n", "foregate 99.9.9"),
        ("```console\n$ foregate version\n```\n\n```sh\nls\n```\n", "page.md:5: `sh` is not run"),
        ("```console\nforegate version\n```\n", "no command"),
        ("```yaml\nspec: # of a Policy\n  authorise: []\n```\n", "FG0102"),
        (
            "```yaml\nspec: # of a Policy\n  authorize: [{ name: a, allow: 'request.methd == \"GET\"' }]\n```\n",
            "methd",
        ),
        ("```yaml\n  concurency: []\n```\n", "FG0102"),
        ("```yaml\nkind: [\n```\n", "no YAML"),
        ("```yaml file=a/b.yaml\nkind: Upstream\nspec: { endpoint: [] }\n```\n", "FG0102"),
    ] {
        let said = said_of(text);
        assert!(said.contains(part), "{text}\n{said}");
    }
}
