//! A real Redis, started on a free port for one test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use foregate::store::Store;
use foregate_policy::redis_store::RedisStore;
use foregate_policy::snapshot::Endpoint;
use redis::{Connection, FromRedisValue};
use tempfile::TempDir;

use crate::support::unused_address;
use crate::support::within;

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    pub address: SocketAddr,
    folder: TempDir,
    arguments: Vec<String>,
    /// It speaks TLS alone, or asks for a password: the test does not speak to it.
    silent: bool,
}

impl Redis {
    /// Starts a server that keeps nothing, and waits until it answers.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_at(unused_address().await, arguments).await
    }

    /// The same, but it is only waited for that it listens.
    pub async fn start_silent(arguments: &[&str]) -> Self {
        let address = unused_address().await;
        let mut redis = Self::spawn(address, arguments);
        redis.silent = true;
        redis.wait().await;
        redis
    }

    pub async fn start_at(address: SocketAddr, arguments: &[&str]) -> Self {
        let redis = Self::spawn(address, arguments);
        redis.wait().await;
        redis
    }

    fn spawn(address: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let child = spawn(address, folder.path(), &arguments);
        Self { child, address, folder, arguments, silent: false }
    }

    async fn wait(&self) {
        within("a Redis", async {
            while !self.answers().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn answers(&self) -> bool {
        if self.silent {
            return tokio::net::TcpStream::connect(self.address).await.is_ok();
        }
        let Ok(mut connection) = self.connection() else { return false };
        redis::cmd("PING").query::<String>(&mut connection).is_ok()
    }

    /// A connection of the test itself.
    pub fn connection(&self) -> redis::RedisResult<Connection> {
        redis::Client::open(format!("redis://{}/", self.address))?.get_connection()
    }

    /// The answer to one command.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.connection().unwrap()).unwrap()
    }

    /// How often a command was called.
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String = self.ask(&["INFO", "commandstats"]);
        count(&stats, command, "calls=")
    }

    /// How often a command was not let through, such as for keys that are elsewhere.
    pub fn rejected(&self, command: &str) -> u64 {
        let stats: String = self.ask(&["INFO", "commandstats"]);
        count(&stats, command, "rejected_calls=")
    }

    /// Kills it, as a machine that fails.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with nothing in it.
    pub async fn restart(&mut self) {
        self.child = spawn(self.address, self.folder.path(), &self.arguments);
        self.wait().await;
    }

    /// Stops it without an end: it accepts, and answers nothing.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// How a gateway reaches it, with time enough for a busy machine.
    pub fn spec(&self) -> RedisStore {
        RedisStore {
            name: "redis".into(),
            servers: vec![Endpoint::parse(&self.address.to_string()).unwrap()],
            cluster: false,
            tls: None,
            username: None,
            password: None,
            database: 0,
            timeout: Duration::from_secs(5),
            prefix: "test".into(),
        }
    }

    /// A store in it.
    pub fn store(&self) -> Arc<Store> {
        open(&self.spec())
    }
}

fn count(stats: &str, command: &str, field: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
    let field = line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix(field)));
    field.map_or(0, |number| number.parse().unwrap())
}

/// A store without a password, on the runtime of the test.
pub fn open(spec: &RedisStore) -> Arc<Store> {
    Store::new(spec, None, None, &tokio::runtime::Handle::current())
}

fn spawn(address: SocketAddr, folder: &Path, arguments: &[String]) -> Child {
    let port = address.port().to_string();
    let tls = arguments.iter().any(|argument| argument == "--tls-port");
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]);
    command.arg(folder);
    if tls {
        command.args(["--port", "0"]);
    } else {
        command.args(["--port", &port]);
    }
    let arguments = arguments.iter().map(|argument| if argument == "PORT" { &port } else { argument });
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server is installed: see .ci/needs.sh")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
