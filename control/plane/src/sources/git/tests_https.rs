//! Repositories over https: who is let in, and what is said otherwise.

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::tests::{Fixture, LIMIT};
use crate::sources::spec::{GitCredentials, GitSpec, Limits};
use crate::sources::{SourceFault, Tree};

/// Serves the repositories below a folder to whoever shows this name and password.
struct Server {
    at: SocketAddr,
    /// What it was shown, one for each request.
    shown: Arc<Mutex<Vec<Option<String>>>>,
    _runtime: Runtime,
}

impl Server {
    /// Writes the certificate of its authority to `ca`.
    fn start(root: &Path, ca: &Path, wanted: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls(ca)));
        let shown: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let (root, seen) = (root.to_owned(), Arc::clone(&shown));
        let wanted = format!("Basic {}", STANDARD.encode(wanted));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, root, wanted, seen) =
                    (acceptor.clone(), root.clone(), wanted.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let service = service_fn(|request| answer(request, &root, &wanted, &seen));
                    let served = hyper::server::conn::http1::Builder::new();
                    let _ = served.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { at, shown, _runtime: runtime }
    }
}

fn tls(ca: &Path) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    fs::write(ca, authority.pem()).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let own = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(own.serialize_der()).unwrap())
        .unwrap()
}

/// Lets `git http-backend` answer (RFC 3875) whoever shows what is wanted.
async fn answer(
    request: Request<Incoming>,
    root: &Path,
    wanted: &str,
    seen: &Mutex<Vec<Option<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let shown = header("authorization");
    seen.lock().unwrap().push(shown.clone());
    if shown.as_deref() != Some(wanted) {
        let refused = Response::builder().status(401).header("www-authenticate", "Basic realm=\"git\"");
        return Ok(refused.body(Full::default()).unwrap());
    }
    let mut command = Command::new("git");
    command.arg("http-backend").env_clear().envs([
        ("PATH", std::env::var("PATH").unwrap().as_str()),
        ("GIT_PROJECT_ROOT", root.to_str().unwrap()),
        ("GIT_HTTP_EXPORT_ALL", "1"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
        ("REQUEST_METHOD", request.method().as_str()),
        ("PATH_INFO", request.uri().path()),
        ("QUERY_STRING", request.uri().query().unwrap_or_default()),
        ("CONTENT_TYPE", header("content-type").unwrap_or_default().as_str()),
        ("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default().as_str()),
        ("GIT_PROTOCOL", header("git-protocol").unwrap_or_default().as_str()),
    ]);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    command.env("CONTENT_LENGTH", body.len().to_string());
    let run = move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&body).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = std::str::from_utf8(&output[..end]).unwrap();
    let mut response = Response::builder();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Full::from(output[end + 4..].to_vec())).unwrap())
}

/// A repository that a server has, and how it is pulled.
struct Served {
    fixture: Fixture,
    server: Server,
    ca: PathBuf,
    password: PathBuf,
}

impl Served {
    fn new(wanted: &str) -> Self {
        let fixture = Fixture::new();
        let folder = fixture.folder.path();
        let (ca, password) = (folder.join("ca.pem"), folder.join("password"));
        let server = Server::start(folder, &ca, wanted);
        Self { fixture, server, ca, password }
    }

    fn spec(&self, username: Option<&str>) -> GitSpec {
        let credentials =
            GitCredentials { username: username.map(str::to_owned), password_file: self.password.clone() };
        GitSpec {
            url: format!("https://{}/work", self.server.at),
            credentials: Some(credentials),
            ca_file: Some(self.ca.clone()),
            ..self.fixture.spec(false)
        }
    }

    fn pull(&self, spec: GitSpec) -> Result<Option<Tree>, SourceFault> {
        self.fixture.puller(spec, Limits::default()).pull(true, LIMIT)
    }

    /// What a pull that must fail says, help included; never what it shows.
    fn refused(&self, spec: GitSpec) -> String {
        let fault = self.pull(spec).unwrap_err();
        let text = format!("{:?}", fault.0);
        assert!(fault.0.iter().all(|one| one.file.contains("policies")), "it names the source: {text}");
        for secret in ["s3cret", "wr0ng", &STANDARD.encode("git:wr0ng"), &STANDARD.encode("ada:s3cret")] {
            assert!(!text.contains(secret), "{text}");
        }
        text
    }
}

#[test]
fn a_password_or_token_from_a_file_lets_in_and_may_be_replaced() {
    for (wanted, username) in [("ada:s3cret", Some("ada")), ("git:s3cret", None)] {
        let served = Served::new(wanted);
        served.fixture.write("policies.yaml", "a: 1\n");
        let commit = served.fixture.commit(None);
        fs::write(&served.password, "s3cret\n").unwrap();
        let tree = served.pull(served.spec(username)).unwrap().unwrap();
        assert_eq!((tree.revision.as_str(), tree.files.len()), (commit.as_str(), 1));
        let shown = served.server.shown.lock().unwrap().clone();
        assert_eq!(shown[0], None, "nothing is shown before it is asked for");
        assert!(shown[1..].iter().all(Option::is_some), "{shown:?}");

        fs::write(&served.password, "wr0ng").unwrap();
        assert!(served.refused(served.spec(username)).contains("the server does not take these"));
        fs::write(&served.password, "s3cret").unwrap();
        served.fixture.write("policies.yaml", "a: 2\n");
        let next = served.fixture.commit(None);
        assert_eq!(served.pull(served.spec(username)).unwrap().unwrap().revision, next);
    }
}

#[test]
fn what_is_wrong_with_the_server_or_the_files_is_said_and_how_to_mend_it() {
    let served = Served::new("git:s3cret");
    served.fixture.write("policies.yaml", "a: 1\n");
    served.fixture.commit(None);
    let good = || served.spec(None);
    let text = served.refused(good());
    assert!(
        text.contains("passwordFile") && text.contains("No such file") && text.contains("on one line"),
        "{text}"
    );
    fs::write(&served.password, "\n").unwrap();
    assert!(served.refused(good()).contains("it holds no password or token"));
    fs::write(&served.password, "s3cret").unwrap();
    let text = served.refused(GitSpec { credentials: None, ..good() });
    assert!(text.contains("wants to know who asks"), "{text}");
    let text = served.refused(GitSpec { ca_file: None, ..good() });
    assert!(text.contains("name its authority as git.caFile"), "{text}");
    let missing = GitSpec { ca_file: Some(served.ca.with_extension("none")), ..good() };
    assert!(served.refused(missing).contains("caFile"));
    fs::write(&served.ca, "nothing").unwrap();
    assert!(served.refused(good()).contains("it holds no certificate in PEM"));

    let served = Served::new("git:s3cret");
    fs::write(&served.password, "s3cret").unwrap();
    served.fixture.write("policies.yaml", "a: 1\n");
    served.fixture.commit(None);
    let elsewhere = GitSpec { url: format!("https://{}/other", served.server.at), ..served.spec(None) };
    let text = served.refused(elsewhere);
    assert!(text.contains("look at git.url"), "{text}");
    let text = served.refused(GitSpec { branch: Some("mian".to_owned()), ..served.spec(None) });
    assert!(text.contains("git.branch"), "{text}");
}
