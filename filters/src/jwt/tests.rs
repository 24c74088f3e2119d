//! Bad tokens are refused, good ones pass, keys rotate, claims become headers.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::context::{Client, RequestContext};
use crate::fault::{Code, Fault, Path};
use crate::filter::{Filter, Pending};
use crate::jwt::key_set::{KeySet, KeySetError, MAX_BYTES, Skip};
use crate::jwt::{Alg, Jwks, Jwt, Spec, TokenCache};
use crate::keys::Keys;
use crate::moment::Moment;
use crate::peer::Peer;
use crate::rate_limit::limiter::{Limiter, Rate};
use crate::reason::Reason;
use crate::resources::Resources;
use crate::score::Scorer;
use crate::verdict::{Reply, Verdict};

const ISSUER: &str = "https://idp.example.com/";
const NOW: u64 = 1_800_000_000;

/// One signing key of every type, made once.
struct Signers {
    rsa: EncodingKey,
    p256: EncodingKey,
    p256_other: EncodingKey,
    p384: EncodingKey,
    ed25519: EncodingKey,
    secret: EncodingKey,
    rsa_pem: String,
    p256_pem: String,
    ed25519_pem: String,
    p256_private_pem: String,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| {
    let make = |alg| rcgen::KeyPair::generate_for(alg).unwrap();
    let rsa = make(&rcgen::PKCS_RSA_SHA256);
    let p256 = make(&rcgen::PKCS_ECDSA_P256_SHA256);
    let p256_other = make(&rcgen::PKCS_ECDSA_P256_SHA256);
    let p384 = make(&rcgen::PKCS_ECDSA_P384_SHA384);
    let ed25519 = make(&rcgen::PKCS_ED25519);
    Signers {
        rsa: EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap(),
        p256: EncodingKey::from_ec_der(p256.serialized_der()),
        p256_other: EncodingKey::from_ec_der(p256_other.serialized_der()),
        p384: EncodingKey::from_ec_der(p384.serialized_der()),
        ed25519: EncodingKey::from_ed_der(&ed25519_pkcs8(ed25519.serialized_der())),
        secret: EncodingKey::from_secret(&[7; 64]),
        rsa_pem: rsa.public_key_pem(),
        p256_pem: p256.public_key_pem(),
        ed25519_pem: ed25519.public_key_pem(),
        p256_private_pem: p256.serialize_pem(),
    }
});

/// The key in PKCS#8 version 1, from version 2, which also holds the public key (RFC 8410, section 7).
fn ed25519_pkcs8(der: &[u8]) -> Vec<u8> {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let seed = der.windows(4).position(|window| window == [4, 0x22, 4, 0x20]).unwrap() + 4;
    [&head, &der[seed..seed + 32]].concat()
}

fn jwk(key: &EncodingKey, alg: Algorithm, kid: &str) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, alg).unwrap()).unwrap();
    jwk.as_object_mut().unwrap().remove("alg");
    jwk["kid"] = kid.into();
    jwk
}

fn jwks() -> Vec<Value> {
    let signers = &*SIGNERS;
    vec![
        jwk(&signers.rsa, Algorithm::RS256, "rsa"),
        jwk(&signers.p256, Algorithm::ES256, "p256"),
        jwk(&signers.p384, Algorithm::ES384, "p384"),
        jwk(&signers.ed25519, Algorithm::EdDSA, "ed"),
    ]
}

fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sign_text(header: &str, claims: &str, key: &EncodingKey, alg: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, alg).unwrap();
    format!("{message}.{signature}")
}

fn sign(header: &Value, claims: &Value) -> String {
    sign_text(&header.to_string(), &claims.to_string(), &SIGNERS.p256, Algorithm::ES256)
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "p256", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "crm", "sub": "maya", "exp": NOW + 120, "scope": "crm.read crm.write"})
}

/// The good claims or header, with one member set or, by null, removed.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    let map = object.as_object_mut().unwrap();
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
    object
}

/// Keys whose issuer rotates when told.
#[derive(Debug, Default)]
struct FakeKeys {
    current: Mutex<Option<Arc<KeySet>>>,
    /// What a fetch will find; none where the issuer is down or the limit is used up.
    next: Mutex<Option<Arc<KeySet>>>,
    fetches: AtomicUsize,
}

impl FakeKeys {
    fn with(keys: KeySet) -> Arc<Self> {
        Arc::new(Self { current: Mutex::new(Some(Arc::new(keys))), ..Self::default() })
    }

    fn publish(&self, keys: KeySet) {
        *self.next.lock().unwrap() = Some(Arc::new(keys));
    }
}

impl Keys for FakeKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.current.lock().unwrap().clone()
    }

    fn may_refetch(&self, _: Option<&str>, _: Moment) -> bool {
        self.next.lock().unwrap().is_some()
    }

    fn refetch<'a>(
        &'a self,
        _: Option<&'a str>,
        _: Moment,
    ) -> std::pin::Pin<Box<dyn Future<Output = Option<Arc<KeySet>>> + Send + 'a>> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let next = self.next.lock().unwrap().take();
        let mut current = self.current.lock().unwrap();
        *current = next.or_else(|| current.take());
        Box::pin(std::future::ready(current.clone()))
    }
}

#[derive(Debug, Default)]
struct FakeResources {
    keys: HashMap<String, Arc<FakeKeys>>,
    cache: Arc<TokenCache>,
    fingerprints: Mutex<Vec<u64>>,
}

impl Resources for FakeResources {
    fn keys(&self, issuer: &str, _: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        match self.keys.get(issuer) {
            Some(keys) => Ok(Arc::clone(keys) as Arc<dyn Keys>),
            None => Err(Fault::new(Code::FILE, at.clone(), "no keys")),
        }
    }

