//! Makes keys, certificates and tokens that load, proxies and origin agree on.

use std::fs;
use std::path::Path;

use anyhow::Result;
use foregate_inference::protocol::messages::ModelInferRequest;
use jsonwebtoken::Algorithm;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Authority, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::keys::{Issuer, SCOPE};
use crate::measure::unix_seconds;
use crate::tls::NAME;

/// Callers that take turns.
const CALLERS: usize = 100;
/// Bytes of the tensor in a gRPC call.
const TENSOR: usize = 256;

/// Writes everything into a folder, which is made.
pub fn run(folder: &Path, once: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    certificates(folder)?;
    tokens(folder, once)?;
    let call = ModelInferRequest {
        model_name: "bench".into(),
        raw_input_contents: vec![vec![7; TENSOR].into()],
        ..Default::default()
    };
    let message = call.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message);
    fs::write(folder.join("call.bin"), frame)?;
    Ok(fs::write(folder.join("kib.bin"), "z".repeat(1_024))?)
}

/// An authority, and what it signed: `server` and `client`, P-256.
fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "bench authority");
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let authority = Authority::new(params, key);
    for name in ["server", "client"] {
        let mut params = CertificateParams::new(vec![NAME.to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::URI(format!("spiffe://test/ns/crm/sa/{name}").try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let (certificate, key) = (params.signed_by(&key, &authority)?.pem(), key.serialize_pem());
        fs::write(folder.join(format!("{name}.crt")), &certificate)?;
        fs::write(folder.join(format!("{name}.key")), &key)?;
        // Both in one file, as HAProxy reads them.
        fs::write(folder.join(format!("{name}.pem")), certificate + &key)?;
    }
    Ok(())
}

/// For each algorithm: its public key, tokens of many callers, tokens to be sent once, one that may not read.
fn tokens(folder: &Path, once: usize) -> Result<()> {
    let (mut keys, now) = (Vec::new(), unix_seconds());
    for (name, algorithm) in
        [("rs256", Algorithm::RS256), ("es256", Algorithm::ES256), ("eddsa", Algorithm::EdDSA)]
    {
        let issuer = Issuer::new(algorithm)?;
        keys.push(issuer.jwk().clone());
        fs::write(folder.join(format!("{name}.pub")), issuer.public())?;
        let list = |prefix: &str, count: usize| {
            let token = |number| issuer.token_of(&format!("{prefix}-{number}"), SCOPE, now);
            (0..count).map(|number| Ok(token(number)? + "\n")).collect::<Result<String>>()
        };
        fs::write(folder.join(format!("{name}.tokens")), list("user", CALLERS)?)?;
        if once > 0 {
            fs::write(folder.join(format!("{name}.once")), list("guest", once)?)?;
        }
        fs::write(folder.join(format!("{name}.other")), issuer.token_of("user-0", "crm.none", now)?)?;
    }
    Ok(fs::write(folder.join("jwks.json"), json!({ "keys": keys }).to_string())?)
}
