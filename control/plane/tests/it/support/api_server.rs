//! An API server that answers token reviews as a test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post as on_post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Knows the token `good` as that of `system:serviceaccount:crm:leads`, for every audience that it is asked about;
    /// `user` as that of a person; `elsewhere` for another audience; `old` without telling an audience.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let routes = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", on_post(review))
            .with_state(Arc::clone(&asked));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, asked, task }
    }

    /// The reviews that it was asked for.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    /// Ends it, connections included.
    pub async fn stop(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn review(State(asked): State<Arc<Mutex<Vec<Value>>>>, Json(mut review): Json<Value>) -> Json<Value> {
    asked.lock().unwrap().push(review.clone());
    let audiences = review["spec"]["audiences"].clone();
    let user = |name: &str| json!({ "username": name, "groups": ["system:authenticated"] });
    let account = user("system:serviceaccount:crm:leads");
    review["status"] = match review["spec"]["token"].as_str().unwrap() {
        "good" => json!({ "authenticated": true, "user": account, "audiences": audiences }),
        "user" => json!({ "authenticated": true, "user": user("maya"), "audiences": audiences }),
        "elsewhere" => json!({ "authenticated": true, "user": account, "audiences": ["vault"] }),
        "old" => json!({ "authenticated": true, "user": account }),
        _ => json!({ "authenticated": false, "error": "invalid bearer token" }),
    };
    Json(review)
}

/// A kubeconfig for a server, in a folder.
pub fn kubeconfig(folder: &std::path::Path, server: SocketAddr) -> PathBuf {
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: test
clusters: [{{ name: test, cluster: {{ server: 'http://{server}' }} }}]
users: [{{ name: test, user: {{ token: of-the-control-plane }} }}]
contexts: [{{ name: test, context: {{ cluster: test, user: test }} }}]
"
    );
    let file = folder.join("kubeconfig");
    std::fs::write(&file, text).unwrap();
    file
}
