//! The running control plane: how it starts, whom it serves, how it ends.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use foregate_policy::fleet::{BundleRequest, PolicyRequest};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::Value;
use tonic::Code;

use crate::support::client::{Svid, config, identity, join, names, policies, sign, tls};
use crate::support::process::{Control, command};
use crate::support::within;

const GENERATED: &str = "insecure: { generateAuthority: true }\njoinTokens: {}\n";

#[tokio::test]
async fn it_starts_ready_serves_its_own_certificate_and_ends_on_a_signal() {
    let mut control = Control::start(GENERATED).await;
    assert_eq!(control.page("/livez").await.0, 200);
    assert_eq!(control.page("/readyz").await.0, 200);
    for name in ["control.test", "127.0.0.1"] {
        let stream = tls(control.address, name, config(&control.roots(), None)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let names = names(&leaf);
        assert!(names.contains(&"spiffe://example.org/foregate/control".to_owned()), "{names:?}");
    }
    assert!(tls(control.address, "other.test", config(&control.roots(), None)).await.is_err());
    let (_, metrics) = control.page("/metrics").await;
    assert!(metrics.contains("foregate_control_handshakes_total{outcome=\"done\"} 2"), "{metrics}");
    for name in ["state", "state/authority.json", "state/control.sock"] {
        let mode = std::fs::metadata(control.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    // A stream that would never end does not hold up the end.
    let workload = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let mut client = identity(&control, Some(&workload)).await;
    let mut bundles = client.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert_eq!(within("a bundle", bundles.message()).await.unwrap().unwrap().sequence, 1);
    assert!(control.terminate().await.success(), "{}", control.text());
    assert!(within("its end", bundles.message()).await.unwrap_or_default().is_none());
}

#[tokio::test]
async fn two_processes_never_share_a_state_folder() {
    let control = Control::start(GENERATED).await;
    let config = control.path("control.yaml");
    let output = command(&["run", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("stateDir") && said.contains("another control plane uses it"), "{said}");
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_are_closed_and_soon_there_is_room_again() {
    let control = Control::start(&format!("{GENERATED}connections: {{ limit: 2 }}\n")).await;
    let open = async || tls(control.address, "control.test", config(&control.roots(), None)).await;
    let (one, two) = (open().await.unwrap(), open().await.unwrap());
    assert!(open().await.is_err());
    assert!(control.sample("foregate_control_handshakes_total{outcome=\"full\"}").await >= 1.0);
    drop((one, two));
    let again = async {
        while open().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("room", again).await;
}

#[tokio::test]
async fn strangers_of_one_address_leave_room_for_others() {
    let control = Control::start(GENERATED).await;
    let open = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(control.address).await.unwrap();
        // Nothing is said: a handshake that never ends counts as well.
        let mut byte = [0; 1];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
        let closed = tokio::time::timeout(std::time::Duration::from_millis(1), read).await.is_ok();
        (stream, closed)
    };
    let mut held = Vec::new();
    let full = async {
        while control.sample("foregate_control_handshakes_total{outcome=\"full\"}").await < 1.0 {
            for _ in 0..16 {
                held.push(open("127.0.0.2").await);
            }
        }
    };
    within("an address that has its share", full).await;
    assert!(held.len() <= 96, "{} connections", held.len());
    // Others shake hands, and whoever has an identity is no stranger.
    let workload = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..70 {
        let mut client = identity(&control, Some(&workload)).await;
        clients.push(within("a bundle", client.bundles(BundleRequest {})).await.unwrap());
    }
}

#[tokio::test]
async fn a_configuration_with_a_fault_is_refused_with_its_place() {
    for (text, want) in [
        (String::new(), "control.yaml"),
        (format!("{}authority: {{ lifetme: 1h }}\n", Control::base()), "control.yaml:6:14: unknown field"),
        (Control::base().to_owned(), "there is no certificate authority"),
    ] {
        let output = Control::refused(&text);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(want) && said.contains("help: "), "{want}: {said}");
    }
    let files = "authority: { roots: r.pem, issuer: i.pem, issuerKey: i.key }\n";
    let output = Control::refused(&format!("{}{files}", Control::base()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("i.key: No such file"), "{said}");
}

#[tokio::test]
async fn nobody_without_a_sound_certificate_gets_to_policies_or_bundles() {
    let control = Control::start(GENERATED).await;
    let empty = || tokio_stream_of(PolicyRequest::default());
    let refused = policies(&control, None).await.stream(empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = identity(&control, None).await.bundles(BundleRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    // One with an identity gets further.
    let workload = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let answer = policies(&control, Some(&workload)).await.stream(empty()).await;
    assert_ne!(answer.err().map(|status| status.code()), Some(Code::Unauthenticated));

    // A certificate that the authority did not sign ends the handshake.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/ns/crm/sa/leads".try_into().unwrap())];
    let forged = Svid { chain: vec![params.self_signed(&key).unwrap().into()], key };
    let config = config(&control.roots(), Some(&forged));
    let stream = tls(control.address, "control.test", Arc::clone(&config)).await;
    // In TLS 1.3 the client is done before it is told.
    let mut stream = stream.unwrap();
    let mut bytes = [0; 1024];
    let told = within("an alert", async {
        loop {
            match tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
    });
    assert!(told.await.unwrap().to_string().contains("alert"));
    let event: Value = control.event("handshake failed").await;
    assert!(event["error"].as_str().unwrap().contains("certificate"), "{event}");
}

#[tokio::test]
async fn proxies_that_say_nothing_of_themselves_keep_no_other_from_saying_it() {
    let control = Control::start(GENERATED).await;
    let workload = async |name: &str| {
        sign(&control, None, join(&control.token(&format!("ns/crm/sa/{name}"), &[]))).await.unwrap()
    };
    // All that may say at once what they have, of as many identities as that takes.
    let mut silent = Vec::new();
    for name in 0..8 {
        let mut client = policies(&control, Some(&workload(&format!("silent-{name}")).await)).await;
        for _ in 0..8 {
            let stream = client.stream(futures_util::stream::pending::<PolicyRequest>()).await.unwrap();
            silent.push(stream.into_inner());
        }
    }
    let mut client = policies(&control, Some(&workload("edge").await)).await;
    let mut stream = client.stream(tokio_stream_of(PolicyRequest::default())).await.unwrap().into_inner();
    let answer = within("an answer", stream.message()).await.unwrap_err();
    assert_eq!((answer.code(), answer.message()), (Code::InvalidArgument, "the first message has no node"));
    for mut stream in silent {
        let ended = within("an end", stream.message()).await.unwrap_err();
        assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
    }
}

fn tokio_stream_of(first: PolicyRequest) -> impl futures_util::Stream<Item = PolicyRequest> {
    futures_util::stream::iter([first])
}
