//! The workload at the other end of a connection, as its certificate proves it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest SPIFFE id, in bytes (SPIFFE-ID, section 2.4).
const MAX_ID: usize = 2048;

/// Longest trust domain, in bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// A client certificate that was verified in the TLS handshake of this connection.
///
/// There is none where no certificate was asked for, or none was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The workload named by the one `spiffe://` URI of the certificate; `None` where it names none.
    pub id: Option<SpiffeId>,
    /// SHA-256 of the certificate in DER: what `x5t#S256` of a bound token must be (RFC 8705, section 3.1).
    pub thumbprint: [u8; 32],
    /// `notAfter` of the certificate, since the epoch.
    pub expires: Duration,
}

/// A SPIFFE id: `spiffe://trust-domain/path`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Bytes of `text` up to the end of the trust domain.
    authority: usize,
}

/// Why a text is not a SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("a SPIFFE id starts with spiffe://")]
    Scheme,
    #[error("the trust domain is not of 1 to 255 lower-case letters, digits, dots, dashes and underscores")]
    TrustDomain,
    #[error("a path segment is not of letters, digits, dots, dashes and underscores, or is empty, . or ..")]
    Path,
    #[error("a SPIFFE id has at most 2048 bytes")]
    Long,
}

/// The workloads that one entry of a list names: one id, or with `/*` at its end all ids below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerPattern {
    id: SpiffeId,
    /// True: what follows the id after a slash is allowed, and the id itself is not.
    below: bool,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Reads an id to the letter: nothing is folded, decoded or trimmed.
    ///
    /// # Errors
    /// What makes it none (SPIFFE-ID, section 2).
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID {
            return Err(SpiffeIdError::Long);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if !is_trust_domain(domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let segment = |segment: &str| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        };
        if !path.is_empty() && !path.split('/').skip(1).all(segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { text: text.into(), authority: SCHEME.len() + domain.len() })
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain alone, such as `example.org`.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.authority).unwrap_or_default()
    }

    /// The path with its leading slash; empty where the id names a trust domain only.
    pub fn path(&self) -> &str {
        self.text.get(self.authority..).unwrap_or_default()
    }

    /// The Kubernetes namespace, where the path is `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The Kubernetes service account, where the path is `/ns/<namespace>/sa/<service account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl PeerPattern {
    /// Reads `spiffe://example.org/ns/crm/sa/leads`, or `spiffe://example.org/ns/crm/*` for all below it.
    ///
    /// # Errors
    /// What makes it no SPIFFE id; a `*` elsewhere is none.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let (id, below) = text.strip_suffix("/*").map_or((text, false), |id| (id, true));
        let id = SpiffeId::parse(id)?;
        // A certificate that names a trust domain alone stands for no workload.
        if !below && id.path().is_empty() { Err(SpiffeIdError::Path) } else { Ok(Self { id, below }) }
    }

    /// True where the pattern names this workload.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if !self.below {
            return self.id == *id;
        }
        id.as_str().strip_prefix(self.id.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The trust domain of all that it names.
    pub fn trust_domain(&self) -> &str {
        self.id.trust_domain()
    }
}

/// True for what can be a trust domain (SPIFFE-ID, section 2.1).
pub fn is_trust_domain(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(plain)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{PeerPattern, SpiffeId, SpiffeIdError};

    #[test]
    fn a_pattern_names_one_workload_or_all_below() {
        for (pattern, id, want) in [
            ("spiffe://a.test/ns/crm/sa/leads", "spiffe://a.test/ns/crm/sa/leads", true),
            ("spiffe://a.test/ns/crm/sa/leads", "spiffe://a.test/ns/crm/sa/leads2", false),
            ("spiffe://a.test/ns/crm/sa/leads", "spiffe://b.test/ns/crm/sa/leads", false),
            ("spiffe://a.test/ns/crm/*", "spiffe://a.test/ns/crm/sa/leads", true),
            ("spiffe://a.test/ns/crm/*", "spiffe://a.test/ns/crm", false),
            ("spiffe://a.test/ns/crm/*", "spiffe://a.test/ns/crm2/sa/leads", false),
            ("spiffe://a.test/*", "spiffe://a.test/x", true),
            ("spiffe://a.test/*", "spiffe://a.test.evil/x", false),
        ] {
            let parsed = PeerPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(&SpiffeId::parse(id).unwrap()), want, "{pattern} {id}");
        }
        for bad in ["*", "spiffe://*", "spiffe://a.test", "spiffe://a.test/*/b", "spiffe://a.test/a*", ""] {
            assert!(PeerPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_is_taken_apart() {
        let id = SpiffeId::parse("spiffe://example.org/ns/crm/sa/leads").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("example.org", "/ns/crm/sa/leads"));
        assert_eq!((id.namespace(), id.service_account()), (Some("crm"), Some("leads")));
        let domain = SpiffeId::parse("spiffe://example.org").unwrap();
        assert_eq!((domain.trust_domain(), domain.path(), domain.namespace()), ("example.org", "", None));
        for other in ["/ns/crm", "/ns/crm/sa/a/b", "/ns/crm/x/sa/a", "/crm/sa/a", "/ns/sa/a"] {
            let id = SpiffeId::parse(&format!("spiffe://example.org{other}")).unwrap();
            assert_eq!(id.service_account(), None, "{other}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_none() {
        for (text, error) in [
            ("https://example.org/a", SpiffeIdError::Scheme),
            ("SPIFFE://example.org/a", SpiffeIdError::Scheme),
            ("spiffe://", SpiffeIdError::TrustDomain),
            ("spiffe:///a", SpiffeIdError::TrustDomain),
            ("spiffe://Example.org/a", SpiffeIdError::TrustDomain),
            ("spiffe://example.org:443/a", SpiffeIdError::TrustDomain),
            ("spiffe://user@example.org/a", SpiffeIdError::TrustDomain),
            ("spiffe://example.org?a", SpiffeIdError::TrustDomain),
            ("spiffe://example.org/", SpiffeIdError::Path),
            ("spiffe://example.org/a/", SpiffeIdError::Path),
            ("spiffe://example.org//a", SpiffeIdError::Path),
            ("spiffe://example.org/a/../b", SpiffeIdError::Path),
            ("spiffe://example.org/./b", SpiffeIdError::Path),
            ("spiffe://example.org/a%2fb", SpiffeIdError::Path),
            ("spiffe://example.org/a?b", SpiffeIdError::Path),
            ("spiffe://example.org/a#b", SpiffeIdError::Path),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
        }
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeIdError::Long));
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://{}/a", "a".repeat(256))),
            Err(SpiffeIdError::TrustDomain)
        );
    }
}
