//! What an upstream whose connections are passed on unread cannot obey.

use crate::codes;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::upstream::Spec;

/// Tells of every setting that only requests could obey: left standing, it would look as if it were obeyed.
pub fn check(document: &Document, said: &Spec, faults: &mut Vec<Diagnostic>) {
    let hash = said.load_balancing.as_ref().and_then(|load| load.hash_on.as_ref());
    let hashed = hash
        .map_or([false; 3], |hash| [hash.header.is_some(), hash.cookie.is_some(), hash.expression.is_some()]);
    let [header, cookie, expression] = hashed;
    let on = || spec().key("loadBalancing").key("hashOn");
    let address = "hash on sourceAddress: true, or remove hashOn: the address of the client is the default";
    let told = [
        (header, on().key("header"), "a header", address),
        (cookie, on().key("cookie"), "a cookie", address),
        (expression, on().key("expression"), "what an expression reads", address),
        (
            said.session_persistence.is_some(),
            spec().key("sessionPersistence"),
            "a cookie or header of a session",
            "remove it; loadBalancing: { policy: Maglev } keeps the connections of one address together",
        ),
        (
            said.outlier_detection.is_some(),
            spec().key("outlierDetection"),
            "a status",
            "remove it; endpoints that cannot be reached are what circuitBreaker is for",
        ),
        (
            said.retry_constraint.is_some(),
            spec().key("retryConstraint"),
            "a request to be tried again",
            "remove it; three endpoints are tried for a connection, nothing having been sent",
        ),
        (
            said.concurrency.is_some(),
            spec().key("concurrency"),
            "a request to be counted",
            "remove it; `foregate run --listener-connections` bounds connections",
        ),
        (
            said.max_idle_per_thread.is_some(),
            spec().key("maxIdlePerThread"),
            "an end after which it serves another client",
            "remove it",
        ),
    ];
    for (_, at, what, help) in told.into_iter().filter(|(said, ..)| *said) {
        let message = format!("a connection that is passed on unread has not {what}");
        let message = message.replace(" has not a ", " has no ").replace(" has not an ", " has no ");
        faults.push(Diagnostic::at(document, &at, codes::UNREAD, message).help(help));
    }
}
