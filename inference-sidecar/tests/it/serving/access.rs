//! Tokens, TLS and client certificates; nothing is open to others by accident.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};

use super::{Running, command, folder_of, records};

const MODEL: &str = "lead-score-logistic";
const TOKEN: &str = "a-token-of-the-first-client";
const OTHER: &str = "a-token-of-another-client";

/// Files of a test.
struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// An authority and two certificates of it, for the server and for a client.
    fn pki(&self, prefix: &str) -> Pki {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority of {prefix}"));
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |name: &str, usage| {
            let key = KeyPair::generate().unwrap();
            let mut params =
                CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &authority).unwrap();
            let chain = self.write(&format!("{prefix}-{name}.crt"), &certificate.pem());
            (chain, self.write(&format!("{prefix}-{name}.key"), &key.serialize_pem()))
        };
        Pki {
            ca: self.write(&format!("{prefix}-ca.crt"), &authority.pem()),
            server: leaf("server", ExtendedKeyUsagePurpose::ServerAuth),
            client: leaf("client", ExtendedKeyUsagePurpose::ClientAuth),
        }
    }
}

struct Pki {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the clients got with this token and certificate: `[http, grpc]`.
fn secured(
    server: &Running,
    ca: &Path,
    token: Option<&str>,
    client: Option<&(PathBuf, PathBuf)>,
) -> [String; 2] {
    let mut asked = json!({
        "word": "secured", "model": MODEL, "features": [], "records": records(MODEL, 1), "token": token,
        "ca_certs": text(ca),
    });
    if let Some((chain, key)) = client {
        asked["certfile"] = text(chain).into();
        asked["keyfile"] = text(key).into();
    }
    // Certificates name the host, not its address.
    asked["http"] = format!("localhost:{}", server.http.port()).into();
    asked["grpc"] = format!("localhost:{}", server.grpc.port()).into();
    let told = super::triton(&asked);
    ["http", "grpc"].map(|key| told[key].as_str().unwrap().to_owned())
}

#[test]
fn a_token_is_needed_where_there_are_tokens_and_health_needs_none() {
    let files = Files(tempfile::tempdir().unwrap());
    let tokens = files.write("tokens", &format!("# clients\n{TOKEN}\n\n  {OTHER}  \n"));
    let (server, _folder) = Running::start(&[MODEL], &["--token-file", text(&tokens)]);
    let ask = |path: &str, value: Option<&str>| {
        let headers: Vec<(&str, &str)> = value.map(|value| ("authorization", value)).into_iter().collect();
        server.ask("GET", path, &headers, b"")
    };
    let with = |token: &str| format!("Bearer {token}");
    for path in ["/v2", "/metrics", "/v2/models/lead-score-logistic", "/v2/models/nobody"] {
        let wrong = with("a-token-of-nobody-at-all");
        for value in
            [None, Some(wrong.as_str()), Some(TOKEN), Some("Basic YTpi"), Some("Bearer "), Some("Bearer")]
        {
            let answer = ask(path, value);
            assert_eq!(answer.status, 401, "{path} {value:?}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
            assert!(!answer.error().is_empty());
        }
    }
    assert_eq!(ask("/v2", Some(&with(TOKEN))).status, 200);
    assert_eq!(ask("/v2", Some(&format!("bearer {OTHER}"))).status, 200);
    let token = with(TOKEN);
    let twice = [("authorization", token.as_str()), ("authorization", token.as_str())];
    assert_eq!(server.ask("GET", "/v2", &twice, b"").status, 401, "two tokens are none");
    assert_eq!(ask("/v2/health/live", None).status, 200);
    assert_eq!(ask("/v2/health/ready", None).status, 200);
    let call = |method: &str, metadata: Value| json!({ "method": method, "hex": "", "metadata": metadata });
    let answers = server.triton(json!({ "word": "raw", "calls": [
        call("ServerReady", json!([])),
        call("ServerMetadata", json!([])),
        call("ServerMetadata", json!([["authorization", "Bearer a-token-of-nobody-at-all"]])),
        call("ServerMetadata", json!([["authorization", token]])),
        call("ModelStreamInfer", json!([])),
        call("ModelStreamInfer", json!([["authorization", token]])),
    ]}));
    let codes: Vec<&str> =
        answers.as_array().unwrap().iter().map(|answer| answer[0].as_str().unwrap()).collect();
    assert_eq!(codes, ["OK", "UNAUTHENTICATED", "UNAUTHENTICATED", "OK", "UNAUTHENTICATED", "OK"]);
}

#[test]
fn tls_shows_the_certificate_and_a_token_is_still_needed() {
    let files = Files(tempfile::tempdir().unwrap());
    let (ours, theirs) = (files.pki("ours"), files.pki("theirs"));
    let tokens = files.write("tokens", TOKEN);
    let (chain, key) = &ours.server;
    let words = ["--tls-cert", text(chain), "--tls-key", text(key), "--token-file", text(&tokens)];
    let (server, _folder) = Running::start(&[MODEL], &words);
    assert_eq!(secured(&server, &ours.ca, Some(TOKEN), None), ["ok", "ok"]);
    let [http, grpc] = secured(&server, &ours.ca, None, None);
    assert_eq!((http.as_str(), grpc.as_str()), ("401", "StatusCode.UNAUTHENTICATED"));
    let [http, grpc] = secured(&server, &theirs.ca, Some(TOKEN), None);
    assert!(http.contains("SSL") && grpc.contains("UNAVAILABLE"), "another authority: {http} {grpc}");
}

#[test]
fn a_certificate_that_is_replaced_as_kubernetes_does_is_shown_without_a_restart() {
    let files = Files(tempfile::tempdir().unwrap());
    let (ours, theirs) = (files.pki("ours"), files.pki("theirs"));
    let mount = files.0.path().join("mount");
    let put = |version: &str, (chain, key): &(PathBuf, PathBuf)| {
        let folder = mount.join(version);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(chain, folder.join("tls.crt")).unwrap();
        fs::copy(key, folder.join("tls.key")).unwrap();
        std::os::unix::fs::symlink(version, mount.join("..new")).unwrap();
        fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
    };
    put("..1", &ours.server);
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.join(name)).unwrap();
    }
    let (chain, key) = (mount.join("tls.crt"), mount.join("tls.key"));
    let (server, _folder) = Running::start(&[MODEL], &["--tls-cert", text(&chain), "--tls-key", text(&key)]);
    assert_eq!(secured(&server, &ours.ca, None, None), ["ok", "ok"]);
    put("..2", &theirs.server);
    let shown = (0..60).any(|_| secured(&server, &theirs.ca, None, None) == ["ok", "ok"]);
    assert!(shown, "the new certificate is never shown");
}

