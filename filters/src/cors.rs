//! Cross-origin requests: tells browsers which scripts may read what (Fetch).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Method, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::context::RequestContext;
use crate::edits::HeaderEdit;
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// The name of its refusals.
pub(crate) const RULE: &str = "cors";

/// Seconds for which a browser may keep the answer to a preflight, where nothing is said (Gateway API).
const MAX_AGE: u32 = 5;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Which scripts of other origins may call (`HTTPCORSFilter` of Gateway API).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "HTTPCORSFilter")]
pub struct Spec {
    /// Origins such as `https://app.example.com` or `https://*.example.com:8443`; `*` alone stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub allow_origins: Vec<String>,
    /// True: browsers may send cookies and credentials along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_credentials: bool,
    /// Methods besides GET, HEAD and POST; `*` alone stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub allow_methods: Vec<AllowedMethod>,
    /// Request headers besides those that any page may set; `*` alone stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read besides the harmless ones; `*` stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub expose_headers: Vec<String>,
    /// Seconds for which a browser may keep the answer to a preflight; 5 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub max_age: Option<u32>,
}

/// A method that scripts may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(rename = "CORSMethod")]
pub enum AllowedMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[serde(rename = "*")]
    Any,
}

/// Marks responses for the origins allowed, refusals too; preflights are answered by `Preflight`.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: Allowed,
    headers: Allowed,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

#[derive(Clone, Debug)]
enum Origins {
    Any,
    These(Vec<Origin>),
}

/// An origin, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    https: bool,
    /// In lower case; empty for every host; with a dot in front for every host below.
    host: Box<str>,
    port: u16,
}

/// What a preflight is told may be used.
#[derive(Clone, Debug)]
enum Allowed {
    /// What needs no permission.
    Nothing,
    Any,
    These(HeaderValue),
}

impl AllowedMethod {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Any => "*",
        }
    }
}

