//! Upstreams: endpoints read, files found.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Code, Path};
use foregate_filters::org_quota::spec::Rules as OrgRules;
use foregate_filters::units::TimeSpan;

use crate::codes;
use crate::compile::backend_tls::BackendTls;
use crate::compile::typed::{Typed, spec};
use crate::compile::{Compilation, balancing, capture, concurrency, credentials, endpoints, unread};
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::upstream;
use crate::snapshot::{Protocol, ProxyVersion, Upstream};

/// Time for a connection to stand where the document names none.
const CONNECT: Duration = Duration::from_secs(2);
/// Time an unused connection is kept where the document names none.
const IDLE: Duration = Duration::from_mins(1);
/// Time a connection that is passed on may be silent where the document names none.
const SILENT: Duration = Duration::from_hours(1);
/// Unused connections kept per thread where the document names none.
const MAX_IDLE: u32 = 128;

impl Compilation<'_> {
    /// One entry for each sound document, in the same order as `documents.upstreams`.
    pub fn upstreams(&mut self, backend_tls: &BackendTls) -> Vec<Arc<Upstream>> {
        let mut upstreams = Vec::new();
        for index in 0..self.documents.upstreams.len() {
            let Some(typed) = self.documents.upstreams.get(index) else { continue };
            let mut faults = Vec::new();
            let told = backend_tls.get(&typed.document.name);
            let mut upstream = Reader { typed, faults: &mut faults, tls: told.is_some() }.read();
            let (document, tls) = (typed.document, typed.spec.tls.clone());
            if let Some(why) =
                upstream.endpoints_file.as_ref().and_then(|file| self.materials.endpoints(file).err())
            {
                let at = spec().key("endpointsFile");
                faults.push(Diagnostic::at(document, &at, codes::ENDPOINTS_FILE, why));
            }
            upstream.credentials = typed.spec.credentials.clone().map(|mut credentials| {
                let secrets = self.sources.root.join("secrets");
                credentials.anchor(document.file.folder(), &secrets);
                let wrong = credentials::check(&credentials, &spec().key("credentials"), self.materials);
                faults.extend(wrong.into_iter().map(|fault| Diagnostic::from_fault(document, fault)));
                credentials
            });
            let own = tls.map(|tls| self.tls_to(document, &tls, &spec().key("tls")));
            upstream.tls = own.or_else(|| told.cloned());
            self.faults.append(&mut faults);
            upstreams.push(Arc::new(upstream));
        }
        upstreams
    }
}

impl From<upstream::Protocol> for Protocol {
    fn from(said: upstream::Protocol) -> Self {
        match said {
            upstream::Protocol::Http1 => Self::Http1,
            upstream::Protocol::Http2 => Self::Http2,
            upstream::Protocol::Tcp => Self::Tcp,
        }
    }
}

#[derive(Debug)]
struct Reader<'a> {
    typed: &'a Typed<'a, upstream::Spec>,
    faults: &'a mut Vec<Diagnostic>,
    /// TLS is said of it by a policy.
    tls: bool,
}