#[test]
fn client_certificates_of_the_authority_alone_are_taken() {
    let files = Files(tempfile::tempdir().unwrap());
    let (ours, theirs) = (files.pki("ours"), files.pki("theirs"));
    let (chain, key) = &ours.server;
    let words = ["--tls-cert", text(chain), "--tls-key", text(key), "--client-ca", text(&ours.ca)];
    let (server, _folder) = Running::start(&[MODEL], &words);
    assert_eq!(secured(&server, &ours.ca, None, Some(&ours.client)), ["ok", "ok"]);
    for client in [None, Some(&theirs.client), Some(&ours.server)] {
        let [http, grpc] = secured(&server, &ours.ca, None, client);
        assert!(http != "ok" && grpc.contains("UNAVAILABLE"), "{http} {grpc}");
    }
}

#[test]
fn what_others_reach_is_refused_without_tls_and_without_knowing_them() {
    let files = Files(tempfile::tempdir().unwrap());
    let pki = files.pki("ours");
    let (chain, key) = &pki.server;
    let (tokens, short) = (files.write("tokens", TOKEN), files.write("short", "secret"));
    let folder = folder_of(&[MODEL]);
    let tls = ["--tls-cert", text(chain), "--tls-key", text(key)];
    let all = ["--http", "0.0.0.0:0"];
    for (words, says) in [
        (all.to_vec(), "--insecure-plaintext"),
        (vec!["--grpc", "[::]:0"], "--insecure-plaintext"),
        ([&all[..], &["--token-file", text(&tokens)]].concat(), "--insecure-plaintext"),
        ([&all[..], &tls].concat(), "--insecure-unauthenticated"),
        ([&all[..], &["--insecure-plaintext"]].concat(), "--insecure-unauthenticated"),
        ([&all[..], &["--insecure-unauthenticated"]].concat(), "--insecure-plaintext"),
        (vec!["--client-ca", text(&pki.ca)], "--tls-cert"),
        (vec!["--tls-cert", text(chain)], "--tls-key"),
        (vec!["--tls-cert", text(key), "--tls-key", text(key)], "no certificate"),
        (vec!["--tls-cert", text(chain), "--tls-key", text(&pki.client.1)], "ours-server.crt"),
        (vec!["--token-file", text(&short)], "at least 20 characters"),
        (vec!["--token-file", "/nowhere"], "/nowhere"),
    ] {
        let output = command(&["serve", "--models", text(folder.path())]).args(&words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(says), "{words:?}: {error}");
        assert!(output.stdout.is_empty(), "nothing was served: {words:?}");
    }
    let named = ["--http", "0.0.0.0:0", "--insecure-plaintext", "--insecure-unauthenticated"];
    drop(Running::start(&[MODEL], &named));
    let known = [&["--http", "0.0.0.0:0", "--token-file", text(&tokens)][..], &tls].concat();
    drop(Running::start(&[MODEL], &known));
}