/// True for a question of a browser whether a request of another origin may be sent.
pub fn is_preflight(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// True for a preflight that asks whether a request with this method may be sent.
pub fn asks_for(head: &request::Parts, method: &Method) -> bool {
    is_preflight(head)
        && head
            .headers
            .get(ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|asked| asked.as_bytes() == method.as_str().as_bytes())
}

impl Cors {
    /// Builds the filter written at `at`; every fault otherwise.
    pub fn build(spec: &Spec, at: &Path) -> Built<Self> {
        let mut faults = Vec::new();
        let origins = origins(&spec.allow_origins, &at.key("allowOrigins"), &mut faults);
        let methods: Vec<&str> = spec.allow_methods.iter().map(|method| method.name()).collect();
        let methods = allowed(&methods, &at.key("allowMethods"), &mut faults);
        let headers = names(&spec.allow_headers, &at.key("allowHeaders"), &mut faults);
        let headers = allowed(&headers, &at.key("allowHeaders"), &mut faults);
        let expose = names(&spec.expose_headers, &at.key("exposeHeaders"), &mut faults);
        let all = expose.contains(&"*");
        if !faults.is_empty() {
            return Err(faults);
        }
        let expose = match expose.as_slice() {
            [] => None,
            // With credentials `*` would be taken for the name of a header.
            _ if all && spec.allow_credentials => None,
            _ if all => Some(ANY),
            names => HeaderValue::try_from(names.join(", ")).ok(),
        };
        Ok(Self {
            origins,
            credentials: spec.allow_credentials,
            methods,
            headers,
            expose,
            max_age: HeaderValue::from(spec.max_age.unwrap_or(MAX_AGE)),
        })
    }

    /// `*` where everybody may read, and no browser sends credentials.
    fn open(&self) -> bool {
        matches!(self.origins, Origins::Any) && !self.credentials
    }

    /// True where scripts of the origin that the request names may call.
    pub(crate) fn allows(&self, head: &request::Parts) -> bool {
        let mut sent = head.headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (sent.next(), sent.next()) else { return false };
        match &self.origins {
            Origins::Any => true,
            Origins::These(known) => {
                let origin = origin.to_str().ok().and_then(|text| Origin::parse(text, false));
                origin.is_some_and(|origin| known.iter().any(|known| known.covers(&origin)))
            }
        }
    }

    /// The answer to a preflight of an origin that is allowed.
    pub(crate) fn preflight(&self, head: &request::Parts) -> Reply {
        let answer = |asked: HeaderName, allowed: &Allowed| match allowed {
            Allowed::Nothing => None,
            Allowed::These(list) => Some(list.clone()),
            // With credentials `*` would be taken for a name: the answer is what was asked for.
            Allowed::Any if self.credentials => head.headers.get(asked).cloned(),
            Allowed::Any => Some(ANY),
        };
        let mut reply = Reply::new(Reason::Preflight).rule(RULE);
        if let Some(methods) = answer(ACCESS_CONTROL_REQUEST_METHOD, &self.methods) {
            reply = reply.header(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(headers) = answer(ACCESS_CONTROL_REQUEST_HEADERS, &self.headers) {
            reply = reply.header(ACCESS_CONTROL_ALLOW_HEADERS, headers);
        }
        reply.header(ACCESS_CONTROL_MAX_AGE, self.max_age.clone())
    }
}

impl Filter for Cors {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let edits = &mut ctx.edits.response;
        if !self.open() {
            // Caches must not give one origin the answer for another.
            edits.push(HeaderEdit::Add(VARY, HeaderValue::from_static("origin")));
        }
        let Some(origin) = head.headers.get(ORIGIN) else { return Verdict::Continue };
        // What the upstream says of origins is replaced: the route has decided.
        if !self.allows(head) {
            let said = [
                ACCESS_CONTROL_ALLOW_ORIGIN,
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                ACCESS_CONTROL_EXPOSE_HEADERS,
            ];
            edits.extend(said.map(HeaderEdit::Remove));
            return Verdict::Continue;
        }
        let shown = if self.open() { ANY } else { origin.clone() };
        edits.push(HeaderEdit::Set(ACCESS_CONTROL_ALLOW_ORIGIN, shown));
        edits.push(if self.credentials {
            HeaderEdit::Set(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"))
        } else {
            HeaderEdit::Remove(ACCESS_CONTROL_ALLOW_CREDENTIALS)
        });
        if is_preflight(head) {
            return Verdict::Continue;
        }
        edits.push(match &self.expose {
            Some(expose) => HeaderEdit::Set(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()),
            None => HeaderEdit::Remove(ACCESS_CONTROL_EXPOSE_HEADERS),
        });
        Verdict::Continue
    }

    /// Who may read a response is told when it begins.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }
}

impl Origin {
    /// Scheme, host and port (RFC 6454, section 6.1); `pattern` allows a wildcard in front of the host.
    fn parse(text: &str, pattern: bool) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
            _ => (rest, if https { 443 } else { 80 }),
        };
        let below =
            host.strip_prefix('*').filter(|rest| pattern && (rest.is_empty() || rest.starts_with('.')));
        let name = below.map_or(host, |rest| rest.strip_prefix('.').unwrap_or(rest));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.[]:".contains(&byte);
        let empty = name.is_empty() && below != Some("");
        if empty || name.starts_with('.') || !name.bytes().all(allowed) {
            return None;
        }
        Some(Self { https, host: below.unwrap_or(host).to_ascii_lowercase().into(), port })
    }

    /// True where `origin`, which has no wildcard, is this one or below it.
    fn covers(&self, origin: &Self) -> bool {
        self.https == origin.https
            && self.port == origin.port
            && (self.host.is_empty()
                || self.host == origin.host
                || (self.host.starts_with('.')
                    && origin.host.len() > self.host.len()
                    && origin.host.ends_with(&*self.host)))
    }
}

fn origins(list: &[String], at: &Path, faults: &mut Vec<Fault>) -> Origins {
    if list.iter().any(|origin| origin == "*") {
        if list.len() > 1 {
            faults.push(alone(at));
        }
        return Origins::Any;
    }
    if list.is_empty() {
        let message = "no origin is allowed: the filter would do nothing";
        let help = "list origins such as https://app.example.com";
        faults.push(Fault::new(Code::CONFLICT, at.clone(), message).help(help));
    }
    let mut known = Vec::new();
    for (index, text) in list.iter().enumerate() {
        let origin = Origin::parse(text, true);
        if origin.is_none() {
            let message = format!("`{text}` is not an origin");
            let help = "write it like https://app.example.com, https://*.example.com:8443 or *";
            faults.push(Fault::new(Code::VALUE, at.index(index), message).help(help));
        }
        known.extend(origin);
    }
    Origins::These(known)
}

fn names<'a>(list: &'a [String], at: &Path, faults: &mut Vec<Fault>) -> Vec<&'a str> {
    for (index, name) in list.iter().enumerate() {
        if name.parse::<HeaderName>().is_err() {
            faults.push(Fault::new(Code::VALUE, at.index(index), "this is not a header name"));
        }
    }
    list.iter().map(String::as_str).collect()
}

