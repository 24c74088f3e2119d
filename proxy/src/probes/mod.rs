//! Probes of the applications behind a sidecar: what the kubelet would have asked them.

mod ask;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock;

/// Longest text that tells of probes, in bytes: the annotations of a pod have 256 KiB together.
const MAX_TEXT: usize = 256 << 10;

/// Most probes of a pod.
const MAX_PROBES: usize = 256;

/// How long an answer serves those who ask the same. The kubelet asks once a second at most; whoever else reaches the
/// port neither keeps it waiting nor has the application asked more often.
const FRESH: Duration = Duration::from_millis(500);

/// Longest time of a probe.
const MAX_TIMEOUT: Duration = Duration::from_mins(5);

/// What the kubelet waits for where a probe does not say.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The probes of a pod, by `CONTAINER/KIND`, and where its applications are.
#[derive(Debug)]
pub struct Applications {
    probes: BTreeMap<Box<str>, Asked>,
    /// Of the pod.
    address: IpAddr,
}

/// A probe, and when it was answered last. Whoever comes meanwhile waits for the answer to the one before.
#[derive(Debug)]
struct Asked {
    probe: Probe,
    last: Mutex<Option<(Duration, Outcome)>>,
}

/// One probe, as a pod has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(flatten)]
    question: Question,
    /// In seconds; 0 is none.
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Question {
    HttpGet(HttpGet),
    TcpSocket(TcpSocket),
    Grpc(Grpc),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpGet {
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpSocket {
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: String,
}

/// Why a text tells of no probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    #[error("it is longer than {MAX_TEXT} bytes")]
    Length,
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("there are {0} probes, and at most {MAX_PROBES} are taken")]
    Count(usize),
    #[error("`{0}` is no IP address")]
    Address(String),
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such probe.
    Unknown,
    Fit,
    /// Why not, in words for the operator.
    Unfit(String),
}

