//! Where a signal is sent: from the command line, or the variables of OpenTelemetry.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::ServerName;

use crate::rpc::answer::decoded;
use crate::telemetry::otlp::signal::Signal;

/// Ports where none is said (OTLP 1.9, sections "OTLP/gRPC Default Port" and "OTLP/HTTP Default Port").
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// Time for a whole export where nothing else is said, as the specification of the exporter has it.
const LIMIT: Duration = Duration::from_secs(10);

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    Grpc,
    /// HTTP/1.1 with protobuf.
    Http,
}

/// A collector of one signal.
#[derive(Clone)]
pub struct Target {
    pub signal: Signal,
    pub speech: Speech,
    pub tls: bool,
    /// A DNS name or an address; that of IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Of OTLP over HTTP.
    pub path: String,
    /// Sent with every call; they may hold secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// PEM: authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// For a whole export, connection included.
    pub limit: Duration,
}

/// What the environment says (OpenTelemetry, "Environment Variable Specification").
#[derive(Clone, Debug)]
pub struct Said {
    pub signal: Signal,
    /// Who exports the signal: `otlp`, or `none`.
    pub exporter: Option<String>,
    pub endpoint: Option<String>,
    /// The endpoint for this signal alone, used as it is.
    pub own_endpoint: Option<String>,
    pub protocol: Option<String>,
    pub headers: Option<String>,
    /// Milliseconds.
    pub timeout: Option<String>,
    pub service: Option<String>,
    pub resource: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.speech, self.tls) {
            (Speech::Grpc, false) => "grpc",
            (Speech::Grpc, true) => "grpcs",
            (Speech::Http, false) => "http",
            (Speech::Http, true) => "https",
        };
        let path = if self.speech == Speech::Http { &*self.path } else { "" };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

