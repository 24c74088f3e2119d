//! No token gets in that was not signed, and none makes the gateway panic.
#![no_main]

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate_filters::chain::Chain;
use foregate_filters::context::{Client, RequestContext};
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::key_set::KeySet;
use foregate_filters::jwt::{self, Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::resources::Resources;
use foregate_filters::score::Scorer;
use foregate_filters::spec::{Specs, build};
use http::Request;
use libfuzzer_sys::fuzz_target;

/// Public keys whose private halves nobody has: the examples of RFC 7517, appendix A.1.
const KEYS: &str = r#"{"keys":[
{"kty":"EC","crv":"P-256","use":"sig","kid":"1","alg":"ES256",
 "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},
{"kty":"RSA","e":"AQAB","alg":"RS256","kid":"2011-04-29",
 "n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}
]}"#;

#[derive(Debug)]
struct Fixed(Arc<KeySet>);

impl Keys for Fixed {
    fn current(&self) -> Option<Arc<KeySet>> {
        Some(Arc::clone(&self.0))
    }
}

struct Lent;

impl Resources for Lent {
    fn keys(&self, _: &str, _: &Jwks, _: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let keys = KeySet::parse(KEYS.as_bytes()).expect("the keys are sound");
        Ok(Arc::new(Fixed(Arc::new(keys))))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        Arc::new(TokenCache::default())
    }

    fn introspector(&self, _: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        Err(Fault::new(Code::SECRET, at.clone(), "nobody to ask"))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, rate: &Rate) -> Arc<Limiter> {
        Arc::new(Limiter::new(*rate, 16))
    }

    fn scorer(&self, _: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        Err(Fault::new(Code::REFERENCE, at.clone(), "no model"))
    }
}

fn issuer(issuer: &str) -> jwt::Spec {
    jwt::Spec {
        issuer: issuer.to_owned(),
        audiences: vec!["crm".to_owned()],
        jwks: Jwks { inline: Some(KEYS.to_owned()), ..Jwks::default() },
        algorithms: Vec::new(),
        types: Vec::new(),
        scopes_claim: None,
        require_binding: false,
        clock_skew: None,
        claims_to_headers: Vec::new(),
        forward: false,
    }
}

static CHAIN: LazyLock<Chain> = LazyLock::new(|| {
    let jwt = [issuer("https://idp.example.com/"), issuer("https://other.example.com/")];
    let specs = Specs {
        fairness: None,
        validate: None,
        choose: &[],
        inject: &[],
        idempotency: None,
        org_quota: None,
        name: "fuzz",
        at: Path::default(),
        addresses: None,
        jwt: &jwt,
        introspection: &[],
        api_key: None,
        rate_limit: &[],
        quota: &[],
        concurrency: &[],
        enrich: &[],
        authorize: &[],
        anonymous: true,
        shadow: false,
    };
    build(&[specs], &Lent).expect("the policy is sound")
});

/// The token as it comes, or its parts as JSON: behind base64url a fuzzer would find little.
fn token(bytes: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = bytes.split_first()?;
    if kind % 2 == 0 {
        return Some(rest.to_vec());
    }
    let mut parts = rest.splitn(3, |byte| *byte == 0);
    let parts: Vec<String> =
        std::iter::from_fn(|| parts.next()).map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    Some(parts.join(".").into_bytes())
}

fuzz_target!(|bytes: &[u8]| {
    let Some(token) = token(bytes) else { return };
    let value = [b"Bearer ", &token[..]].concat();
    let Ok(request) = Request::get("/").header("authorization", value).body(()) else { return };
    let (head, ()) = request.into_parts();
    let moment = Moment { unix: Duration::from_secs(1_790_000_000), monotonic: Duration::from_secs(1) };
    let peer = ([192, 0, 2, 1], 1).into();
    let mut ctx = RequestContext::new(moment, Client { peer, address: peer.ip(), tls: true, destination: None });
    let mut asked = pin!(CHAIN.run_head(&head, &mut ctx));
    let outcome = match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => return,
    };
    assert!(outcome.is_err(), "a token got in that nobody signed");
});
