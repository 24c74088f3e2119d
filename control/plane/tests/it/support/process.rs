//! A running `foregate-control`, started for one test and ended with it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::{DEADLINE, within};

/// What a configuration begins with: free ports, a state folder, certificates for a day.
const BASE: &str = "trustDomain: example.org
listen: 127.0.0.1:0
admin: 127.0.0.1:0
names: [control.test, 127.0.0.1]
stateDir: state
";

/// A process of the control plane. Dropping it kills it.
#[derive(Debug)]
pub struct Control {
    child: Child,
    /// Set where the folder is this one's own.
    folder: Arc<TempDir>,
    lines: Lines,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// What a process writes on standard error.
#[derive(Clone, Debug)]
struct Lines {
    texts: Arc<Mutex<Vec<String>>>,
    seen: watch::Receiver<(usize, bool)>,
}

impl Control {
    /// Starts with what is to be added to the configuration, and waits until it listens.
    pub async fn start(more: &str) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), more).await
    }

    /// The same, in a folder that was used before.
    pub async fn start_in(folder: Arc<TempDir>, more: &str) -> Self {
        Self::start_with(folder, &format!("{BASE}{more}")).await
    }

    /// The same with this configuration and no other.
    pub async fn start_with(folder: Arc<TempDir>, text: &str) -> Self {
        let config = folder.path().join("control.yaml");
        std::fs::write(&config, text).unwrap();
        let mut child = command(&["run", "--config"]).arg(&config).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Lines::read(child.stderr.take().unwrap());
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this = Self { child, folder, lines, address: unknown, admin: unknown };
        let address = |event: &Value| event["address"].as_str().unwrap().parse().unwrap();
        this.admin = address(&this.event("admin listening").await);
        this.address = address(&this.event("listening").await);
        this
    }

    /// Starts one that must not run: its exit status and all it said.
    pub fn refused(config: &str) -> Output {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("control.yaml");
        std::fs::write(&file, config).unwrap();
        command(&["run", "--config"]).arg(&file).output().unwrap()
    }

    /// The configuration, without what is added.
    pub fn base() -> &'static str {
        BASE
    }

    pub fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs another command beside it, such as `["authority", "rotate"]`.
    pub fn command(&self, words: &[&str], args: &[&str]) -> Output {
        command(words).arg("--config").arg(self.path("control.yaml")).args(args).output().unwrap()
    }

    /// The first event of this name; waits for it.
    pub async fn event(&self, name: &str) -> Value {
        self.events(name, 1).await.remove(0)
    }

    /// The first so many events of a name; waits for them.
    pub async fn events(&self, name: &str, count: usize) -> Vec<Value> {
        self.lines.wait(name, count).await
    }

    pub fn text(&self) -> String {
        self.lines.text()
    }

    /// Status and body of an admin page.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within(path, stream.read_to_string(&mut text)).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// The value of one sample; 0 where there is none.
    pub async fn sample(&self, series: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The roots that it keeps, as its state tells them.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        use base64::Engine;

        let text = std::fs::read_to_string(self.path("state/authority.json")).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        let der = |root: &Value| {
            let text = root["certificate"].as_str().unwrap();
            CertificateDer::from(base64::engine::general_purpose::STANDARD.decode(text).unwrap())
        };
        state["roots"].as_array().unwrap().iter().map(der).collect()
    }

    /// A join token for a workload.
    pub fn token(&self, identity: &str, args: &[&str]) -> String {
        let output = self.command(&["token", "create"], &[&["--identity", identity], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.lines.ended().await;
        self.child.wait().unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command as a user calls it.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_foregate-control")));
    command.args(words).stdin(Stdio::null());
    command
}

impl Lines {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let (sender, seen) = watch::channel((0, false));
        let write = Arc::clone(&texts);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                write.lock().unwrap().push(line);
                sender.send_modify(|(count, _)| *count += 1);
            }
            sender.send_modify(|(_, ended)| *ended = true);
        });
        Self { texts, seen }
    }

    fn text(&self) -> String {
        self.texts.lock().unwrap().join("\n")
    }

    async fn wait(&self, name: &str, count: usize) -> Vec<Value> {
        let mut seen = self.seen.clone();
        let wait = async {
            loop {
                let (_, ended) = *seen.borrow_and_update();
                let texts = self.texts.lock().unwrap().clone();
                let events = texts.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let found: Vec<Value> =
                    events.filter(|event| event["event.name"] == name).take(count).collect();
                if found.len() == count {
                    return found;
                }
                assert!(!ended, "the process ended before `{name}`:\n{}", self.text());
                let _ = seen.changed().await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, wait).await;
        found.unwrap_or_else(|_| panic!("waited in vain for `{name}`; there was:\n{}", self.text()))
    }

    async fn ended(&self) {
        let mut seen = self.seen.clone();
        within("the end of the process", async {
            let _ = seen.wait_for(|(_, ended)| *ended).await;
        })
        .await;
    }
}
