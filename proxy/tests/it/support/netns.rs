//! Two pods: network namespaces with one link between them, and what runs in them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::lines::Lines;

/// The user that sidecars run as.
pub const PROXY_UID: &str = "1337";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// True where namespaces can be made. As root they must be: then nothing is skipped.
pub fn allowed() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    let root = String::from_utf8_lossy(&id).trim() == "0";
    if !root {
        eprintln!("skipped: only root makes network namespaces with several users; run the tests as root");
    }
    root
}

/// A network namespace with an interface `eth0`. Dropping it takes it away.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub four: &'static str,
    pub six: &'static str,
}

/// A sidecar in a pod. Dropping it kills it.
#[derive(Debug)]
pub struct Sidecar {
    pub child: Child,
    pub events: Lines,
    pub records: Lines,
    folder: TempDir,
}

/// Another process in a pod. Dropping it kills it.
#[derive(Debug)]
pub struct Resident {
    child: Child,
    pub lines: Lines,
}

#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn ip(words: &str) {
    run(Command::new("ip").args(words.split_whitespace()));
}

/// Two pods on one network.
pub fn pods() -> [Pod; 2] {
    let [one, other] = [("10.77.0.1", "fd77::1"), ("10.77.0.2", "fd77::2")].map(|(four, six)| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("foregate-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        Pod { name, four, six }
    });
    ip(&format!("-n {} link add eth0 type veth peer name eth0 netns {}", one.name, other.name));
    for Pod { name, four, six } in [&one, &other] {
        ip(&format!("-n {name} addr add {four}/24 dev eth0"));
        ip(&format!("-n {name} addr add {six}/64 dev eth0 nodad"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
    }
    [one, other]
}

impl Pod {
    /// A program in this pod, as root: an application is some other user than the sidecar.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A program as the user of the sidecar.
    pub fn as_proxy(&self, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", PROXY_UID, "--regid", PROXY_UID, "--clear-groups", program]);
        command
    }

    /// `foregate init` in this pod.
    pub fn init(&self, args: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_foregate"));
        command.arg("init").args(args).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
    }

    /// What a program says on its standard output.
    #[track_caller]
    pub fn says(&self, program: &str, args: &str) -> String {
        let output = run(self.command(program).args(args.split_whitespace()));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The status and body that curl gets; status 0 where it gets none.
    pub fn curl(&self, args: &[&str]) -> (u16, String) {
        got(self.command("curl"), args)
    }

    /// The same as the user of the sidecar, who is not redirected.
    pub fn curl_as_proxy(&self, args: &[&str]) -> (u16, String) {
        got(self.as_proxy("curl"), args)
    }

    /// What a server that speaks first says, and its answer to a line; `None` where it says nothing.
    pub fn talk(&self, host: &str, port: &str, line: &str) -> Option<Value> {
        let output = self.python(&["talk", host, port, line]).stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn python(&self, args: &[&str]) -> Command {
        let python = std::env::var("FOREGATE_PYTHON")
            .expect("FOREGATE_PYTHON names no Python: run `bash .ci/test`, which makes one");
        let mut command = self.command(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/pod.py")).args(args);
        command
    }

    /// Starts a part of `pod.py`, and waits until it listens.
    pub async fn resident(&self, args: &[&str]) -> Resident {
        let mut command = self.python(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::read(child.stdout.take().unwrap());
        lines.wait("the peer to listen", |line| line["ready"] == true).await;
        Resident { child, lines }
    }

    /// Starts a sidecar in this pod, and waits until it listens on `sockets` sockets.
    ///
    /// `identity` are the files of its identity.
    pub async fn sidecar(&self, policies: &str, sockets: usize, identity: &[(&str, &str)]) -> Sidecar {
        let folder = tempfile::tempdir().unwrap();
        let [policy, secret] = ["policies", "identity"].map(|name| folder.path().join(name));
        for folder in [&policy, &secret] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(policy.join("policies.yaml"), policies).unwrap();
        for (name, content) in identity {
            std::fs::write(secret.join(name), content).unwrap();
        }
        run(Command::new("chown").args(["-R", PROXY_UID]).arg(folder.path()));
        // The folder that the binary lies in may be closed to others: it is opened here, and started by its number.
        let mut command = self.as_proxy("/proc/self/fd/0");
        command.arg("run").arg(&policy).arg("--identity").arg(format!("dir:{}", secret.display()));
        command.args(["--drain-notice", "100ms", "--threads", "2"]);
        command.stdin(File::open(env!("CARGO_BIN_EXE_foregate")).unwrap());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let records = Lines::read(child.stdout.take().unwrap());
        let events = Lines::read(child.stderr.take().unwrap());
        events.wait_count("all sockets", sockets, |event| event["event.name"] == "listening").await;
        Sidecar { child, events, records, folder }
    }
}

fn got(mut command: Command, args: &[&str]) -> (u16, String) {
    command.args(["-sS", "-g", "--max-time", "20", "-w", "\n%{http_code}"]).args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

impl Sidecar {
    /// The process itself: `ip` and `setpriv` become it.
    pub fn signal(&self, name: &str) {
        run(Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()));
    }

    /// Replaces the policies, and waits until they are in force.
    pub async fn publish(&self, pod: &Pod, policies: &str) {
        let before = Self::reloads(pod);
        let file = self.folder.path().join("policies/policies.yaml");
        let new = self.folder.path().join("policies.new");
        std::fs::write(&new, policies).unwrap();
        std::fs::rename(&new, &file).unwrap();
        crate::support::within("new policies", async {
            while Self::reloads(pod) == before {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    fn reloads(pod: &Pod) -> Option<String> {
        let (_, text) = pod.curl(&["http://127.0.0.1:9090/metrics"]);
        let series = "foregate_config_reloads_total{outcome=\"success\"}";
        text.lines().find(|line| line.starts_with(series)).map(str::to_owned)
    }

    /// A file of its identity.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.folder.path().join("identity").join(name)
    }

    /// The first line of the access log with this text; waits for it.
    pub async fn record(&self, text: &str) -> String {
        let fits = |record: &Value| record.to_string().contains(text);
        self.records.wait(&format!("a record with `{text}`"), fits).await.to_string()
    }

    /// Waits until a decision is kept with this text.
    pub async fn decided(&self, pod: &Pod, text: &str) {
        crate::support::within(text, async {
            while !pod.curl(&["http://127.0.0.1:9090/decisions"]).1.contains(text) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    pub async fn exit(&mut self) -> ExitStatus {
        self.events.ended().await;
        self.child.wait().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file in a folder of its own for what an ear writes.
pub fn wire() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wire");
    (folder, file)
}