fn allowed(list: &[&str], at: &Path, faults: &mut Vec<Fault>) -> Allowed {
    match list {
        [] => Allowed::Nothing,
        ["*"] => Allowed::Any,
        list => {
            if list.contains(&"*") {
                faults.push(alone(at));
            }
            HeaderValue::try_from(list.join(", ")).map_or(Allowed::Nothing, Allowed::These)
        }
    }
}

fn alone(at: &Path) -> Fault {
    Fault::new(Code::CONFLICT, at.clone(), "`*` stands alone").help("write `*`, or the list without it")
}

#[cfg(test)]
mod tests {
    use super::{Cors, Origin, Spec};
    use crate::edits::HeaderEdit;
    use crate::fault::Path;
    use crate::filter::Filter;
    use crate::preflight::Preflight;
    use crate::testing::{Call, get};
    use crate::verdict::Verdict;

    fn cors(yaml: &str) -> Cors {
        let spec: Spec = serde_saphyr::from_str(yaml).unwrap();
        Cors::build(&spec, &Path::default().key("cors")).unwrap()
    }

    /// The verdict, and the edits of the response, one a line.
    fn told(filter: &Cors, call: &Call) -> (String, Vec<String>) {
        let mut ctx = call.context();
        assert_eq!(filter.on_request(&call.head(), &mut ctx), Verdict::Continue);
        let verdict = match Preflight(filter.clone()).on_request(&call.head(), &mut ctx) {
            Verdict::Reply(reply) => {
                let headers = reply.headers.iter().map(|(name, value)| format!(" {name}={value:?}"));
                format!("{}{}", reply.reason, headers.collect::<String>())
            }
            verdict => format!("{verdict:?}"),
        };
        let edits = ctx.edits.response.iter().map(|edit| match edit {
            HeaderEdit::Set(name, value) => format!("{name}={}", value.to_str().unwrap()),
            HeaderEdit::Add(name, value) => format!("{name}+{}", value.to_str().unwrap()),
            HeaderEdit::Remove(name) => format!("-{name}"),
        });
        (verdict, edits.collect())
    }

