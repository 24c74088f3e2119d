//! How long certificates renew themselves, and how a workload is ended at once.

use std::sync::Arc;
use std::time::Duration;

use foregate_control::authority::certificate::{ATTESTED, integer};
use foregate_policy::fleet::{BundleRequest, Node, PolicyRequest};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use tonic::Code;

use crate::support::client::{Svid, ask, csr, id, identity, join, policies, sign};
use crate::support::process::Control;
use crate::support::within;

const GENERATED: &str = "insecure: { generateAuthority: true }\njoinTokens: { lifetime: 1h, uses: 10 }\n";
const LEADS: &str = "spiffe://example.org/ns/crm/sa/leads";

/// When a token last proved a workload, as its certificate says.
fn attested(svid: &Svid) -> Option<u64> {
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    let mark = leaf.extensions().iter().find(|found| found.oid.to_id_string() == "2.25.5739218406193482117");
    mark.map(|mark| {
        assert!(!mark.critical, "others take the certificate as well");
        x509_parser::der_parser::der::parse_der_integer(mark.value).unwrap().1.as_u64().unwrap()
    })
}

/// A control plane below an authority of others, which signs whatever a test wants.
struct Signed {
    control: Control,
    root: Issuer<'static, KeyPair>,
    /// When it began, since the epoch.
    begun: u64,
}

impl Signed {
    /// Renews certificates with themselves for two hours.
    async fn start() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        for name in ["root.pem", "root.key"] {
            let text = if name == "root.pem" { certificate.pem() } else { key.serialize_pem() };
            std::fs::write(folder.path().join(name), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(folder.path().join(name), mode).unwrap();
        }
        let root = Issuer::new(params, key);
        let files = "authority: { roots: root.pem, issuer: root.pem, issuerKey: root.key, lifetime: 1h }\n";
        let settings =
            format!("{files}identity: {{ reattest: 2h }}\njoinTokens: {{ lifetime: 1h, uses: 10 }}\n");
        let control = Control::start_in(folder, &settings).await;
        Self { control, root, begun: foregate_control::clock::now().unix.as_secs() }
    }

    /// A certificate that began so many hours ago, and says when a token proved its workload where it does.
    fn certificate(&self, hours: u64, attested: Option<u64>) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(LEADS.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(self.ago(hours));
        params.not_after = date_time_ymd(2100, 1, 1);
        let mark = |at| CustomExtension::from_oid_content(ATTESTED, integer(at));
        params.custom_extensions.extend(attested.map(mark));
        Svid { chain: vec![params.signed_by(&key, &self.root).unwrap().into()], key }
    }

