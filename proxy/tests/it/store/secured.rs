//! A Redis behind TLS, with users and passwords that change.

use std::sync::Arc;
use std::time::Duration;

use foregate::secrets::LiveSecret;
use foregate::store::Store;
use foregate_filters::secret::SecretRef;
use foregate_policy::snapshot::{Shown, UpstreamTls};
use tokio::runtime::Handle;

use crate::support::certificates::Authority;
use crate::support::redis::{Redis, open};
use crate::support::within;

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn tls_is_verified_by_the_authority_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let leaf = authority.leaf(&["redis.test"]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("stranger.pem", stranger.pem()),
        ("tls.crt", &leaf.certificate),
        ("tls.key", &leaf.key),
    ] {
        std::fs::write(file(name), text).unwrap();
    }
    let redis = Redis::start_silent(&[
        "--tls-port",
        "PORT",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &file("tls.crt"),
        "--tls-key-file",
        &file("tls.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ])
    .await;
    let tls = |ca: &str, name: &str| UpstreamTls {
        server_name: Some(name.into()),
        ca_files: vec![file(ca).into()],
        alt_names: Vec::new(),
        shown: Shown::Nothing,
    };
    let mut spec = redis.spec();
    spec.tls = Some(tls("ca.pem", "redis.test"));
    let store = open(&spec);
    store.set("a", b"one", LONG).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap(), "one");
    for (ca, name) in [("stranger.pem", "redis.test"), ("ca.pem", "other.test")] {
        spec.tls = Some(tls(ca, name));
        let error = open(&spec).get("a").await.unwrap_err();
        assert!(error.to_string().starts_with("not connected: the connection failed"), "{error}");
    }
    spec.tls = None;
    assert!(open(&spec).get("a").await.is_err(), "nothing is said in clear");
}

#[tokio::test]
async fn a_user_is_known_by_a_password_that_may_change() {
    let redis = Redis::start(&[]).await;
    let allow =
        ["~test:*", "+set", "+get", "+getrange", "+eval", "+evalsha", "+script|load", "+select", "+client"];
    let user = |password: &str| {
        let password = format!(">{password}");
        let words = [["ACL", "SETUSER", "gateway", "reset", "on", &password].as_slice(), &allow].concat();
        let _: () = redis.ask(&words);
    };
    user("first");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let reference = SecretRef { file: Some(file.display().to_string()), ..SecretRef::default() };
    let secret = Arc::new(LiveSecret::open(&reference).unwrap());
    let mut spec = redis.spec();
    spec.username = Some("gateway".into());
    let store = Store::new(&spec, Some(Arc::clone(&secret)), None, &Handle::current());
    store.set("a", b"one", LONG).await.unwrap();
    let who: String = redis.ask(&["CLIENT", "LIST"]);
    assert!(who.contains("user=gateway"), "{who}");

    // Another password ends the connections that the old one opened.
    user("second");
    std::fs::write(&file, "second\n").unwrap();
    secret.reload().unwrap();
    let _: i64 = redis.ask(&["CLIENT", "KILL", "USER", "gateway"]);
    within("the new password", async {
        while store.get("a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Without being disconnected, too: it is a rotation that nobody notices.
    let id = |list: String| {
        list.lines().find(|it| it.contains("user=gateway")).map(|it| it.split(' ').next().unwrap().to_owned())
    };
    let before = id(redis.ask(&["CLIENT", "LIST"]));
    let _: () = redis.ask(&["ACL", "SETUSER", "gateway", ">third"]);
    std::fs::write(&file, "third\n").unwrap();
    secret.reload().unwrap();
    within("a connection with the third password", async {
        while id(redis.ask(&["CLIENT", "LIST"])) == before {
            store.get("a").await.unwrap();
        }
    })
    .await;

    std::fs::write(&file, "wrong\n").unwrap();
    secret.reload().unwrap();
    let denied = Store::new(&spec, Some(secret), None, &Handle::current());
    let error = denied.get("a").await.unwrap_err();
    assert!(error.to_string().contains("refuses us"), "{error}");
    assert!(!format!("{error:?} {denied:?}").contains("wrong"));
}