    fn preflight(origin: &str, method: &str, headers: &str) -> Call {
        let call = get("/").method("OPTIONS").header("origin", origin);
        let call = call.header("access-control-request-method", method);
        if headers.is_empty() { call } else { call.header("access-control-request-headers", headers) }
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (pattern, origin, covers) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://app.example.com", "https://APP.example.com:443", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "https://app.example.com:8443", false),
            ("https://app.example.com", "https://app.example.com.evil.test", false),
            ("http://app.example.com:8080", "http://app.example.com:8080", true),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://badexample.com", false),
            ("https://*", "https://anything.test", true),
            ("https://*", "http://anything.test", false),
            ("https://*:8443", "https://anything.test:8443", true),
            ("https://*:8443", "https://anything.test", false),
            ("http://127.0.0.1", "http://127.0.0.1", true),
        ] {
            let known = Origin::parse(pattern, true).unwrap();
            let found = Origin::parse(origin, false).is_some_and(|origin| known.covers(&origin));
            assert_eq!(found, covers, "{pattern} {origin}");
        }
        for text in [
            "null",
            "",
            "*",
            "https://",
            "https://*.example.com",
            "ftp://a",
            "https://a/b",
            "https://a b",
            "https://a:0",
            "https://a:99999",
            "https://u@a",
        ] {
            assert_eq!(Origin::parse(text, false), None, "{text}");
        }
    }

    #[test]
    fn preflights_are_answered_for_allowed_origins_only() {
        let filter = cors(
            "{ allowOrigins: ['https://app.test'], allowMethods: [PUT, DELETE], allowHeaders: [x-a, X-B], maxAge: 60 }",
        );
        let (verdict, edits) = told(&filter, &preflight("https://app.test", "PUT", "x-a"));
        assert_eq!(
            verdict,
            r#"Preflight access-control-allow-methods="PUT, DELETE" access-control-allow-headers="x-a, X-B" access-control-max-age="60""#
        );
        assert_eq!(
            edits,
            [
                "vary+origin",
                "access-control-allow-origin=https://app.test",
                "-access-control-allow-credentials"
            ]
        );
        let (verdict, edits) = told(&filter, &preflight("https://evil.test", "PUT", ""));
        assert_eq!((verdict.as_str(), edits.len()), ("OriginDenied", 4));
        let (verdict, _) =
            told(&filter, &preflight("https://app.test", "PUT", "").header("origin", "https://b.test"));
        assert_eq!(verdict, "OriginDenied");
        let plain = get("/").method("OPTIONS").header("origin", "https://app.test");
        assert_eq!(told(&filter, &plain).0, "Continue");
    }

    #[test]
    fn responses_are_marked_and_what_the_upstream_says_is_replaced() {
        let filter =
            cors("{ allowOrigins: ['https://app.test'], allowCredentials: true, exposeHeaders: [x-a, x-b] }");
        let (verdict, edits) = told(&filter, &get("/").header("origin", "https://app.test"));
        assert_eq!(verdict, "Continue");
        assert_eq!(
            edits,
            [
                "vary+origin",
                "access-control-allow-origin=https://app.test",
                "access-control-allow-credentials=true",
                "access-control-expose-headers=x-a, x-b",
            ]
        );
        let (verdict, edits) = told(&filter, &get("/").header("origin", "null"));
        assert_eq!(verdict, "Continue");
        assert_eq!(
            edits,
            [
                "vary+origin",
                "-access-control-allow-origin",
                "-access-control-allow-credentials",
                "-access-control-expose-headers",
            ]
        );
        assert_eq!(told(&filter, &get("/")).1, ["vary+origin"]);
    }

    #[test]
    fn wildcards_are_never_shown_beside_credentials() {
        let all = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']";
        let open = cors(&format!("{{ {all} }}"));
        let (verdict, edits) = told(&open, &preflight("https://a.test", "PUT", "x-a"));
        assert_eq!(
            verdict,
            r#"Preflight access-control-allow-methods="*" access-control-allow-headers="*" access-control-max-age="5""#
        );
        assert_eq!(edits, ["access-control-allow-origin=*", "-access-control-allow-credentials"]);
        let (_, edits) = told(&open, &get("/").header("origin", "null"));
        assert_eq!(edits[2], "access-control-expose-headers=*");
        let personal = cors(&format!("{{ {all}, allowCredentials: true }}"));
        let (verdict, edits) = told(&personal, &preflight("https://a.test", "PUT", "x-a"));
        assert_eq!(
            verdict,
            r#"Preflight access-control-allow-methods="PUT" access-control-allow-headers="x-a" access-control-max-age="5""#
        );
        assert_eq!(edits[1], "access-control-allow-origin=https://a.test");
        let (verdict, _) = told(&personal, &preflight("https://a.test", "PUT", ""));
        assert!(!verdict.contains("allow-headers"), "{verdict}");
        let (_, edits) = told(&personal, &get("/").header("origin", "https://a.test"));
        assert_eq!(edits[3], "-access-control-expose-headers");
    }

    #[test]
    fn what_would_do_nothing_or_mean_nothing_is_a_fault() {
        for (yaml, expected) in [
            ("{}", "FG0302 cors.allowOrigins: no origin is allowed: the filter would do nothing"),
            ("{ allowOrigins: ['*', 'https://a'] }", "FG0302 cors.allowOrigins: `*` stands alone"),
            ("{ allowOrigins: [app.test] }", "FG0301 cors.allowOrigins[0]: `app.test` is not an origin"),
            (
                "{ allowOrigins: ['https://a*'] }",
                "FG0301 cors.allowOrigins[0]: `https://a*` is not an origin",
            ),
            (
                "{ allowOrigins: ['*'], allowMethods: [GET, '*'] }",
                "FG0302 cors.allowMethods: `*` stands alone",
            ),
            (
                "{ allowOrigins: ['*'], allowHeaders: ['a b'] }",
                "FG0301 cors.allowHeaders[0]: this is not a header name",
            ),
        ] {
            let spec: Spec = serde_saphyr::from_str(yaml).unwrap();
            let faults = Cors::build(&spec, &Path::default().key("cors")).unwrap_err();
            let told: Vec<_> =
                faults.iter().map(|it| format!("{} {}: {}", it.code, it.at, it.message)).collect();
            assert_eq!(told, [expected], "{yaml}");
        }
    }
}
