//! TLS of listeners: what they show, what they ask of clients.

use std::time::Duration;

use foregate_filters::fault::{Code, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::instant;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::gateway::{
    Listener, Protocol, SecretRef, Spec, Tls, TlsMode, Validation, ValidationMode,
};
use crate::documents::policy::{self, TargetKind};
use crate::snapshot::{CertificateFiles, ClientAuthorities, Clients, ListenerTls, Speaks};

/// The TLS option that has a listener serve with the identity of this workload.
const IDENTITY: &str = "foregate.dev/identity";

impl Compilation<'_> {
    pub fn listener_tls(
        &mut self,
        document: &Document,
        gateway: &Spec,
        listener: &Listener,
        at: &Path,
    ) -> Option<ListenerTls> {
        if listener.protocol == Protocol::Inbound {
            self.identity_needed(document, &at.key("protocol"));
            return Some(self.of_workload(document));
        }
        let tls = match self.said_of_tls(document, listener, at) {
            Ok(tls) => tls,
            Err(instead) => return instead,
        };
        let at = at.key("tls");
        if self.asks_identity(document, tls, &at) {
            return Some(self.mesh(document, tls, &at));
        }
        if tls.certificate_refs.is_empty() && tls.options.is_empty() {
            let message = "a listener needs a certificate";
            let help = "add certificateRefs, or options: { foregate.dev/identity: workload } to serve with the identity of this workload";
            self.fault(Diagnostic::at(document, &at, codes::LISTENER_TLS, message).help(help));
        }
        let list = at.key("certificateRefs");
        let references = tls.certificate_refs.iter().enumerate();
        let certificates = references
            .map(|(index, reference)| self.secret(document, reference, &list.index(index).key("name")))
            .collect();
        Some(ListenerTls { certificates, clients: self.clients(document, gateway, listener.port) })
    }

    /// What a listener that ends TLS says of it; what it has instead otherwise.
    fn said_of_tls<'s>(
        &mut self,
        document: &Document,
        listener: &'s Listener,
        at: &Path,
    ) -> Result<&'s Tls, Option<ListenerTls>> {
        let (message, help, field) = match (listener.protocol, &listener.tls) {
            (Protocol::HTTP | Protocol::TCP, None) | (Protocol::Inbound | Protocol::Outbound, _) => {
                return Err(None);
            }
            (Protocol::HTTP, Some(_)) => {
                ("an HTTP listener has no TLS", "make the protocol HTTPS, or remove `tls`", "tls")
            }
            (Protocol::TCP, Some(_)) => {
                ("a TCP listener has no TLS", "make the protocol TLS, or remove `tls`", "tls")
            }
            (Protocol::HTTPS, None) => (
                "an HTTPS listener needs a certificate",
                "add tls: { certificateRefs: [{ name: my-cert }] }",
                "protocol",
            ),
            (Protocol::TLS, None) => (
                "a TLS listener needs to know what to do with TLS",
                "add tls: { mode: Passthrough }, or tls: { certificateRefs: [{ name: my-cert }] } to terminate it",
                "protocol",
            ),
            (Protocol::TLS | Protocol::HTTPS, Some(tls)) if tls.mode == TlsMode::Passthrough => {
                self.passthrough(document, listener, tls, &at.key("tls"));
                return Err(None);
            }
            (Protocol::TLS | Protocol::HTTPS, Some(tls)) => return Ok(tls),
        };
        self.fault(Diagnostic::at(document, &at.key(field), codes::LISTENER_TLS, message).help(help));
        let https = listener.protocol == Protocol::HTTPS;
        Err(https.then(|| ListenerTls { certificates: Vec::new(), clients: Clients::Unasked }))
    }

    /// TLS that is passed on as it comes: only a TLS listener can, and it has nothing to show or ask.
    fn passthrough(&mut self, document: &Document, listener: &Listener, tls: &Tls, at: &Path) {
        if listener.protocol == Protocol::HTTPS {
            let message = "an HTTPS listener reads requests, and cannot pass TLS through";
            let help = "make the protocol TLS, and attach a TLSRoute";
            let at = at.key("mode");
            self.fault(Diagnostic::at(document, &at, codes::LISTENER_TLS, message).help(help));
        }
        for (field, there) in
            [("certificateRefs", !tls.certificate_refs.is_empty()), ("options", !tls.options.is_empty())]
        {
            if there {
                let message = format!("a listener that passes TLS through has no use for `{field}`");
                let help = "remove it, or make the mode Terminate";
                let at = at.key(field);
                self.fault(Diagnostic::at(document, &at, codes::LISTENER_TLS, message).help(help));
            }
        }
    }

    /// What is done with the connections of a listener.
    pub fn speech(&mut self, document: &Document, listener: &Listener, at: &Path) -> Speaks {
        if listener.protocol == Protocol::TCP && listener.hostname.is_some() {
            let message = "connections of a TCP listener name no host";
            let help = "remove it: a TCP listener serves whoever connects to its port";
            let at = at.key("hostname");
            self.fault(Diagnostic::at(document, &at, codes::STREAM_HOSTNAME, message).help(help));
        }
        let passes = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
        match listener.protocol {
            Protocol::HTTP | Protocol::HTTPS => Speaks::Http,
            Protocol::TCP => Speaks::Tcp,
            Protocol::Inbound => Speaks::Inbound,
            Protocol::Outbound => Speaks::Outbound,
            Protocol::TLS if passes => Speaks::Passthrough,
            Protocol::TLS => Speaks::Tls,
        }
    }

    /// The files of a Secret that is found and whole.
    pub fn secret(&mut self, document: &Document, reference: &SecretRef, at: &Path) -> CertificateFiles {
        let folder = self.sources.root.join("secrets").join(&reference.name);
        let files = CertificateFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        if let Err(why) = self.materials.certificate(&files) {
            let message = format!("the certificate `{}` cannot be used: {why}", reference.name);
            let help = format!("tls.crt and tls.key are looked for in {}", folder.display());
            self.fault(Diagnostic::at(document, at, Code::FILE, message).help(help));
        }
        files
    }

    /// True where the listener is to serve with the identity of this workload; tells of other options.
    fn asks_identity(&mut self, document: &Document, tls: &Tls, at: &Path) -> bool {
        let mut asked = false;
        for (name, value) in &tls.options {
            let at = at.key("options").key(name);
            if name != IDENTITY {
                let message = format!("there is no TLS option `{name}`");
                let help = format!("the one option is {IDENTITY}: workload");
                self.fault(Diagnostic::at(document, &at, codes::LISTENER_OPTION, message).help(help));
            } else if value == "workload" {
                asked = true;
            } else {
                let message = format!("`{value}` is no identity to serve with");
                let help = format!("write {IDENTITY}: workload");
                self.fault(Diagnostic::at(document, &at, codes::LISTENER_OPTION, message).help(help));
            }
        }
        asked
    }

    /// A listener with the identity of this workload.
    fn mesh(&mut self, document: &Document, tls: &Tls, at: &Path) -> ListenerTls {
        if !tls.certificate_refs.is_empty() {
            let message = "a listener shows the identity of this workload, or certificates from files";
            let at = at.key("certificateRefs");
            let help = format!("remove certificateRefs, or the option {IDENTITY}");
            self.fault(Diagnostic::at(document, &at, codes::LISTENER_TLS, message).help(help));
        }
        self.identity_needed(document, &at.key("options").key(IDENTITY));
        self.of_workload(document)
    }

    /// The identity of this workload is shown, and that of every client asked for.
    fn of_workload(&self, document: &Document) -> ListenerTls {
        let plain_until = self.plain_until(document);
        let said = self.insecure(document);
        let plain_ports = said.iter().flat_map(|(_, said)| said.plain_ports.iter().copied()).collect();
        ListenerTls { certificates: Vec::new(), clients: Clients::Workloads { plain_until, plain_ports } }
    }

    /// Tells where a document needs the identity of this workload and the process has none.
    pub fn identity_needed(&mut self, document: &Document, at: &Path) {
        if let Err(why) = self.materials.workload() {
            let help = "start with `foregate run --identity dir:FOLDER`, `unix:SOCKET` or `spire`";
            self.fault(Diagnostic::at(document, at, codes::IDENTITY_MISSING, why).help(help));
        }
    }

    /// What the policies that target a gateway say under `insecure`, each with its document.
    pub fn insecure(&self, gateway: &Document) -> Vec<(&Document, &policy::Insecure)> {
        let targets = |said: &policy::Spec| {
            said.target_refs.iter().any(|target| {
                target.kind == TargetKind::Gateway && target.name.as_str() == &*gateway.name.name
            })
        };
        let policies = self.documents.policies.iter();
        policies
            // A policy on trial opens nothing.
            .filter(|typed| typed.spec.mode == policy::Mode::Enforce)
            .filter(|typed| typed.document.name.namespace == gateway.name.namespace && targets(&typed.spec))
            .filter_map(|typed| typed.spec.insecure.as_ref().map(|insecure| (typed.document, insecure)))
            .collect()
    }

    /// Until when plain connections are taken: the earliest time that a policy names.
    fn plain_until(&self, gateway: &Document) -> Option<Duration> {
        let named = self.insecure(gateway).into_iter().filter_map(|(_, said)| said.plain_until.as_deref());
        named.filter_map(instant::parse).min()
    }

    /// What is asked of the clients of a port: what `perPort` says of it, else the default.
    fn clients(&mut self, document: &Document, gateway: &Spec, port: u16) -> Clients {
        let Some(tls) = &gateway.tls else { return Clients::Unasked };
        let at = spec().key("tls").key("frontend");
        let own = tls.frontend.per_port.iter().position(|of| of.port == port);
        let own = own.and_then(|index| tls.frontend.per_port.get(index).map(|of| (index, of)));
        let (said, at) = match own {
            Some((index, of)) => (&of.tls, at.key("perPort").index(index).key("tls")),
            None => (&tls.frontend.default, at.key("default")),
        };
        match &said.validation {
            Some(validation) => self.validation(document, validation, &at.key("validation")),
            None => Clients::Unasked,
        }
    }

    fn validation(&mut self, document: &Document, said: &Validation, at: &Path) -> Clients {
        let (mut certificates, mut revocations) = (Vec::new(), Vec::new());
        for (index, reference) in said.ca_certificate_refs.iter().enumerate() {
            let folder = self.sources.root.join("secrets").join(&reference.name);
            let (file, revoked) = (folder.join("ca.crt"), folder.join("ca.crl"));
            let wrong = self.materials.authorities(&file).and_then(|()| self.materials.revocations(&revoked));
            if let Err(why) = wrong {
                let at = at.key("caCertificateRefs").index(index).key("name");
                let message = format!("the authorities `{}` cannot be used: {why}", reference.name);
                let help =
                    format!("ca.crt, and ca.crl where there is one, are looked for in {}", folder.display());
                self.fault(Diagnostic::at(document, &at, Code::FILE, message).help(help));
            }
            certificates.push(file);
            revocations.push(revoked);
        }
        let required = said.mode == ValidationMode::AllowValidOnly;
        if !required && !self.insecure(document).iter().any(|(_, said)| said.client_certificate_optional) {
            let message = "clients without a valid certificate would be served, and no policy says so";
            let help = "remove `mode`, or target the Gateway with a Policy that has insecure: { clientCertificateOptional: true }";
            let fault = Diagnostic::at(document, &at.key("mode"), Code::INSECURE, message).help(help);
            self.fault(fault);
        }
        Clients::Authorities(ClientAuthorities { certificates, revocations, required })
    }

    /// Tells of ports in `perPort` that are named twice or that no listener of TLS with files has.
    pub fn unused_frontends(&mut self, document: &Document, said: &Spec) {
        let Some(tls) = &said.tls else { return };
        let list = spec().key("tls").key("frontend").key("perPort");
        for (index, of) in tls.frontend.per_port.iter().enumerate() {
            let at = list.index(index).key("port");
            if tls.frontend.per_port.iter().take(index).any(|other| other.port == of.port) {
                let message = format!("port {} is named twice", of.port);
                self.fault(Diagnostic::at(document, &at, codes::DUPLICATE_NAME, message));
            } else if !said.listeners.iter().any(|listener| {
                listener.port == of.port
                    && listener.tls.as_ref().is_some_and(|tls| !tls.options.contains_key(IDENTITY))
            }) {
                let message = format!("no listener with a certificate from files is on port {}", of.port);
                let help = "a listener with the identity of this workload asks for certificates by itself";
                self.fault(Diagnostic::at(document, &at, Code::REFERENCE, message).help(help));
            }
        }
    }

    /// Times that cannot be read, and warnings of what is weak for as long as it lasts.
    pub fn weak_listeners(&mut self) {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for typed in &self.documents.policies {
            let Some(insecure) = &typed.spec.insecure else { continue };
            let at = spec().key("insecure");
            let gateway = typed.spec.target_refs.iter().any(|target| target.kind == TargetKind::Gateway);
            if let Some(until) = &insecure.plain_until {
                let at = at.key("plainUntil");
                if instant::parse(until).is_none() {
                    let message = format!("`{until}` is no time");
                    let help = "write a day that exists, in UTC, such as 2027-01-31T00:00:00Z";
                    faults.push(Diagnostic::at(typed.document, &at, Code::VALUE, message).help(help));
                } else if gateway {
                    let message = format!("whoever reaches the mesh listeners may speak plain until {until}");
                    warnings.push(Diagnostic::at(typed.document, &at, codes::PLAIN_UNTIL, message).warning());
                }
            }
            if insecure.client_certificate_optional && gateway {
                let message = "clients without a valid certificate are served where a listener says so";
                let at = at.key("clientCertificateOptional");
                warnings.push(
                    Diagnostic::at(typed.document, &at, codes::CERTIFICATE_OPTIONAL, message).warning(),
                );
            }
            let unheard = insecure.plain_until.is_some()
                || insecure.client_certificate_optional
                || insecure.unknown_destinations
                || !insecure.plain_ports.is_empty();
            if unheard && !gateway {
                let message = "this switch is about listeners, and the policy targets no Gateway";
                let help = "target the Gateway with targetRefs";
                faults.push(Diagnostic::at(typed.document, &at, Code::CONFLICT, message).help(help));
            }
        }
        self.faults.append(&mut faults);
        self.warnings.append(&mut warnings);
    }
}