impl Reader<'_> {
    fn document(&self) -> &Document {
        self.typed.document
    }

    /// All but what is said of TLS.
    fn read(mut self) -> Upstream {
        let spec_of = &self.typed.spec;
        let found = endpoints::endpoints(self.typed.document, spec_of, self.faults);
        let (virtual_addresses, captured) = capture::upstream(self.typed.document, spec_of, self.faults);
        let timeouts = spec().key("timeouts");
        let second = Duration::from_secs(1);
        let connect = (Duration::from_millis(1), 60 * second);
        let connect_timeout = self.span(spec_of.timeouts.connect, CONNECT, connect, &timeouts.key("connect"));
        let protocol = Protocol::from(spec_of.protocol);
        let (idle, longest) = if protocol == Protocol::Tcp { (SILENT, 24 * 3600) } else { (IDLE, 3600) };
        let idle_timeout =
            self.span(spec_of.timeouts.idle, idle, (second, longest * second), &timeouts.key("idle"));
        if protocol == Protocol::Tcp && spec_of.credentials.is_some() {
            let message = "credentials are shown in requests, and connections with protocol Tcp have none";
            let at = spec().key("credentials");
            let diagnostic = Diagnostic::at(self.document(), &at, codes::UPSTREAM_PROTOCOL, message);
            self.faults.push(diagnostic.help("remove them, or make the protocol Http1 or Http2"));
        }
        if protocol == Protocol::Tcp {
            unread::check(self.typed.document, spec_of, self.faults);
        }
        let plain = !self.tls && credentials::in_clear(spec_of);
        if plain && protocol != Protocol::Tcp && !spec_of.insecure.is_some_and(|said| said.plain_credentials)
        {
            let message = "the credentials would be sent over a plain connection";
            let at = spec().key("credentials");
            let help = "add tls: { mode: Simple }, or insecure: { plainCredentials: true } where nobody else is on the network";
            let diagnostic = Diagnostic::at(self.document(), &at, codes::CREDENTIALS_IN_CLEAR, message);
            self.faults.push(diagnostic.help(help));
        }
        let org_quota = self.org_quota(protocol);
        let concurrency = concurrency::read(self.typed.document, spec_of.concurrency.as_ref(), self.faults);
        Upstream {
            concurrency,
            org_quota,
            name: self.document().name.to_string().into(),
            endpoints: found.addresses,
            services: found.services,
            endpoints_file: found.file,
            virtual_addresses,
            captured,
            balancing: balancing::balancing(self.typed.document, spec_of, self.faults),
            protocol,
            tls: None,
            connect_timeout,
            idle_timeout,
            credentials: None,
            proxy_protocol: spec_of.proxy_protocol.map(|version| match version {
                upstream::ProxyVersion::V1 => ProxyVersion::V1,
                upstream::ProxyVersion::V2 => ProxyVersion::V2,
            }),
            max_idle_per_thread: spec_of.max_idle_per_thread.unwrap_or(MAX_IDLE) as usize,
        }
    }

    /// Who may use how many calls of the org behind it.
    fn org_quota(&mut self, protocol: Protocol) -> Option<OrgRules> {
        let said = self.typed.spec.org_quota.as_ref()?;
        let at = spec().key("orgQuota");
        if protocol == Protocol::Tcp {
            let message = "calls are counted by their answers, and connections with protocol Tcp have none";
            let diagnostic = Diagnostic::at(self.document(), &at, codes::UPSTREAM_PROTOCOL, message);
            self.faults.push(diagnostic.help("remove it, or make the protocol Http1 or Http2"));
        }
        let document = self.typed.document;
        let told = |fault| Diagnostic::from_fault(document, fault);
        said.rules(&at).map_err(|wrong| self.faults.extend(wrong.into_iter().map(told))).ok()
    }

    fn span(
        &mut self,
        span: Option<TimeSpan>,
        default: Duration,
        bounds: (Duration, Duration),
        at: &Path,
    ) -> Duration {
        bounded(self.typed.document, span, default, bounds, at, self.faults)
    }
}

/// A time span within bounds; the default where there is none.
pub fn bounded(
    document: &Document,
    span: Option<TimeSpan>,
    default: Duration,
    (min, max): (Duration, Duration),
    at: &Path,
    faults: &mut Vec<Diagnostic>,
) -> Duration {
    let Some(TimeSpan(span)) = span else { return default };
    if !(min..=max).contains(&span) {
        let message = format!("the time must be between {} and {}", TimeSpan(min), TimeSpan(max));
        faults.push(Diagnostic::at(document, at, Code::VALUE, message));
    }
    span
}

#[cfg(test)]
mod tests {
    use crate::snapshot::Endpoint;

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        for (text, host, port) in [
            ("Crm.example.com:8443", "crm.example.com", 8443),
            ("192.0.2.1:80", "192.0.2.1", 80),
            ("[2001:DB8::1]:80", "2001:db8::1", 80),
            ("crm_1:1", "crm_1", 1),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((&*endpoint.host, endpoint.port), (host, port), "{text}");
        }
        for bad in [
            "crm",
            "crm:",
            ":80",
            "crm:0",
            "crm:70000",
            "http://crm:80",
            "2001:db8::1:80",
            "[crm]:80",
            "a b:1",
            "-a:1",
            "a..b:1",
            "1.2.3:80",
            "1.2.3.256:80",
            "crm:+80",
        ] {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }
}
