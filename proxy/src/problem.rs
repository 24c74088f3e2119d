//! Refusals as `application/problem+json` (RFC 9457).

use bytes::Bytes;
use foregate_filters::verdict::Reply;
use foregate_filters::violation::Violation;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use serde_json::Value;

use crate::telemetry::record::DecisionId;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The whole answer to a refused request. It tells the status, the reason and the decision id; who
/// refused and why stays with the operator. What is wrong with the message itself is told without its values.
pub fn response(reply: &Reply, id: DecisionId) -> Response<Bytes> {
    let reason = reply.reason;
    // Reason names and titles hold no character that JSON escapes; a test holds them to that.
    let body = format!(
        r#"{{"type":"about:blank","title":"{}","status":{},"reason":"{}","decision":"{}"{}}}"#,
        reason.title(),
        reason.status().as_u16(),
        reason.name(),
        id,
        errors(&reply.violations),
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = reason.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    for (name, value) in &reply.headers {
        headers.insert(name, value.clone());
    }
    response
}

/// The member that lists what is wrong; nothing where there is nothing to list.
fn errors(violations: &[Violation]) -> String {
    if violations.is_empty() {
        return String::new();
    }
    let told = violations.iter().map(|violation| {
        let Violation { within, name, pointer, keyword, message } = violation;
        let quoted = |text: &str| Value::from(text).to_string();
        let name = if name.is_empty() { String::new() } else { format!(r#""name":{},"#, quoted(name)) };
        format!(
            r#"{{"in":"{within}",{name}"pointer":{},"keyword":"{keyword}","message":"{message}"}}"#,
            quoted(pointer)
        )
    });
    format!(r#","errors":[{}]"#, told.collect::<Vec<_>>().join(","))
}

/// Status and headers alone.
pub fn bodiless(reply: &Reply) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = reply.reason.status();
    response.headers_mut().extend(reply.headers.iter().cloned());
    response
}

#[cfg(test)]
mod tests {
    use super::response;
    use crate::telemetry::record::DecisionId;
    use foregate_filters::moment::Moment;
    use foregate_filters::reason::Reason;
    use foregate_filters::verdict::Reply;
    use foregate_filters::violation::Violation;

    #[test]
    fn what_is_wrong_is_listed_whatever_the_names_are() {
        let violations = [
            Violation::new("body", "maxLength", "is longer than allowed").pointer("/a\"b\n/0"),
            Violation::new("query", "required", "is missing").name("li\"mit"),
        ];
        let reply = Reply { violations: violations.into(), ..Reply::new(Reason::SchemaViolation) };
        let given = response(&reply, DecisionId::new(Moment::default()));
        let body: serde_json::Value = serde_json::from_slice(given.body()).unwrap();
        assert_eq!(
            body["errors"],
            serde_json::json!([
                { "in": "body", "pointer": "/a\"b\n/0", "keyword": "maxLength", "message": "is longer than allowed" },
                { "in": "query", "name": "li\"mit", "pointer": "", "keyword": "required", "message": "is missing" },
            ])
        );
    }

    #[test]
    fn every_reason_is_a_well_formed_problem_that_keeps_details_to_itself() {
        let id = DecisionId::new(Moment::default());
        for reason in Reason::ALL {
            let reply = Reply::new(*reason).rule("secret-rule").detail("secret detail");
            let given = response(&reply, id);
            let body: serde_json::Value = serde_json::from_slice(given.body()).unwrap();
            assert_eq!(body["status"], given.status().as_u16());
            assert_eq!(body["reason"], reason.name());
            assert_eq!(body["decision"], id.to_string());
            assert!(!String::from_utf8_lossy(given.body()).contains("secret"));
        }
    }
}
