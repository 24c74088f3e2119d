//! oidc-provider of npm, started for one test and ended with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::lines::Lines;
use crate::support::upstream::full;

/// The secret of every client that has one.
pub const SECRET: &str = "a-secret of+clients/with=odd&letters";

/// A running authorization server.
#[derive(Debug)]
pub struct Oidc {
    child: Child,
    url: String,
}

/// The folder with the server's script and packages.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// A client that may ask for tokens of its own; `more` are further metadata.
pub fn client(id: &str, method: &str, more: &Value) -> Value {
    let mut client = json!({
        "client_id": id,
        "grant_types": ["client_credentials"],
        "redirect_uris": [],
        "response_types": [],
        "token_endpoint_auth_method": method,
    });
    let members = client.as_object_mut().unwrap();
    if method != "private_key_jwt" {
        members.insert("client_secret".to_owned(), SECRET.into());
    }
    members.extend(more.as_object().unwrap().clone());
    client
}

impl Oidc {
    /// Starts the server with these clients.
    pub async fn start(clients: &[Value]) -> Self {
        let script = peers().join("oidc-provider.mjs");
        let packages = peers().join("node_modules/oidc-provider");
        assert!(packages.is_dir(), "run `npm ci` in {}, as .ci/test does", peers().display());
        let mut child = Command::new("node")
            .arg(script)
            .arg(json!({ "clients": clients }).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Lines::read(child.stdout.take().unwrap());
        let told = lines.wait("the URL of oidc-provider", |line| line["url"].is_string()).await;
        Self { child, url: told["url"].as_str().unwrap().to_owned() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    async fn post(&self, path: &str, form: String, headers: &[(&str, String)]) -> Reply {
        let mut client = Client::http1(self.address()).await;
        let mut request = client.request("POST", path).header("host", self.address().to_string());
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        client.send(request.body(full(form)).unwrap()).await
    }

    /// A token of the client `id`, which proves itself by post: opaque for the resource `urn:crm:opaque`, a JWT for
    /// `urn:crm:jwt`; bound to a certificate in PEM where the client's are.
    pub async fn token(&self, id: &str, resource: &str, certificate: Option<&str>) -> String {
        let secret = SECRET.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        let form = format!(
            "grant_type=client_credentials&client_id={id}&client_secret={secret}&scope=crm.read&resource={resource}"
        );
        let shown: Vec<_> =
            certificate.map(|pem| ("x-test-certificate", STANDARD.encode(pem))).into_iter().collect();
        let reply = self.post("/token", form, &shown).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Takes a token of the client `id` back.
    pub async fn revoke(&self, id: &str, token: &str) {
        let secret = SECRET.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        let form = format!("token={token}&client_id={id}&client_secret={secret}");
        let reply = self.post("/token/revocation", form, &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// Makes a new key that signs from now on.
    pub async fn rotate(&self) {
        assert_eq!(self.post("/test/rotate", String::new(), &[]).await.status, 200);
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
