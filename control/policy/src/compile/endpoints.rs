//! Endpoints of an upstream: addresses, names of services, a file.

use std::net::IpAddr;
use std::path::PathBuf;

use foregate_filters::fault::{Code, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::endpoints::{Detailed, Endpoint as Written};
use crate::documents::upstream::Spec;
use crate::snapshot::{Endpoint, host_name};

/// Where the endpoints of one upstream are found.
#[derive(Debug, Default)]
pub struct Found {
    pub addresses: Vec<Endpoint>,
    /// Names with SRV records; their port is 0.
    pub services: Vec<Endpoint>,
    pub file: Option<PathBuf>,
}

/// Reads everything that tells of endpoints, and notes every fault.
pub fn endpoints(document: &Document, said: &Spec, faults: &mut Vec<Diagnostic>) -> Found {
    let mut found = Found::default();
    let list = spec().key("endpoints");
    for (index, written) in said.endpoints.iter().enumerate() {
        let at = list.index(index);
        let (address, service, details) = match written {
            Written::Address(address) => (Some((address, at.clone())), None, &Detailed::default()),
            Written::Detailed(detailed) => {
                let address = detailed.address.as_ref().map(|address| (address, at.key("address")));
                (address, detailed.srv.as_ref(), detailed)
            }
        };
        let endpoint = match (address, service) {
            (Some((text, at)), None) => address_of(document, text, &at, faults),
            (None, Some(name)) => service_of(document, name, details, &at, faults),
            _ => {
                let message = "an endpoint has either an address or a name with SRV records";
                let help =
                    "write { address: \"crm.example.com:8443\" } or { srv: _https._tcp.crm.example.com }";
                faults.push(Diagnostic::at(document, &at, codes::ENDPOINT_SOURCE, message).help(help));
                None
            }
        };
        let Some(mut endpoint) = endpoint else { continue };
        endpoint.weight = details.weight.unwrap_or(1);
        endpoint.zone = details.zone.as_deref().map(Into::into);
        endpoint.priority = details.priority.unwrap_or(0).into();
        if service.is_some() { found.services.push(endpoint) } else { found.addresses.push(endpoint) }
    }
    found.file = said.endpoints_file.as_ref().map(|file| document.file.folder().join(file));
    if said.endpoints.is_empty() && found.file.is_none() && said.captured.is_none() {
        let message = "the upstream has no endpoints";
        let help = "write endpoints: [\"crm.example.com:8443\"], or endpointsFile: crm.endpoints";
        faults.push(Diagnostic::at(document, &list, codes::ENDPOINT_SOURCE, message).help(help));
    }
    found
}

fn address_of(document: &Document, text: &str, at: &Path, faults: &mut Vec<Diagnostic>) -> Option<Endpoint> {
    let endpoint = Endpoint::parse(text);
    if endpoint.is_none() {
        let message = format!("`{text}` is not host:port");
        let help = "write it like crm.example.com:8443, 192.0.2.1:80 or [2001:db8::1]:80";
        faults.push(Diagnostic::at(document, at, Code::VALUE, message).help(help));
    }
    endpoint
}

fn service_of(
    document: &Document,
    name: &str,
    details: &Detailed,
    at: &Path,
    faults: &mut Vec<Diagnostic>,
) -> Option<Endpoint> {
    if details.weight.is_some() {
        let message = "SRV records bring weights of their own";
        let at = at.key("weight");
        faults.push(Diagnostic::at(document, &at, codes::ENDPOINT_SOURCE, message).help("remove `weight`"));
    }
    let host = host_name(name).filter(|host| host.parse::<IpAddr>().is_err());
    if host.is_none() {
        let message = format!("`{name}` is not a name with SRV records");
        let help = "write it like _https._tcp.crm.example.com; the records have the ports";
        faults.push(Diagnostic::at(document, &at.key("srv"), Code::VALUE, message).help(help));
    }
    Some(Endpoint { host: host?, port: 0, weight: 1, zone: None, priority: 0 })
}

impl Compilation<'_> {
    /// Upstreams with one address, and words about the choice among several.
    pub fn idle_balancing(&self) -> Vec<Diagnostic> {
        let sole = |said: &Spec| {
            let address = |endpoint: &Written| endpoint.address().and_then(Endpoint::parse);
            let fixed = |endpoint: Endpoint| endpoint.host.parse::<IpAddr>().is_ok();
            said.endpoints_file.is_none()
                && said.endpoints.len() == 1
                && said.endpoints.iter().all(|endpoint| address(endpoint).is_some_and(fixed))
        };
        let mut told = Vec::new();
        for typed in self.documents.upstreams.iter().filter(|typed| sole(&typed.spec)) {
            let said = &typed.spec;
            for (field, said) in [
                ("loadBalancing", said.load_balancing.is_some()),
                ("sessionPersistence", said.session_persistence.is_some()),
                ("outlierDetection", said.outlier_detection.is_some()),
                ("circuitBreaker", said.circuit_breaker.is_some()),
            ] {
                if said {
                    let message = "the upstream has one address, which is always used";
                    let lint =
                        Diagnostic::at(typed.document, &spec().key(field), codes::BALANCING_IDLE, message);
                    told.push(lint.help("add endpoints, or remove it").warning());
                }
            }
        }
        told
    }
}
