//! Any head becomes one that is read in one way, or is refused.
#![no_main]

#[path = "../../proxy/src/head.rs"]
#[allow(dead_code, reason = "only the making of canonical heads is fuzzed")]
mod head;
#[path = "../../proxy/src/owned.rs"]
#[allow(dead_code, reason = "only the stripping of headers is fuzzed")]
mod owned;
#[path = "../../proxy/src/path.rs"]
mod path;
#[path = "../../proxy/src/rare.rs"]
#[allow(dead_code, reason = "only what heads are asked for is fuzzed")]
mod rare;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Version};
use libfuzzer_sys::fuzz_target;

use crate::head::canonicalize;
use crate::owned::Owned;
use crate::rare::Rare;

/// Reads lines as a codec that lets everything pass would: a method and a target, then fields.
fn parse(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(3, |byte| *byte == b' ');
    let (method, target) = (first.next()?, first.next()?);
    let version = match first.next() {
        Some(b"2") => Version::HTTP_2,
        Some(b"0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let request = Request::builder().method(method).uri(target).version(version).body(()).ok()?;
    let (mut head, ()) = request.into_parts();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..at)?).ok()?;
        let value = HeaderValue::from_bytes(line.get(at + 1..)?.trim_ascii()).ok()?;
        head.headers.append(name, value);
    }
    Some(head)
}

fuzz_target!(|bytes: &[u8]| {
    let Some(mut head) = parse(bytes) else { return };
    let owned = Owned::new([HeaderName::from_static("x-lead-score")]);
    let rare = Rare::of(&head.headers);
    if canonicalize(&mut head, rare, &owned).is_err() {
        return;
    }
    let headers = &head.headers;
    assert_eq!(headers.get_all(HOST).iter().count(), 1, "one Host");
    assert!(headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    assert!(
        !(headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING)),
        "one way to find the end of the body"
    );
    for name in [CONNECTION, UPGRADE, TE, EXPECT, HeaderName::from_static("x-lead-score")] {
        assert!(!headers.contains_key(&name), "{name}");
    }
    assert!(head.uri.authority().is_none() && head.uri.path().starts_with('/'), "{}", head.uri);
    let before = (head.uri.clone(), head.headers.clone());
    let rare = Rare::of(&head.headers);
    assert!(canonicalize(&mut head, rare, &owned).is_ok(), "what is canonical stays so");
    assert_eq!(before, (head.uri, head.headers));
});
