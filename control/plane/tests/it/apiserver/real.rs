//! A real kube-apiserver with etcd, where the environment names their binaries.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, Config};
use tempfile::TempDir;

use super::until;

/// Who may do anything.
const TOKEN: &str = "foregate-tests";

/// Both processes; they end when this is dropped.
pub struct Real {
    pub url: String,
    pub token: String,
    children: Vec<Child>,
    _folder: TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn run(program: &std::ffi::OsStr, arguments: &[String]) -> Child {
    Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Real {
    /// `None` where `FOREGATE_KUBE_APISERVER` and `FOREGATE_ETCD` do not name both.
    pub async fn start() -> Option<Self> {
        let server = std::env::var_os("FOREGATE_KUBE_APISERVER")?;
        let etcd = std::env::var_os("FOREGATE_ETCD")?;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (clients, peers, secure) = (port(), port(), port());
        let store = format!("http://127.0.0.1:{clients}");
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(at("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(at("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(at("tokens.csv"), format!("{TOKEN},tests,tests,system:masters\n")).unwrap();
        let children = vec![
            run(
                &etcd,
                &[
                    format!("--data-dir={}", at("etcd")),
                    format!("--listen-client-urls={store}"),
                    format!("--advertise-client-urls={store}"),
                    format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
                ],
            ),
            run(
                &server,
                &[
                    format!("--etcd-servers={store}"),
                    format!("--secure-port={secure}"),
                    "--bind-address=127.0.0.1".to_owned(),
                    format!("--cert-dir={}", at("certificates")),
                    "--authorization-mode=RBAC".to_owned(),
                    format!("--token-auth-file={}", at("tokens.csv")),
                    "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    format!("--service-account-key-file={}", at("sa.pub")),
                    format!("--service-account-signing-key-file={}", at("sa.key")),
                    "--disable-admission-plugins=ServiceAccount".to_owned(),
                ],
            ),
        ];
        let this = Self {
            url: format!("https://127.0.0.1:{secure}"),
            token: TOKEN.to_owned(),
            children,
            _folder: folder,
        };
        this.install().await;
        Some(this)
    }

    /// The kinds of Gateway API, from the folder that `FOREGATE_GATEWAY_API` names, and those of our own.
    async fn install(&self) {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(self.token.clone().into());
        let client = Client::try_from(config).unwrap();
        until("the API server answers", async || client.apiserver_version().await.ok()).await;
        let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
        let gateway_api =
            std::env::var("FOREGATE_GATEWAY_API").expect("the folder with the CRDs of Gateway API");
        for folder in [ours, &gateway_api] {
            for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if file.extension().is_some_and(|end| end == "yaml") {
                    install(&client, &file).await;
                }
            }
        }
    }
}

async fn install(client: &Client, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    // Files with several documents define no kinds.
    let Ok(root) = foregate_policy::parse::foreign(&text, 1_000_000, 128) else { return };
    let object = root.to_json();
    if object["kind"] != "CustomResourceDefinition" {
        return;
    }
    let resource = ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    until("the kind is served", async || {
        let object = serde_json::to_value(api.get(&name).await.ok()?).ok()?;
        let conditions = object["status"]["conditions"].as_array()?;
        let served = |it: &serde_json::Value| it["type"] == "Established" && it["status"] == "True";
        conditions.iter().any(served).then_some(())
    })
    .await;
}
