//! `GRPCRoute`: its matches compiled, its rules brought into the form of all routes.

use foregate_filters::fault::{Fault, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::matches::{conditions, expression};
use crate::compile::typed::Typed;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::grpc_route::{self, Match, MethodMatch};
use crate::documents::http_route::{self, BackendRef, RouteFilter, ValueMatchType};
use crate::routes::matcher::{Conditions, PathMatcher, RpcMatcher, ValueMatcher};

/// A rule as the compiler takes it: that of an `HTTPRoute`, and the calls where it is one of a `GRPCRoute`.
pub type Calls = Option<Vec<Match>>;

/// A `GRPCRoute` in the form of an `HTTPRoute`, with the matches of each rule.
pub fn lowered<'a>(typed: &Typed<'a, grpc_route::Spec>) -> (Typed<'a, http_route::Spec>, Vec<Calls>) {
    let rule = |rule: &grpc_route::Rule| http_route::Rule {
        name: rule.name.clone(),
        matches: Vec::new(),
        filters: rule.filters.iter().map(RouteFilter::from).collect(),
        backend_refs: rule.backend_refs.iter().map(BackendRef::from).collect(),
        timeouts: None,
        retry: None,
        session_persistence: rule.session_persistence.clone(),
    };
    let spec = http_route::Spec {
        parent_refs: typed.spec.parent_refs.clone(),
        hostnames: typed.spec.hostnames.clone(),
        rules: typed.spec.rules.iter().map(rule).collect(),
    };
    let calls = typed.spec.rules.iter().map(|rule| Some(rule.matches.clone())).collect();
    (Typed { document: typed.document, spec }, calls)
}

/// Every match of a rule, one for all calls where it names none; and everything that is wrong.
pub fn calls(list: &[Match], at: &Path) -> (Vec<(PathMatcher, Conditions)>, Vec<Fault>) {
    let mut faults = Vec::new();
    let all = [Match::default()];
    let list = if list.is_empty() { &all[..] } else { list };
    let mut compiled = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let at = at.index(index);
        let rpc = match &entry.method {
            Some(method) => rpc(method, &at.key("method"), &mut faults),
            None => Some(RpcMatcher::default()),
        };
        // A call is a POST (gRPC over HTTP/2).
        let head = http_route::Match {
            headers: entry.headers.clone(),
            method: Some(http_route::Method::Post),
            ..http_route::Match::default()
        };
        let conditions = conditions(&head, &at, &mut faults);
        compiled.extend(rpc.map(|rpc| (PathMatcher::Rpc(rpc), conditions)));
    }
    (compiled, faults)
}

fn rpc(said: &MethodMatch, at: &Path, faults: &mut Vec<Fault>) -> Option<RpcMatcher> {
    let before = faults.len();
    if said.service.is_none() && said.method.is_none() {
        let message = "a service or a method must be named";
        faults.push(Fault::new(codes::ROUTE_MATCH, at.clone(), message));
    }
    let mut part = |field: &str, text: Option<&String>, legal: fn(&str) -> bool, what: &str| {
        let (text, at) = (text.filter(|text| !text.is_empty())?, at.key(field));
        if said.kind == ValueMatchType::RegularExpression {
            return expression(text, &at, faults).map(ValueMatcher::Regex);
        }
        if !legal(text) {
            faults.push(Fault::new(codes::ROUTE_MATCH, at, format!("`{text}` is not the name of a {what}")));
            return None;
        }
        Some(ValueMatcher::Exact(text.as_str().into()))
    };
    let service = part("service", said.service.as_ref(), is_service, "service");
    let method = part("method", said.method.as_ref(), is_word, "method");
    (faults.len() == before).then_some(RpcMatcher { service, method })
}

fn is_word(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_word)
}

impl Compilation<'_> {
    /// gRPC needs HTTP/2 all the way.
    pub fn speaks_grpc(&mut self, document: &Document, upstream: usize, at: &Path) {
        let Some(upstream) = self.documents.upstreams.get(upstream) else { return };
        if upstream.spec.protocol == crate::documents::upstream::Protocol::Http2 {
            return;
        }
        let message = format!(
            "the Upstream `{}` is spoken to in HTTP/1.1, and gRPC needs HTTP/2",
            upstream.document.name
        );
        let fault = Diagnostic::at(document, at, codes::GRPC_OVER_HTTP1, message);
        self.fault(fault.help("set protocol: Http2 in the Upstream"));
    }
}

#[cfg(test)]
mod tests {
    use super::{is_service, is_word};

    #[test]
    fn names_are_those_of_protocol_buffers() {
        for (text, service, word) in [
            ("crm.v1.Leads", true, false),
            (".crm.v1.Leads", true, false),
            ("Leads", true, true),
            ("_x1", true, true),
            ("1x", false, false),
            ("crm..Leads", false, false),
            ("crm/Leads", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_service(text), is_word(text)), (service, word), "{text}");
        }
    }
}
