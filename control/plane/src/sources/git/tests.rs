//! Repositories made with git, and pulled: what is accepted, and what is not.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::Puller;
use crate::sources::spec::{GitInsecure, GitSpec, Limits};
use crate::sources::{SourceFault, Tree};

pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// A repository, keys to sign with, and the state of whoever pulls.
pub(super) struct Fixture {
    pub folder: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(this.work()).unwrap();
        this.git(&["init", "-q", "-b", "main"]);
        this
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn git(&self, args: &[&str]) -> String {
        self.git_with(args, "")
    }

    fn git_with(&self, args: &[&str], input: &str) -> String {
        let mut command = Command::new("git");
        command.current_dir(self.work()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_clear().envs([
            ("PATH", std::env::var("PATH").unwrap().as_str()),
            ("HOME", self.folder.path().to_str().unwrap()),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "Ada"),
            ("GIT_AUTHOR_EMAIL", "ada@example.org"),
            ("GIT_COMMITTER_NAME", "Ada"),
            ("GIT_COMMITTER_EMAIL", "ada@example.org"),
        ]);
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes a key of this type; gives its line for the file of allowed signers, without principal.
    fn key(&self, name: &str, kind: &[&str]) -> String {
        let path = self.folder.path().join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-C", "", "-f"]).arg(&path).arg("-t").args(kind);
        assert!(command.status().unwrap().success());
        fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
    }

    fn signers(&self, lines: &[String]) {
        fs::write(self.folder.path().join("signers"), lines.join("\n")).unwrap();
    }

    /// Commits everything; signed where a key is named.
    pub fn commit(&self, key: Option<&str>) -> String {
        self.git(&["add", "-A"]);
        let mut args = vec!["-c".to_owned(), "gpg.format=ssh".to_owned()];
        if let Some(key) = key {
            let key = self.folder.path().join(key);
            args.extend(["-c".to_owned(), format!("user.signingkey={}", key.display())]);
        }
        args.extend(["commit", "-q", "--allow-empty", "-m", "a change"].map(str::to_owned));
        args.extend(key.map(|_| "-S".to_owned()));
        self.git(&args.iter().map(String::as_str).collect::<Vec<_>>());
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn spec(&self, signed: bool) -> GitSpec {
        GitSpec {
            url: format!("file://{}", self.work().display()),
            branch: Some("main".to_owned()),
            tag: None,
            path: None,
            interval: None,
            timeout: None,
            allowed_signers: signed.then(|| self.folder.path().join("signers")),
            credentials: None,
            ca_file: None,
            insecure: GitInsecure { unsigned_commits: !signed },
        }
    }

    pub fn puller(&self, spec: GitSpec, limits: Limits) -> Puller {
        Puller::new("policies", spec, limits, self.folder.path().join("state"))
    }

    fn pull(&self, signed: bool) -> Result<Option<Tree>, SourceFault> {
        self.puller(self.spec(signed), Limits::default()).pull(false, LIMIT)
    }

    /// Code and message of what refuses the pull.
    fn refused(&self) -> (String, String) {
        let fault = self.pull(true).unwrap_err();
        (fault.0[0].code.to_string(), fault.0[0].message.clone())
    }
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.files.keys().map(|way| &**way).collect()
}

#[test]
fn unsigned_commits_are_pulled_where_that_is_said() {
    let repository = Fixture::new();
    repository.write("edge.yaml", "a: 1\n");
    repository.write("schemas/lead.json", "{}");
    repository.write(".github/workflows/x.yaml", "hidden: true");
    let first = repository.commit(None);
    let tree = repository.pull(false).unwrap().unwrap();
    assert_eq!((tree.revision.as_str(), tree.signer.as_deref()), (first.as_str(), None));
    assert_eq!(names(&tree), ["edge.yaml", "schemas/lead.json"]);
    assert_eq!(repository.pull(false).unwrap(), None, "nothing is new");
    repository.write("edge.yaml", "a: 2\n");
    let second = repository.commit(None);
    let tree = repository.pull(false).unwrap().unwrap();
    assert_eq!((tree.revision, &tree.files["edge.yaml"][..]), (second, &b"a: 2\n"[..]));
}

#[test]
fn every_commit_must_be_signed_by_somebody_who_may() {
    let repository = Fixture::new();
    let ada = repository.key("ada", &["ed25519"]);
    repository.key("eve", &["ed25519"]);
    repository.signers(&[format!("ada@example.org namespaces=\"git\" {ada}")]);
    repository.commit(Some("ada"));
    let tree = repository.pull(true).unwrap().unwrap();
    assert_eq!(tree.signer.as_deref(), Some("ada@example.org"));
    // One in between is not signed, the last one is.
    let unsigned = repository.commit(None);
    let last = repository.commit(Some("ada"));
    let (code, message) = repository.refused();
    assert_eq!(code, "FG0758");
    assert!(message.contains(&unsigned) && message.contains("not signed"), "{message}");
    repository.git(&["reset", "-q", "--hard", "HEAD~2"]);
    repository.commit(Some("eve"));
    let (code, message) = repository.refused();
    assert!(code == "FG0758" && message.contains("not in the file"), "{code} {message}");
    repository.git(&["reset", "-q", "--hard", "HEAD~1"]);
    assert_eq!(repository.pull(true).unwrap(), None, "what was accepted before stays accepted");
    assert_ne!(last, repository.commit(Some("ada")));
    assert!(repository.pull(true).unwrap().is_some());
}

#[test]
fn signatures_by_other_kinds_of_keys_count_and_changed_commits_do_not() {
    let repository = Fixture::new();
    let kinds: [(&str, &[&str]); 4] = [
        ("p256", &["ecdsa", "-b", "256"]),
        ("p384", &["ecdsa", "-b", "384"]),
        ("rsa", &["rsa", "-b", "2048"]),
        ("ed", &["ed25519"]),
    ];
    let lines: Vec<String> =
        kinds.iter().map(|(name, kind)| format!("{name} {}", repository.key(name, kind))).collect();
    repository.signers(&lines);
    for (name, _) in kinds {
        repository.commit(Some(name));
        assert_eq!(repository.pull(true).unwrap().unwrap().signer.as_deref(), Some(name));
    }
    let text = repository.git(&["cat-file", "commit", "HEAD"]);
    let forged = format!("{}\n", text.replace("a change", "another")).replacen(
        "parent ",
        &format!("parent {}\nparent ", repository.git(&["rev-parse", "HEAD"])),
        1,
    );
    let forged = repository.git_with(&["hash-object", "-t", "commit", "-w", "--stdin"], &forged);
    repository.git(&["update-ref", "refs/heads/main", &forged]);
    let (code, message) = repository.refused();
    assert!(code == "FG0758" && message.contains("does not fit"), "{code} {message}");
}

#[test]
fn keys_that_are_out_of_their_time_or_for_something_else_sign_nothing() {
    let repository = Fixture::new();
    let ada = repository.key("ada", &["ed25519"]);
    repository.commit(Some("ada"));
    for (options, why) in [
        ("valid-before=\"20200101\"", "not valid at that time"),
        ("valid-after=\"29990101\"", "not valid at that time"),
        ("namespaces=\"file\"", "not allowed to sign for git"),
    ] {
        repository.signers(&[format!("ada {options} {ada}")]);
        let (code, message) = repository.refused();
        assert!(code == "FG0758" && message.contains(why), "{code} {message}");
    }
    repository.signers(&["ada cert-authority ssh-ed25519 AAAA".to_owned()]);
    let (code, message) = repository.refused();
    assert!(code == "FG0762" && message.contains("line 1"), "{code} {message}");
    // Once accepted, a commit stays accepted over restarts, though its key has expired since.
    repository.signers(&[format!("ada {ada}")]);
    assert!(repository.pull(true).unwrap().is_some());
    repository.signers(&[format!("ada valid-before=\"20200101\" {ada}")]);
    let again = repository.puller(repository.spec(true), Limits::default()).pull(true, LIMIT);
    assert!(again.unwrap().is_some());
}

#[test]
fn history_that_is_rewritten_or_goes_back_is_refused_also_after_a_restart() {
    let repository = Fixture::new();
    let ada = repository.key("ada", &["ed25519"]);
    repository.signers(&[format!("ada {ada}")]);
    repository.commit(Some("ada"));
    let second = repository.commit(Some("ada"));
    assert!(repository.pull(true).unwrap().is_some());
    repository.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let (code, message) = repository.refused();
    assert!(code == "FG0759" && message.contains("went back"), "{code} {message}");
    repository.write("other.yaml", "a: 1\n");
    repository.commit(Some("ada"));
    let (code, message) = repository.refused();
    assert!(code == "FG0759" && message.contains("was rewritten"), "{code} {message}");
    // Merged with what was accepted, it follows.
    repository.git(&[
        "-c",
        "gpg.format=ssh",
        "-c",
        &format!("user.signingkey={}", repository.folder.path().join("ada").display()),
        "merge",
        "-q",
        "-S",
        "--no-ff",
        "-m",
        "both",
        &second,
    ]);
    assert_eq!(names(&repository.pull(true).unwrap().unwrap()), ["other.yaml"]);
}

#[test]
fn links_submodules_and_sizes_are_bounded() {
    let repository = Fixture::new();
    repository.write("base/base.yaml", "a: 1\n");
    repository.write("teams/edge.yaml", "b: 1\n");
    let link = |target: &str, path: &str| {
        let path = repository.work().join(path);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    link("../base/base.yaml", "teams/base.yaml");
    link("base", "again");
    let head = repository.commit(None);
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},vendored")]);
    repository.git(&["commit", "-q", "-m", "a submodule"]);
    let tree = repository.pull(false).unwrap().unwrap();
    assert_eq!(names(&tree), ["again/base.yaml", "base/base.yaml", "teams/base.yaml", "teams/edge.yaml"]);
    assert_eq!(&tree.files["teams/base.yaml"][..], b"a: 1\n");
    assert_eq!(tree.warnings[0].code.to_string(), "FG0757");
    let refused = |limits: Limits| {
        let fault = repository.puller(repository.spec(false), limits).pull(true, LIMIT).unwrap_err();
        (fault.0[0].code.to_string(), fault.0[0].file.clone(), fault.0[0].message.clone())
    };
    let few = refused(Limits { files: Some(1), ..Limits::default() });
    assert!(few.0 == "FG0755" && few.2.contains("more than 1 files"), "{few:?}");
    let flat = refused(Limits { depth: Some(0), ..Limits::default() });
    assert!(flat.0 == "FG0755" && flat.2.contains("nested"), "{flat:?}");
    let small = Limits { size: Some(foregate_filters::units::ByteSize(1 << 16)), ..Limits::default() };
    repository.write("model.onnx", &"x".repeat(1 << 20));
    repository.commit(None);
    assert_eq!(refused(small).0, "FG0755");
    for (target, path) in [("/etc/passwd", "abs.yaml"), ("../../etc/passwd", "teams/up.yaml")] {
        link(target, path);
        repository.commit(None);
        let out = refused(Limits::default());
        assert_eq!(
            (out.0.as_str(), out.1.as_str()),
            ("FG0756", format!("policies:{path}").as_str()),
            "{out:?}"
        );
        fs::remove_file(repository.work().join(path)).unwrap();
    }
}

#[test]
fn a_folder_of_a_tag_is_pulled_and_what_is_not_there_is_told() {
    let repository = Fixture::new();
    repository.write("gateways/edge.yaml", "a: 1\n");
    repository.write("other.yaml", "b: 1\n");
    let commit = repository.commit(None);
    repository.git(&["tag", "-m", "one", "v1"]);
    repository.commit(None);
    let spec = GitSpec {
        branch: None,
        tag: Some("v1".to_owned()),
        path: Some("gateways".to_owned()),
        ..repository.spec(false)
    };
    let tree = repository.puller(spec.clone(), Limits::default()).pull(true, LIMIT).unwrap().unwrap();
    assert_eq!((names(&tree), tree.revision.as_str()), (vec!["edge.yaml"], commit.as_str()));
    let refused = |spec: GitSpec| {
        let fault = repository.puller(spec, Limits::default()).pull(true, LIMIT).unwrap_err();
        assert_eq!(fault.0[0].code.to_string(), "FG0754", "{fault}");
        fault.to_string()
    };
    assert!(refused(GitSpec { path: Some("none".to_owned()), ..spec.clone() }).contains("no folder `none`"));
    refused(GitSpec { tag: Some("v2".to_owned()), ..spec.clone() });
    refused(GitSpec { url: "file:///nowhere/at/all".to_owned(), ..spec });
}

#[test]
fn a_pull_that_was_cut_off_is_begun_anew() {
    let repository = Fixture::new();
    repository.write("edge.yaml", "a: 1\n");
    repository.commit(None);
    let broken: &Path = &repository.folder.path().join("state/repository/objects");
    fs::create_dir_all(broken).unwrap();
    assert!(repository.pull(false).unwrap().is_some());
}

/// Text that hardly compresses, other for each seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(letters[usize::try_from(state % 64).unwrap()])
    };
    std::iter::repeat_with(letter).take(bytes).collect()
}

