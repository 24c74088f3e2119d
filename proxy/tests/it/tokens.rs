//! Bad tokens over the wire: each is refused, and nothing reaches the upstream.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate::clock;
use foregate::issuer::{Issuer, generate_pem};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::Upstream;

const ISSUER: &str = "https://idp.test/";

/// A key whose tokens can have any header and any text for claims.
struct Signer {
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new() -> Self {
        let pem = generate_pem().unwrap();
        let jwk = Issuer::from_pem(ISSUER, &pem).unwrap().jwks()["keys"][0].clone();
        Self { key: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(), jwk }
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "JWT", "kid": self.jwk["kid"] })
    }

    /// A token with this header and these claims, as written.
    fn sign(&self, header: &Value, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(&header.to_string()), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    /// A token that is good but for its header.
    fn headed(&self, changes: &Value) -> String {
        let mut header = self.header();
        header.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.sign(&header, &claims(""))
    }
}

/// Good claims as text, with more members after them.
fn claims(more: &str) -> String {
    let now = clock::now().unix.as_secs();
    format!(r#"{{"iss":"{ISSUER}","aud":"crm","sub":"maya","exp":{},"nbf":{now}{more}}}"#, now + 300)
}

/// Tokens whose claims are missing, wrong or doubled.
fn bad_claims(signer: &Signer) -> Vec<(String, String)> {
    let now = clock::now().unix.as_secs();
    let mut rows = Vec::new();
    let mut row = |what: &str, text: String| {
        rows.push((what.to_owned(), signer.sign(&signer.header(), &text)));
    };
    for (name, other) in [
        ("iss", json!("https://evil.test/")),
        ("aud", json!("other")),
        ("exp", json!(now - 3600)),
        ("nbf", json!(now + 3600)),
    ] {
        row(&format!("{name} doubled, the second good"), {
            let text = claims("");
            format!("{{\"{name}\":{other},{}", &text[1..])
        });
        row(&format!("{name} doubled, the first good"), claims(&format!(",\"{name}\":{other}")));
        let escaped = format!("\\u{:04x}{}", u32::from(name.as_bytes()[0]), &name[1..]);
        row(&format!("{name} doubled, escaped"), claims(&format!(",\"{escaped}\":{other}")));
        let mut wrong: Value = serde_json::from_str(&claims("")).unwrap();
        wrong[name] = other;
        row(&format!("{name} wrong"), wrong.to_string());
        wrong[name] = json!({ "a": 1 });
        row(&format!("{name} of another type"), wrong.to_string());
        if name != "nbf" {
            wrong.as_object_mut().unwrap().remove(name);
            row(&format!("{name} missing"), wrong.to_string());
        }
    }
    row("doubled deep inside", claims(r#","a":{"b":1,"b":2}"#));
    row("claims that are a list", format!("[{}]", claims("")));
    row("two objects", claims("") + &claims(""));
    row("bound to a DPoP key", claims(r#","cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#));
    row("bound to a key", claims(r#","cnf":{"jwk":{}}"#));
    let thumbprint = URL_SAFE_NO_PAD.encode([7; 32]);
    row("bound to another certificate", claims(&format!(r#","cnf":{{"x5t#S256":"{thumbprint}"}}"#)));
    row("an ID token", claims(r#","at_hash":"x","nonce":"y""#));
    row("a logout token", claims(r#","events":{"http://schemas.openid.net/event/backchannel-logout":{}}"#));
    rows
}

/// Tokens whose header asks for what is not given.
fn bad_headers(signer: &Signer) -> Vec<(String, String)> {
    let stranger = Signer::new();
    let mut rows = Vec::new();
    let mut row = |what: &str, token: String| rows.push((what.to_owned(), token));
    row("crit", signer.headed(&json!({ "crit": ["b64"], "b64": false })));
    row("crit, empty", signer.headed(&json!({ "crit": [] })));
    for (name, value) in [
        ("jwk", stranger.jwk.clone()),
        ("jku", json!("https://evil.test/jwks")),
        ("x5u", json!("https://evil.test/cert.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        row(&format!("a key of its own by {name}"), stranger.headed(&json!({ name: value })));
        let named = json!({ name: value, "kid": signer.jwk["kid"] });
        row(&format!("a key of its own by {name} under a good kid"), stranger.headed(&named));
    }
    for kid in
        ["../../../../dev/null", "/etc/passwd", "' OR '1'='1", "k'; DROP TABLE keys;--", "|ls", "\u{0}", ""]
    {
        row(&format!("kid {kid:?}"), stranger.headed(&json!({ "kid": kid })));
        row(&format!("kid {kid:?}, signed well"), signer.headed(&json!({ "kid": kid })));
    }
    row("kid of 257 bytes", signer.headed(&json!({ "kid": "k".repeat(257) })));
    for kid in [json!(1), json!(["a"]), json!(null)] {
        row(&format!("kid {kid}"), signer.headed(&json!({ "kid": kid })));
    }
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "text/jwt"] {
        row(&format!("typ {typ}"), signer.headed(&json!({ "typ": typ })));
    }
    for alg in ["none", "None", "NONE", "nOnE", "HS256", "RS256", "PS256", "ES384", "EdDSA", "ES256K", ""] {
        row(&format!("alg {alg:?}"), signer.headed(&json!({ "alg": alg })));
    }
    let doubled = signer.header().to_string().replacen('{', "{\"alg\":\"none\",", 1);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(doubled), URL_SAFE_NO_PAD.encode(claims("")));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &signer.key, Algorithm::ES256).unwrap();
    row("alg doubled", format!("{message}.{signature}"));
    rows
}

/// Tokens whose bytes are not those that were signed, or not in the one right spelling.
fn bad_bytes(signer: &Signer) -> Vec<(String, String)> {
    let good = signer.sign(&signer.header(), &claims(""));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let ending = |bytes: &[u8]| format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
    let halves = |r: &[u8], s: &[u8]| ending(&[r, s].concat());
    // The order of P-256: r and s must be below it, and above zero.
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut rows = vec![
        ("r = s = 0".to_owned(), ending(&[0; 64])),
        ("r = 0".to_owned(), halves(&[0; 32], &signature[32..])),
        ("s = 0".to_owned(), halves(&signature[..32], &[0; 32])),
        ("r = s = n".to_owned(), halves(&order, &order)),
        (
            "a signature in DER".to_owned(),
            ending(&[&[0x30, 0x44, 2, 32][..], &signature[..32], &[2, 32], &signature[32..]].concat()),
        ),
        ("half a signature".to_owned(), ending(&signature[..32])),
        ("a longer signature".to_owned(), ending(&[&signature[..], &[0]].concat())),
        ("no signature".to_owned(), format!("{message}.")),
        ("padded".to_owned(), format!("{good}==")),
        ("padded in the middle".to_owned(), good.replacen('.', "=.", 1)),
        ("four parts".to_owned(), format!("{good}.AAAA")),
        ("two parts".to_owned(), message.to_owned()),
        ("in JSON form".to_owned(), format!("{{\"payload\":\"{message}\"}}")),
        ("standard base64".to_owned(), good.replace('-', "+").replace('_', "/") + "+/"),
        ("64 KiB".to_owned(), format!("{good}{}", "A".repeat(64 << 10))),
    ];
    // 64 bytes end in four unused bits: each other spelling of them means the same bytes to lax decoders.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.iter().position(|letter| Some(letter) == good.as_bytes().last()).unwrap();
    for bits in 1..16 {
        let letter = char::from(alphabet[last | bits]);
        rows.push((format!("unused bits {bits}"), format!("{}{letter}", &good[..good.len() - 1])));
    }
    rows
}

#[tokio::test]
async fn every_bad_token_is_refused_and_nothing_arrives() {
    let signer = Signer::new();
    // Keys of the same issuer that must not verify: for encryption, or for signing only.
    let (sealing, signing) = (Signer::new(), Signer::new());
    let mut keys = [signer.jwk.clone(), sealing.jwk.clone(), signing.jwk.clone()];
    keys[1]["use"] = json!("enc");
    keys[2].as_object_mut().unwrap().remove("use");
    keys[2]["key_ops"] = json!(["sign"]);
    let spec = format!(
        "jwt:\n- issuer: {ISSUER}\n  audiences: [crm]\n  jwks: {{ inline: '{}' }}\nauthorize: [{{ name: all, allow: 'true' }}]\n",
        json!({ "keys": keys })
    );
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&guarded(upstream.address, &spec), Options::default()).await;
    let address = gateway.address("edge/http");
    let good = signer.sign(&signer.header(), &claims(""));
    let mut rows = [bad_claims(&signer), bad_headers(&signer), bad_bytes(&signer)].concat();
    rows.push(("a key for encryption".to_owned(), sealing.headed(&json!({}))));
    rows.push(("a key that only signs".to_owned(), signing.headed(&json!({}))));
    assert!(rows.len() > 100, "{}", rows.len());
    let mut clients = [Client::http1(address).await, Client::http2(address).await];
    for (number, (what, token)) in rows.iter().enumerate() {
        let client = &mut clients[number % 2];
        // A good token in the query counts for nothing.
        let request = client.request("GET", &format!("/?access_token={good}"));
        let reply = client.send_empty(request.header("authorization", format!("Bearer {token}"))).await;
        let large = token.len() > 60 << 10;
        assert!(reply.status == 401 || (large && reply.status == 431), "{what}: {}", reply.status);
        if reply.status == 431 {
            // Such a head ends its connection.
            clients[number % 2] =
                if number % 2 == 0 { Client::http1(address).await } else { Client::http2(address).await };
        } else {
            assert_eq!(reply.reason(), "TokenInvalid", "{what}");
            let challenge = reply.header("www-authenticate");
            assert!(challenge.starts_with("Bearer realm=\"foregate\", error=\"invalid_token\""), "{what}");
        }
    }
    for headers in [
        format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}"),
        format!("Authorization: Bearer {good}\r\nauthorization: Basic YTpi"),
        format!("Authorization: Bearer {good}, Bearer {good}"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: crm.test\r\n{headers}\r\n\r\n");
        assert_eq!(raw::exchange(address, head).await.unwrap().status, 401, "{headers}");
    }
    assert!(upstream.received().is_empty(), "a refused request reached the upstream");
    for client in &mut clients {
        let request = client.request("GET", "/").header("authorization", format!("Bearer {good}"));
        assert_eq!(client.send_empty(request).await.status, 200);
    }
}
