//! A running control plane, as it is shipped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::lines::Lines;

/// A control plane with an authority of its own. Killed when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    child: Child,
    folder: TempDir,
    events: Lines,
    settings: String,
    address: SocketAddr,
}

impl ControlPlane {
    /// Starts with these terms of its authority, such as `lifetime: 6s, overlap: 1s`.
    pub async fn start(terms: &str) -> Self {
        Self::start_with(terms, "").await
    }

    /// The same, with more sections.
    pub async fn start_with(terms: &str, more: &str) -> Self {
        let settings = format!(
            "trustDomain: mesh.test
admin: 127.0.0.1:0
names: [localhost, 127.0.0.1]
stateDir: state
authority: {{ {terms} }}
joinTokens: {{}}
insecure: {{ generateAuthority: true }}
{more}
"
        );
        let folder = tempfile::tempdir().unwrap();
        let (child, events) = spawn(folder.path(), &settings, "127.0.0.1:0");
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this = Self { child, folder, events, settings, address };
        this.address = this.event("listening").await["address"].as_str().unwrap().parse().unwrap();
        let roots = this.command(&["authority", "roots"], &[]);
        std::fs::write(this.roots(), roots.stdout).unwrap();
        this
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was.
    pub async fn restart(&mut self) {
        let at = self.address.to_string();
        (self.child, self.events) = spawn(self.folder.path(), &self.settings, &at);
        self.event("listening").await;
    }

    /// The same, with more sections from now on.
    pub async fn restart_with(&mut self, more: &str) {
        self.settings += more;
        self.restart().await;
    }

    /// Everything it told since it was started.
    pub fn lines(&self) -> &Lines {
        &self.events
    }

    /// The first event of this name since it was started; waits for it.
    pub async fn event(&self, name: &str) -> Value {
        self.events.wait(name, |event| event["event.name"] == name).await
    }

    /// Waits for so many events of this name.
    pub async fn events(&self, name: &str, count: usize) {
        self.events.wait_count(name, count, |event| event["event.name"] == name).await;
    }

    /// The file with its roots, as they were at its start.
    pub fn roots(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Runs another command beside it.
    pub fn command(&self, words: &[&str], args: &[&str]) -> Output {
        let output =
            Command::new(binary()).args(words).arg("--config").arg(self.config()).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("control.yaml")
    }

    /// A file with a new token for a workload.
    pub fn token(&self, identity: &str) -> PathBuf {
        self.token_of(identity, &[])
    }

    /// The same, made with more arguments.
    pub fn token_of(&self, identity: &str, args: &[&str]) -> PathBuf {
        let output = self.command(&["token", "create"], &[&["--identity", identity], args].concat());
        let file = self.folder.path().join(identity.replace('/', "-"));
        std::fs::write(&file, output.stdout).unwrap();
        file
    }

    /// Arguments of a gateway that gets its identity here.
    pub fn args(&self, token: &Path) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let words = ["--identity", "control", "--control", &self.url(), "--control-ca", &path(&self.roots())];
        let mut args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        args.extend(["--control-token".to_owned(), path(token)]);
        args.extend(["--control-retry", "500ms"].map(str::to_owned));
        args
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> PathBuf {
    // A run of the whole workspace builds it beside the gateway.
    let binary = Path::new(env!("CARGO_BIN_EXE_foregate")).with_file_name("foregate-control");
    assert!(binary.is_file(), "{binary:?} is not there: cargo build -p foregate-control makes it");
    binary
}

fn spawn(folder: &Path, settings: &str, listen: &str) -> (Child, Lines) {
    let config = folder.join("control.yaml");
    std::fs::write(&config, format!("listen: {listen}\n{settings}")).unwrap();
    let mut command = Command::new(binary());
    command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let events = Lines::read(child.stderr.take().unwrap());
    (child, events)
}
