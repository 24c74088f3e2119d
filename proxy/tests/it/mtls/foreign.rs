//! Clients that others wrote: curl and OpenSSL.

use crate::mtls::{MESH, identified};
use crate::support::command::program;
use crate::support::guarded::guarded;
use crate::support::policies::GATEWAY;
use crate::support::process::Foregate;
use crate::support::upstream::Upstream;
use crate::support::workloads::{Domain, Folder, Svid};

fn pair(folder: &Folder, name: &str, svid: &Svid) -> [String; 2] {
    folder.write(&format!("clients/{name}.pem"), &svid.leaf.certificate);
    folder.write(&format!("clients/{name}.key"), &svid.leaf.key);
    [".pem", ".key"].map(|end| folder.path().join(format!("clients/{name}{end}")).display().to_string())
}

#[tokio::test]
async fn curl_and_openssl_prove_who_they_are() {
    let (domain, stranger) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let rule = "authorize: [{ name: web, allow: 'peer.id == \"spiffe://mesh.test/web\"' }]";
    let text = guarded(upstream.address, rule).replace(GATEWAY, MESH);
    let gateway = Foregate::start(&text, identified(&folder)).await;
    let port = gateway.address("edge/mesh").port();
    let [good, good_key] = pair(&folder, "good", &domain.svid("/web"));
    let [bad, bad_key] = pair(&folder, "bad", &stranger.svid("/web"));
    let bundle = folder.path().join("svid_bundle.pem").display().to_string();

    let curl = |extra: &[&str]| {
        let mut args: Vec<String> =
            ["-sS", "-k", "-o", "-", "-w", " %{http_code} %{http_version}"].map(str::to_owned).into();
        args.extend(extra.iter().map(|arg| (*arg).to_owned()));
        args.push(format!("https://127.0.0.1:{port}/"));
        program("curl", args)
    };
    for (version, wanted) in [("--http1.1", "hello 200 1.1"), ("--http2", "hello 200 2")] {
        let output = curl(&[version, "--cert", &good, "--key", &good_key]).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{output:?}");
    }
    for refused in [&["--cert", &bad, "--key", &bad_key][..], &[]] {
        let output = curl(refused).await;
        assert!(!output.status.success(), "{output:?}");
    }

    let connect = format!("127.0.0.1:{port}");
    let openssl = |cert: &str, key: &str, version: &str| {
        let args = [
            "s_client",
            "-connect",
            &connect,
            "-cert",
            cert,
            "-key",
            key,
            "-CAfile",
            &bundle,
            "-verify_return_error",
            "-brief",
            version,
        ];
        program("openssl", args.map(str::to_owned).into())
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let output = openssl(&good, &good_key, version).await;
        // OpenSSL verifies us by the bundle, too.
        assert!(output.status.success(), "{output:?}");
    }
    let output = openssl(&good, &good_key, "-tls1_1").await;
    assert!(!output.status.success(), "below the floor: {output:?}");
    let output = openssl(&bad, &bad_key, "-tls1_2").await;
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(upstream.received().len(), 2);
}
