//! Pods of a test: network namespaces, and containers as a kubelet starts them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Where the control plane is, in the namespace of the test.
pub const HERE: &str = "10.77.0.254";

/// True where namespaces can be made. As root they must be: then nothing is skipped.
pub fn allowed() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    let root = String::from_utf8_lossy(&id).trim() == "0";
    if !root {
        eprintln!("skipped: only root makes network namespaces with several users; run the tests as root");
    }
    root
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

/// Makes a network of this namespace, which has none yet.
pub fn network() {
    ip("link set lo up");
    ip("link add br0 type bridge");
    ip(&format!("addr add {HERE}/24 dev br0"));
    ip("link set br0 up");
}

/// A network namespace with an interface `eth0`. Dropping it takes it away, and what runs in it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    pub address: String,
    running: Vec<Child>,
    folder: TempDir,
}

impl Pod {
    pub fn new(label: &str, number: u8) -> Self {
        let name = format!("foregate-{}-{label}", std::process::id());
        let address = format!("10.77.0.{number}");
        ip(&format!("netns add {name}"));
        ip(&format!("link add {label} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {label} master br0 up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        Self { name, address, running: Vec::new(), folder: tempfile::tempdir().unwrap() }
    }

    /// A program in this pod, as root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Status and body that curl gets; status 0 where it gets none.
    pub fn curl(&self, args: &[&str]) -> (u16, String) {
        let mut command = self.command("curl");
        command.args(["-sS", "-g", "--max-time", "20", "-w", "\n%{http_code}"]).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Starts a part of `pod.py` in it, and waits until it listens.
    pub fn application(&mut self, args: &[&str]) {
        let python = std::env::var("FOREGATE_PYTHON")
            .expect("FOREGATE_PYTHON names no Python: run `bash .ci/test`, which makes one");
        let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proxy/tests/peers/pod.py");
        let mut child = self.command(python).arg(peer).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().unwrap().unwrap();
        assert!(ready.contains("ready"), "{ready}");
        // It may go on writing.
        std::thread::spawn(move || lines.for_each(drop));
        self.running.push(child);
    }

    /// Carries out the init containers of a pod, in their order; one that is restarted for ever runs on. `given` are the
    /// files of its volumes, by volume and name.
    pub fn start(&mut self, pod: &Value, given: &[(&str, &str, &str)]) {
        for volume in pod["spec"]["volumes"].as_array().unwrap() {
            fs::create_dir_all(self.volume(volume["name"].as_str().unwrap())).unwrap();
        }
        for (volume, file, content) in given {
            fs::write(self.volume(volume).join(file), content).unwrap();
        }
        for container in pod["spec"]["initContainers"].as_array().unwrap() {
            let mut command = self.container(container);
            if container["restartPolicy"] == "Always" {
                let log = |name: &str| File::create(self.folder.path().join(name)).unwrap();
                self.running.push(command.stdout(log("records")).stderr(log("events")).spawn().unwrap());
            } else {
                let output = command.output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(name)
    }

    /// What the kubelet starts: as the user that the container names, its volumes where they lie here.
    fn container(&self, container: &Value) -> Command {
        let user = container["securityContext"]["runAsUser"].as_u64().unwrap().to_string();
        let binary = Path::new(env!("CARGO_BIN_EXE_foregate-control")).with_file_name("foregate");
        assert!(binary.is_file(), "{binary:?} is not there: cargo build --workspace makes it");
        run(Command::new("chown").args(["-R", &user]).arg(self.folder.path()));
        let mounts: Vec<(String, String)> = container["volumeMounts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|mount| {
                let text = |field: &str| mount[field].as_str().unwrap().to_owned();
                (text("mountPath"), self.volume(&text("name")).display().to_string())
            })
            .collect();
        let mut command = self.command("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        if user != "0" {
            command.args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]);
        }
        // The folder that the binary lies in may be closed to others: it is opened here, and started by its number.
        command.arg("/proc/self/fd/0").stdin(File::open(binary).unwrap());
        for argument in container["args"].as_array().unwrap() {
            let argument = argument.as_str().unwrap();
            let mounted = mounts.iter().find_map(|(at, here)| {
                let rest = argument.strip_prefix(at.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{here}{rest}"))
            });
            command.arg(mounted.unwrap_or_else(|| argument.to_owned()));
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            if variable["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP" {
                command.env(variable["name"].as_str().unwrap(), &self.address);
            }
        }
        command
    }

    /// What its sidecar has said so far: `records` or `events`.
    pub fn said(&self, what: &str) -> String {
        fs::read_to_string(self.folder.path().join(what)).unwrap_or_default()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
