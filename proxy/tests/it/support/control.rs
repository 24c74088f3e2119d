//! A running `foregate-control`, started for one test and ended with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::lines::Lines;
use crate::support::workloads::{Domain, Svid};
use crate::support::{unused_address, within};

/// A control plane with a folder of policies. Dropping it kills it.
#[derive(Debug)]
pub struct Control {
    folder: TempDir,
    address: SocketAddr,
    running: Option<(Child, Lines)>,
}

fn binary() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_foregate")).with_file_name("foregate-control");
    assert!(binary.is_file(), "{binary:?} is not there: cargo build -p foregate-control makes it");
    binary
}

impl Control {
    /// Starts one for this trust domain. `more` is what the configuration says besides, such as grants; policies come
    /// from the folder `policies`, in which `files` are.
    pub async fn start(domain: &Domain, more: &str, files: &[(&str, &str)]) -> Self {
        let sources = "sources:\n- { name: policies, folder: { path: policies } }\n";
        Self::with(domain, &format!("{sources}{more}"), files).await
    }

    /// The same, where `more` says of sources as well.
    pub async fn with(domain: &Domain, more: &str, files: &[(&str, &str)]) -> Self {
        let mut this =
            Self { folder: tempfile::tempdir().unwrap(), address: unused_address().await, running: None };
        for (name, content) in
            [("roots.pem", &domain.bundle), ("issuer.pem", &domain.bundle), ("key.pem", &domain.key)]
        {
            let path = this.path(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::create_dir(this.path("policies")).unwrap();
        for (path, content) in files {
            this.write(path, content);
        }
        let config = format!(
            "trustDomain: {}\nlisten: {}\nadmin: 127.0.0.1:0\nnames: [127.0.0.1]\nstateDir: state\n\
             authority: {{ roots: roots.pem, issuer: issuer.pem, issuerKey: key.pem }}\n\
             {more}",
            domain.name, this.address
        );
        fs::write(this.path("control.yaml"), config).unwrap();
        this.run().await;
        this
    }

    /// Starts it again after [`Self::kill`], with the same state and at the same address.
    pub async fn run(&mut self) {
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(self.path("control.yaml"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let events = Lines::read(child.stderr.take().unwrap());
        events.wait("event `listening`", |event| event["event.name"] == "listening").await;
        self.running = Some((child, events));
    }

    pub fn kill(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again with a configuration that says something else.
    pub async fn reconfigure(&mut self, old: &str, new: &str) {
        self.kill();
        let file = self.path("control.yaml");
        let config = fs::read_to_string(&file).unwrap();
        assert!(config.contains(old), "{config}");
        fs::write(&file, config.replace(old, new)).unwrap();
        self.run().await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file of roots that proxies know it by.
    pub fn roots(&self) -> PathBuf {
        self.path("roots.pem")
    }

    /// Replaces a file of the policies in one step.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path("policies").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.parent().unwrap().join(".new");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, path).unwrap();
    }

    /// The first event of this name; waits for it.
    pub async fn event(&self, name: &str) -> Value {
        self.wait(&format!("event `{name}`"), |event| event["event.name"] == name).await
    }

    pub async fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.running.as_ref().unwrap().1.wait(what, fits).await
    }

    /// Runs a command such as `status` against it.
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(args).arg("--config").arg(self.path("control.yaml"));
        command.output().unwrap()
    }

    /// What `status` says.
    pub fn status(&self) -> Value {
        let output = self.command(&["status", "--format", "json"]);
        let told = || String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told()))
    }

    /// Waits until its status is as wanted.
    pub async fn wait_status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let status = self.status();
                if fits(&status) {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The identity of a workload as a folder that `--identity dir:` reads.
pub fn identity(domain: &Domain, svid: &Svid) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("svid.pem", &svid.leaf.certificate),
        ("svid_key.pem", &svid.leaf.key),
        ("svid_bundle.pem", &domain.bundle),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}