impl Target {
    /// Reads `grpc://HOST:PORT`, `grpcs://HOST:PORT`, `http://HOST:PORT[/PATH]` or `https://HOST:PORT[/PATH]`.
    ///
    /// # Errors
    /// What is wrong, in words for whoever wrote it.
    pub fn parse(text: &str, signal: Signal) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is no collector: expected grpc://HOST:PORT, grpcs://HOST:PORT (TLS), http://HOST:PORT or \
                 https://HOST:PORT, such as grpc://127.0.0.1:4317"
            )
        };
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let (speech, tls) = match uri.scheme_str() {
            Some("grpc") => (Speech::Grpc, false),
            Some("grpcs") => (Speech::Grpc, true),
            Some("http") => (Speech::Http, false),
            Some("https") => (Speech::Http, true),
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') {
            return Err(format!(
                "a collector has no user or password in its URL: name a file with --{}-headers",
                signal.name()
            ));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.as_str()).map_err(|_| expected())?;
        let port = authority.port_u16().unwrap_or(if speech == Speech::Grpc { GRPC_PORT } else { HTTP_PORT });
        if uri.query().is_some() || (speech == Speech::Grpc && uri.path() != "/" && !uri.path().is_empty()) {
            return Err(expected());
        }
        let path = if uri.path().len() > 1 { uri.path() } else { signal.path() }.to_owned();
        Ok(Self { signal, speech, tls, host, port, path, headers: Vec::new(), ca: None, limit: LIMIT })
    }

    /// What the environment names; `None` where it names nothing. A decision tells of callers what no span does:
    /// whoever has named a collector of spans gets it only where `OTEL_LOGS_EXPORTER` says so.
    ///
    /// # Errors
    /// Which variable is wrong, and how.
    pub fn of_environment(said: &Said) -> Result<Option<Self>, String> {
        let (signal, exporter) = (said.signal, said.exporter.as_deref());
        if exporter == Some("none") {
            return Ok(None);
        }
        let shared = said.endpoint.as_ref().filter(|_| signal == Signal::Traces || exporter == Some("otlp"));
        let (name, text) = match (&said.own_endpoint, shared) {
            (Some(text), _) => (format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.variable()), text),
            (None, Some(text)) => ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), text),
            (None, None) => return Ok(None),
        };
        let mut target = Self::parse(text, signal).map_err(|error| format!("{name}: {error}"))?;
        match said.protocol.as_deref() {
            Some("grpc") => {
                target.speech = Speech::Grpc;
                // `http://` says no more than that there is no TLS.
                if text.parse::<Uri>().is_ok_and(|uri| uri.port_u16().is_none()) {
                    target.port = GRPC_PORT;
                }
            }
            None | Some("http/protobuf") if target.speech == Speech::Http => {
                // Of the endpoint for all signals, those for each lie below.
                let base = text.parse::<Uri>().map(|uri| uri.path().trim_end_matches('/').to_owned());
                let base = base.unwrap_or_default();
                target.path = match &said.own_endpoint {
                    Some(_) if base.is_empty() => "/".to_owned(),
                    Some(_) => base,
                    None => base + signal.path(),
                };
            }
            None | Some("http/protobuf") => {}
            Some(other) => {
                return Err(format!(
                    "OTEL_EXPORTER_OTLP_PROTOCOL: `{other}` is not spoken; it is grpc or http/protobuf"
                ));
            }
        }
        Ok(Some(target))
    }

    /// True where others could read the headers of calls: they leave this machine without TLS.
    pub fn shows_headers(&self) -> bool {
        let here = self.host.parse().map_or(self.host == "localhost", |host: IpAddr| host.is_loopback());
        !self.tls && !here && !self.headers.is_empty()
    }

    /// Host and port as a URL has them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl Said {
    /// Nothing.
    pub const fn nothing(signal: Signal) -> Self {
        Self {
            signal,
            exporter: None,
            endpoint: None,
            own_endpoint: None,
            protocol: None,
            headers: None,
            timeout: None,
            service: None,
            resource: None,
        }
    }

    /// Reads the variables of this process.
    pub fn read(signal: Signal) -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let own = |name: &str| read(&format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.variable()));
        let either = |name: &str| own(name).or_else(|| read(&format!("OTEL_EXPORTER_OTLP_{name}")));
        Self {
            exporter: read(&format!("OTEL_{}_EXPORTER", signal.variable())),
            endpoint: read("OTEL_EXPORTER_OTLP_ENDPOINT"),
            own_endpoint: own("ENDPOINT"),
            protocol: either("PROTOCOL"),
            headers: either("HEADERS"),
            timeout: either("TIMEOUT"),
            service: read("OTEL_SERVICE_NAME"),
            resource: read("OTEL_RESOURCE_ATTRIBUTES"),
            signal,
        }
    }

    /// The attributes of this process: `OTEL_SERVICE_NAME` goes before what `OTEL_RESOURCE_ATTRIBUTES` says.
    ///
    /// # Errors
    /// Where the variable is malformed.
    pub fn attributes(&self) -> Result<Vec<(String, String)>, String> {
        let mut attributes = pairs(self.resource.as_deref().unwrap_or_default())
            .ok_or("OTEL_RESOURCE_ATTRIBUTES: expected key=value,key=value")?;
        if let Some(service) = &self.service {
            attributes.retain(|(key, _)| key != "service.name");
            attributes.push(("service.name".to_owned(), service.clone()));
        }
        for (key, value) in [("service.name", "foregate"), ("service.version", env!("CARGO_PKG_VERSION"))] {
            if attributes.iter().all(|(known, _)| known != key) {
                attributes.push((key.to_owned(), value.to_owned()));
            }
        }
        Ok(attributes)
    }

    /// The time for an export.
    ///
    /// # Errors
    /// Where the variable is no number of milliseconds.
    pub fn limit(&self) -> Result<Duration, String> {
        let Some(text) = &self.timeout else { return Ok(LIMIT) };
        let millis = text.parse().ok().filter(|millis| (1..=60_000).contains(millis));
        let expected = "OTEL_EXPORTER_OTLP_TIMEOUT: expected milliseconds, from 1 to 60000";
        millis.map(Duration::from_millis).ok_or_else(|| expected.to_owned())
    }

    /// The headers of every call.
    ///
    /// # Errors
    /// Where the variable is malformed; what it says is not repeated, for it may be secret.
    pub fn call_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let malformed = || "OTEL_EXPORTER_OTLP_HEADERS: expected name=value,name=value".to_owned();
        let pairs = pairs(self.headers.as_deref().unwrap_or_default()).ok_or_else(malformed)?;
        pairs.iter().map(|(name, value)| header(name, value).ok_or_else(malformed)).collect()
    }
}

