//! What one set of gateways is given of one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use foregate_policy::document::ObjectName;

use crate::revision::merge::ENDPOINTS;
use crate::revision::{Resource, Revision};

/// What one set of gateways needs of one revision; shared by all proxies that have both.
#[derive(Debug)]
pub struct Offer {
    pub revision: Arc<str>,
    /// Documents and files, but for endpoints.
    pub policies: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Ways of the files of endpoints that they refer to.
    pub endpoints: Vec<Arc<str>>,
    /// Tells one set of policies from another.
    pub fingerprint: u64,
}

/// What a proxy is to have.
#[derive(Clone, Debug)]
pub enum Offered {
    /// There is no revision for it yet: it keeps what it has.
    Nothing,
    /// Nothing of what there is, and why.
    Withheld(String),
    Policies(Arc<Offer>),
}

impl Offer {
    /// What these gateways need of it, with the secrets of today.
    pub(super) fn new(
        revision: &Revision,
        secrets: &BTreeMap<Arc<str>, Arc<Resource>>,
        gateways: &BTreeSet<ObjectName>,
    ) -> Self {
        let closure = revision.objects.closure(gateways);
        let (endpoints, files): (Vec<_>, Vec<_>) =
            closure.files.into_iter().partition(|way| way.ends_with(ENDPOINTS));
        let names = closure.documents.into_iter().chain(files);
        let policies: BTreeMap<_, _> = names
            .filter_map(|name| {
                let resource = secrets.get(&name).or_else(|| revision.resources.get(&name))?;
                Some((name, Arc::clone(resource)))
            })
            .collect();
        let mut hasher = DefaultHasher::new();
        revision.label.id.hash(&mut hasher);
        for (name, resource) in &policies {
            (name, &resource.version).hash(&mut hasher);
        }
        endpoints.hash(&mut hasher);
        let fingerprint = hasher.finish();
        Self { revision: revision.label.id.as_str().into(), policies, endpoints, fingerprint }
    }
}
