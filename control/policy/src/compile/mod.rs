//! The only road from documents to a snapshot.

mod attach;
mod backend_tls;
pub mod backends;
mod balancing;
mod calls;
mod capture;
mod choices;
mod concurrency;
mod consumers;
mod credentials;
mod describe;
mod detect;
mod endpoints;
mod filters;
mod fingerprint;
mod gateways;
mod grants;
mod hosts;
mod instant;
mod lints;
mod listener_tls;
mod matches;
mod models;
mod modifiers;
mod partial;
mod policies;
mod proxy_protocol;
mod retries;
mod rules;
mod sessions;
mod stores;
mod streams;
pub(crate) mod typed;
mod unread;
mod upstream_tls;
mod upstreams;
mod validate;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Fault, Path};
use foregate_filters::resources::Resources;
use sha2::{Digest, Sha256};

use crate::diagnostic::{Diagnostic, sort};
use crate::document::{Document, Kind};
use crate::documents::credentials::Credentials;
use crate::load::Sources;
use crate::model::Model;
use crate::redis_store::RedisStore;
use crate::snapshot::{CertificateFiles, Snapshot};

use self::filters::Lent;
use self::partial::Partial;
use self::typed::Typed;

/// What the process lends to a compilation: long-lived parts, and checks of files that it alone can read.
pub trait Materials: Resources {
    /// Loads the bundles of this model, so that [`Resources::scorer`] knows it by name; `spec` is the way to
    /// the spec of its document. Gives every fault at once.
    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>>;

    /// Takes note of a store, so that [`Resources::counters`] knows it by name.
    fn store(&self, _store: &Arc<RedisStore>, _at: &Path) -> Result<(), Fault> {
        Ok(())
    }

    /// Says why a listener cannot serve with this certificate and key.
    fn certificate(&self, files: &CertificateFiles) -> Result<(), String>;

    /// Says why no trusted authorities can be read from this PEM file.
    fn authorities(&self, file: &FilePath) -> Result<(), String>;

    /// Says why a list of revoked certificates cannot be read; that the file does not exist is no reason.
    fn revocations(&self, _file: &FilePath) -> Result<(), String> {
        Ok(())
    }

    /// Says why no endpoints can be read from this file.
    fn endpoints(&self, _file: &FilePath) -> Result<(), String> {
        Ok(())
    }

    /// Says why there is no identity of this workload to serve with.
    fn workload(&self) -> Result<(), String> {
        Ok(())
    }

    /// Tells the first secret of an upstream's credentials that cannot be had or used, as a fault below `at`.
    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault>;

    /// The wall clock as time since the Unix epoch, for lints; zero where nothing has expired yet.
    fn unix(&self) -> Duration {
        Duration::ZERO
    }

    /// True where nobody will be served: consumers then have the keys that cases know, and no others.
    fn for_cases(&self) -> bool {
        false
    }
}

/// What a compilation allows besides the policy language itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Port 0 in listeners: the system chooses one. For tests and the demo.
    pub port_zero: bool,
    /// Gateways are served by different processes: their listeners are never in each other's way.
    pub apart: bool,
    /// The documents are a part of a whole that was compiled elsewhere: gateways and routes that they name and that are
    /// not here are served by others.
    pub part: bool,
}

/// Every document, read into its type.
#[derive(Debug, Default)]
pub(crate) struct Documents<'a> {
    gateways: Vec<Typed<'a, crate::documents::gateway::Spec>>,
    routes: Vec<Typed<'a, crate::documents::http_route::Spec>>,
    tcp_routes: Vec<Typed<'a, crate::documents::stream_route::TcpSpec>>,
    tls_routes: Vec<Typed<'a, crate::documents::stream_route::TlsSpec>>,
    grpc_routes: Vec<Typed<'a, crate::documents::grpc_route::Spec>>,
    backend_tls: Vec<Typed<'a, crate::documents::backend_tls::Spec>>,
    grants: Vec<Typed<'a, crate::documents::reference_grant::Spec>>,
    upstreams: Vec<Typed<'a, crate::documents::upstream::Spec>>,
    policies: Vec<Typed<'a, crate::documents::policy::Spec>>,
    models: Vec<Typed<'a, crate::documents::model::Spec>>,
    consumers: Vec<Typed<'a, crate::documents::consumer::Spec>>,
    stores: Vec<Typed<'a, crate::documents::store::Spec>>,
    /// Those of them that were read without some of their fields.
    partial: Vec<Partial<'a>>,
}

