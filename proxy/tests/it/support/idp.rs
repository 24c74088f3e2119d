//! An issuer on a socket: tokens of every kind, answers that wait, outages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate::clock;
use foregate::issuer::Issuer;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The audience that tokens are made for.
pub const AUDIENCE: &str = "crm";

/// The development issuer, served on a port of 127.0.0.1 that stays its own through outages.
#[derive(Debug)]
pub struct Idp {
    pub issuer: Issuer,
    address: SocketAddr,
    fetches: Arc<AtomicUsize>,
    /// True while answers are held back.
    held: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl Idp {
    /// An issuer that answers.
    pub async fn start() -> Self {
        let mut idp = Self::down().await;
        idp.serve().await;
        idp
    }

    /// An issuer that does not answer yet.
    pub async fn down() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            issuer: Issuer::new(&format!("http://{address}")).unwrap(),
            address,
            fetches: Arc::default(),
            held: watch::channel(false).0,
            serving: None,
        }
    }

    /// Begins to answer.
    pub async fn serve(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (fetches, held) = (Arc::clone(&self.fetches), self.held.subscribe());
        let count = move |request: Request, next: Next| {
            let (fetches, mut held) = (Arc::clone(&fetches), held.clone());
            async move {
                if request.uri().path() == "/jwks" {
                    fetches.fetch_add(1, Ordering::SeqCst);
                }
                let _ = held.wait_for(|held| !held).await;
                next.run(request).await
            }
        };
        let router = self.issuer.router().layer(from_fn(count));
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    /// Stops to answer; the socket is closed on return.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Holds answers back, or lets them go.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How often the key set was asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> &str {
        self.issuer.url()
    }

    /// The entry of a policy that trusts this issuer; `jwks` in flow style, `more` further lines.
    pub fn trusted(&self, jwks: &str, more: &str) -> String {
        let url = self.url();
        let more = more.lines().fold(String::new(), |more, line| more + "  " + line + "\n");
        format!("- issuer: {url}\n  audiences: [{AUDIENCE}]\n  jwks: {jwks}\n{more}")
    }

    /// The same with the URL of its keys.
    pub fn by_url(&self) -> String {
        self.trusted(&format!("{{ uri: {}/jwks }}", self.url()), "")
    }

    /// A good token of this subject.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&json!({ "sub": subject }))
    }

    /// A token with these claims, and good ones where they say nothing; a claim of null is left out.
    pub fn sign(&self, claims: &Value) -> String {
        self.issuer.token(&self.claims(claims)).unwrap()
    }

    /// Claims completed with good ones.
    pub fn claims(&self, claims: &Value) -> Map<String, Value> {
        let now = clock::now().unix.as_secs();
        let mut all = Map::new();
        all.insert("iss".to_owned(), self.url().into());
        all.insert("aud".to_owned(), AUDIENCE.into());
        all.insert("sub".to_owned(), "somebody".into());
        all.insert("exp".to_owned(), (now + 300).into());
        all.extend(claims.as_object().unwrap().clone());
        all.retain(|_, value| !value.is_null());
        all
    }

    /// The sample of a metric about this issuer.
    pub fn series(&self, metric: &str) -> String {
        format!("{metric}{{issuer=\"{}\"}}", self.url())
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// A token in parts, signed with nothing or with what a test gives.
pub fn assemble(header: &Value, claims: &Map<String, Value>, signature: impl Fn(&str) -> String) -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header.to_string()), part(Value::from(claims.clone()).to_string()));
    let signature = signature(&message);
    format!("{message}.{signature}")
}
