//! Commands of a page, run in a folder of its own, one after another.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::pages::Block;
use crate::support::{DEADLINE, policies};

/// A folder with `policies` and `inference-sidecar` of the tree, and what runs in it.
#[derive(Debug)]
pub struct Session {
    folder: TempDir,
    /// Addresses of the book, and those that they stand for.
    addresses: BTreeMap<String, String>,
    servers: Vec<Server>,
}

/// A process that goes on. Dropping it kills it.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Session {
    pub fn new(root: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&root.join("policies"), &folder.path().join("policies"));
        symlink(root.join("inference-sidecar"), folder.path().join("inference-sidecar")).unwrap();
        Self { folder, addresses: BTreeMap::new(), servers: Vec::new() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the commands of a block; gives what is wrong.
    pub fn run(&mut self, block: &Block) -> Vec<String> {
        let commands = commands(&block.text);
        if commands.is_empty() {
            return vec!["there is no command in it; one begins with `$ `".to_owned()];
        }
        let run = |(command, shown): (String, Vec<&str>)| match (command.strip_suffix('&'), command.as_str())
        {
            (Some(server), _) => self.start(server.trim()).err(),
            (None, "kill %1") => self.end().err(),
            (None, _) => self.agrees(&command, &shown).err(),
        };
        commands.into_iter().filter_map(run).collect()
    }

    fn shell(&self, command: &str) -> Command {
        let commands = Path::new(env!("CARGO_BIN_EXE_foregate")).parent().unwrap();
        let path = format!("{}:{}", commands.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", command]).current_dir(self.folder()).stdin(Stdio::null());
        shell.env("PATH", path).env("NO_COLOR", "1").env("HOME", self.folder());
        shell
    }

    /// A command with the addresses that those of the book stand for.
    fn real(&self, command: &str) -> String {
        self.addresses
            .iter()
            .fold(command.to_owned(), |command, (book, address)| command.replace(book, address))
    }

    /// Runs a command to its end, and compares what it says.
    fn agrees(&self, command: &str, shown: &[&str]) -> Result<(), String> {
        let real = self.real(&command.replace("foregate demo", "foregate demo --port 0"));
        let output = self.shell(&format!("exec 2>&1\n{real}")).output().unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        for (book, address) in &self.addresses {
            said = said.replace(address, book);
        }
        if !output.status.success() {
            let code = output.status.code().unwrap_or(-1);
            return Err(format!("`{command}` ended with {code}:\n{said}"));
        }
        let lines: Vec<_> = said.lines().map(str::trim_end).collect();
        if shown.is_empty() || lines_agree(shown, &lines) {
            return Ok(());
        }
        Err(format!("`{command}` does not say\n{}\n--- but\n{said}", shown.join("\n")))
    }

    /// Has the first server end in order.
    fn end(&mut self) -> Result<(), String> {
        let server = self.servers.first_mut().ok_or("nothing was started")?;
        let told = Command::new("kill").arg(server.0.id().to_string()).status().unwrap();
        let ended = server.0.wait().unwrap();
        if told.success() && ended.success() { Ok(()) } else { Err(format!("it ended with {ended}")) }
    }

    /// Starts what goes on, on free ports, and waits until it serves.
    fn start(&mut self, command: &str) -> Result<(), String> {
        let command = self.real(command);
        let words: Vec<_> = command.split_whitespace().collect();
        match words.as_slice() {
            ["foregate", "run", folder, ..] => {
                let listeners = listeners(&self.folder().join(folder));
                let binds = listeners.keys().map(|name| format!(" --bind {name}=127.0.0.1:0"));
                let real = format!("{command} --admin 127.0.0.1:0{}", binds.collect::<String>());
                self.serve(&real, &listeners)
            }
            ["foregate-inference", "serve", ..] => {
                let real = format!("{command} --http 127.0.0.1:0 --grpc 127.0.0.1:0");
                self.serve(&real, &BTreeMap::new())
            }
            ["foregate-control", "run", "--config", config, ..] => {
                let file = self.folder().join(config);
                let text = fs::read_to_string(&file).map_err(|error| format!("{config}: {error}"))?;
                fs::write(file, text.replace("127.0.0.1:8443", "127.0.0.1:0") + "admin: 127.0.0.1:0\n")
                    .unwrap();
                self.serve(&command, &BTreeMap::new())
            }
            _ => Err(format!("`{command}` is nothing that is known to go on")),
        }
    }

    /// Starts a server; `listeners` are those of a gateway, with their ports in the book.
    fn serve(&mut self, command: &str, listeners: &BTreeMap<String, u64>) -> Result<(), String> {
        let mut shell = self.shell(&format!("exec 2>&1\nexec {command}"));
        let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.servers.push(Server(child));
        let (sender, receiver) = mpsc::channel();
        // The pipe is read to its end, also when nobody waits for its lines any more.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let (mut said, mut ports) = (String::new(), Vec::new());
        let wanted = if command.starts_with("foregate run") { listeners.len() + 1 } else { 2 };
        while ports.len() < wanted {
            let Ok(line) = receiver.recv_timeout(DEADLINE) else {
                return Err(format!("`{command}` ended, or does not serve:\n{said}"));
            };
            ports.extend(listening(command, &line, listeners));
            said.push_str(&line);
            said.push('\n');
        }
        self.addresses
            .extend(ports.into_iter().map(|(port, address)| (format!("127.0.0.1:{port}"), address)));
        Ok(())
    }
}

/// The port of the book and the address that a line of a server tells of.
fn listening(command: &str, line: &str, listeners: &BTreeMap<String, u64>) -> Option<(u64, String)> {
    match line.split_once(' ') {
        Some(("http", address)) => return Some((8000, address.to_owned())),
        Some(("grpc", address)) => return Some((8001, address.to_owned())),
        _ => {}
    }
    let event: Value = serde_json::from_str(line).ok()?;
    let address = event["address"].as_str()?.to_owned();
    let control = command.starts_with("foregate-control");
    match event["event.name"].as_str()? {
        "admin listening" => Some((if control { 9091 } else { 9090 }, address)),
        "listening" if control => Some((8443, address)),
        "listening" => Some((*listeners.get(event["listener"].as_str()?)?, address)),
        _ => None,
    }
}

/// The listeners of a folder of policies, with their ports.
fn listeners(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let files = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        found.extend(policies::ports(&fs::read_to_string(file).unwrap()));
    }
    found
}

/// The commands of a block, and what is shown of each.
fn commands(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((command, shown))) if shown.is_empty() && command.ends_with('\\') => {
                command.push('\n');
                command.push_str(line);
            }
            (None, Some((_, shown))) => shown.push(line.trim_end()),
            (None, None) => {}
        }
    }
    commands
}

/// True where these lines are those that are shown; `...` stands for any number of them.
fn lines_agree(shown: &[&str], said: &[&str]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((&"...", rest)) => (0..=said.len()).any(|skipped| lines_agree(rest, &said[skipped..])),
        Some((line, rest)) => {
            said.split_first().is_some_and(|(first, more)| agrees(line, first) && lines_agree(rest, more))
        }
    }
}

/// True where this line is the one that is shown; `...` stands for anything in it.
fn agrees(shown: &str, said: &str) -> bool {
    let Some((first, rest)) = shown.split_once("...") else { return shown == said };
    let (middle, last) = rest.rsplit_once("...").unwrap_or(("", rest));
    let Some(mut said) = said.strip_prefix(first).and_then(|said| said.strip_suffix(last)) else {
        return false;
    };
    middle.split("...").all(|part| {
        let found = said.find(part);
        said = &said[found.map_or(0, |at| at + part.len())..];
        found.is_some()
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}
