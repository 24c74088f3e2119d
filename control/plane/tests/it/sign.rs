//! Certificates: who gets one, for what proof, and who does not.

use std::sync::Arc;
use std::time::Duration;

use foregate_policy::fleet::{BundleRequest, Proof, SignRequest};
use rcgen::{BasicConstraints, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType};
use serde_json::Value;
use tonic::Code;

use crate::support::api_server::{ApiServer, kubeconfig};
use crate::support::client::{Svid, ask, config, csr, id, identity, join, sign, tls};
use crate::support::process::Control;
use crate::support::within;

const GENERATED: &str = "insecure: { generateAuthority: true }\njoinTokens: { lifetime: 1h, uses: 10 }\n";
const LEADS: &str = "spiffe://example.org/ns/crm/sa/leads";

fn decisions(proof: &str, outcome: &str) -> String {
    format!("foregate_control_certificates_total{{proof=\"{proof}\",outcome=\"{outcome}\"}}")
}

fn status(control: &Control) -> Value {
    let output = control.command(&["authority", "status"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_join_token_is_good_for_one_certificate_of_its_workload() {
    let control = Control::start(GENERATED).await;
    let token = control.token("ns/crm/sa/leads", &[]);
    let workload = sign(&control, None, join(&token)).await.unwrap();
    assert_eq!(id(&workload), LEADS);
    let event = control.event("certificate signed").await;
    assert_eq!(event["spiffe_id"], LEADS);

    let again = sign(&control, None, join(&token)).await.unwrap_err();
    let wrong = sign(&control, None, join(&format!("{}AAA", &token[..token.len() - 3]))).await.unwrap_err();
    let short = control.token("ns/crm/sa/leads", &["--expires", "1s", "--uses", "10"]);
    let expired = async {
        loop {
            if let Err(refused) = sign(&control, None, join(&short)).await {
                break refused;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let expired = within("expiry", expired).await;
    for refused in [&again, &wrong, &expired] {
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(refused.message(), "the join token is not valid", "all look alike");
    }
    let events = control.events("certificate refused", 3).await;
    assert!(events[0]["error"].as_str().unwrap().contains("used up"), "{}", events[0]);
    assert!(control.sample(&decisions("join token", "signed")).await >= 1.0);
    assert!(control.sample(&decisions("join token", "unknown")).await >= 1.0);
    assert!(control.sample(&decisions("join token", "expired")).await >= 1.0);
    // No token is told to anybody.
    let secret = token.rsplit_once('.').unwrap().1;
    assert!(!control.text().contains(secret));
}

#[tokio::test]
async fn tokens_have_bounds_and_outlive_a_restart() {
    let mut control = Control::start(GENERATED).await;
    for (args, want) in [
        (["--identity", "crm/leads", "--uses", "1"], "ns/crm/sa/leads"),
        (["--identity", "ns/crm/sa/leads", "--uses", "11"], "1 to 10 times"),
        (["--identity", "ns/crm/sa/leads", "--expires", "2h"], "3600s"),
        (["--identity", "foregate/control", "--expires", "1m"], "names no workload"),
    ] {
        let output = control.command(&["token", "create"], &args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(want), "{args:?}: {said}");
    }
    let token = control.token("ns/crm/sa/leads", &["--uses", "2"]);
    sign(&control, None, join(&token)).await.unwrap();
    control.terminate().await;
    let output = control.command(&["token", "create"], &["--identity", "ns/crm/sa/leads"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no control plane runs with this state folder"), "{said}");
    let control = Control::start_in(control.folder(), GENERATED).await;
    sign(&control, None, join(&token)).await.unwrap();
    assert_eq!(sign(&control, None, join(&token)).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn of_a_request_only_the_key_is_used() {
    let control = Control::start(GENERATED).await;
    let token = control.token("ns/crm/sa/leads", &[]);
    let key = KeyPair::generate().unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    for (csr, want) in [
        (csr(&key, |csr| csr.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "authority"),
        (csr(&key, |csr| csr.key_usages.push(KeyUsagePurpose::KeyCertSign)), "signs certificates"),
        (
            csr(&key, |csr| csr.subject_alt_names.push(uri("spiffe://example.org/ns/crm/sa/billing"))),
            "other names",
        ),
        (
            csr(&key, |csr| csr.subject_alt_names = vec![uri(LEADS), uri(LEADS), uri("spiffe://a.test/b")]),
            "other names",
        ),
        (
            csr(&key, |csr| csr.subject_alt_names.push(SanType::DnsName("a.test".try_into().unwrap()))),
            "other names",
        ),
        (csr(&other, |_| ()), "P-256"),
        (b"no request".to_vec(), "PKCS#10"),
        (vec![0x30; 8_000], "8000 bytes"),
    ] {
        let refused = ask(&control, None, csr, join(&token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{want}");
        assert!(refused.message().contains(want), "{want}: {}", refused.message());
    }
    // None of them has used the token up.
    let named = csr(&key, |csr| {
        csr.subject_alt_names = vec![uri(LEADS)];
        csr.distinguished_name.push(rcgen::DnType::CommonName, "root");
    });
    let response = ask(&control, None, named, join(&token)).await.unwrap();
    let chain = response.chain.iter().map(|der| der.to_vec().into()).collect();
    let svid = Svid { chain, key };
    assert_eq!(id(&svid), LEADS);
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0, "not what the request calls itself");
    assert!(!leaf.is_ca());
    let bundle = response.bundle.unwrap();
    assert_eq!((bundle.trust_domain.as_str(), bundle.roots.len()), ("example.org", 1));
}

#[tokio::test]
async fn the_certificate_of_a_connection_is_renewed_and_no_other_proof_is_needed() {
    let control = Control::start(GENERATED).await;
    let refused = sign(&control, None, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let first = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let second = sign(&control, Some(&first), None).await.unwrap();
    assert_eq!(id(&second), LEADS);
    assert_ne!(first.chain[0], second.chain[0]);
    let third = sign(&control, Some(&second), None).await.unwrap();
    assert_eq!(id(&third), LEADS);
    let key = KeyPair::generate().unwrap();
    let billing = csr(&key, |csr| {
        let uri = "spiffe://example.org/ns/crm/sa/billing";
        csr.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    });
    let refused = ask(&control, Some(&first), billing, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!((control.sample(&decisions("certificate", "signed")).await - 2.0).abs() < 0.1);
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_shows() {
    let control = Control::start(&format!("{GENERATED}authority: {{ lifetime: 5s }}\n")).await;
    let workload = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let mut client = identity(&control, Some(&workload)).await;
    let mut bundles = client.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert!(bundles.message().await.unwrap().is_some());
    let ended = within("the end of the connection", bundles.message()).await;
    assert!(ended.is_err() || ended.unwrap().is_none());
    // To the second: for a moment the certificate may still be good, and the connection ends at once.
    let expired = async {
        loop {
            let config = config(&control.roots(), Some(&workload));
            let mut stream = tls(control.address, "control.test", config).await.unwrap();
            let mut bytes = Vec::new();
            let told = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
            if told.is_err_and(|error| error.to_string().contains("Expired")) {
                break;
            }
        }
    };
    within("an alert", expired).await;
}

#[tokio::test]
async fn an_address_that_fails_all_the_time_must_wait() {
    let control = Control::start(GENERATED).await;
    let mut codes = Vec::new();
    for _ in 0..40 {
        codes.push(sign(&control, None, join("fgj.unknown.secret")).await.unwrap_err().code());
        if codes.last() == Some(&Code::ResourceExhausted) {
            break;
        }
    }
    assert_eq!(codes.last(), Some(&Code::ResourceExhausted), "{codes:?}");
    assert!(codes.len() > 15, "not at once: {codes:?}");
}

#[tokio::test]
async fn a_service_account_token_is_what_the_api_server_says() {
    let api = ApiServer::start().await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let file = kubeconfig(folder.path(), api.address);
    let settings =
        format!("{GENERATED}tokenReview: {{ audience: foregate, kubeconfig: '{}' }}\n", file.display());
    let control = Control::start_in(folder, &settings).await;
    let account = |token: &str| Proof::ServiceAccountToken(token.to_owned());
    let workload = sign(&control, None, account("good")).await.unwrap();
    assert_eq!(id(&workload), LEADS);
    assert_eq!(api.asked()[0]["spec"]["audiences"], serde_json::json!(["foregate"]));
    for (token, outcome) in
        [("forged", "unknown"), ("elsewhere", "audience"), ("old", "audience"), ("user", "account")]
    {
        let refused = sign(&control, None, account(token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
        assert_eq!(refused.message(), "the service account token is not valid here", "{token}");
        assert!(control.sample(&decisions("service account", outcome)).await >= 1.0, "{token}");
    }
    // Nobody can be asked: refused, and soon right again.
    let address = api.address;
    api.stop().await;
    let refused = sign(&control, None, account("good")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(control.sample(&decisions("service account", "unavailable")).await >= 1.0);
    let renewed = sign(&control, Some(&workload), None).await.unwrap();
    assert_eq!(id(&renewed), LEADS, "who has an identity keeps it");
    let _api = ApiServer::start_at(address).await;
    assert_eq!(id(&sign(&control, None, account("good")).await.unwrap()), LEADS);
    assert!(!control.text().contains("\"good\""), "no token is told");
}

#[tokio::test]
async fn proofs_that_are_not_configured_are_not_taken() {
    let control = Control::start("insecure: { generateAuthority: true }\n").await;
    let account = Proof::ServiceAccountToken("good".to_owned());
    let refused = sign(&control, None, account).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("tokenReview"), "{}", refused.message());
    let refused = sign(&control, None, join("fgj.a.b")).await.unwrap_err();
    assert!(refused.message().contains("joinTokens"), "{}", refused.message());
    let output = control.command(&["token", "create"], &["--identity", "ns/crm/sa/leads"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("joinTokens"), "{said}");
}

#[tokio::test]
async fn a_rotation_reaches_who_listens_and_signs_after_the_overlap() {
    let settings = format!("{GENERATED}authority: {{ lifetime: 8s, overlap: 2s }}\n");
    let control = Control::start(&settings).await;
    let workload = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let mut client = identity(&control, Some(&workload)).await;
    let mut bundles = client.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert_eq!(bundles.message().await.unwrap().unwrap().roots.len(), 1);
    let output = control.command(&["authority", "rotate"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = within("the new bundle", bundles.message()).await.unwrap().unwrap();
    assert_eq!((bundle.roots.len(), bundle.sequence), (2, 2));
    let before = status(&control);
    assert!(before["next"]["signs"].is_string(), "{before}");
    let output = control.command(&["authority", "rotate"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("a rotation is under way"));
    control.event("issuer changed").await;
    let after = status(&control);
    assert_eq!(after["issuer"], before["next"]["issuer"]);
    assert!(after["next"].is_null());
    let leaving: Vec<_> =
        after["roots"].as_array().unwrap().iter().map(|root| root["leaves"].is_string()).collect();
    assert_eq!(leaving, [true, false], "{after}");
    // The old certificate is still good for the new one.
    let renewed = sign(&control, Some(&workload), None).await.unwrap();
    assert_ne!(renewed.chain[1], workload.chain[1]);
    let gone = async {
        while status(&control)["roots"].as_array().unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the old root to go", gone).await;
    control.events("bundle changed", 3).await;
}

#[tokio::test]
async fn a_connection_ends_with_the_root_that_is_withdrawn_and_gets_nothing_below_the_new_one() {
    let settings = format!("{GENERATED}authority: {{ lifetime: 1h, overlap: 0s }}\n");
    let control = Control::start(&settings).await;
    let stolen = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let mut client = identity(&control, Some(&stolen)).await;
    let mut bundles = client.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert!(bundles.message().await.unwrap().is_some());
    let output = control.command(&["authority", "rotate"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    control.event("issuer changed").await;
    let honest = sign(&control, None, join(&control.token("ns/crm/sa/billing", &[]))).await.unwrap();
    let mut other = identity(&control, Some(&honest)).await;
    let mut kept = other.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert_eq!(kept.message().await.unwrap().unwrap().roots.len(), 2);

    let roots = status(&control)["roots"].as_array().unwrap().clone();
    let old = roots.iter().find(|root| root["leaves"].is_string()).unwrap()["sha256"].as_str().unwrap();
    let output = control.command(&["authority", "withdraw"], &[old]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ended = async { while matches!(bundles.message().await, Ok(Some(_))) {} };
    within("the end of the connection", ended).await;
    let key = KeyPair::generate().unwrap();
    let request = || SignRequest { csr: csr(&key, |_| ()).into(), proof: None };
    within("a refusal", client.sign(request())).await.unwrap_err();
    // Whoever is below the other root stays.
    assert_eq!(within("the bundle", kept.message()).await.unwrap().unwrap().roots.len(), 1);
    within("a certificate", other.sign(request())).await.unwrap();
}
