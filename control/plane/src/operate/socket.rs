//! The unix socket for operators, from both sides. It is for this user alone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::process::Shutdown;

/// Its name in the state folder.
const NAME: &str = "control.sock";

/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why a running process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no control plane runs with this state folder: {socket}: {source}")]
    Absent { socket: String, source: io::Error },
    #[error("the control plane at {socket} gave no answer: {fault}")]
    Silent { socket: String, fault: String },
    #[error("{0}")]
    Refused(String),
}

/// Opens the socket; one that is left over from another process goes.
///
/// # Errors
/// Where that is not possible.
pub fn open(state_dir: &Path) -> io::Result<UnixListener> {
    let path = socket(state_dir);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    // It is made with what the umask leaves, which is for this user alone to write to, as connecting needs.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the process ends.
///
/// # Errors
/// Where the socket fails.
pub async fn serve(listener: UnixListener, routes: Router, shutdown: Shutdown) -> io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.begun().await }).await
}

/// Asks the running process. A body makes it a POST.
///
/// # Errors
/// Where there is none, or it refuses.
pub async fn call(state_dir: &Path, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
    let at = socket(state_dir);
    let name = at.display().to_string();
    let stream = UnixStream::connect(&at)
        .await
        .map_err(|source| CallError::Absent { socket: name.clone(), source })?;
    let silent = |fault: String| CallError::Silent { socket: name.clone(), fault };
    let answered = timeout(ANSWER, ask(stream, path, body)).await;
    let (succeeded, answer) =
        answered.unwrap_or_else(|_| Err(format!("none within {ANSWER:?}"))).map_err(silent)?;
    if !succeeded {
        return Err(CallError::Refused(String::from_utf8_lossy(&answer).into_owned()));
    }
    serde_json::from_slice(&answer).map_err(|error| silent(error.to_string()))
}

async fn ask(stream: UnixStream, path: &str, body: Option<&Value>) -> Result<(bool, Bytes), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let request = match body {
        Some(body) => Request::post(path)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string()))),
        None => Request::get(path).body(Full::new(Bytes::new())),
    };
    let mut request = request.map_err(|error| said(&error))?;
    request.headers_mut().insert("host", http::HeaderValue::from_static("control"));
    let response = sender.send_request(request).await.map_err(|error| said(&error))?;
    let succeeded = response.status().is_success();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok((succeeded, body.map_err(|error| said(&error))?.to_bytes()))
}

fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}
