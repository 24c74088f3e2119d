//! One control plane and many simulated proxies: how soon a change is with all.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use foregate::clock;
use foregate::fleet::call::Call;
use foregate::fleet::channel::Channel;
use foregate::fleet::endpoint::ControlOptions;
use foregate::identity::directory::Directory;
use foregate::identity::{Identity, Source};
use foregate_policy::fleet::{Node, PolicyRequest, PolicyResponse};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Routes, each with an upstream and a policy.
const ROUTES: usize = 50;
/// Changes that are measured.
const CHANGES: usize = 5;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running control plane, which ends with this.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a simulated proxy tells.
enum Told {
    Connected,
    Took,
}

/// Measures with this many proxies.
pub fn run(out: &mut impl Write, proxies: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(out, proxies))
}

async fn measure(out: &mut impl Write, proxies: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    lay_out(folder.path(), port)?;
    let control = start(folder.path())?;
    let (tell, mut told) = mpsc::channel(proxies * 4);
    let set = Directory::new(folder.path().join("identity")).next().await?;
    let identity = Arc::new(Identity::new(set));
    let options = ControlOptions {
        endpoint: format!("https://127.0.0.1:{port}").parse().map_err(anyhow::Error::msg)?,
        roots: folder.path().join("roots.pem"),
        retry: Duration::from_secs(2),
    };
    let began = clock::monotonic();
    for number in 0..proxies {
        let channel = Channel::of(options.clone(), Arc::clone(&identity));
        tokio::spawn(follow(channel, format!("proxy-{number}"), tell.clone()));
    }
    wait(&mut told, proxies, |one| matches!(one, Told::Took)).await?;
    writeln!(out, "{proxies} proxies connected and had all policies after {:.2} s", since(began))?;
    writeln!(out, "resident: {} MiB", resident(&control)?)?;
    let mut times = Vec::new();
    for change in 0..CHANGES {
        sleep(Duration::from_millis(500)).await;
        let began = clock::monotonic();
        fs::write(folder.path().join("policies/policies.yaml"), policies(change + 1))?;
        wait(&mut told, proxies, |one| matches!(one, Told::Took)).await?;
        times.push(since(began));
    }
    times.sort_by(f64::total_cmp);
    writeln!(out, "a change was with all after {times:.2?} s (goal 2 s)")?;
    writeln!(out, "resident: {} MiB (goal 200 MiB)", resident(&control)?)?;
    drop(control);
    while told.try_recv().is_ok() {}
    let control = start(folder.path())?;
    let began = clock::monotonic();
    wait(&mut told, proxies, |one| matches!(one, Told::Connected)).await?;
    writeln!(out, "after a restart all were back within {:.2} s (goal 10 s)", since(began))?;
    writeln!(out, "resident: {} MiB, at most {} MiB", resident(&control)?, peak(&control)?)?;
    Ok(())
}

fn since(began: Duration) -> f64 {
    clock::monotonic().saturating_sub(began).as_secs_f64()
}

async fn wait(told: &mut mpsc::Receiver<Told>, count: usize, fits: impl Fn(&Told) -> bool) -> Result<()> {
    let counting = async {
        let mut seen = 0;
        while seen < count {
            match told.recv().await {
                Some(one) if fits(&one) => seen += 1,
                Some(_) => {}
                None => bail!("all proxies ended"),
            }
        }
        Ok(())
    };
    timeout(PATIENCE, counting).await.context("not all proxies answered in time")?
}

/// A proxy that takes everything, and comes back when the stream ends.
async fn follow(channel: Channel, id: String, tell: mpsc::Sender<Told>) {
    let mut known = std::collections::HashMap::new();
    let mut revision = String::new();
    loop {
        let node = Node { id: id.clone(), revision: revision.clone(), ..Node::default() };
        let first = PolicyRequest { node: Some(node), known: known.clone(), ..PolicyRequest::default() };
        let call =
            channel.stream::<PolicyRequest, PolicyResponse>("/foregate.fleet.v1.Policies/Stream", &first);
        let Ok(Call { requests, mut answers }) = call.await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let _ = tell.send(Told::Connected).await;
        while let Ok(Some(part)) = answers.next().await {
            for resource in part.changed {
                known.insert(resource.name, resource.version);
            }
            for name in part.removed {
                known.remove(&name);
            }
            if part.last {
                revision = part.revision;
                let answer = PolicyRequest { nonce: part.nonce, ..PolicyRequest::default() };
                if !requests.send(&answer).await {
                    break;
                }
                let _ = tell.send(Told::Took).await;
            }
        }
    }
}

