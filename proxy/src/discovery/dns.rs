//! Endpoints from DNS: addresses of a host, and services (RFC 2782).

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use foregate_policy::balancing::Dns;
use foregate_policy::snapshot::Endpoint as Written;
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::timeout;

use crate::discovery::{Found, Source};
use crate::dispatch::endpoint::Address;

/// Time for one question to one server.
const QUESTION: Duration = Duration::from_secs(2);

/// Time for the addresses of one target of a service: a look at all of them has more.
const TARGET: Duration = Duration::from_secs(2);

/// Targets of one service that are looked up.
const MAX_TARGETS: usize = 256;

/// Addresses kept of one name.
const MAX_ADDRESSES: usize = 1_024;

/// Where a machine without configuration finds its server, as the C library has it.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Asks the servers of one upstream. Nothing is cached besides: sources keep what they were told.
pub struct Resolver {
    rules: Dns,
    /// Made when it is first asked, by the runtime that asks.
    client: OnceLock<Result<TokioResolver, String>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Resolver {
    pub fn new(rules: Dns) -> Self {
        Self { rules, client: OnceLock::new() }
    }

    fn client(&self) -> Result<&TokioResolver, String> {
        self.client.get_or_init(|| build(self.rules.server)).as_ref().map_err(Clone::clone)
    }

    /// How long an answer is believed.
    fn lasts(&self, ttl: u32) -> Duration {
        Duration::from_secs(ttl.into()).clamp(self.rules.min_ttl, self.rules.max_ttl.max(self.rules.min_ttl))
    }

    fn patience(&self) -> (Option<Duration>, Duration) {
        (Some(self.rules.max_stale), self.rules.min_ttl)
    }

    /// Addresses of a host, sorted, and the shortest time to live among them.
    async fn addresses(&self, host: &str) -> Result<(Vec<IpAddr>, u32), String> {
        let found = self.client()?.lookup_ip(host).await.map_err(|error| error.to_string())?;
        let mut addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(format!("{host} has no address"));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok((addresses, ttl(found.as_lookup())))
    }
}

/// The shortest time to live of an answer, in seconds.
fn ttl(lookup: &Lookup) -> u32 {
    lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0)
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let of = |ip, port| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = port;
            connection
        };
        NameServerConfig::new(ip, true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
    };
    let (config, mut options) = match server {
        Some(server) => {
            let servers = vec![of(server.ip(), server.port())];
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        }
        None => read_system_conf().unwrap_or_else(|_| {
            let servers = vec![of(LOCAL, 53)];
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        }),
    };
    options.cache_size = 0;
    options.timeout = options.timeout.min(QUESTION);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().map_err(|error| error.to_string())
}

/// The addresses of one host.
#[derive(Debug)]
pub struct Hosts {
    written: Written,
    resolver: Arc<Resolver>,
}

impl Hosts {
    pub fn new(written: Written, resolver: Arc<Resolver>) -> Self {
        Self { written, resolver }
    }
}

#[async_trait]
impl Source for Hosts {
    fn name(&self) -> String {
        format!("{}:{}", self.written.host, self.written.port)
    }

    async fn look(&mut self) -> Result<Found, String> {
        let (addresses, ttl) = self.resolver.addresses(&self.written.host).await?;
        let of = |ip| Address::of(&self.written, SocketAddr::new(ip, self.written.port));
        Ok(Found::Endpoints(addresses.into_iter().map(of).collect(), self.resolver.lasts(ttl)))
    }

    fn patience(&self) -> (Option<Duration>, Duration) {
        self.resolver.patience()
    }
}

/// The targets of one service.
#[derive(Debug)]
pub struct Services {
    written: Written,
    resolver: Arc<Resolver>,
    /// Addresses of targets as they were told last: one that cannot be looked up now keeps them.
    targets: HashMap<String, Vec<IpAddr>>,
}

impl Services {
    pub fn new(written: Written, resolver: Arc<Resolver>) -> Self {
        Self { written, resolver, targets: HashMap::new() }
    }
}

#[async_trait]
impl Source for Services {
    fn name(&self) -> String {
        format!("SRV {}", self.written.host)
    }

    async fn look(&mut self) -> Result<Found, String> {
        let client = self.resolver.client()?;
        let lookup = client.srv_lookup(&*self.written.host).await.map_err(|error| error.to_string())?;
        let mut shortest = ttl(&lookup);
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            // A target of "." says that the service is not there.
            RData::SRV(service) if !service.target.is_root() && service.port != 0 => Some(service),
            _ => None,
        });
        let records: Vec<_> = records.take(MAX_TARGETS).collect();
        let names: Vec<String> = records.iter().map(|service| service.target.to_utf8()).collect();
        // A target that is slow keeps the addresses that it had, and the others their time.
        let resolver = &self.resolver;
        let looked = names.iter().map(|name| async move {
            let looked = timeout(TARGET, resolver.addresses(name)).await;
            looked.unwrap_or_else(|_| Err(format!("{name}: no answer in time")))
        });
        let looked = join_all(looked).await;
        let (mut all, mut targets) = (Vec::new(), HashMap::new());
        let mut failure = None;
        for ((service, name), looked) in records.iter().zip(names).zip(looked) {
            let addresses = match looked {
                Ok((addresses, ttl)) => {
                    shortest = shortest.min(ttl);
                    addresses
                }
                Err(error) => {
                    failure = Some(error);
                    shortest = 0;
                    self.targets.get(&name).cloned().unwrap_or_default()
                }
            };
            let written = Written {
                host: name.trim_end_matches('.').into(),
                port: service.port,
                weight: u32::from(service.weight).max(1),
                zone: self.written.zone.clone(),
                priority: self.written.priority.saturating_add(service.priority),
            };
            let of = |ip| Address::of(&written, SocketAddr::new(ip, written.port));
            all.extend(addresses.iter().copied().map(of));
            targets.insert(name, addresses);
        }
        if all.is_empty() {
            return Err(failure.unwrap_or_else(|| "the service has no targets".to_owned()));
        }
        self.targets = targets;
        all.sort_by_key(|found| (found.priority, found.address));
        Ok(Found::Endpoints(all, self.resolver.lasts(shortest)))
    }

    fn patience(&self) -> (Option<Duration>, Duration) {
        self.resolver.patience()
    }
}
