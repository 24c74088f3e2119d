//! The decision log of a running gateway: written, rotated, sealed, proven, tampered with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::command::{Ended, foregate};
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

/// In the path of every request.
const MARKER: &str = "marker-in-the-path";

/// A folder with a log and its keys.
struct Log {
    folder: TempDir,
}

impl Log {
    /// With keys made by the command line.
    fn new() -> Self {
        let log = Self { folder: tempfile::tempdir().unwrap() };
        let made = foregate(&["decisions", "key", "--seal", &log.path("seal"), "--sign", &log.path("sign")]);
        fs::write(log.path("public"), made.is(0, &["BEGIN PUBLIC KEY"], &[]).out).unwrap();
        log
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn file(&self) -> String {
        self.path("log/decisions")
    }

    fn reference(&self, name: &str) -> String {
        format!("file:{}", self.path(name))
    }

    /// Arguments of a gateway that writes it, sealed and signed.
    fn options(&self, more: &[&str]) -> Options {
        fs::create_dir_all(self.path("log")).unwrap();
        let (file, seal, sign) = (self.file(), self.reference("seal"), self.reference("sign"));
        let args = ["--decision-log", &file, "--decision-log-key", &seal, "--decision-log-sign-key", &sign];
        Options::default().args(&args).args(&["--drain-notice", "10ms"]).args(more)
    }

    /// All its files, in the order of their names.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("log")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn verify(&self, more: &[&str]) -> Ended {
        let files: Vec<String> = self.files().iter().map(|file| file.display().to_string()).collect();
        let mut args = vec!["decisions", "verify"];
        args.extend(files.iter().map(String::as_str));
        let (seal, public) = (self.reference("seal"), self.path("public"));
        args.extend(["--key", &seal, "--public-key", &public]);
        args.extend(more);
        foregate(&args)
    }

    /// The report of a sound log.
    fn report(&self) -> Value {
        serde_json::from_str(&self.verify(&["--format", "json"]).is(0, &[], &[]).out).unwrap()
    }
}

fn policies(upstream: &Upstream) -> String {
    guarded(upstream.address, "authorize: [{ name: readers, allow: 'request.method == \"GET\"' }]\n")
}

async fn send(gateway: &Foregate, count: usize) {
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for number in 0..count {
        let method = if number % 4 == 0 { "POST" } else { "GET" };
        let request = client.request(method, &format!("/{MARKER}/{number}?token=hunter2"));
        let status = client.send_empty(request).await.status;
        assert_eq!(status, if method == "GET" { 200 } else { 403 });
    }
}

async fn end(mut gateway: Foregate) {
    gateway.terminate();
    assert!(gateway.exit().await.success());
}

/// The signature of a checkpoint, proven by a foreign hand that knows the page about the format only.
fn signed_as_openssl_sees_it(log: &Log, checkpoint: &str) {
    let (message, rest) = checkpoint.split_once(",\"signature\":\"").unwrap();
    let signature = STANDARD.decode(rest.split('"').next().unwrap()).unwrap();
    fs::write(log.path("signature"), signature).unwrap();
    for (message, proven) in [(message.to_owned(), true), (message.replace("end", "and"), false)] {
        fs::write(log.path("message"), format!("foregate decision log checkpoint 1\n{message}")).unwrap();
        let (public, message, signature) = (log.path("public"), log.path("message"), log.path("signature"));
        let args =
            ["-verify", "-pubin", "-inkey", &public, "-rawin", "-in", &message, "-sigfile", &signature];
        let output = Command::new("openssl").arg("pkeyutl").args(args).output().unwrap();
        assert_eq!(output.status.success(), proven, "{output:?}");
    }
}