    fn tokens(&self, _: &str, fingerprint: u64) -> Arc<TokenCache> {
        self.fingerprints.lock().unwrap().push(fingerprint);
        Arc::clone(&self.cache)
    }

    fn introspector(
        &self,
        _: &crate::introspection::Spec,
        at: &Path,
    ) -> Result<Arc<dyn crate::introspector::Introspector>, Fault> {
        Err(Fault::new(Code::SECRET, at.clone(), "nobody to ask"))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<crate::introspection::AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, _: &Rate) -> Arc<Limiter> {
        panic!("no limits here")
    }

    fn scorer(&self, _: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        Err(Fault::new(Code::MODEL, at.clone(), "no models here"))
    }
}

fn spec() -> Spec {
    Spec {
        issuer: ISSUER.into(),
        audiences: vec!["crm".into()],
        jwks: Jwks { uri: Some("https://idp.example.com/jwks".into()), ..Jwks::default() },
        algorithms: Vec::new(),
        types: Vec::new(),
        scopes_claim: None,
        require_binding: false,
        clock_skew: None,
        claims_to_headers: Vec::new(),
        forward: false,
    }
}

/// A filter over keys of its own, with its cache.
struct Stand {
    jwt: Jwt,
    keys: Arc<FakeKeys>,
    cache: Arc<TokenCache>,
}

impl Stand {
    fn new(spec: Spec, keys: Arc<FakeKeys>) -> Self {
        let resources = FakeResources {
            keys: HashMap::from([(spec.issuer.clone(), Arc::clone(&keys))]),
            ..FakeResources::default()
        };
        let jwt = Jwt::build(&[spec], "leads", false, &Path::default(), &resources).unwrap();
        Self { jwt, keys, cache: resources.cache }
    }

    fn standard() -> Self {
        Self::new(spec(), FakeKeys::with(set(&jwks()).unwrap()))
    }

    /// Runs the filter as the chain does.
    fn run_at(&self, headers: &[(&str, &str)], now: u64) -> (Verdict, RequestContext) {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let client = Client {
            peer: "192.0.2.1:1".parse().unwrap(),
            address: "192.0.2.1".parse().unwrap(),
            tls: true,
            destination: None,
        };
        let moment = Moment { unix: Duration::from_secs(now), monotonic: Duration::from_secs(1) };
        let mut ctx = RequestContext::new(moment, client);
        let mut verdict = self.jwt.on_request(&head, &mut ctx);
        if verdict == Verdict::Wait {
            verdict = finish(self.jwt.resume(&head, &mut ctx));
        }
        (verdict, ctx)
    }

    fn run(&self, token: &str) -> (Verdict, RequestContext) {
        self.run_at(&[("authorization", &format!("Bearer {token}"))], NOW)
    }

    /// The same from a client that has shown a certificate with this thumbprint.
    fn run_from(&self, thumbprint: Option<[u8; 32]>, token: &str) -> Verdict {
        let request = Request::builder().header(AUTHORIZATION, format!("Bearer {token}"));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (_, mut ctx) = self.run_at(&[], NOW);
        ctx.peer =
            thumbprint.map(|thumbprint| Arc::new(Peer { id: None, thumbprint, expires: Duration::MAX }));
        self.jwt.on_request(&head, &mut ctx)
    }

    fn passes(&self, token: &str) -> bool {
        self.run(token).0 == Verdict::Continue
    }
}

fn finish(pending: Pending<'_>) -> Verdict {
    match pin!(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("the fake keys never wait"),
    }
}