/// Headers from a file: `name: value`, one a line.
///
/// # Errors
/// Names file and line, and never what stands there.
pub fn headers_of(file: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let found = line.split_once(':').and_then(|(name, value)| header(name, value));
            found.ok_or_else(|| format!("{}:{number}: expected `name: value`", file.display()))
        })
        .collect()
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// `key=value,key=value`, values percent-encoded (W3C Baggage); `None` where it is none.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (!key.trim().is_empty()).then(|| (key.trim().to_owned(), decoded(value.trim())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Said, Speech, Target, headers_of};
    use crate::telemetry::otlp::signal::Signal;
    use std::fs;

    const NOTHING: Said = Said::nothing(Signal::Traces);

    fn said(endpoint: Option<&str>) -> Said {
        Said { endpoint: endpoint.map(str::to_owned), ..NOTHING }
    }

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, Signal::Traces)
    }

    #[test]
    fn a_collector_is_a_scheme_a_host_and_a_port() {
        for (text, shown) in [
            ("grpc://127.0.0.1:4317", "grpc://127.0.0.1:4317"),
            ("grpcs://otel.example", "grpcs://otel.example:4317"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
            ("https://otel.example/otlp/v1/traces", "https://otel.example:4318/otlp/v1/traces"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        for bad in
            ["", "otel:4317", "ftp://a:1", "grpc://a:1/path", "http://a:1/?q=1", "http://", "grpc://a b:1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = parse("http://user:hunter2@a:1").unwrap_err();
        assert!(error.contains("--traces-headers") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_environment_names_a_collector_as_opentelemetry_says() {
        assert!(Target::of_environment(&said(None)).unwrap().is_none());
        let of = |said: &Said| Target::of_environment(said).unwrap().unwrap().to_string();
        assert_eq!(of(&said(Some("http://a:4318"))), "http://a:4318/v1/traces");
        assert_eq!(of(&said(Some("http://a:4318/otlp/"))), "http://a:4318/otlp/v1/traces");
        let traces = Said { own_endpoint: Some("https://a:1/mine".to_owned()), ..said(Some("http://b:2")) };
        assert_eq!(of(&traces), "https://a:1/mine");
        let none = Said { exporter: Some("none".to_owned()), ..traces };
        assert!(Target::of_environment(&none).unwrap().is_none());
        let grpc = Said { protocol: Some("grpc".to_owned()), ..said(Some("https://a:4317")) };
        assert_eq!(of(&grpc), "grpcs://a:4317");
        for (text, shown) in [("http://a", "grpc://a:4317"), ("https://a:4318", "grpcs://a:4318")] {
            let grpc = Said { protocol: Some("grpc".to_owned()), ..said(Some(text)) };
            assert_eq!(of(&grpc), shown);
        }
        assert_eq!(of(&said(Some("http://a"))), "http://a:4318/v1/traces");
        let json = Said { protocol: Some("http/json".to_owned()), ..said(Some("https://a:4317")) };
        assert!(Target::of_environment(&json).unwrap_err().contains("http/protobuf"));
        let error = Target::of_environment(&said(Some("a"))).unwrap_err();
        assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{error}");
    }

    #[test]
    fn logs_go_where_logs_are_meant_to_go() {
        let all = Some("http://a:4318".to_owned());
        let said = Said { endpoint: all.clone(), ..Said::nothing(Signal::Logs) };
        assert!(Target::of_environment(&said).unwrap().is_none(), "named for spans");
        let of = |said: &Said| Target::of_environment(said).unwrap().unwrap().to_string();
        let otlp = Said { exporter: Some("otlp".to_owned()), ..said.clone() };
        assert_eq!(of(&otlp), "http://a:4318/v1/logs");
        let own = Said { own_endpoint: all, endpoint: None, ..said };
        assert_eq!(of(&own), "http://a:4318/");
        let bad = Said { own_endpoint: Some("a".to_owned()), ..own };
        assert!(Target::of_environment(&bad).unwrap_err().starts_with("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: "));
        let error = Target::parse("http://user:hunter2@a:1", Signal::Logs).unwrap_err();
        assert!(error.contains("--logs-headers"), "{error}");
    }

    #[test]
    fn headers_are_shown_to_nobody_on_the_way() {
        for (text, shown) in [
            ("grpc://otel.example", true),
            ("http://10.0.0.1:4318", true),
            ("http://localhost.example", true),
            ("grpcs://otel.example", false),
            ("https://otel.example", false),
            ("grpc://127.0.0.1", false),
            ("http://[::1]:4318", false),
            ("http://localhost:4318", false),
        ] {
            let mut target = Target::parse(text, Signal::Traces).unwrap();
            assert!(!target.shows_headers(), "{text}: there are none");
            let told = Said { headers: Some("authorization=hunter2".to_owned()), ..said(None) };
            target.headers = told.call_headers().unwrap();
            assert_eq!(target.shows_headers(), shown, "{text}");
        }
    }

    #[test]
    fn attributes_and_headers_are_decoded_and_the_name_of_the_service_wins() {
        let said = Said {
            service: Some("edge".to_owned()),
            resource: Some("service.name=other, deployment.environment.name=a%20b".to_owned()),
            headers: Some("authorization=Bearer%20hunter2".to_owned()),
            ..NOTHING
        };
        let attributes = said.attributes().unwrap();
        let find = |key: &str| attributes.iter().find(|(it, _)| it == key).map(|(_, value)| &**value);
        assert_eq!(find("service.name"), Some("edge"));
        assert_eq!(find("deployment.environment.name"), Some("a b"));
        assert!(find("service.version").is_some());
        let headers = said.call_headers().unwrap();
        assert_eq!(headers[0].1, "Bearer hunter2");
        assert!(!format!("{headers:?}").contains("hunter2"));
        let bad = Said { headers: Some("hunter2".to_owned()), ..NOTHING };
        assert!(!bad.call_headers().unwrap_err().contains("hunter2"));
        let slow = Said { timeout: Some("soon".to_owned()), ..NOTHING };
        assert!(slow.limit().is_err() && NOTHING.limit().is_ok());
        assert_eq!(NOTHING.attributes().unwrap()[0].1, "foregate");
    }

    #[test]
    fn headers_come_from_a_file_and_faults_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        fs::write(&file, "x-scope: tenant\n\nauthorization: Basic hunter2\n").unwrap();
        assert_eq!(headers_of(&file).unwrap().len(), 2);
        fs::write(&file, "x-scope: tenant\nhunter2\n").unwrap();
        let error = headers_of(&file).unwrap_err();
        assert!(error.contains("headers:2:") && !error.contains("hunter2"), "{error}");
        assert!(headers_of(&folder.path().join("absent")).is_err());
        assert_eq!(parse("grpc://a:1").unwrap().speech, Speech::Grpc);
    }
}