/// Starts the control plane beside this program, and waits until it listens.
fn start(folder: &Path) -> Result<Control> {
    let binary = std::env::current_exe()?.with_file_name("foregate-control");
    let mut command = Command::new(&binary);
    command.arg("run").arg("--config").arg(folder.join("control.yaml"));
    let started = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("{} does not start", binary.display()))?;
    let pipe = child.stderr.take().context("no pipe")?;
    let mut lines = BufReader::new(pipe).lines();
    for line in lines.by_ref() {
        let event: Value = serde_json::from_str(&line?).unwrap_or_default();
        if event.get("event.name").and_then(Value::as_str) == Some("listening") {
            // Nobody must wait for a pipe that is full.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(Control(child));
        }
    }
    bail!("the control plane ended")
}

fn memory(control: &Control, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", control.0.id()))?;
    let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let kib: u64 = line.split_ascii_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib >> 10)
}

fn resident(control: &Control) -> Result<u64> {
    memory(control, "VmRSS:")
}

fn peak(control: &Control) -> Result<u64> {
    memory(control, "VmHWM:")
}

/// Certificates, configuration and policies.
fn lay_out(folder: &Path, port: u16) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::OrganizationName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key)?.pem();
    private(&folder.join("key.pem"), &key.serialize_pem())?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/ns/crm/sa/edge".try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 1));
    let leaf = params.signed_by(&key, &issuer)?;
    for name in ["identity", "policies"] {
        fs::create_dir(folder.join(name))?;
    }
    for (name, content) in [
        ("roots.pem", root.as_str()),
        ("issuer.pem", &root),
        ("identity/svid.pem", &leaf.pem()),
        ("identity/svid_key.pem", &key.serialize_pem()),
        ("identity/svid_bundle.pem", &root),
        ("policies/policies.yaml", &policies(0)),
    ] {
        private(&folder.join(name), content)?;
    }
    let config = format!(
        "trustDomain: example.org\nlisten: 127.0.0.1:{port}\nadmin: 127.0.0.1:0\nnames: [127.0.0.1]\nstateDir: state\n\
         authority: {{ roots: roots.pem, issuer: issuer.pem, issuerKey: key.pem }}\n\
         sources: [{{ name: policies, folder: {{ path: policies }} }}]\n\
         grants: [{{ identities: [\"spiffe://example.org/*\"], gateways: [\"*/*\"] }}]\n"
    );
    private(&folder.join("control.yaml"), &config)
}

fn private(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A gateway with many routes, of which one differs from change to change.
fn policies(change: usize) -> String {
    use std::fmt::Write as _;
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\n\
                    spec: { gatewayClassName: foregate, listeners: [{ name: http, protocol: HTTP, port: 8080 }] }\n"
        .to_owned();
    for route in 0..ROUTES {
        let port = 10_000 + route + if route == 0 { change } else { 0 };
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: route-{route} }}\n\
             spec:\n  parentRefs: [{{ name: edge }}]\n  rules:\n\
             \x20 - matches: [{{ path: {{ type: PathPrefix, value: /route-{route} }} }}]\n\
             \x20   backendRefs: [{{ group: foregate.dev, kind: Upstream, name: upstream-{route} }}]\n\
             ---\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: upstream-{route} }}\n\
             spec: {{ endpoints: [\"10.0.0.1:{port}\"] }}\n\
             ---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: route-{route} }}\n\
             spec:\n  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: route-{route} }}]\n\
             \x20 rateLimit: [{{ name: per-client, key: source.address, limit: 100, per: 1s }}]\n\
             \x20 authorize: [{{ name: all, allow: 'request.method == \"GET\"' }}]\n"
        );
    }
    text
}
