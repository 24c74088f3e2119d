//! Matches of a rule: paths, headers and query parameters, checked and compiled.

use foregate_filters::fault::{Code, Fault, Path};
use http::{HeaderName, Method};

use crate::codes;
use crate::documents::http_route::{self, Match, PathMatch, PathMatchType, ValueMatchType};
use crate::routes::matcher::{Conditions, PathMatcher, ValueMatcher, whole};

/// Every match of a rule, one for all requests where it names none; and everything that is wrong.
pub fn matches(list: &[Match], at: &Path) -> (Vec<(PathMatcher, Conditions)>, Vec<Fault>) {
    let mut faults = Vec::new();
    if list.is_empty() {
        return (vec![(PathMatcher::Prefix("".into()), Conditions::default())], faults);
    }
    let compiled = list.iter().enumerate().map(|(index, entry)| {
        let at = at.index(index);
        let path = match &entry.path {
            Some(path) => self::path(path, &at.key("path"), &mut faults),
            None => Some(PathMatcher::Prefix("".into())),
        };
        let conditions = conditions(entry, &at, &mut faults);
        path.map(|path| (path, conditions))
    });
    let compiled: Vec<_> = compiled.collect();
    (compiled.into_iter().flatten().collect(), faults)
}

fn path(path: &PathMatch, at: &Path, faults: &mut Vec<Fault>) -> Option<PathMatcher> {
    let at = at.key("value");
    if path.kind == PathMatchType::RegularExpression {
        return expression(&path.value, &at, faults).map(PathMatcher::Regex);
    }
    if let Some(wrong) = path_fault(&path.value) {
        faults.push(Fault::new(codes::ROUTE_MATCH, at, format!("the path {wrong}")));
        return None;
    }
    Some(match path.kind {
        PathMatchType::Exact => PathMatcher::Exact(path.value.as_str().into()),
        _ => PathMatcher::Prefix(path.value.strip_suffix('/').unwrap_or(&path.value).into()),
    })
}

/// Why no request has this path: requests are compared in canonical form.
pub fn path_fault(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    let dots = path.split('/').any(|element| matches!(element, "." | ".."));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    if !path.starts_with('/') {
        Some("must start with `/`")
    } else if path.contains("//") {
        Some("must not contain `//`")
    } else if dots {
        Some("must not contain `.` or `..` as an element")
    } else if lower.contains("%2f") {
        Some("must not contain an escaped slash")
    } else if path.contains(['?', '#']) {
        Some("must not contain `?` or `#`: match the query with queryParams")
    } else if !path.bytes().all(allowed) || !escapes(path) {
        Some("holds characters that must be percent-escaped (RFC 3986, section 3.3)")
    } else {
        None
    }
}

fn escapes(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|rest| rest.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())))
}

pub fn conditions(entry: &Match, at: &Path, faults: &mut Vec<Fault>) -> Conditions {
    let mut conditions = Conditions { method: entry.method.map(method), ..Conditions::default() };
    for (index, header) in entry.headers.iter().enumerate() {
        let at = at.key("headers").index(index);
        let Ok(name) = header.name.parse::<HeaderName>() else {
            faults.push(Fault::new(Code::VALUE, at.key("name"), "this is not a header name"));
            continue;
        };
        let value = value(header.kind, &header.value, &at.key("value"), faults);
        // Gateway API: of entries with one name the first counts.
        if !conditions.headers.iter().any(|(other, _)| *other == name) {
            conditions.headers.extend(value.map(|value| (name, value)));
        }
    }
    for (index, parameter) in entry.query_params.iter().enumerate() {
        let at = at.key("queryParams").index(index).key("value");
        let value = value(parameter.kind, &parameter.value, &at, faults);
        if !conditions.query.iter().any(|(other, _)| **other == *parameter.name) {
            conditions.query.extend(value.map(|value| (parameter.name.as_str().into(), value)));
        }
    }
    conditions.headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    conditions.query.sort_by(|(one, _), (other, _)| one.cmp(other));
    conditions
}

fn value(kind: ValueMatchType, text: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<ValueMatcher> {
    match kind {
        ValueMatchType::Exact => Some(ValueMatcher::Exact(text.into())),
        ValueMatchType::RegularExpression => expression(text, at, faults).map(ValueMatcher::Regex),
    }
}

pub fn expression(text: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<regex::Regex> {
    whole(text)
        .map_err(|error| {
            let why = match error {
                regex::Error::CompiledTooBig(_) => "it takes too much memory".to_owned(),
                // The last line says what is wrong, the ones before show where.
                error => {
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default().trim();
                    last.strip_prefix("error: ").unwrap_or(last).to_owned()
                }
            };
            let message = format!("the regular expression cannot be compiled: {why}");
            faults.push(Fault::new(codes::ROUTE_MATCH, at.clone(), message));
        })
        .ok()
}

fn method(method: http_route::Method) -> Method {
    match method {
        http_route::Method::Get => Method::GET,
        http_route::Method::Head => Method::HEAD,
        http_route::Method::Post => Method::POST,
        http_route::Method::Put => Method::PUT,
        http_route::Method::Delete => Method::DELETE,
        http_route::Method::Connect => Method::CONNECT,
        http_route::Method::Options => Method::OPTIONS,
        http_route::Method::Trace => Method::TRACE,
        http_route::Method::Patch => Method::PATCH,
    }
}