impl Default for Applications {
    fn default() -> Self {
        Self::new(BTreeMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl Applications {
    fn new(probes: BTreeMap<Box<str>, Probe>, address: IpAddr) -> Self {
        let asked = |probe| Asked { probe, last: Mutex::default() };
        Self { probes: probes.into_iter().map(|(name, probe)| (name, asked(probe))).collect(), address }
    }

    /// Reads probes from JSON, as injection writes it. `address` is that of the pod; loopback where it is empty.
    ///
    /// # Errors
    /// What is wrong with the text or the address.
    pub fn parse(text: &str, address: &str) -> Result<Self, ProbesError> {
        if text.len() > MAX_TEXT {
            return Err(ProbesError::Length);
        }
        let probes: BTreeMap<Box<str>, Probe> =
            if text.is_empty() { BTreeMap::new() } else { serde_json::from_str(text)? };
        if probes.len() > MAX_PROBES {
            return Err(ProbesError::Count(probes.len()));
        }
        let address = match address {
            "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => text.parse().map_err(|_| ProbesError::Address(text.to_owned()))?,
        };
        Ok(Self::new(probes, address))
    }

    /// Asks the application what the kubelet would have asked it, or gives the answer of a moment ago.
    pub async fn ask(&self, container: &str, kind: &str) -> Outcome {
        let Some(Asked { probe, last }) = self.probes.get(format!("{container}/{kind}").as_str()) else {
            return Outcome::Unknown;
        };
        let mut last = last.lock().await;
        if let Some((at, outcome)) = &*last
            && clock::monotonic().saturating_sub(*at) < FRESH
        {
            return outcome.clone();
        }
        let outcome = self.ask_now(probe).await;
        *last = Some((clock::monotonic(), outcome.clone()));
        outcome
    }

    async fn ask_now(&self, probe: &Probe) -> Outcome {
        let at = |port| SocketAddr::new(self.address, port);
        let asked = async {
            match &probe.question {
                Question::HttpGet(get) => ask::http(at(get.port), get).await,
                Question::TcpSocket(socket) => ask::tcp(at(socket.port)).await,
                Question::Grpc(call) => ask::grpc(at(call.port), &call.service).await,
            }
        };
        match timeout(probe.patience(), asked).await {
            Ok(Ok(())) => Outcome::Fit,
            Ok(Err(why)) => Outcome::Unfit(why),
            Err(_) => Outcome::Unfit("no answer in time".to_owned()),
        }
    }
}

impl Probe {
    fn patience(&self) -> Duration {
        match self.timeout_seconds {
            None | Some(0) => TIMEOUT,
            Some(seconds) => Duration::from_secs(seconds.into()).min(MAX_TIMEOUT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Applications, Outcome};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every request with this status, and gives its head.
    async fn application(status: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let _ = sender.send(String::from_utf8_lossy(&head[..length]).into_owned());
                let _ = stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await;
            }
        });
        (port, receiver)
    }

    fn probes(text: &str) -> Applications {
        Applications::parse(text, "").unwrap()
    }

    #[tokio::test]
    async fn an_application_is_fit_as_the_kubelet_has_it() {
        for (status, fit) in [("200 OK", true), ("302 Found", true), ("404 No", false), ("503 No", false)] {
            let (port, mut heads) = application(status).await;
            let text = format!(
                r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/healthz?full=1","httpHeaders":[
                {{"name":"Host","value":"crm.internal"}},{{"name":"X-Probe","value":"a"}}]}}}}}}"#
            );
            let outcome = probes(&text).ask("app", "liveness").await;
            assert_eq!(outcome == Outcome::Fit, fit, "{status}: {outcome:?}");
            let head = heads.recv().await.unwrap();
            assert!(head.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("host: crm.internal\r\n") && head.contains("x-probe: a\r\n"), "{head}");
            assert_eq!(head.matches("host: ").count(), 1, "{head}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_opens_is_enough_for_one_that_asks_no_more() {
        let (port, _heads) = application("500 No").await;
        let text = format!(r#"{{"app/readiness":{{"tcpSocket":{{"port":{port}}}}}}}"#);
        assert_eq!(probes(&text).ask("app", "readiness").await, Outcome::Fit);
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let text = format!(r#"{{"app/readiness":{{"tcpSocket":{{"port":{closed}}}}}}}"#);
        assert!(matches!(probes(&text).ask("app", "readiness").await, Outcome::Unfit(_)));
    }

    #[tokio::test]
    async fn an_application_that_says_nothing_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let text = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port}}},"timeoutSeconds":1}}}}"#);
        let outcome = probes(&text).ask("app", "liveness").await;
        assert_eq!(outcome, Outcome::Unfit("no answer in time".to_owned()));
    }

    #[tokio::test]
    async fn whoever_asks_the_same_shares_the_answer_and_keeps_nobody_out() {
        let (port, mut heads) = application("200 OK").await;
        let text = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port}}}}}}}"#);
        let probes = std::sync::Arc::new(probes(&text));
        let all = (0..500).map(|_| {
            let probes = std::sync::Arc::clone(&probes);
            tokio::spawn(async move { probes.ask("app", "liveness").await })
        });
        for asked in all.collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap(), Outcome::Fit);
        }
        let mut heard = 0;
        while heads.try_recv().is_ok() {
            heard += 1;
        }
        assert!((1..50).contains(&heard), "the application was asked {heard} times");
    }

    #[tokio::test]
    async fn what_is_not_asked_about_is_unknown() {
        assert_eq!(Applications::default().ask("app", "liveness").await, Outcome::Unknown);
        let known = probes(r#"{"app/liveness":{"tcpSocket":{"port":1}}}"#);
        assert_eq!(known.ask("app", "readiness").await, Outcome::Unknown);
        assert_eq!(known.ask("other", "liveness").await, Outcome::Unknown);
    }

    #[test]
    fn a_text_that_is_wrong_is_refused() {
        for (text, address) in [
            ("nonsense", ""),
            (r#"{"app/liveness":{}}"#, ""),
            (r#"{"app/liveness":{"httpGet":{"port":70000}}}"#, ""),
            (r#"{"app/liveness":{"httpGet":{"port":1,"scheme":"FTP"}}}"#, ""),
            (r#"{"app/liveness":{"exec":{"command":["a"]}}}"#, ""),
            ("{}", "pod"),
        ] {
            assert!(Applications::parse(text, address).is_err(), "{text} {address}");
        }
        let many = (0..300).map(|at| format!(r#""a{at}/liveness":{{"tcpSocket":{{"port":1}}}}"#));
        let many = format!("{{{}}}", many.collect::<Vec<_>>().join(","));
        assert!(Applications::parse(&many, "").is_err());
        assert!(Applications::parse(&" ".repeat(300 << 10), "").is_err());
        assert!(Applications::parse("", "fd00::7").is_ok());
    }
}
