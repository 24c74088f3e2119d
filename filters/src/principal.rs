//! Who the request speaks for, once a token has been verified.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

/// The verified identity behind a request.
#[derive(Debug, PartialEq)]
pub struct Principal {
    /// `iss` of the token.
    pub issuer: Arc<str>,
    /// `sub` of the token; empty where the issuer sends none.
    pub subject: Arc<str>,
    /// Scopes granted, from `scope` (RFC 8693), `scp` as a list or as a string, or the claim named instead.
    pub scopes: Arc<[Box<str>]>,
    /// All claims, as sent.
    pub claims: Claims,
    /// `exp` in seconds since the epoch.
    pub expires: u64,
}

/// The claims of a token, kept as text and read when a request asks for one.
///
/// A map of six claims takes a KiB, its text a fifth of that; most requests ask for the scopes alone.
#[derive(Default)]
pub struct Claims {
    /// JSON; empty where there is no claim at all.
    text: Arc<[u8]>,
    /// Boxed: most are never made.
    read: OnceLock<Box<Map<String, Value>>>,
}

impl Principal {
    /// The same without what was read of the claims: for keeping, and for the next request.
    pub(crate) fn compact(&self) -> Self {
        Self {
            issuer: Arc::clone(&self.issuer),
            subject: Arc::clone(&self.subject),
            scopes: Arc::clone(&self.scopes),
            claims: Claims { text: Arc::clone(&self.claims.text), read: OnceLock::new() },
            expires: self.expires,
        }
    }

    /// About how many bytes it takes once compact, with what the allocator adds to each part.
    pub(crate) fn bytes(&self) -> usize {
        /// The smallest piece, and the step between sizes.
        const STEP: usize = 16;
        let piece = |bytes: usize| bytes.next_multiple_of(STEP).max(STEP);
        let scopes: usize = self.scopes.iter().map(|scope| size_of::<Box<str>>() + piece(scope.len())).sum();
        let counts = 2 * size_of::<usize>();
        piece(size_of::<Self>() + counts)
            + piece(self.issuer.len() + counts)
            + piece(self.subject.len() + counts)
            + piece(counts)
            + scopes
            // A text of some hundred bytes lies in a piece up to a quarter larger.
            + piece((self.claims.text.len() + counts) * 9 / 8)
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        // A map of strings and values can always be written.
        let text = serde_json::to_vec(&claims).unwrap_or_default().into();
        Self { text, read: OnceLock::from(Box::new(claims)) }
    }
}

impl Deref for Claims {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        // The text was written from such a map.
        self.read.get_or_init(|| Box::new(serde_json::from_slice(&self.text).unwrap_or_default()))
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, Principal};
    use serde_json::json;

    #[test]
    fn a_compact_principal_says_the_same() {
        let claims = json!({
            "b": [1, -2, 1.5, 18_446_744_073_709_551_615_u64, null, true],
            "a": { "z": "ä\"\u{0}", "y": {} },
        });
        let principal = Principal {
            issuer: "https://idp.example.com/".into(),
            subject: "maya".into(),
            scopes: ["crm.read".into()].into(),
            claims: Claims::from(claims.as_object().unwrap().clone()),
            expires: 7,
        };
        let compact = principal.compact();
        assert!(compact.claims.read.get().is_none());
        assert_eq!(compact, principal);
        assert_eq!(compact.claims.get("a"), claims.get("a"));
        assert_eq!(compact.claims.keys().collect::<Vec<_>>(), ["b", "a"], "in the order they were sent");
        assert!(principal.bytes() > 200);
    }
}