    /// Hours before it began, since the epoch.
    fn ago(&self, hours: u64) -> u64 {
        self.begun - hours * 3600
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_with_itself_for_a_while_after_the_last_token() {
    let signed = Signed::start().await;
    let control = &signed.control;
    // Renewals say when a token was shown, not when they were made.
    let mut last = signed.certificate(0, Some(signed.ago(1)));
    for _ in 0..2 {
        last = sign(control, Some(&last), None).await.unwrap();
        assert_eq!((id(&last).as_str(), attested(&last)), (LEADS, Some(signed.ago(1))));
    }
    let key = KeyPair::generate().unwrap();
    let answer = ask(control, Some(&last), csr(&key, |_| ()), None).await.unwrap();
    assert_eq!(answer.attested_until, signed.ago(1) + 2 * 3600);
    // However young the certificate is.
    let old = signed.certificate(0, Some(signed.ago(3)));
    let refused = sign(control, Some(&old), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    for part in ["identity.reattest", "7200s", "--control-token"] {
        assert!(refused.message().contains(part), "{part}: {}", refused.message());
    }
    let series = "foregate_control_certificates_total{proof=\"certificate\",outcome=\"unattested\"}";
    assert!(control.sample(series).await >= 1.0);
    // Who shows a token begins anew, and whoever is this workload already uses none of it up.
    let token = control.token("ns/crm/sa/leads", &["--uses", "1"]);
    for _ in 0..3 {
        let again = sign(control, Some(&old), join(&token)).await.unwrap();
        assert_eq!(id(&again), LEADS);
        assert!(attested(&again).unwrap() >= signed.begun);
        sign(control, Some(&again), None).await.unwrap();
    }
    let other = sign(control, None, join(&token)).await.unwrap();
    let used_up = sign(control, None, join(&token)).await.unwrap_err();
    assert_eq!(used_up.code(), Code::Unauthenticated, "used up");
    let refused = sign(control, Some(&other), join(&token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "a token that is used up proves nothing");
}

#[tokio::test]
async fn a_token_of_another_workload_is_used_up_whatever_the_connection_shows() {
    let control = Control::start(GENERATED).await;
    let leads = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let token = control.token("ns/crm/sa/billing", &["--uses", "1"]);
    let billing = sign(&control, Some(&leads), join(&token)).await.unwrap();
    assert_eq!(id(&billing), "spiffe://example.org/ns/crm/sa/billing");
    assert_eq!(sign(&control, None, join(&token)).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn certificates_that_say_nothing_of_a_token_count_from_when_they_began() {
    let signed = Signed::start().await;
    let renewed = sign(&signed.control, Some(&signed.certificate(1, None)), None).await.unwrap();
    assert_eq!(attested(&renewed), Some(signed.ago(1)));
    let refused = sign(&signed.control, Some(&signed.certificate(3, None)), None).await.unwrap_err();
    assert!(refused.message().contains("identity.reattest"), "{refused}");
}

/// One answer of the stream of policies.
async fn first_answer(control: &Control, svid: &Svid) -> foregate_policy::fleet::PolicyResponse {
    let node = Some(Node { id: "one".to_owned(), ..Node::default() });
    let first = PolicyRequest { node, ..PolicyRequest::default() };
    let sent = futures_util::stream::StreamExt::chain(
        futures_util::stream::iter([first]),
        futures_util::stream::pending(),
    );
    let mut client = policies(control, Some(svid)).await;
    let mut answers = client.stream(sent).await.unwrap().into_inner();
    within("an answer", answers.message()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_withdrawn_workload_gets_no_certificate_no_roots_and_no_policies() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    let gateway = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec: { gatewayClassName: foregate, listeners: [{ name: http, protocol: HTTP, port: 8080 }] }
";
    std::fs::write(folder.path().join("policies/edge.yaml"), gateway).unwrap();
    let settings = format!(
        "{GENERATED}sources: [{{ name: files, folder: {{ path: policies }} }}]
grants: [{{ identities: ['spiffe://example.org/*'], gateways: ['*/*'] }}]
"
    );
    let mut control = Control::start_in(Arc::clone(&folder), &settings).await;
    control.event("revision adopted").await;
    let leads = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    let billing = sign(&control, None, join(&control.token("ns/crm/sa/billing", &[]))).await.unwrap();
    let token = control.token("ns/crm/sa/leads", &[]);
    assert!(!first_answer(&control, &leads).await.changed.is_empty());
    control.terminate().await;

    let withdrawn = format!("{settings}identity: {{ withdrawn: ['{LEADS}'] }}\n");
    let control = Control::start_in(folder, &withdrawn).await;
    for (svid, proof) in
        [(Some(&leads), None), (None, Some(join(&token))), (Some(&leads), Some(join(&token)))]
    {
        let refused = sign(&control, svid, proof).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("identity.withdrawn"), "{refused}");
    }
    let series = "foregate_control_certificates_total{proof=\"certificate\",outcome=\"withdrawn\"}";
    assert!(control.sample(series).await >= 1.0);
    let refused = identity(&control, Some(&leads)).await.bundles(BundleRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let told = first_answer(&control, &leads).await;
    assert!(told.withheld.contains("identity.withdrawn") && told.changed.is_empty(), "{told:?}");
    // Everybody else goes on.
    sign(&control, Some(&billing), None).await.unwrap();
    assert!(!first_answer(&control, &billing).await.changed.is_empty());
}
