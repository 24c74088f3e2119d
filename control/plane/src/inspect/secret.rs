//! The certificate of the webhooks: its times, its names, its key.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_policy::codes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use serde_json::Value;

use crate::authority::certificate::Facts;
use crate::inspect::Inspection;
use crate::inspect::read::text;
use crate::kubernetes::certificates::fits;

/// A certificate is renewed once a third of its 30 days is left: with less, nobody did.
const LATE: Duration = Duration::from_hours(9 * 24);
/// An authority lives for years, and changes by hand.
const SOON: Duration = Duration::from_hours(30 * 24);

/// What the webhooks are served with.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub authority: String,
    chain: Vec<CertificateDer<'static>>,
}

impl Kept {
    /// True where it is for this name.
    pub fn names(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let leaf = self.chain.first().and_then(|der| ParsedCertificate::try_from(der).ok());
        leaf.is_some_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
    }
}

impl Inspection {
    /// The certificate of the webhooks, where it can be read and is one.
    pub(super) async fn certificate(&mut self) -> Option<Kept> {
        let namespace = self.names.namespace.clone();
        let names = self.names.secrets.clone();
        let help = "look at the logs of foregate-control, which makes and renews it; it makes another where the Secret \
                    is deleted";
        for name in &names {
            let object = format!("secret/{namespace}/{name}");
            let asked = self.reader.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await;
            let Some(secret) = self.read(&object, asked)? else { continue };
            let data = |key: &str| {
                let encoded = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
                STANDARD.decode(encoded.unwrap_or_default()).unwrap_or_default()
            };
            let (authority, chain) = (data("ca.crt"), data("tls.crt"));
            if let Err(why) = fits(&chain, &data("tls.key")) {
                self.error(&object, codes::CERTIFICATE_ENDS, why, help);
                return None;
            }
            self.lasts(&object, "the certificate of the webhooks", &chain, LATE, help);
            self.lasts(&object, "the authority of the webhooks", &authority, SOON, help);
            self.names.secrets = vec![name.clone()];
            let chain = CertificateDer::pem_slice_iter(&chain).flatten().collect();
            return Some(Kept { authority: String::from_utf8(authority).ok()?, chain });
        }
        let object = format!("secret/{namespace}/{}", names.join(" or "));
        let message = "there is none: no foregate-control with webhooks has run here";
        self.error(&object, codes::CERTIFICATE_ENDS, message, help);
        None
    }

    /// Notes what has ended or ends soon; true where one certificate is good now.
    pub(super) fn lasts(&mut self, object: &str, what: &str, pem: &[u8], soon: Duration, help: &str) -> bool {
        let facts: Vec<Facts> =
            CertificateDer::pem_slice_iter(pem).flatten().filter_map(|der| Facts::read(&der)).collect();
        let Some(last) = facts.iter().max_by_key(|facts| facts.not_after) else {
            self.error(object, codes::CERTIFICATE_ENDS, format!("{what} is no certificate in PEM"), help);
            return false;
        };
        let day = crate::clock::rfc3339;
        if last.not_after <= self.now {
            let message = format!("{what} has ended on {}", day(last.not_after));
            self.error(object, codes::CERTIFICATE_ENDS, message, help);
        } else if facts.iter().all(|facts| facts.not_before > self.now) {
            let message = format!("{what} begins on {} only", day(last.not_before));
            self.error(object, codes::CERTIFICATE_ENDS, message, help);
        } else if last.not_after.saturating_sub(self.now) < soon {
            let message = format!("{what} ends on {}, and nobody has renewed it", day(last.not_after));
            self.warning(object, codes::CERTIFICATE_ENDS, message, help);
            return true;
        } else {
            return true;
        }
        false
    }
}

/// The name by which the API server calls a Service.
pub(super) fn service_name(service: &Value) -> String {
    format!("{}.{}.svc", text(service, "/name"), text(service, "/namespace"))
}
