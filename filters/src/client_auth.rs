//! How the gateway proves itself to an authorization server, as documents say it.

use std::net::IpAddr;
use std::path::Path as FilePath;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault, Path};
use crate::jwt::Alg;
use crate::secret::SecretRef;

/// Client authentication at an endpoint (RFC 6749, section 2.3; RFC 7523, section 2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAuth {
    pub method: Method,
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: String,
    /// For `basic` and `post`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Private key in PEM, for `private_key_jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretRef>,
    /// Signs the assertion of `private_key_jwt`; RS256 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<Alg>,
    /// `kid` in the header of the assertion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,
    /// `aud` of the assertion; the URL of the endpoint where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
}

/// The proof that is sent (RFC 7591, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "ClientAuthMethod")]
pub enum Method {
    /// Id and secret in the `Authorization` header.
    #[serde(rename = "basic")]
    Basic,
    /// Id and secret in the body.
    #[serde(rename = "post")]
    Post,
    /// An assertion signed with a key of the client's own.
    #[serde(rename = "private_key_jwt")]
    PrivateKeyJwt,
}

impl ClientAuth {
    /// The secret or key that the method needs.
    pub fn proof(&self) -> Option<&SecretRef> {
        match self.method {
            Method::Basic | Method::Post => self.secret.as_ref(),
            Method::PrivateKeyJwt => self.key.as_ref(),
        }
    }

    /// Name of the field of [`Self::proof`].
    pub fn proof_field(&self) -> &'static str {
        match self.method {
            Method::Basic | Method::Post => "secret",
            Method::PrivateKeyJwt => "key",
        }
    }

    /// See [`SecretRef::anchor`].
    pub fn anchor(&mut self, folder: &FilePath, secrets: &FilePath) {
        for reference in [&mut self.secret, &mut self.key].into_iter().flatten() {
            reference.anchor(folder, secrets);
        }
    }

    /// Tells everything that is wrong.
    pub fn check(&self, at: &Path, faults: &mut Vec<Fault>) {
        let wanted = self.proof_field();
        if let Some(reference) = self.proof() {
            reference.check(&at.key(wanted), faults);
        } else {
            let message = format!("this method needs `{wanted}`");
            faults.push(Fault::new(Code::CONFLICT, at.key("method"), message));
        }
        let signs = self.method == Method::PrivateKeyJwt;
        let others = [
            ("secret", signs && self.secret.is_some()),
            ("key", !signs && self.key.is_some()),
            ("alg", !signs && self.alg.is_some()),
            ("keyId", !signs && self.key_id.is_some()),
            ("audience", !signs && self.audience.is_some()),
        ];
        for (name, _) in others.into_iter().filter(|(_, there)| *there) {
            let fault = Fault::new(Code::CONFLICT, at.key(name), "this method does not use it");
            faults.push(fault.help("remove it, or choose the method that uses it"));
        }
        if let Some(alg) = self.alg {
            asymmetric(alg, &at.key("alg"), faults);
        }
    }
}

/// Assertions are signed with private keys alone.
pub fn asymmetric(alg: Alg, at: &Path, faults: &mut Vec<Fault>) {
    if alg.is_symmetric() {
        let fault = Fault::new(Code::VALUE, at.clone(), "an assertion is signed with a private key");
        faults.push(fault.help("use RS256, PS256, ES256, ES384 or EdDSA"));
    }
}

/// An endpoint to which secrets or tokens are sent: `https`, or `http` on this host.
pub fn endpoint(text: &str, at: &Path, faults: &mut Vec<Fault>) {
    url(text, at, "secrets would go over plain http", faults);
}

/// A URL with `https`, or `http` on this host; `in_clear` says what would be wrong with `http` elsewhere.
pub fn url(text: &str, at: &Path, in_clear: &str, faults: &mut Vec<Fault>) {
    let fault = |code, message: &str| Fault::new(code, at.clone(), message);
    let Ok(uri) = text.parse::<Uri>() else {
        faults.push(fault(Code::VALUE, "this is not a URL"));
        return;
    };
    let Some(host) = uri.host() else {
        faults.push(fault(Code::VALUE, "the URL names no host"));
        return;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        faults.push(fault(Code::VALUE, "the URL holds credentials"));
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(host) => {}
        Some("http") => faults.push(
            fault(Code::INSECURE, in_clear).help("use https; plain http is for the loopback address only"),
        ),
        _ => faults.push(fault(Code::VALUE, "the URL is not https")),
    }
}

/// True for a host that is this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{ClientAuth, Method, endpoint};
    use crate::fault::Path;
    use crate::jwt::Alg;
    use crate::secret::SecretRef;

    fn told(check: impl FnOnce(&Path, &mut Vec<crate::fault::Fault>)) -> Vec<String> {
        let mut faults = Vec::new();
        check(&Path::default(), &mut faults);
        faults.iter().map(|fault| format!("{} {}: {}", fault.code, fault.at, fault.message)).collect()
    }

    #[test]
    fn every_method_has_its_own_proof_and_no_other() {
        let secret = Some(SecretRef { env: Some("SECRET".into()), ..SecretRef::default() });
        let auth = |method| ClientAuth {
            method,
            client_id: "gateway".into(),
            secret: None,
            key: None,
            alg: None,
            key_id: None,
            audience: None,
        };
        let basic = ClientAuth { secret: secret.clone(), ..auth(Method::Basic) };
        assert!(told(|at, faults| basic.check(at, faults)).is_empty());
        let signed = ClientAuth { key: secret.clone(), alg: Some(Alg::ES256), ..auth(Method::PrivateKeyJwt) };
        assert!(told(|at, faults| signed.check(at, faults)).is_empty());
        let bare = told(|at, faults| auth(Method::Post).check(at, faults));
        assert_eq!(bare, ["FG0302 method: this method needs `secret`"]);
        let wrong = ClientAuth { secret, alg: Some(Alg::HS256), ..auth(Method::PrivateKeyJwt) };
        assert_eq!(
            told(|at, faults| wrong.check(at, faults)),
            [
                "FG0302 method: this method needs `key`",
                "FG0302 secret: this method does not use it",
                "FG0301 alg: an assertion is signed with a private key",
            ]
        );
    }

    #[test]
    fn secrets_go_by_https_or_stay_on_this_host() {
        for (url, code) in [
            ("https://idp.example.com/introspect", ""),
            ("http://127.0.0.1:8080/introspect", ""),
            ("http://[::1]/introspect", ""),
            ("http://idp.example.com/introspect", "FG0303"),
            ("http://10.0.0.1/introspect", "FG0303"),
            ("https://user:pass@idp.example.com/", "FG0301"),
            ("ftp://idp.example.com/", "FG0301"),
            ("/introspect", "FG0301"),
        ] {
            let found = told(|at, faults| endpoint(url, at, faults));
            assert!(found.iter().all(|fault| fault.starts_with(code)), "{url}: {found:?}");
            assert_eq!(found.is_empty(), code.is_empty(), "{url}");
        }
    }
}