fn refused(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Reply(reply) => *reply,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_refused(stand: &Stand, token: &str, detail: &str) {
    let reply = refused(stand.run(token).0);
    assert_eq!(reply.reason, Reason::TokenInvalid, "{detail}");
    assert!(reply.detail.contains(detail), "{:?} does not say {detail:?}", reply.detail);
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!reply.detail.contains(part));
    }
    let challenge = reply.headers[0].1.to_str().unwrap();
    assert_eq!(reply.headers[0].0, WWW_AUTHENTICATE);
    assert!(challenge.starts_with(r#"Bearer realm="foregate", error="invalid_token""#), "{challenge}");
    assert_eq!(stand.cache.count(), 0);
}

#[test]
fn a_good_token_of_every_algorithm_makes_the_principal() {
    let signers = &*SIGNERS;
    let all = [
        (Algorithm::RS256, "rsa", &signers.rsa),
        (Algorithm::RS384, "rsa", &signers.rsa),
        (Algorithm::RS512, "rsa", &signers.rsa),
        (Algorithm::PS256, "rsa", &signers.rsa),
        (Algorithm::PS384, "rsa", &signers.rsa),
        (Algorithm::PS512, "rsa", &signers.rsa),
        (Algorithm::ES256, "p256", &signers.p256),
        (Algorithm::ES384, "p384", &signers.p384),
        (Algorithm::EdDSA, "ed", &signers.ed25519),
        (Algorithm::HS256, "oct", &signers.secret),
        (Algorithm::HS384, "oct", &signers.secret),
        (Algorithm::HS512, "oct", &signers.secret),
    ];
    let algorithms = all.map(|(alg, ..)| Alg::parse(&format!("{alg:?}")).unwrap());
    let inline = Jwks { inline: Some("{}".into()), ..Jwks::default() };
    let keys = [jwks(), vec![json!({"kty": "oct", "kid": "oct", "k": b64([7; 64])})]].concat();
    let spec = Spec { algorithms: algorithms.to_vec(), jwks: inline, ..spec() };
    let stand = Stand::new(spec, FakeKeys::with(set(&keys).unwrap()));
    for (alg, kid, key) in all {
        for header in [json!({"alg": alg, "kid": kid, "typ": "at+jwt"}), json!({"alg": alg})] {
            let token = sign_text(&header.to_string(), &claims().to_string(), key, alg);
            let (verdict, ctx) = stand.run(&token);
            assert_eq!(verdict, Verdict::Continue, "{header}");
            let principal = ctx.principal.unwrap();
            assert_eq!((&*principal.issuer, &*principal.subject), (ISSUER, "maya"));
            assert_eq!(*principal.scopes, ["crm.read".into(), "crm.write".into()]);
            assert_eq!(principal.expires, NOW + 120);
            assert_eq!(principal.claims.get("aud"), Some(&json!("crm")));
        }
    }
}

#[test]
fn symmetric_and_unlisted_algorithms_are_refused_by_default() {
    let keys = [jwks(), vec![json!({"kty": "oct", "kid": "oct", "k": b64([7; 64])})]].concat();
    let stand = Stand::new(spec(), FakeKeys::with(set(&keys).unwrap()));
    for (alg, key) in [(Algorithm::HS256, &SIGNERS.secret), (Algorithm::RS512, &SIGNERS.rsa)] {
        let token = sign_text(&json!({ "alg": alg }).to_string(), &claims().to_string(), key, alg);
        assert_refused(&stand, &token, "`alg`");
    }
}

#[test]
fn claims_that_are_missing_wrong_or_of_another_type_are_refused() {
    let stand = Stand::standard();
    for (name, value, detail) in [
        ("iss", Value::Null, "`iss` is missing"),
        ("iss", json!("https://evil.example.com/"), "`iss` names no"),
        ("iss", json!("https://idp.example.com"), "`iss` names no"),
        ("iss", json!([ISSUER]), "`iss` is missing"),
        ("aud", Value::Null, "`aud` is missing"),
        ("aud", json!("other"), "`aud` holds none"),
        ("aud", json!([]), "`aud` holds none"),
        ("aud", json!(["other", "CRM"]), "`aud` holds none"),
        ("aud", json!(["crm", 1]), "`aud` is missing"),
        ("aud", json!({"crm": true}), "`aud` is missing"),
        ("exp", Value::Null, "`exp` is missing"),
        ("exp", json!((NOW + 120).to_string()), "`exp` is missing"),
        ("exp", json!(-1), "`exp` is missing"),
        ("exp", json!(1e300), "`exp` is missing"),
        ("exp", json!(NOW - 30), "expired"),
        ("exp", json!(0), "expired"),
        ("nbf", json!(NOW + 31), "not valid yet (`nbf`)"),
        ("nbf", json!("0"), "`nbf` is missing"),
        ("iat", json!(NOW + 31), "not valid yet (`iat`)"),
        ("iat", json!(true), "`iat` is missing"),
        ("sub", json!(7), "`sub` is missing"),
        ("scope", json!(7), "`scope` is missing"),
        ("scp", json!(["a", 7]), "`scp` is missing"),
        ("cnf", json!({"jkt": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}), "`cnf`"),
        ("cnf", Value::Array(vec![]), "`cnf`"),
        ("at_hash", json!("x"), "ID, logout or refresh token"),
        ("events", json!({}), "ID, logout or refresh token"),
        ("token_use", json!("id"), "ID, logout or refresh token"),
        ("typ", json!("Refresh"), "ID, logout or refresh token"),
    ] {
        assert_refused(&stand, &sign(&header(), &with(claims(), name, value)), detail);
    }
}

#[test]
fn a_bound_token_passes_with_its_certificate_only_also_when_it_is_remembered() {
    let stand = Stand::standard();
    let bound = sign(&header(), &with(claims(), "cnf", json!({ "x5t#S256": b64([7; 32]) })));
    for _ in 0..2 {
        assert_eq!(stand.run_from(Some([7; 32]), &bound), Verdict::Continue);
        let (other, none) = (stand.run_from(Some([8; 32]), &bound), stand.run_from(None, &bound));
        let (other, none) = (refused(other), refused(none));
        assert_eq!((other.reason, none.reason), (Reason::TokenInvalid, Reason::TokenInvalid));
        assert_eq!(&*other.detail, "the token is bound to another certificate");
        assert_eq!(&*none.detail, "the token is bound to a certificate, and the client has shown none");
        assert_eq!(other.headers, none.headers, "callers learn nothing");
    }
    assert_eq!((stand.cache.count(), stand.cache.misses()), (1, 1));
    let strict = Spec { require_binding: true, ..spec() };
    let strict = Stand::new(strict, FakeKeys::with(set(&jwks()).unwrap()));
    assert_refused(&strict, &sign(&header(), &claims()), "bound to no certificate");
    assert_eq!(strict.run_from(Some([7; 32]), &bound), Verdict::Continue);
}

#[test]
fn a_policy_chooses_types_and_where_scopes_are() {
    let types = Spec { types: vec!["application/AT+JWT".into()], ..spec() };
    let stand = Stand::new(types, FakeKeys::with(set(&jwks()).unwrap()));
    assert_refused(&stand, &sign(&header(), &claims()), "`typ`");
    assert_refused(&stand, &sign(&with(header(), "typ", Value::Null), &claims()), "`typ`");
    assert!(stand.passes(&sign(&with(header(), "typ", json!("at+jwt")), &claims())));
    for (claim, name, value) in [
        ("https://x.example.com/roles", "https://x.example.com/roles", json!(["admin", "crm.read"])),
        ("realm_access.roles", "realm_access", json!({ "roles": ["admin", "crm.read"] })),
        ("permissions", "permissions", json!("admin  crm.read")),
    ] {
        let spec = Spec { scopes_claim: Some(claim.into()), ..spec() };
        let stand = Stand::new(spec, FakeKeys::with(set(&jwks()).unwrap()));
        let (verdict, ctx) = stand.run(&sign(&header(), &with(claims(), name, value)));
        assert_eq!(verdict, Verdict::Continue, "{claim}");
        assert_eq!(*ctx.principal.unwrap().scopes, ["admin".into(), "crm.read".into()], "{claim}");
        assert!(stand.run(&sign(&header(), &claims())).1.principal.unwrap().scopes.is_empty());
    }
    let spec = Spec { scopes_claim: Some("roles".into()), ..spec() };
    let stand = Stand::new(spec, FakeKeys::with(set(&jwks()).unwrap()));
    let wrong = sign(&header(), &with(claims(), "roles", json!({ "admin": true })));
    assert_refused(&stand, &wrong, "the claim `roles` is not of scopes");
}

#[test]
fn times_are_taken_with_thirty_seconds_of_skew() {
    let stand = Stand::standard();
    for (name, value) in [
        ("exp", json!(NOW - 29)),
        ("exp", json!(1_799_999_971.5)),
        ("exp", json!(u64::MAX)),
        ("nbf", json!(NOW + 30)),
        ("iat", json!(NOW + 30)),
        ("aud", json!(["other", "crm"])),
        ("sub", Value::Null),
    ] {
        assert!(stand.passes(&sign(&header(), &with(claims(), name, value.clone()))), "{name} {value}");
    }
}

#[test]
fn headers_that_ask_for_more_or_bring_their_own_key_are_refused() {
    let stand = Stand::standard();
    for (name, value, detail) in [
        ("alg", Value::Null, "`alg`"),
        ("alg", json!("none"), "`alg`"),
        ("alg", json!("None"), "`alg`"),
        ("alg", json!("es256"), "`alg`"),
        ("alg", json!("RS256"), "no key of the issuer verifies"),
        ("alg", json!(["ES256"]), "`alg`"),
        ("crit", json!(["b64"]), "`crit`"),
        ("crit", json!([]), "`crit`"),
        ("typ", json!("JWE"), "`typ`"),
        ("typ", json!("application/jose"), "`typ`"),
        ("typ", json!("text/jwt"), "`typ`"),
        ("typ", json!("logout+jwt"), "`typ`"),
        ("typ", json!("dpop+jwt"), "`typ`"),
        ("typ", json!("t".repeat(129)), "`typ`"),
        ("typ", json!(1), "`typ`"),
        ("kid", json!(7), "`kid`"),
        ("kid", json!("k".repeat(257)), "`kid`"),
        ("kid", json!("../../../../etc/passwd"), "no key of the issuer fits"),
        ("kid", json!("' or '1'='1"), "no key of the issuer fits"),
        ("kid", json!("rsa"), "no key of the issuer verifies"),
    ] {
        assert_refused(&stand, &sign(&with(header(), name, value), &claims()), detail);
    }
    for typ in ["jwt", "JWT", "AT+JWT", "application/at+jwt", "Application/JWT"] {
        assert!(stand.passes(&sign(&with(header(), "typ", json!(typ)), &claims())), "{typ}");
    }
    let stand = Stand::standard();
    // Signed with a key of the attacker's, which the header offers in every way there is.
    let other = &SIGNERS.p256_other;
    for (name, value) in [
        ("jwk", jwk(other, Algorithm::ES256, "p256")),
        ("jku", json!("https://evil.example.com/jwks")),
        ("x5u", json!("https://evil.example.com/cert")),
        ("x5c", json!(["MIIB"])),
    ] {
        for header in [header(), json!({"alg": "ES256"})] {
            let header = with(header, name, value.clone()).to_string();
            let token = sign_text(&header, &claims().to_string(), other, Algorithm::ES256);
            assert_refused(&stand, &token, "no key of the issuer");
        }
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let algorithms = vec![Alg::RS256, Alg::HS256];
    let inline = Jwks { inline: Some("{}".into()), ..Jwks::default() };
    let stand = Stand::new(
        Spec { algorithms, jwks: inline, ..spec() },
        FakeKeys::with(set(&[jwk(&SIGNERS.rsa, Algorithm::RS256, "rsa")]).unwrap()),
    );
    let secret = EncodingKey::from_secret(SIGNERS.rsa_pem.as_bytes());
    for header in [json!({"alg": "HS256", "kid": "rsa"}), json!({"alg": "HS256"})] {
        let token = sign_text(&header.to_string(), &claims().to_string(), &secret, Algorithm::HS256);
        assert_refused(&stand, &token, "no key of the issuer");
    }
}

#[test]
fn texts_that_are_no_canonical_signed_tokens_are_refused() {
    let stand = Stand::standard();
    let good = sign(&header(), &claims());
    assert!(stand.passes(&good));
    let stand = Stand::standard();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    // The last character of 64 bytes in base64url carries four unused bits.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let uncanonical = format!("{}{next}", &good[..good.len() - 1]);
    for token in [
        String::new(),
        "x".into(),
        "..".into(),
        message.into(),
        format!("{message}."),
        format!(".{body}.{signature}"),
        format!("{head}..{signature}"),
        format!("{good}.{signature}"),
        format!("{good}."),
        format!("{good}="),
        format!("{head}=.{body}.{signature}"),
        format!("{head}.{body} .{signature}"),
        format!("{good},{good}"),
        good.replace('.', "+."),
        uncanonical,
    ] {
        assert_refused(&stand, &token, "not the form");
    }
    assert_refused(&stand, &format!("{good}{}", "A".repeat(64 * 1024)), "over 16 KiB");
    for bad in [
        &message[1..],
        &format!("{}.{body}", b64("[]")),
        &format!("{}.{body}", b64(r#"{"alg":"ES256","alg":"none"}"#)),
        &format!("{}.{body}", b64("\u{feff}{\"alg\":\"ES256\"}")),
    ] {
        let reply = refused(stand.run(&format!("{bad}.{signature}")).0);
        assert_eq!(reply.reason, Reason::TokenInvalid);
    }
    let doubled = claims().to_string().replacen('{', r#"{"sub":"admin","#, 1);
    let token = sign_text(&header().to_string(), &doubled, &SIGNERS.p256, Algorithm::ES256);
    assert_refused(&stand, &token, "claims are not strict JSON");
}

#[test]
fn signatures_that_are_forged_are_refused() {
    let stand = Stand::standard();
    let good = sign(&header(), &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other =
        sign_text(&header().to_string(), &claims().to_string(), &SIGNERS.p256_other, Algorithm::ES256);
    let swapped = format!("{}.{}.{signature}", b64(header().to_string()), b64(claims().to_string() + " "));
    for forged in [
        format!("{message}.{}", b64([0; 64])),
        format!("{message}.{}", b64([255; 64])),
        format!("{message}.{}", b64([0; 1])),
        format!("{message}.{}", b64([0; 512])),
        other,
        swapped,
    ] {
        assert_refused(&stand, &forged, "no key of the issuer verifies");
    }
}

#[test]
fn without_exactly_one_bearer_token_there_is_no_principal() {
    let stand = Stand::standard();
    let bearer = format!("Bearer {}", sign(&header(), &claims()));
    for headers in [vec![], vec![("authorization", "Basic bTpw")], vec![("authorization", "Bearer")]] {
        let reply = refused(stand.run_at(&headers, NOW).0);
        assert_eq!(reply.reason, Reason::TokenMissing);
        assert_eq!(reply.headers[0].1, r#"Bearer realm="foregate""#);
    }
    for second in [&*bearer, "Basic bTpw", ""] {
        let twice = [("authorization", &*bearer), ("authorization", second)];
        let reply = refused(stand.run_at(&twice, NOW).0);
        assert_eq!((reply.reason, &*reply.rule), (Reason::TokenInvalid, "leads"));
        assert!(reply.detail.contains("more than once"));
    }
    let lower = bearer.replace("Bearer", "bearer");
    assert_eq!(stand.run_at(&[("authorization", &lower)], NOW).0, Verdict::Continue);
}

#[test]
fn an_expired_token_is_told_so_and_the_refusal_names_the_issuer() {
    let stand = Stand::standard();
    let reply = refused(stand.run(&sign(&header(), &with(claims(), "exp", json!(NOW - 60)))).0);
    assert_eq!(&*reply.rule, ISSUER);
    assert!(reply.headers[0].1.to_str().unwrap().contains("The token has expired"));
}

#[test]
fn an_unknown_kid_fetches_the_keys_once_and_then_passes() {
    let stand = Stand::new(spec(), FakeKeys::with(set(&jwks()).unwrap()));
    let header = with(header(), "kid", json!("new")).to_string();
    let token = sign_text(&header, &claims().to_string(), &SIGNERS.p256_other, Algorithm::ES256);
    assert_refused(&stand, &token, "no key of the issuer fits");
    assert_eq!(stand.keys.fetches.load(Ordering::Relaxed), 0);
    stand.keys.publish(set(&[jwk(&SIGNERS.p256_other, Algorithm::ES256, "new")]).unwrap());
    assert!(stand.passes(&token));
    assert!(stand.passes(&token));
    assert_eq!(stand.keys.fetches.load(Ordering::Relaxed), 1);
    // A kid that the new set does not hold either.
    stand.keys.publish(set(&jwks()).unwrap());
    assert!(!stand.passes(&sign(&with(self::header(), "kid", json!("unheard")), &claims())));
    assert_eq!(stand.keys.fetches.load(Ordering::Relaxed), 2);
}

#[test]
fn tokens_that_name_no_key_survive_a_rotation_too() {
    let stand = Stand::standard();
    let token = sign_text(r#"{"alg":"ES256"}"#, &claims().to_string(), &SIGNERS.p256_other, Algorithm::ES256);
    assert!(!stand.passes(&token));
    stand.keys.publish(set(&[jwk(&SIGNERS.p256_other, Algorithm::ES256, "new")]).unwrap());
    assert!(stand.passes(&token));
}

#[test]
fn without_keys_the_answer_is_503_until_they_come() {
    let stand = Stand::new(spec(), Arc::new(FakeKeys::default()));
    let token = sign(&header(), &claims());
    let reply = refused(stand.run(&token).0);
    assert_eq!(reply.reason, Reason::KeysUnavailable);
    assert!(reply.headers.iter().any(|(name, _)| name == "retry-after"));
    // What is wrong without keys is wrong at once.
    assert_refused(&stand, &sign(&header(), &with(claims(), "aud", json!("other"))), "`aud`");
    stand.keys.publish(set(&jwks()).unwrap());
    assert!(stand.passes(&token));
}

#[test]
fn a_verified_token_is_remembered_until_it_ends_or_its_key_goes() {
    let stand = Stand::standard();
    let token = sign(&header(), &with(claims(), "nbf", json!(NOW)));
    let bearer = format!("Bearer {token}");
    let at = |now| stand.run_at(&[("authorization", &bearer)], now).0;
    assert!(stand.passes(&token));
    assert_eq!((stand.cache.hits(), stand.cache.misses()), (0, 1));
    assert!(stand.passes(&token));
    assert_eq!((stand.cache.hits(), stand.cache.misses()), (1, 1));
    // The same keys fetched anew change nothing.
    *stand.keys.current.lock().unwrap() = Some(Arc::new(set(&jwks()).unwrap()));
    assert!(stand.passes(&token));
    assert_eq!((stand.cache.hits(), stand.cache.misses()), (2, 1));
    assert_eq!(at(NOW + 149), Verdict::Continue);
    assert_eq!(refused(at(NOW + 150)).reason, Reason::TokenInvalid);
    assert_eq!(stand.cache.count(), 0);
    assert!(stand.passes(&token));
    assert_eq!(refused(at(NOW - 31)).reason, Reason::TokenInvalid);
    assert!(stand.passes(&token));
    let other = set(&[jwk(&SIGNERS.p256_other, Algorithm::ES256, "p256")]).unwrap();
    *stand.keys.current.lock().unwrap() = Some(Arc::new(other));
    assert!(!stand.passes(&token));
}

#[test]
fn the_cache_is_bounded_in_number_and_in_bytes() {
    let mut stand = Stand::standard();
    stand.jwt.issuers[0].cache = Arc::new(TokenCache::new(8, 1 << 20));
    for number in 0..40 {
        assert!(stand.passes(&sign(&header(), &with(claims(), "jti", json!(number)))));
    }
    let cache = &stand.jwt.issuers[0].cache;
    assert!((1..=8).contains(&cache.count()), "{}", cache.count());
    stand.jwt.issuers[0].cache = Arc::new(TokenCache::new(1000, 16 << 10));
    for number in 0..40 {
        let large = with(claims(), "note", json!(format!("{number:04000}")));
        assert!(stand.passes(&sign(&header(), &large)));
    }
    assert!(stand.jwt.issuers[0].cache.count() <= 4);
}

#[test]
fn tokens_of_each_issuer_are_checked_by_its_own_rules() {
    let other = "https://other.example.com";
    let keys = FakeKeys::with(set(&[jwk(&SIGNERS.p256, Algorithm::ES256, "p256")]).unwrap());
    let theirs = FakeKeys::with(set(&[jwk(&SIGNERS.p256_other, Algorithm::ES256, "p256")]).unwrap());
    let resources = FakeResources {
        keys: HashMap::from([(ISSUER.to_owned(), keys), (other.to_owned(), theirs)]),
        ..FakeResources::default()
    };
    let second = Spec { issuer: other.into(), audiences: vec!["orders".into()], ..spec() };
    let jwt = Jwt::build(&[spec(), second], "leads", false, &Path::default(), &resources).unwrap();
    let stand = Stand { jwt, keys: Arc::default(), cache: resources.cache };
    let theirs = json!({"iss": other, "aud": "orders", "exp": NOW + 60});
    let by =
        |key, claims: &Value| sign_text(&header().to_string(), &claims.to_string(), key, Algorithm::ES256);
    assert!(!stand.passes(&by(&SIGNERS.p256_other, &claims())));
    assert!(!stand.passes(&by(&SIGNERS.p256, &theirs)));
    assert!(!stand.passes(&by(&SIGNERS.p256_other, &with(theirs.clone(), "aud", json!("crm")))));
    assert!(stand.passes(&by(&SIGNERS.p256_other, &theirs)));
    assert!(stand.passes(&by(&SIGNERS.p256, &claims())));
}

fn row(claim: &str, header: &str) -> crate::jwt::ClaimHeader {
    crate::jwt::ClaimHeader { claim: claim.into(), header: header.into() }
}

#[test]
fn claims_become_headers_and_client_copies_never_pass() {
    let rows = [
        row("sub", "x-user"),
        row("org.id", "x-org"),
        row("https://example.com/roles", "x-roles"),
        row("absent", "x-absent"),
        row("admin", "x-admin"),
    ];
    let spec = Spec { claims_to_headers: rows.to_vec(), ..spec() };
    let stand = Stand::new(spec, FakeKeys::with(set(&jwks()).unwrap()));
    let claims = with(claims(), "org", json!({"id": 42}));
    let claims = with(claims, "https://example.com/roles", json!(["a", "b", 3]));
    let claims = with(claims, "admin", json!(false));
    let bearer = format!("Bearer {}", sign(&header(), &claims));
    let sent = [
        ("authorization", &*bearer),
        ("X-User", "root"),
        ("x_user", "root"),
        ("x-absent", "forged"),
        ("X_Absent", "forged"),
        ("x-other_name", "kept"),
    ];
    let (verdict, ctx) = stand.run_at(&sent, NOW);
    assert_eq!(verdict, Verdict::Continue);
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    for edit in &ctx.edits.request {
        edit.apply(&mut headers);
    }
    let mut left: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    left.sort_unstable();
    let expected = [
        ("x-admin", "false"),
        ("x-org", "42"),
        ("x-other_name", "kept"),
        ("x-roles", "a,b,3"),
        ("x-user", "maya"),
    ];
    assert_eq!(left, expected);
}

#[test]
fn a_claim_that_could_forge_a_header_is_refused() {
    let spec = Spec { claims_to_headers: vec![row("groups", "x-groups")], ..spec() };
    for value in [json!("a\r\nx-admin: 1"), json!("a\0"), json!(["a,admin"]), json!({"a": 1}), json!([["a"]])]
    {
        let stand = Stand::new(spec.clone(), FakeKeys::with(set(&jwks()).unwrap()));
        let reply = refused(stand.run(&sign(&header(), &with(claims(), "groups", value))).0);
        assert_eq!(reply.reason, Reason::TokenInvalid);
        assert!(reply.detail.contains("`groups`"));
    }
}

#[test]
fn the_token_goes_on_only_where_the_policy_says_so() {
    for forward in [false, true] {
        let stand = Stand::new(Spec { forward, ..spec() }, FakeKeys::with(set(&jwks()).unwrap()));
        let (_, ctx) = stand.run(&sign(&header(), &claims()));
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer x".parse().unwrap())]);
        for edit in &ctx.edits.request {
            edit.apply(&mut headers);
        }
        assert_eq!(headers.contains_key(AUTHORIZATION), forward);
    }
}

#[test]
fn key_sets_hold_verification_keys_only() {
    let with_member = |name: &str, value: Value| with(jwk(&SIGNERS.p256, Algorithm::ES256, "k"), name, value);
    let rsa = |n: Vec<u8>, e: &[u8]| json!({"kty": "RSA", "n": b64(n), "e": b64(e)});
    for (key, skip) in [
        (with_member("use", json!("enc")), Skip::OtherUse),
        (with_member("key_ops", json!(["sign"])), Skip::OtherUse),
        (with_member("key_ops", json!("verify")), Skip::OtherUse),
        (with_member("alg", json!("ECDH-ES")), Skip::Unsupported),
        (with_member("alg", json!("RS256")), Skip::Unsupported),
        (with_member("alg", json!("HS256")), Skip::Unsupported),
        (with_member("crv", json!("P-384")), Skip::Malformed),
        (with_member("crv", json!("P-521")), Skip::Unsupported),
        (with_member("kty", json!("unheard")), Skip::Unsupported),
        (with_member("kid", json!(1)), Skip::Malformed),
        (with_member("x", json!("AA==")), Skip::Malformed),
        (rsa(vec![0xff; 128], &[1, 0, 1]), Skip::RsaSize),
        (rsa([vec![0; 200], vec![0xff; 128]].concat(), &[1, 0, 1]), Skip::RsaSize),
        (rsa([vec![0x7f], vec![0xff; 255]].concat(), &[1, 0, 1]), Skip::RsaSize),
        (rsa(vec![0xff; 1025], &[1, 0, 1]), Skip::RsaSize),
        (rsa(vec![0xff; 256], &[1]), Skip::Malformed),
        (rsa(vec![0xff; 256], &[2]), Skip::Malformed),
        (json!({"kty": "oct", "k": b64([1; 31])}), Skip::SecretTooShort),
        (json!("x"), Skip::NotAnObject),
    ] {
        assert_eq!(
            set(std::slice::from_ref(&key)).unwrap_err(),
            KeySetError::NoneUsable(Some(skip)),
            "{key}"
        );
        let beside = set(&[key, jwk(&SIGNERS.p256, Algorithm::ES256, "k")]).unwrap();
        assert_eq!((beside.count(), beside.skipped()), (1, 1));
    }
    for (name, value) in [("use", json!("sig")), ("key_ops", json!(["verify"])), ("alg", json!("ES256"))] {
        assert_eq!(set(&[with_member(name, value)]).unwrap().count(), 1);
    }
    assert!(set(&[rsa(vec![0xff; 256], &[1, 0, 1])]).is_ok());
}

#[test]
fn key_sets_are_bounded_and_strict() {
    let key = jwk(&SIGNERS.p256, Algorithm::ES256, "k");
    assert_eq!(set(&vec![key.clone(); 64]).unwrap().count(), 64);
    assert_eq!(set(&vec![key.clone(); 65]).unwrap_err(), KeySetError::TooMany);
    assert_eq!(KeySet::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err(), KeySetError::TooLarge);
    assert_eq!(set(&[]).unwrap_err(), KeySetError::NoneUsable(None));
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "-----BEGIN"] {
        assert!(matches!(KeySet::parse(bad.as_bytes()), Err(KeySetError::Malformed(_))), "{bad}");
    }
}

#[test]
fn keys_of_the_same_kid_are_all_tried() {
    let keys =
        [jwk(&SIGNERS.p256_other, Algorithm::ES256, "p256"), jwk(&SIGNERS.p256, Algorithm::ES256, "p256")];
    let stand = Stand::new(spec(), FakeKeys::with(set(&keys).unwrap()));
    assert!(stand.passes(&sign(&header(), &claims())));
}

#[test]
fn public_keys_in_pem_verify_tokens_of_any_kid() {
    let signers = &*SIGNERS;
    let all = format!("# ours\n{}\n{}{}", signers.rsa_pem, signers.p256_pem, signers.ed25519_pem);
    let keys = KeySet::parse(all.trim_start_matches("# ours\n").as_bytes()).unwrap();
    assert_eq!(keys.count(), 3);
    let stand = Stand::new(spec(), FakeKeys::with(keys));
    assert!(stand.passes(&sign(&header(), &claims())));
    for (alg, key) in [(Algorithm::PS256, &signers.rsa), (Algorithm::EdDSA, &signers.ed25519)] {
        let token = sign_text(&json!({ "alg": alg }).to_string(), &claims().to_string(), key, alg);
        assert!(stand.passes(&token), "{alg:?}");
    }
    let private = signers.p256_private_pem.as_bytes();
    assert_eq!(KeySet::parse(private).unwrap_err(), KeySetError::PrivateKey);
    let certificate = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    assert!(KeySet::parse(certificate).is_err());
}

#[test]
fn neither_secrets_nor_tokens_are_shown() {
    let keys = set(&[json!({"kty": "oct", "k": b64([b'S'; 64])})]).unwrap();
    let shown = format!("{keys:?}");
    assert!(!shown.contains(&b64([b'S'; 64])) && !shown.contains("83, 83"), "{shown}");
    let stand = Stand::standard();
    assert!(stand.passes(&sign(&header(), &claims())));
    assert!(!format!("{:?}", stand.jwt).contains("maya"));
}

/// Builds one issuer and gives the faults as `code path`.
fn faults(specs: &[Spec]) -> Vec<String> {
    let keys = FakeKeys::with(set(&jwks()).unwrap());
    let names = specs.iter().map(|spec| (spec.issuer.clone(), Arc::clone(&keys))).collect();
    let resources = FakeResources { keys: names, ..FakeResources::default() };
    let at = Path::default().key("jwt");
    match Jwt::build(specs, "leads", false, &at, &resources) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| format!("{} {}", fault.code, fault.at)).collect(),
    }
}

#[test]
fn faulty_specifications_are_told_all_at_once() {
    let uri = |uri: &str| Spec { jwks: Jwks { uri: Some(uri.into()), ..Jwks::default() }, ..spec() };
    let inline = Jwks { inline: Some("{}".into()), ..Jwks::default() };
    let headers = |rows: &[crate::jwt::ClaimHeader]| Spec { claims_to_headers: rows.to_vec(), ..spec() };
    let skew = |text: &str| Spec { clock_skew: Some(text.parse().unwrap()), ..spec() };
    for (spec, expected) in [
        (spec(), vec![]),
        (uri("http://127.0.0.1:8080/jwks"), vec![]),
        (uri("http://[::1]/jwks"), vec![]),
        (skew("5m"), vec![]),
        (Spec { audiences: vec![], ..spec() }, vec!["FG0302 jwt[0].audiences"]),
        (Spec { audiences: vec![String::new()], ..spec() }, vec!["FG0301 jwt[0].audiences[0]"]),
        (Spec { issuer: String::new(), ..spec() }, vec!["FG0301 jwt[0].issuer"]),
        (Spec { jwks: Jwks::default(), ..spec() }, vec!["FG0302 jwt[0].jwks"]),
        (
            Spec { jwks: Jwks { discover: true, inline: Some("{}".into()), ..Jwks::default() }, ..spec() },
            vec!["FG0302 jwt[0].jwks"],
        ),
        (uri("http://idp.example.com/jwks"), vec!["FG0303 jwt[0].jwks.uri"]),
        (uri("http://localhost.example.com/jwks"), vec!["FG0303 jwt[0].jwks.uri"]),
        (uri("ftp://idp.example.com/jwks"), vec!["FG0301 jwt[0].jwks.uri"]),
        (uri("https://user:secret@idp.example.com/"), vec!["FG0301 jwt[0].jwks.uri"]),
        (uri("/jwks"), vec!["FG0301 jwt[0].jwks.uri"]),
        (
            Spec { issuer: "acme".into(), jwks: Jwks { discover: true, ..Jwks::default() }, ..spec() },
            vec!["FG0301 jwt[0].jwks.discover"],
        ),
        (Spec { algorithms: vec![Alg::HS256], ..spec() }, vec!["FG0302 jwt[0].algorithms[0]"]),
        (Spec { algorithms: vec![Alg::RS256, Alg::RS256], ..spec() }, vec!["FG0302 jwt[0].algorithms[1]"]),
        (Spec { algorithms: vec![Alg::HS256], jwks: inline, ..spec() }, vec!["FG0302 jwt[0].jwks"]),
        (skew("6m"), vec!["FG0301 jwt[0].clockSkew"]),
        (headers(&[row("sub", "Host")]), vec!["FG0302 jwt[0].claimsToHeaders[0].header"]),
        (headers(&[row("sub", "no name")]), vec!["FG0301 jwt[0].claimsToHeaders[0].header"]),
        (headers(&[row("", "x-a")]), vec!["FG0301 jwt[0].claimsToHeaders[0].claim"]),
        (headers(&[row("sub", "x-a"), row("aud", "X-A")]), vec!["FG0302 jwt[0].claimsToHeaders[1].header"]),
        (
            Spec { audiences: vec![], jwks: Jwks::default(), ..skew("1h") },
            vec!["FG0302 jwt[0].audiences", "FG0302 jwt[0].jwks", "FG0301 jwt[0].clockSkew"],
        ),
    ] {
        assert_eq!(faults(std::slice::from_ref(&spec)), expected, "{spec:?}");
    }
    assert_eq!(faults(&[spec(), spec()]), ["FG0302 jwt[1].issuer"]);
    assert_eq!(faults(&[]), ["FG0302 jwt"]);
}

#[test]
fn the_fingerprint_changes_with_what_decides_and_with_nothing_else() {
    let fingerprint = |spec: Spec| {
        let keys = FakeKeys::with(set(&jwks()).unwrap());
        let resources =
            FakeResources { keys: HashMap::from([(ISSUER.to_owned(), keys)]), ..FakeResources::default() };
        Jwt::build(&[spec], "leads", false, &Path::default(), &resources).unwrap();
        let seen = resources.fingerprints.lock().unwrap();
        seen[0]
    };
    let same = fingerprint(spec());
    assert_eq!(same, fingerprint(Spec { clock_skew: Some("30s".parse().unwrap()), ..spec() }));
    assert_eq!(same, fingerprint(Spec { forward: true, ..spec() }));
    assert_ne!(same, fingerprint(Spec { clock_skew: Some("31s".parse().unwrap()), ..spec() }));
    assert_ne!(same, fingerprint(Spec { audiences: vec!["crm".into(), "x".into()], ..spec() }));
    assert_ne!(same, fingerprint(Spec { algorithms: vec![Alg::ES256], ..spec() }));
}

#[test]
fn scopes_come_from_scope_and_scp_in_either_form() {
    let stand = Stand::standard();
    for (scope, scp, expected) in [
        (json!("a b"), Value::Null, vec!["a", "b"]),
        (Value::Null, json!(["a", "b c"]), vec!["a", "b c"]),
        (Value::Null, json!("api  web"), vec!["api", "web"]),
        (json!("a"), json!(["a", "b"]), vec!["a", "b"]),
        (Value::Null, Value::Null, vec![]),
    ] {
        let claims = with(with(claims(), "scope", scope), "scp", scp);
        let (_, ctx) = stand.run(&sign(&header(), &claims));
        let scopes: Vec<_> = ctx.principal.as_ref().unwrap().scopes.iter().map(|scope| &**scope).collect();
        assert_eq!(scopes, expected);
    }
}
