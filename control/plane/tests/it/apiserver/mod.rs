//! A cluster for tests: an API server in the process, or a real one.

pub mod http;
pub mod patch;
pub mod real;
pub mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::real::Real;
use self::store::Store;

/// Who writes objects in tests.
const AUTHOR: &str = "test";

/// How long a test waits for a fact at most.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// An API server, and how to reach it.
pub struct Cluster {
    url: String,
    token: Option<String>,
    /// That of the test; making one takes its time.
    own: OnceLock<Client>,
    kind: Kind,
}

enum Kind {
    InProcess { store: Arc<Store>, at: SocketAddr, runtime: Mutex<Option<Runtime>> },
    Real(#[expect(dead_code, reason = "it ends when it is dropped")] Real),
    Elsewhere,
}

impl Cluster {
    /// The real one where its binaries are named, else one in this process.
    pub async fn start() -> Self {
        match Real::start().await {
            Some(real) => {
                let (url, token) = (real.url.clone(), Some(real.token.clone()));
                Self { url, token, own: OnceLock::new(), kind: Kind::Real(real) }
            }
            None => Self::in_process(),
        }
    }

    /// One in this process, whose faults a test can command.
    pub fn in_process() -> Self {
        let store = Arc::new(Store::default());
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let runtime = Mutex::new(Some(http::serve(listener, Arc::clone(&store))));
        Self {
            url: format!("http://{at}"),
            token: None,
            own: OnceLock::new(),
            kind: Kind::InProcess { store, at, runtime },
        }
    }

    /// One of another process.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), token: None, own: OnceLock::new(), kind: Kind::Elsewhere }
    }

    pub fn client(&self) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = self.token.clone().map(Into::into);
        Client::try_from(config).unwrap()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the server in this process keeps and was asked.
    pub fn store(&self) -> &Store {
        match &self.kind {
            Kind::InProcess { store, .. } => store,
            Kind::Real(_) | Kind::Elsewhere => panic!("only of the server in this process"),
        }
    }

    /// Closes all connections, and takes no more.
    pub fn lose(&self) {
        let Kind::InProcess { runtime, .. } = &self.kind else {
            panic!("only of the server in this process")
        };
        let old = runtime.lock().unwrap().take();
        if let Some(old) = old {
            old.shutdown_background();
        }
    }

    /// Serves again, at the same address, what it kept.
    pub async fn find_again(&self) {
        let Kind::InProcess { store, at, runtime } = &self.kind else {
            panic!("only of the server in this process")
        };
        let listener = until("the port is free again", async || std::net::TcpListener::bind(at).ok()).await;
        *runtime.lock().unwrap() = Some(http::serve(listener, Arc::clone(store)));
    }

    /// Writes each document of this YAML, as `kubectl apply` does.
    pub async fn apply(&self, yaml: &str) {
        for root in foregate_policy::parse::parse(yaml).documents {
            self.put(&root.to_json()).await;
        }
    }

    /// Writes each document of this YAML into the server of this process, without a request.
    pub fn seed(&self, yaml: &str) {
        for root in foregate_policy::parse::parse(yaml).documents {
            let object = root.to_json();
            let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            let version = word("/apiVersion");
            let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
            let collection = (group.to_owned(), version.to_owned(), plural(&word("/kind")));
            let at = (word("/metadata/namespace"), word("/metadata/name"));
            self.store().create(&collection, &at, object.clone()).unwrap();
        }
    }

    pub async fn put(&self, object: &Value) {
        let (api, name) = self.api_of(object);
        let patch = Patch::Apply(object);
        api.patch(&name, &PatchParams::apply(AUTHOR).force(), &patch).await.unwrap();
    }

    /// The object as it stands now.
    pub async fn read(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name, "namespace": namespace } });
        let (api, name) = self.api_of(&object);
        serde_json::to_value(api.get(&name).await.unwrap()).unwrap()
    }

    fn api_of(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (word("/apiVersion"), word("/kind"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.clone(),
            plural: plural(&kind),
            kind: kind.clone(),
        };
        let (namespace, name) = (word("/metadata/namespace"), word("/metadata/name"));
        let client = self.own.get_or_init(|| self.client()).clone();
        let api = if namespace.is_empty() || CLUSTERED.contains(&&*kind) {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, &namespace, &resource)
        };
        (api, name)
    }
}

const CLUSTERED: [&str; 5] = [
    "GatewayClass",
    "Namespace",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

fn plural(kind: &str) -> String {
    let word = kind.to_lowercase();
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        None if word.ends_with('s') => format!("{word}es"),
        _ => format!("{word}s"),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A runtime must not be waited for within another.
        if let Kind::InProcess { runtime, .. } = &self.kind
            && let Some(runtime) = runtime.lock().unwrap().take()
        {
            runtime.shutdown_background();
        }
    }
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}
