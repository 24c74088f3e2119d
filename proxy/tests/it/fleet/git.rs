//! Policies from a repository: what is signed reaches the proxy, and nothing else does.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{EVERYTHING, Place, serving};
use crate::support::client::Client;
use crate::support::control::Control;
use crate::support::policies::plain;
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::Domain;

/// A repository, and a key that signs its commits.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        fs::create_dir(this.work()).unwrap();
        this.git(&["init", "-q", "-b", "main"]);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(this.0.path().join("key"));
        assert!(command.status().unwrap().success());
        let key = fs::read_to_string(this.0.path().join("key.pub")).unwrap();
        fs::write(this.signers(), format!("ada@example.org namespaces=\"git\" {key}")).unwrap();
        this
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn signers(&self) -> PathBuf {
        self.0.path().join("signers")
    }

    fn git(&self, args: &[&str]) {
        let mut command = Command::new("git");
        let key = format!("user.signingkey={}", self.0.path().join("key").display());
        command.current_dir(self.work()).args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]);
        command.args(["-c", "gpg.format=ssh", "-c", &key]).args(args);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", self.0.path());
        assert!(command.status().unwrap().success(), "git {args:?}");
    }

    fn commit(&self, policies: &str, signed: bool) {
        fs::write(self.work().join("policies.yaml"), policies).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "a change", if signed { "-S" } else { "--no-gpg-sign" }]);
    }

    fn source(&self) -> String {
        format!(
            "sources:\n- name: policies\n  git: {{ url: \"file://{}\", branch: main, interval: 1s, allowedSigners: \"{}\" }}\n",
            self.work().display(),
            self.signers().display()
        )
    }
}

#[tokio::test]
async fn signed_commits_reach_a_proxy_and_bad_ones_change_nothing() {
    let domain = Domain::new("example.org");
    let (first, second) = (Upstream::answering("first").await, Upstream::answering("second").await);
    let repository = Repository::new();
    let policies = plain(first.address);
    repository.commit(&policies, true);
    let control = Control::with(&domain, &format!("{}{EVERYTHING}", repository.source()), &[]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &policies).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "first");
    assert_eq!(control.status()["sources"][0]["signer"], "ada@example.org");
    repository.commit(&plain(second.address), false);
    let refused = |code: &'static str| {
        move |status: &serde_json::Value| {
            let diagnostics = &status["sources"][0]["faults"]["diagnostics"];
            diagnostics[0].as_str().is_some_and(|line| line.starts_with(code))
        }
    };
    control.wait_status("the unsigned commit is refused", refused("FG0758")).await;
    assert_eq!(client.get("/").await.text(), "first");
    assert_eq!(control.command(&["status"]).status.code(), Some(1));
    // Amended and signed, it follows what was accepted.
    repository.git(&["commit", "-q", "--amend", "-S", "-m", "signed now"]);
    within("the signed commit", async {
        while client.get("/").await.text() != "second" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    repository.git(&["commit", "-q", "--amend", "-S", "-m", "rewritten"]);
    control.wait_status("the rewritten history is refused", refused("FG0759")).await;
    assert_eq!(client.get("/").await.text(), "second");
}
