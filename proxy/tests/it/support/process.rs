//! A running `foregate`, started for one test and ended with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::lines::Lines;
use crate::support::{policies, within};

/// Pause between two looks at what tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a process is started with, besides its policies.
#[derive(Clone, Debug, Default)]
pub struct Options {
    args: Vec<String>,
    files: Vec<(PathBuf, Vec<u8>)>,
    env: Vec<(String, String)>,
    quiet: bool,
}

impl Options {
    /// Keeps no access log: for tests that send more than is worth remembering.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Adds arguments of `foregate run`, such as `["--threads", "1"]`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Takes a file out again.
    pub fn without(mut self, path: &str) -> Self {
        self.files.retain(|(known, _)| known != Path::new(path));
        self
    }

    /// Puts a file into the policy folder before the start.
    pub fn file(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }
}

/// A process of the gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Foregate {
    child: Child,
    folder: TempDir,
    admin: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
    events: Lines,
    access_log: Lines,
}

/// The series that counts requests of clients by method, status and route.
pub fn served(method: &str, status: u16, route: &str) -> String {
    format!(
        "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
         http_response_status_code=\"{status}\",http_route=\"{route}\"}}"
    )
}

impl Foregate {
    /// Starts the gateway on free ports and waits until it takes requests.
    ///
    /// `policies` is the text of `policies.yaml`. Every listener of its gateways listens on a free port of
    /// 127.0.0.1; listeners with the same port in the policy share one.
    pub async fn start(policies: &str, options: Options) -> Self {
        let mut this = Self::launch(policies, &options, true).await;
        this.wait_serving(policies).await;
        this
    }

    /// Starts a gateway whose policies come from a control plane, and waits until its admin endpoint is there.
    /// `policies` says which listeners there will be.
    pub async fn following(policies: &str, options: &Options) -> Self {
        Self::launch(policies, options, false).await
    }

    async fn launch(policies: &str, options: &Options, own: bool) -> Self {
        let (mut child, folder) = Self::spawn(policies, options, own);
        let access_log = Lines::read(child.stdout.take().unwrap());
        let events = Lines::read(child.stderr.take().unwrap());
        let mut this = Self {
            child,
            folder,
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            listeners: Vec::new(),
            events,
            access_log,
        };
        this.admin = address(&this.event("admin listening").await);
        this
    }

    /// Waits until it takes requests.
    pub async fn wait_serving(&mut self, policies: &str) {
        self.wait_ready().await;
        self.wait_listening(policies).await;
    }

    /// Waits until it listens, ready or not.
    pub async fn wait_listening(&mut self, policies: &str) {
        // Written before readiness was told, but perhaps not read from the pipe yet.
        let sockets = policies::sockets(policies);
        let listening = |event: &Value| event["event.name"] == "listening";
        self.listeners = self
            .events
            .wait_count("all sockets", sockets, listening)
            .await
            .iter()
            .map(|event| (event["listener"].as_str().unwrap().to_owned(), address(event)))
            .collect();
    }

    /// Starts a gateway that must not run; gives its exit status and everything it said on stderr.
    pub async fn refused(policies: &str, options: Options) -> (ExitStatus, String) {
        let (mut child, _folder) = Self::spawn(policies, &options, true);
        let _access_log = Lines::read(child.stdout.take().unwrap());
        let events = Lines::read(child.stderr.take().unwrap());
        events.ended().await;
        (child.wait().unwrap(), events.text())
    }

    fn spawn(policies: &str, options: &Options, own: bool) -> (Child, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policies.yaml"), policies).unwrap();
        for (path, content) in &options.files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_foregate"));
        command.arg("run").args(own.then_some(folder.path()));
        let access_log = if options.quiet { "off" } else { "stdout" };
        command.args(["--admin", "127.0.0.1:0", "--access-log", access_log]);
        for listener in policies::listeners(policies) {
            command.arg("--bind").arg(format!("{listener}=127.0.0.1:0"));
        }
        command.args(&options.args).envs(options.env.iter().map(|(name, value)| (name, value)));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (child, folder)
    }

    async fn wait_ready(&self) {
        let ready = async {
            while self.admin_status("/readyz").await != 200 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            () = within("readiness", ready) => {}
            () = self.events.ended() => panic!("the process ended:\n{}", self.events.text()),
        }
    }

    /// Where a listener such as `edge/http` really listens.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found.unwrap_or_else(|| panic!("no listener {listener} among {:?}", self.listeners)).1
    }

    /// Where the admin endpoint listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The policy folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Replaces a file of the policy folder in one step, as careful editors and Kubernetes do.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        let new = path.with_extension("new");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    /// Replaces the policies, and waits until they are in force.
    pub async fn publish(&self, policies: &str) {
        let succeeded = "foregate_config_reloads_total{outcome=\"success\"}";
        let before = self.sample(succeeded).await.unwrap_or_default();
        self.write("policies.yaml", policies);
        self.wait_sample(succeeded, |count| count > before).await;
    }

    /// Everything the process told its operator on stderr.
    pub fn events(&self) -> &Lines {
        &self.events
    }

    /// The first event of this name; waits for it.
    pub async fn event(&self, name: &str) -> Value {
        self.events.wait(&format!("event `{name}`"), |event| event["event.name"] == name).await
    }

    /// The lines of the access log.
    pub fn access_log(&self) -> &Lines {
        &self.access_log
    }

    /// The access log line of one decision; waits for it.
    pub async fn record(&self, decision: &str) -> Value {
        let what = format!("the record of decision {decision}");
        self.access_log.wait(&what, |line| line["foregate.decision"] == decision).await
    }

    /// Status and body of an admin page.
    pub async fn admin_page(&self, path: &str) -> (u16, String) {
        let mut client = Client::http1(self.admin).await;
        let request = client.request("GET", path).header("host", "localhost");
        let reply = client.send_empty(request).await;
        (reply.status, reply.text())
    }

    async fn admin_status(&self, path: &str) -> u16 {
        self.admin_page(path).await.0
    }

    /// The metrics in the format of Prometheus.
    pub async fn metrics(&self) -> String {
        self.admin_page("/metrics").await.1
    }

    /// The value of one sample, such as `http_server_active_requests`; `None` where there is none.
    pub async fn sample(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Waits until a sample fits.
    pub async fn wait_sample(&self, series: &str, fits: impl Fn(f64) -> bool) {
        within(series, async {
            while !self.sample(series).await.is_some_and(&fits) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }

    /// Waits until an admin page has this status.
    pub async fn wait_status(&self, path: &str, status: u16) {
        within(path, async {
            while self.admin_status(path).await != status {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }

    /// Resident memory of the process in bytes, and its peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Files and sockets that the process has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Sends a signal such as `TERM` or `HUP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Asks the process to drain and end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self) -> ExitStatus {
        // Both pipes: the last lines of one may be read after the end of the other.
        self.events.ended().await;
        self.access_log.ended().await;
        self.child.wait().unwrap()
    }

    /// The same, whoever keeps what it wrote from being read.
    pub async fn gone(&mut self) -> ExitStatus {
        within("the end of the process", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
    }
}

impl Drop for Foregate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(event: &Value) -> SocketAddr {
    event["address"].as_str().unwrap().parse().unwrap()
}