/// A bound of 256 KiB on disk.
fn small() -> Limits {
    Limits { size: Some(foregate_filters::units::ByteSize(1 << 16)), ..Limits::default() }
}

fn stored(repository: &Fixture) -> u64 {
    super::fetch::size(&repository.folder.path().join("state/repository/objects"), 0)
}

/// What is in the state of whoever pulls.
fn state_names(repository: &Fixture) -> Vec<String> {
    let entries = fs::read_dir(repository.folder.path().join("state")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_that_outgrows_its_bound_is_taken_afresh_and_no_commit_is_missed() {
    let repository = Fixture::new();
    let ada = repository.key("ada", &["ed25519"]);
    repository.signers(&[format!("ada {ada}")]);
    let puller = repository.puller(repository.spec(true), small());
    let text = noise(1, 48 << 10);
    let (mut sizes, mut shrunk) = (vec![0], 0);
    for change in 0..24 {
        repository.write("large.txt", &format!("change {change}\n{text}"));
        let commit = repository.commit(Some("ada"));
        let tree = puller.pull(false, LIMIT).unwrap().unwrap();
        assert_eq!(tree.revision, commit);
        let size = stored(&repository);
        assert!(size <= 256 << 10, "{size} after {change}");
        shrunk += u32::from(size < *sizes.last().unwrap());
        sizes.push(size);
    }
    assert!(shrunk > 0, "it grew with each pull, and was taken afresh: {sizes:?}");
    assert_eq!(state_names(&repository), ["accepted.json", "repository"]);
}

#[test]
fn a_store_that_is_taken_afresh_lets_nothing_in_that_the_old_one_would_not_have() {
    let repository = Fixture::new();
    let ada = repository.key("ada", &["ed25519"]);
    repository.signers(&[format!("ada {ada}")]);
    let grown = || {
        let junk = repository.folder.path().join("state/repository/objects/pack/junk");
        fs::write(junk, vec![0; 300 << 10]).unwrap();
    };
    let pull = || repository.puller(repository.spec(true), small()).pull(false, LIMIT);
    let refused = || {
        let fault = pull().unwrap_err();
        (fault.0[0].code.to_string(), fault.0[0].message.clone())
    };
    repository.write("edge.yaml", "a: 1\n");
    let first = repository.commit(Some("ada"));
    assert!(pull().unwrap().is_some());
    // One in between is not signed.
    let unsigned = repository.commit(None);
    repository.commit(Some("ada"));
    grown();
    let (code, message) = refused();
    assert!(code == "FG0758" && message.contains(&unsigned), "{code} {message}");
    assert!(stored(&repository) < 200 << 10, "it was taken afresh all the same");
    // Nor is a history let in that does not follow.
    repository.git(&["checkout", "-q", "--orphan", "other"]);
    // With the same content, in the same second, it would be the first commit itself.
    repository.write("edge.yaml", "b: 1\n");
    repository.commit(Some("ada"));
    repository.git(&["branch", "-q", "-M", "main"]);
    grown();
    let (code, message) = refused();
    assert!(code == "FG0759" && message.contains("does not follow") && message.contains(&first), "{message}");
    assert_eq!(refused(), (code, message), "again");
    // What follows is.
    repository.git(&["reset", "-q", "--hard", &first]);
    let next = repository.commit(Some("ada"));
    grown();
    assert_eq!(pull().unwrap().unwrap().revision, next);
    assert_eq!(state_names(&repository), ["accepted.json", "repository"]);
}

#[test]
fn a_history_that_is_too_large_even_afresh_is_told_and_not_taken_each_time() {
    let repository = Fixture::new();
    repository.write("edge.yaml", "a: 1\n");
    let first = repository.commit(None);
    let puller = repository.puller(repository.spec(false), small());
    assert_eq!(puller.pull(false, LIMIT).unwrap().unwrap().revision, first);
    repository.write("large.txt", &noise(2, 600 << 10));
    repository.commit(None);
    fs::remove_file(repository.work().join("large.txt")).unwrap();
    repository.commit(None);
    let refused = |puller: &Puller| {
        let fault = puller.pull(false, LIMIT).unwrap_err();
        assert_eq!(fault.0[0].code.to_string(), "FG0755", "{fault}");
        let said = fault.to_string();
        assert!(said.contains("256 KiB") && said.contains("limits.size"), "{said}");
    };
    // Of a repository that is not there, another fault would be told.
    let away = repository.folder.path().join("away");
    let not_asked_again = |puller: &Puller| {
        fs::rename(repository.work(), &away).unwrap();
        refused(puller);
        fs::rename(&away, repository.work()).unwrap();
    };
    refused(&puller);
    not_asked_again(&puller);
    assert_eq!(state_names(&repository), ["accepted.json", "repository"]);
    // Nor is one that has never been pulled.
    let state = repository.folder.path().join("new");
    let new = Puller::new("new", repository.spec(false), small(), state.clone());
    refused(&new);
    assert!(!state.join("repository").exists() && !state.join("repository.new").exists());
    not_asked_again(&new);
    // A larger bound takes it up.
    let larger = Limits { size: Some(foregate_filters::units::ByteSize(1 << 20)), ..Limits::default() };
    let tree = repository.puller(repository.spec(false), larger).pull(false, LIMIT).unwrap().unwrap();
    assert_eq!(names(&tree), ["edge.yaml"]);
}
