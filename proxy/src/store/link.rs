//! One connection to a server of a store: TCP, TLS, who we are, scripts.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use foregate_filters::secret::Secret;
use foregate_policy::snapshot::{Endpoint, Protocol};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, Value};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::dispatch;
use crate::store::error::StoreError;
use crate::store::script;
use crate::store::settings::Settings;

/// Requests that wait to be written; more wait for their turn, within their timeout.
const WAITING: usize = 256;

/// A connection that many requests share.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    /// The password that it was opened with.
    pub(super) secret: Option<Arc<Secret>>,
    /// Turns true when the connection has ended.
    end: watch::Receiver<bool>,
    /// Moves the bytes.
    _driver: Task,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Ready once the connection has ended.
    pub(super) async fn ended(&self) {
        // An error says that the driver is gone, which is the same.
        let _ = self.end.clone().wait_for(|ended| *ended).await;
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Opens a connection that can be counted on: we are known, scripts are there, and it can be written to. The
/// caller bounds the time.
///
/// # Errors
/// The first thing that failed.
pub(super) async fn open(settings: &Settings, server: &Endpoint) -> Result<Link, StoreError> {
    let failed = |error: io::Error| StoreError::Connection(error.to_string().into());
    let stream = TcpStream::connect((&*server.host, server.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let secret = settings.password.as_ref().map(|password| password.current());
    let who = who(settings, secret.as_deref())?;
    let (mut connection, driver) = match &settings.tls {
        None => {
            let (connection, driver) = MultiplexedConnection::new_with_config(&who, stream, config()).await?;
            (connection, Box::pin(driver) as Driver)
        }
        Some(tls) => {
            let denied = |error: String| StoreError::Connection(error.into());
            let identity = settings.identity.as_ref().and_then(|identity| identity.current());
            let trust = dispatch::tls::config(tls, Protocol::Tcp, identity.as_deref())
                .map_err(|error| denied(error.to_string()))?;
            let name = tls.server_name.as_deref().unwrap_or(&server.host);
            let name = ServerName::try_from(name).map_err(|error| denied(error.to_string()))?.to_owned();
            let connector = TlsConnector::from(Arc::clone(&trust.config));
            let stream = Box::pin(connector.connect(name, stream)).await.map_err(failed)?;
            trust.still_trusts(stream.get_ref().1).map_err(|error| denied(error.to_string()))?;
            let (connection, driver) = MultiplexedConnection::new_with_config(&who, stream, config()).await?;
            (connection, Box::pin(driver) as Driver)
        }
    };
    let (tell, end) = watch::channel(false);
    let driver = Task(tokio::spawn(async move {
        driver.await;
        tell.send_replace(true);
    }));
    for script in script::all() {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script.text);
        ask(&mut connection, &load).await?;
    }
    if !settings.cluster {
        // A replica would take scripts, and refuse what they write.
        let mut probe = redis::cmd("SET");
        probe.arg(format!("{}:probe", settings.prefix)).arg("").arg("PX").arg(1_000);
        ask(&mut connection, &probe).await?;
    }
    Ok(Link { connection, secret, end, _driver: driver })
}

/// Asks, and takes an error for one.
pub(super) async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> redis::RedisResult<Value> {
    connection.send_packed_command(command).await?.extract_error()
}

/// Without a time of its own: every request has one.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(WAITING)
}

fn who(settings: &Settings, secret: Option<&Secret>) -> Result<RedisConnectionInfo, StoreError> {
    let mut who = RedisConnectionInfo::default().set_lib_name("foregate", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &settings.username {
        who = who.set_username(username);
    }
    if let Some(secret) = secret {
        let denied = || StoreError::Denied("the password is not text".into());
        who = who.set_password(secret.expose_text().ok_or_else(denied)?);
    }
    Ok(who.set_db(settings.database.into()))
}
