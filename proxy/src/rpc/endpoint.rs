//! Where a server of calls is: `https://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use rustls::pki_types::ServerName;

/// `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address; that of IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is not https://HOST:PORT, such as https://control.example.org:8443");
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let plain = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().filter(|authority| plain && !authority.as_str().contains('@'));
        let (host, port) =
            authority.and_then(|found| Some((found.host(), found.port_u16()?))).ok_or_else(expected)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host).map_err(|_| expected())?;
        if port == 0 {
            return Err(expected());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn an_endpoint_has_a_host_and_a_port_and_nothing_else() {
        let good = |text: &str| text.parse::<Endpoint>().unwrap();
        assert_eq!(
            good("https://control.test:8443"),
            Endpoint { host: "control.test".to_owned(), port: 8443 }
        );
        assert_eq!(good("https://[::1]:8443"), Endpoint { host: "::1".to_owned(), port: 8443 });
        assert_eq!(good("https://[::1]:8443/").to_string(), "https://[::1]:8443");
        for bad in [
            "control.test:8443",
            "http://control.test:8443",
            "https://control.test",
            "https://control.test:8443/a",
            "https://control.test:8443?a",
            "https://a@control.test:8443",
            "https://:8443",
            "https://control.test:0",
            "",
        ] {
            assert!(bad.parse::<Endpoint>().unwrap_err().contains("https://HOST:PORT"), "{bad}");
        }
    }
}
