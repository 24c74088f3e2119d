//! Every spelling of a forbidden path: what was judged is what is forwarded.

use crate::support::client::Client;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::Upstream;

const SPEC: &str = r#"
authorize:
- { name: all, allow: 'true' }
- { name: no-admin, deny: 'pathMatches(request.path.lowerAscii(), "/admin/**")' }
"#;

/// A target as it is sent, and the status that it must get.
const SPELLINGS: [(&str, u16); 59] = [
    ("/admin", 403),
    ("/admin/", 403),
    ("/admin/users", 403),
    ("/admin?x=1", 403),
    ("/admin/?x=/public", 403),
    ("/ADMIN", 403),
    ("/aDmIn/", 403),
    ("/%61dmin", 403),
    ("/%41DMIN", 403),
    ("/%61%64%6d%69%6e", 403),
    ("/%61%64%6D%69%6E/x", 403),
    ("//admin", 403),
    ("///admin//", 403),
    ("/./admin", 403),
    ("/././/admin/.", 403),
    ("/x/../admin", 403),
    ("/x/./../admin/y", 403),
    ("/%2e/admin", 403),
    ("/x/%2e%2e/admin", 403),
    ("/x/%2E./admin", 403),
    ("/x/.%2e/%61dmin", 403),
    ("/admin/x/..", 403),
    ("/admin/../admin", 403),
    ("http://crm.test/admin", 403),
    ("http://crm.test//%61dmin", 403),
    ("http://crm.test/x/../admin?a", 403),
    ("/../admin", 400),
    ("/x/../../admin", 400),
    ("/x/%2e%2e/%2e%2e/admin", 400),
    ("/%2fadmin", 400),
    ("/x%2f..%2fadmin", 400),
    ("/x/..%2fadmin", 400),
    ("/admin%2f", 400),
    ("/\\admin", 400),
    ("/x\\..\\admin", 400),
    ("/x/..%5cadmin", 400),
    ("/%5Cadmin", 400),
    ("/admin;a=b", 400),
    ("/admin;/x", 400),
    ("/;/admin", 400),
    ("/x/..;/admin", 400),
    ("/x;y/../admin", 400),
    ("/admin%00", 400),
    ("/%00/../admin", 400),
    ("/admin%", 400),
    ("/%u0061dmin", 400),
    ("/%6", 400),
    ("/admin%20", 200),
    ("/admin%3b", 200),
    ("/admin%3Fx", 200),
    ("/admin%23", 200),
    ("/%2561dmin", 200),
    ("/%25%36%31dmin", 200),
    ("/%c0%afadmin", 200),
    ("/%c1%a1dmin", 200),
    ("/%ef%bd%81dmin", 200),
    ("/administrator", 200),
    ("/x/admin", 200),
    ("/admin/../public", 200),
];

/// What a careful service makes of a target: decoded once, without parameters, empty and dot segments, in lower case.
fn resource(target: &str) -> String {
    let path = target.split('?').next().unwrap();
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/").to_lowercase();
    let mut segments = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_path_reaches_it() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&guarded(upstream.address, SPEC), Options::default()).await;
    let address = gateway.address("edge/http");
    for (target, status) in SPELLINGS {
        let request = format!("GET {target} HTTP/1.1\r\nHost: crm.test\r\n\r\n");
        let reply = raw::exchange(address, request).await.unwrap();
        assert_eq!(reply.status, status, "{target} on HTTP/1.1");
        if status == 403 {
            let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
            assert_eq!(record["foregate.rule"], "no-admin", "{target}");
        }
    }
    let mut client = Client::http2(address).await;
    let mut sent = 0;
    for (target, status) in SPELLINGS {
        // Clients refuse to send some of them; what they send is judged alike.
        let Some(target) = target.strip_prefix("http://crm.test").or(Some(target)) else { continue };
        let request = client.request("GET", target);
        if request.uri_ref().is_none() {
            continue;
        }
        assert_eq!(client.send_empty(request).await.status, status, "{target} on HTTP/2");
        sent += 1;
    }
    assert!(sent > 50, "{sent} spellings on HTTP/2");
    // Targets that begin with no slash have no path at all.
    for target in ["admin", "*", "\\admin", "%2fadmin"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: crm.test\r\n\r\n");
        let reply = raw::exchange(address, request).await;
        assert!(reply.is_none_or(|reply| reply.status >= 400), "{target}");
    }
    let received: Vec<String> = upstream.received().iter().map(|it| it.uri.to_string()).collect();
    assert_eq!(received.len(), 2 * SPELLINGS.iter().filter(|(_, status)| *status == 200).count());
    for target in &received {
        let resource = resource(target);
        assert!(resource != "/admin" && !resource.starts_with("/admin/"), "{target} was let through");
    }
    // Decoded once by the judge, and not at all on the way.
    assert!(received.contains(&"/%2561dmin".to_owned()), "{received:?}");
}