#[tokio::test]
async fn a_log_is_sealed_rotated_and_proven_to_the_last_decision() {
    let (log, upstream) = (Log::new(), Upstream::answering("ok").await);
    let gateway =
        Foregate::start(&policies(&upstream), log.options(&["--decision-log-max-size", "16KiB"])).await;
    send(&gateway, 200).await;
    gateway.wait_sample("foregate_decision_log_written_total", |written| written >= 200.0).await;
    let checkpoint = "foregate_decision_log_last_checkpoint_timestamp_seconds";
    gateway.wait_sample(checkpoint, |at| at > 1.7e9).await;
    for nothing in ["dropped_total", "errors_total", "failing"] {
        let sample = gateway.sample(&format!("foregate_decision_log_{nothing}")).await;
        assert_eq!(sample, Some(0.0), "{nothing}");
    }
    end(gateway).await;
    let report = log.report();
    assert_eq!((&report["decisions"], &report["dropped"]), (&200.into(), &0.into()), "{report}");
    assert_eq!(report["signed"], report["checkpoints"], "{report}");
    assert_eq!((&report["first"], report["last"].clone()), (&1.into(), report["entries"].clone()));
    assert!(log.files().len() > 2, "{:?}", log.files());
    let mut shown = 0;
    for file in log.files() {
        let bytes = fs::read(&file).unwrap();
        for secret in [MARKER, "decision", "prev"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
        let show =
            foregate(&["decisions", "show", &file.display().to_string(), "--key", &log.reference("seal")]);
        let lines = show.is(0, &[], &[]).out;
        let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(entries[0]["kind"], "open");
        assert_eq!(entries.last().unwrap()["kind"], "checkpoint", "{lines}");
        shown += entries.iter().filter(|entry| entry["kind"] == "decision").count();
        assert!(!lines.contains("hunter2"), "queries are not logged");
        assert!(lines.matches(MARKER).count() > 0);
    }
    assert_eq!(shown, 200);
    let last = log.files()[0].display().to_string();
    assert_eq!(last, log.file(), "the newest has no number");
    // Without the key nothing is told, with another one neither.
    foregate(&["decisions", "show", &last]).is(1, &[], &["it is encrypted"]);
    foregate(&["decisions", "key", "--seal", &log.path("other")]).is(0, &[], &[]);
    let other = log.reference("other");
    foregate(&["decisions", "verify", &last, "--key", &other]).is(1, &["wrong key"], &[]);
    foregate(&["decisions", "verify", &last, "--key", &log.reference("none")]).is(3, &[], &["none"]);
    // One bit, in the middle of the log.
    let file = &log.files()[2];
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, &bytes).unwrap();
    let name = file.display().to_string();
    log.verify(&[]).is(1, &["changed: ", &name, "not proven: "], &[]);
    bytes[middle] ^= 1;
    fs::write(file, &bytes).unwrap();
    log.verify(&[]).is(0, &["ok: "], &[]);
    fs::remove_file(file).unwrap();
    log.verify(&[]).is(1, &["removed: "], &[]);
}

#[tokio::test]
async fn a_plain_log_ends_with_its_closing_checkpoint_and_tampering_is_placed() {
    let (log, upstream) = (Log::new(), Upstream::answering("ok").await);
    fs::create_dir_all(log.path("log")).unwrap();
    let (file, sign) = (log.file(), log.reference("sign"));
    let options = Options::default().args(&["--decision-log", &file, "--decision-log-sign-key", &sign]);
    let gateway = Foregate::start(&policies(&upstream), options.args(&["--drain-notice", "10ms"])).await;
    send(&gateway, 10).await;
    gateway.wait_sample("foregate_decision_log_written_total", |written| written >= 10.0).await;
    let public = log.path("public");
    let verify =
        |more: &[&str]| foregate(&[&["decisions", "verify", &file, "--public-key", &public], more].concat());
    // Still written: there is no end yet.
    verify(&[]).is(1, &["truncated: ", "--open"], &[]);
    verify(&["--open"]).is(0, &["ok: ", "still open"], &[]);
    end(gateway).await;
    verify(&[]).is(0, &["ok: 1 file", "10 decisions, 0 dropped"], &[]);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.last().unwrap().contains("\"occasion\":\"end\""), "{text}");
    signed_as_openssl_sees_it(&log, lines.last().unwrap());
    let put = |lines: &[String]| fs::write(&file, lines.join("\n") + "\n").unwrap();
    let edit = |edit: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        edit(&mut lines);
        put(&lines);
    };
    let decision = lines.iter().position(|line| line.contains(&format!("/{MARKER}/4\""))).unwrap();
    let place = format!("line {}, sequence {}: ", decision + 1, decision + 1);
    edit(&|lines| {
        lines[decision] =
            lines[decision].replace("\"http.response.status_code\":403", "\"http.response.status_code\":200");
    });
    verify(&[]).is(1, &["changed: ", &place], &[]);
    edit(&|lines| drop(lines.remove(decision)));
    verify(&[]).is(1, &["removed: ", &format!("entry {} is missing", decision + 1)], &[]);
    edit(&|lines| lines.swap(decision, decision + 1));
    verify(&[]).is(1, &["reordered: "], &[]);
    edit(&|lines| lines.truncate(decision));
    verify(&["--open"]).is(0, &[], &[]);
    verify(&[]).is(1, &["truncated: "], &[]);
    edit(&|lines| lines.push(lines[decision].clone()));
    verify(&[]).is(1, &["inserted: ", "behind the closing checkpoint"], &[]);
    edit(&|_| {});
    let stranger = Log::new();
    foregate(&["decisions", "verify", &file, "--public-key", &stranger.path("public")]).is(
        1,
        &["wrong key: "],
        &[],
    );
    foregate(&["decisions", "verify", &file]).is(0, &["signatures were not checked"], &[]);
}