/// The documents, faults so far, and what every stage needs.
struct Compilation<'a> {
    documents: Documents<'a>,
    sources: &'a Sources,
    materials: &'a dyn Materials,
    options: Options,
    faults: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    revision: Arc<str>,
    /// True where some policy has a fault of structure, so that it is left out, in whole or in part.
    policies_missing: bool,
}

/// Compiles what was read; gives every fault of every file at once.
///
/// Documents with faults still lend their names, so that one fault is not told as two.
pub fn compile(
    sources: &Sources,
    materials: &dyn Materials,
    options: Options,
) -> Result<Snapshot, Vec<Diagnostic>> {
    let mut faults = sources.faults.clone();
    let documents = typed::read(sources, &mut faults);
    typed::duplicates(sources, &mut faults);
    let mut work = Compilation {
        documents,
        sources,
        materials,
        options,
        faults,
        warnings: Vec::new(),
        revision: revision(sources).into(),
        policies_missing: false,
    };
    let backend_tls = work.backend_tls();
    let upstreams = work.upstreams(&backend_tls);
    let stores = work.stores();
    let models = work.models(&stores);
    let gateways = work.gateways();
    work.weak_listeners();
    work.weak_proxies();
    work.weak_detection();
    work.weak_capture();
    work.addresses_taken();
    let consumers = work.consumers();
    work.unknown_groups(&consumers);
    let leases = work.leases();
    let policies = work.policies();
    let lent = Lent::new(materials, &work, (&models.broken, &stores.broken), consumers);
    let mut streams = work.streams(&gateways, &policies, &lent);
    let mut destinations = std::mem::take(&mut streams.destinations);
    let mut routes = work.routes(&gateways, &policies, &lent, (streams.checked, &mut destinations));
    routes.used_upstreams.extend(streams.used_upstreams);
    routes.used_gateways.extend(streams.used_gateways);
    work.looked_at(&gateways, &routes.table, &streams.table);
    work.lint(&routes);
    work.excuse();
    sort(&mut work.faults);
    sort(&mut work.warnings);
    if !work.faults.is_empty() {
        return Err(work.faults);
    }
    Ok(Snapshot {
        revision: work.revision.to_string(),
        listeners: gateways.into_listeners(),
        routes: routes.table,
        streams: streams.table,
        destinations,
        upstreams,
        models: models.loaded,
        stores: stores.loaded,
        leases,
        warnings: work.warnings,
    })
}

/// Checks the structure of case documents too; what `compile` does not need.
pub fn check_cases(sources: &Sources) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    typed::cases(sources, &mut faults);
    sort(&mut faults);
    faults
}

/// Twelve hex digits over all policy text, in order; cases do not count.
fn revision(sources: &Sources) -> String {
    let mut hash = Sha256::new();
    for file in &sources.files {
        if file.is_cases() {
            continue;
        }
        hash.update(u64::try_from(file.text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(file.text.as_bytes());
    }
    let digest = hash.finalize();
    let first = digest.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{first:012x}")
}

impl Compilation<'_> {
    /// Names of all documents of a kind, faulty ones included.
    fn named(&self, kind: Kind) -> impl Iterator<Item = &Document> {
        self.sources.documents.iter().filter(move |document| document.kind == kind)
    }

    fn fault(&mut self, diagnostic: Diagnostic) {
        self.faults.push(diagnostic);
    }
}
