//! TLS to upstreams and stores: whom to trust, and what we show.

use foregate_filters::fault::{Code, Path};
use foregate_filters::peer::PeerPattern;

use crate::compile::Compilation;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::upstream::{Tls, TlsMode};
use crate::snapshot::{Shown, UpstreamTls};

impl Compilation<'_> {
    /// What is written at `at`.
    pub fn tls_to(&mut self, document: &Document, tls: &Tls, at: &Path) -> UpstreamTls {
        let ca_file = tls.ca_file.as_ref().map(|file| document.file.folder().join(file));
        if let Some(why) = ca_file.as_ref().and_then(|file| self.materials.authorities(file).err()) {
            self.fault(Diagnostic::at(document, &at.key("caFile"), Code::FILE, why));
        }
        UpstreamTls {
            server_name: tls.server_name.as_deref().map(Into::into),
            ca_files: ca_file.into_iter().collect(),
            alt_names: Vec::new(),
            shown: self.shown(document, tls, at),
        }
    }

    fn shown(&mut self, document: &Document, tls: &Tls, at: &Path) -> Shown {
        let mut conflict = |field: &str, message: &str, help: &str| {
            self.fault(Diagnostic::at(document, &at.key(field), Code::CONFLICT, message).help(help));
            Shown::Nothing
        };
        match (tls.mode, tls.peers.is_empty(), &tls.client_certificate_ref) {
            (TlsMode::Simple, true, None) => Shown::Nothing,
            (TlsMode::Simple, false, _) => {
                conflict("peers", "with mode Simple an upstream proves a DNS name", "write mode: Mutual")
            }
            (TlsMode::Simple, true, Some(_)) => {
                conflict("clientCertificateRef", "with mode Simple we show nothing", "write mode: Mutual")
            }
            (TlsMode::Mutual, true, None) => conflict(
                "mode",
                "mode Mutual needs the peers that the upstream may be, or the certificate that we show",
                "add peers: [\"spiffe://..\"], or clientCertificateRef: { name: .. }",
            ),
            (TlsMode::Mutual, false, Some(_)) => conflict(
                "clientCertificateRef",
                "to peers with a SPIFFE id we show the identity of this workload",
                "remove `peers` or `clientCertificateRef`",
            ),
            (TlsMode::Mutual, false, None) if tls.ca_file.is_some() => conflict(
                "caFile",
                "peers are verified by the bundle of their trust domain",
                "remove caFile: bundles come with the identity of this workload",
            ),
            (TlsMode::Mutual, false, None) => self.peers(document, tls, at),
            (TlsMode::Mutual, true, Some(reference)) => {
                let at = at.key("clientCertificateRef").key("name");
                Shown::Certificate(self.secret(document, reference, &at))
            }
        }
    }

    fn peers(&mut self, document: &Document, tls: &Tls, at: &Path) -> Shown {
        let list = at.key("peers");
        let mut peers = Vec::new();
        for (index, text) in tls.peers.iter().enumerate() {
            match PeerPattern::parse(text) {
                Ok(peer) => peers.push(peer),
                Err(why) => {
                    let message = format!("`{text}` names no peer: {why}");
                    let help = "write a SPIFFE id such as spiffe://example.org/ns/crm/sa/leads, or spiffe://example.org/ns/crm/* for all below";
                    let at = list.index(index);
                    self.fault(Diagnostic::at(document, &at, Code::VALUE, message).help(help));
                }
            }
        }
        self.identity_needed(document, &list);
        Shown::Workload { peers }
    }
}
