//! Stores that gateways share: addresses read, secrets found.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashSet;
use foregate_filters::client_auth::is_loopback;
use foregate_filters::fault::{Code, Path};
use foregate_filters::rate_limit::SharedSpec;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::typed::{Typed, spec};
use crate::compile::upstreams::bounded;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::store::{Redis, Spec};
use crate::lease::{LeaseBound, LeaseOf};
use crate::node::Node;
use crate::redis_store::RedisStore;
use crate::snapshot::{Endpoint, UpstreamTls};

/// For one request where the document names no time.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Bounds of that time.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(5));
/// What keys begin with where the document does not say.
const PREFIX: &str = "foregate";

/// Stores that can be asked, and those that could not be made.
#[derive(Debug, Default)]
pub struct Stores {
    pub loaded: Vec<Arc<RedisStore>>,
    /// Their fault has been told.
    pub broken: AHashSet<String>,
}

impl Compilation<'_> {
    pub fn stores(&mut self) -> Stores {
        let mut stores = Stores::default();
        for typed in std::mem::take(&mut self.documents.stores) {
            let before = self.faults.len();
            let store = Arc::new(self.store(&typed));
            let at = spec().key("redis");
            if self.faults.len() == before
                && let Err(fault) = self.materials.store(&store, &at)
            {
                self.fault(Diagnostic::from_fault(typed.document, fault));
            }
            if self.faults.len() == before {
                stores.loaded.push(store);
            } else {
                stores.broken.insert(typed.document.name.to_string());
            }
            if in_clear(&typed.spec) {
                self.store_in_clear(&typed);
            }
        }
        stores
    }

    fn store(&mut self, typed: &Typed<'_, Spec>) -> RedisStore {
        let (document, said) = (typed.document, &typed.spec.redis);
        let at = spec().key("redis");
        let mut faults = Vec::new();
        let servers = servers(document, said, &at.key("addresses"), &mut faults);
        if said.cluster && said.database.is_some_and(|database| database != 0) {
            let message = "a cluster has one database";
            let fault = Diagnostic::at(document, &at.key("database"), codes::STORE, message);
            faults.push(fault.help("remove `database`, and tell gateways apart by `prefix`"));
        }
        if said.username.is_some() && said.password.is_none() {
            let message = "a user of a store is known by its password";
            let fault = Diagnostic::at(document, &at.key("username"), codes::STORE, message);
            faults.push(fault.help("add password: { secretRef: { name: .., key: .. } }"));
        }
        let timeout = bounded(document, said.timeout, TIMEOUT, TIMEOUTS, &at.key("timeout"), &mut faults);
        let password = said.password.clone().map(|mut password| {
            let mut wrong = Vec::new();
            password.check(&at.key("password"), &mut wrong);
            faults.extend(wrong.into_iter().map(|fault| Diagnostic::from_fault(document, fault)));
            password.anchor(document.file.folder(), &self.sources.root.join("secrets"));
            password
        });
        self.faults.append(&mut faults);
        let tls: Option<UpstreamTls> =
            said.tls.clone().map(|tls| self.tls_to(document, &tls, &at.key("tls")));
        RedisStore {
            name: document.name.to_string().into(),
            servers,
            cluster: said.cluster,
            tls,
            username: said.username.as_deref().map(Into::into),
            password,
            database: said.database.unwrap_or_default(),
            timeout,
            prefix: said.prefix.as_deref().unwrap_or(PREFIX).into(),
        }
    }

    /// A password over a connection that others may see: a fault, or where it is meant, a warning.
    fn store_in_clear(&mut self, typed: &Typed<'_, Spec>) {
        let at = spec().key("redis").key("password");
        let (meant, message) = match typed.spec.insecure {
            Some(insecure) if insecure.plain_credentials => {
                (true, "the password is sent over a plain connection")
            }
            _ => (false, "the password would be sent over a plain connection"),
        };
        let diagnostic = Diagnostic::at(typed.document, &at, codes::CREDENTIALS_IN_CLEAR, message);
        if meant {
            self.warnings.push(diagnostic.help("add tls: { mode: Simple }").warning());
        } else {
            let help = "add tls: { mode: Simple }, or insecure: { plainCredentials: true } where nobody else is on the network";
            self.fault(diagnostic.help(help));
        }
    }

    /// The bound of every limit that is taken from in advance.
    pub fn leases(&self) -> Vec<LeaseBound> {
        let of = |policy: &Document, name: &str, shared: Option<&SharedSpec>, of: LeaseOf| {
            let rule = format!("{}/{name}", policy.name).into();
            Some(LeaseBound { rule, lease: shared?.lease?, of })
        };
        let bounds = self.documents.policies.iter().flat_map(|policy| {
            let rates = policy.spec.rate_limit.iter().filter_map(move |it| {
                let (limit, burst) = (it.limit, it.burst.unwrap_or(it.limit));
                let rate = LeaseOf::Rate { limit, burst, per: it.per };
                of(policy.document, &it.name, it.shared.as_ref(), rate)
            });
            let quotas = policy.spec.quota.iter().filter_map(move |it| {
                of(policy.document, &it.name, it.shared.as_ref(), LeaseOf::Quota { limit: it.limit })
            });
            rates.chain(quotas)
        });
        bounds.collect()
    }

    /// Stores that nothing is counted or kept in.
    pub fn unused_stores(&self) -> Vec<Diagnostic> {
        let unused = self.named(Kind::Store).filter(|store| {
            let mut users = self.named(Kind::Policy).chain(self.named(Kind::Model));
            !users.any(|user| {
                user.name.namespace == store.name.namespace && names(&user.root, &store.name.name)
            })
        });
        unused
            .map(|store| {
                let message =
                    format!("no policy and no model of its namespace uses the store `{}`", store.name);
                Diagnostic::at(store, &Document::name_path(), codes::STORE_UNUSED, message).warning()
            })
            .collect()
    }
}

/// True where something in a document refers to this store: a field `store` with its name.
fn names(node: &Node, store: &str) -> bool {
    node.key("store").and_then(Node::text) == Some(store)
        || node.items().iter().any(|item| names(item, store))
        || node.values().any(|value| names(value, store))
}

fn servers(document: &Document, said: &Redis, at: &Path, faults: &mut Vec<Diagnostic>) -> Vec<Endpoint> {
    let mut servers: Vec<Endpoint> = Vec::new();
    for (index, text) in said.addresses.iter().enumerate() {
        let at = at.index(index);
        match Endpoint::parse(text) {
            None => {
                let message = format!("`{text}` is not a host and a port");
                let help = "write host:port, such as redis.svc:6379 or [2001:db8::1]:6379";
                faults.push(Diagnostic::at(document, &at, Code::VALUE, message).help(help));
            }
            Some(server) if servers.contains(&server) => {
                let message = format!("`{text}` is named twice");
                faults.push(Diagnostic::at(document, &at, codes::STORE, message).help("remove one of them"));
            }
            Some(server) => servers.push(server),
        }
    }
    servers
}

/// True where the password goes over connections that others may see: plain ones, to another machine.
fn in_clear(said: &Spec) -> bool {
    let redis = &said.redis;
    let host = |address: &String| address.rsplit_once(':').is_some_and(|(host, _)| is_loopback(host));
    // A cluster tells of servers that the document does not name.
    redis.password.is_some() && redis.tls.is_none() && (redis.cluster || !redis.addresses.iter().all(host))
}