#[tokio::test]
async fn a_killed_process_leaves_a_log_that_the_next_one_continues() {
    let (log, upstream) = (Log::new(), Upstream::answering("ok").await);
    let mut gateway = Foregate::start(&policies(&upstream), log.options(&[])).await;
    send(&gateway, 20).await;
    gateway.wait_sample("foregate_decision_log_written_total", |written| written >= 20.0).await;
    gateway.signal("KILL");
    assert!(!gateway.exit().await.success());
    log.verify(&[]).is(1, &["truncated: "], &[]);
    let gateway = Foregate::start(&policies(&upstream), log.options(&[])).await;
    send(&gateway, 5).await;
    end(gateway).await;
    let gateway = Foregate::start(&policies(&upstream), log.options(&[])).await;
    send(&gateway, 5).await;
    end(gateway).await;
    let report = log.report();
    assert_eq!((&report["decisions"], &report["files"]), (&30.into(), &3.into()), "{report}");
    let notes = report["notes"].to_string();
    assert_eq!(report["notes"].as_array().unwrap().len(), 1, "{notes}");
    assert!(notes.contains("ended uncleanly behind sequence"), "{notes}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_refuses_where_it_is_required_and_recovers() {
    let (log, upstream) = (Log::new(), Upstream::answering("ok").await);
    let more = ["--decision-log-required", "--decision-log-max-size", "16KiB"];
    let gateway = Foregate::start(&policies(&upstream), log.options(&more)).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    // The next file cannot be made: nothing is there to hold it.
    fs::remove_dir_all(log.path("log")).unwrap();
    let refused = loop {
        let reply = client.get(&format!("/{MARKER}")).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((refused.status, refused.reason().as_str()), (503, "LogUnavailable"));
    gateway.event("decision log failing").await;
    gateway.wait_sample("foregate_decision_log_failing", |failing| failing > 0.5).await;
    let dropped = gateway.sample("foregate_decision_log_dropped_total").await.unwrap();
    assert!(dropped >= 1.0);
    fs::create_dir_all(log.path("log")).unwrap();
    gateway.event("decision log written again").await;
    gateway.wait_sample("foregate_decision_log_failing", |failing| failing < 0.5).await;
    assert_eq!(client.get("/").await.status, 200);
    let failing = |event: &Value| event["event.name"] == "decision log failing";
    assert_eq!(gateway.events().all().iter().filter(|event| failing(event)).count(), 1, "told once");
    end(gateway).await;
    let report = log.report();
    assert!(report["dropped"].as_f64().unwrap() >= dropped, "{report}");
}

#[tokio::test]
async fn what_is_wrong_with_the_options_is_told_without_secrets() {
    let (log, upstream) = (Log::new(), Upstream::answering("ok").await);
    let policies = policies(&upstream);
    let run = |args: &[&str]| Foregate::refused(&policies, Options::default().args(args));
    fs::write(log.path("wrong"), "hunter2").unwrap();
    let file = log.path("decisions");
    let wrong = log.reference("wrong");
    for (args, code, part) in [
        (vec!["--decision-log-key", "c2VjcmV0"], 2, "expected file:PATH or env:NAME"),
        (vec!["--decision-log-key", "env:FOREGATE_UNSET"], 1, "FOREGATE_UNSET: is not set"),
        (vec!["--decision-log-key", &wrong], 1, "32 bytes in Base64"),
        (vec!["--decision-log-sign-key", &wrong], 1, "Ed25519 private key"),
        (vec!["--decision-log-max-size", "1KiB"], 2, "from 16KiB to 4GiB"),
    ] {
        let (status, told) = run(&[&["--decision-log", &*file], &args[..]].concat()).await;
        assert_eq!(status.code(), Some(code), "{told}");
        assert!(told.contains(part) && !told.contains("hunter2"), "{told}");
    }
    let (status, told) = run(&["--decision-log-required"]).await;
    assert_eq!(status.code(), Some(2), "{told}");
    // Keys are for their owner, and are never overwritten.
    for name in ["seal", "sign"] {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(log.path(name)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let again = foregate(&["decisions", "key", &format!("--{name}"), &log.path(name)]);
        again.is(1, &[], &["exists"]);
    }
    foregate(&["decisions", "key"]).is(2, &[], &["--seal"]);
}
