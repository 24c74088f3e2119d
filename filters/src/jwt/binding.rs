//! Binds a token to the client certificate that its `cnf` names (RFC 8705, section 3.1).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::jwt::refusal::Flaw;
use crate::peer::Peer;

/// The one kind of confirmation that can be checked here.
const THUMBPRINT: &str = "x5t#S256";

/// The certificate a token is bound to; none where it is a plain bearer token.
///
/// Shared, so that the many tokens without one are small where they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Binding(Option<Arc<[u8; 32]>>);

impl Binding {
    /// Reads `cnf`. Whatever is in it besides one sound thumbprint is refused: whoever stole a bound token
    /// must not use it as a plain one.
    pub(crate) fn read(claims: &Map<String, Value>) -> Result<Self, Flaw> {
        let Some(confirmation) = claims.get("cnf") else { return Ok(Self(None)) };
        let members = confirmation.as_object().ok_or(Flaw::Bound)?;
        let thumbprint = members.get(THUMBPRINT).and_then(Value::as_str).ok_or(Flaw::Bound)?;
        if members.len() != 1 {
            return Err(Flaw::Bound);
        }
        let bytes = URL_SAFE_NO_PAD.decode(thumbprint).map_err(|_| Flaw::Bound)?;
        bytes.try_into().map(|thumbprint| Self(Some(Arc::new(thumbprint)))).map_err(|_| Flaw::Bound)
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the connection is that of the client the token is bound to: asked on every use.
    pub(crate) fn proven_by(&self, peer: Option<&Peer>) -> Result<(), Flaw> {
        match (&self.0, peer) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Flaw::NoCertificate),
            (Some(mine), Some(peer)) if same(mine, &peer.thumbprint) => Ok(()),
            (Some(_), Some(_)) => Err(Flaw::OtherCertificate),
        }
    }
}

/// Compares without telling by its time where two thumbprints differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::Binding;
    use crate::jwt::refusal::Flaw;
    use crate::peer::Peer;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use serde_json::{Value, json};
    use std::time::Duration;

    fn read(cnf: &Value) -> Result<Binding, Flaw> {
        Binding::read(json!({ "cnf": cnf }).as_object().unwrap())
    }

    #[test]
    fn only_one_sound_thumbprint_can_be_proven() {
        let good = URL_SAFE_NO_PAD.encode([0xfb; 32]);
        let last = good.chars().next_back().unwrap();
        assert!(read(&json!({ "x5t#S256": good })).unwrap().is_bound());
        assert!(!Binding::read(&serde_json::Map::new()).unwrap().is_bound());
        for bad in [
            json!(null),
            json!({}),
            json!([good]),
            json!(good),
            json!({ "jkt": good }),
            json!({ "jwk": {} }),
            json!({ "kid": "a" }),
            json!({ "x5t": good }),
            json!({ "x5t#s256": good }),
            json!({ "x5t#S256": good, "jkt": good }),
            json!({ "x5t#S256": [good] }),
            json!({ "x5t#S256": "" }),
            json!({ "x5t#S256": format!("{good}=") }),
            json!({ "x5t#S256": STANDARD.encode([0xfb; 32]) }),
            json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([1; 31]) }),
            json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([1; 33]) }),
            json!({ "x5t#S256": good.replace(last, "x") }),
        ] {
            assert_eq!(read(&bad), Err(Flaw::Bound), "{bad}");
        }
    }

    #[test]
    fn a_binding_is_proven_by_its_own_certificate_alone() {
        let binding = read(&json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]) })).unwrap();
        let peer = |thumbprint| Peer { id: None, thumbprint, expires: Duration::ZERO };
        assert_eq!(binding.proven_by(Some(&peer([7; 32]))), Ok(()));
        assert_eq!(binding.proven_by(None), Err(Flaw::NoCertificate));
        let mut other = [7; 32];
        other[31] ^= 1;
        assert_eq!(binding.proven_by(Some(&peer(other))), Err(Flaw::OtherCertificate));
        assert_eq!(Binding::default().proven_by(None), Ok(()));
    }
}
