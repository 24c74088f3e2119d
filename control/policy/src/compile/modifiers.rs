//! Filters of a rule or backend: header edits, redirect, rewrite, mirrors, CORS.

use foregate_filters::cors::{self, Cors};
use foregate_filters::edits::HeaderEdit;
use foregate_filters::fault::{Code, Fault, Path};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::codes;
use crate::compile::backends::Backend;
use crate::compile::matches::path_fault;
use crate::documents::http_route::{
    FilterType, HeaderField, HeaderModifier, PathModifier, PathModifierType, RequestMirror, RequestRedirect,
    RouteFilter, Scheme, UrlRewrite,
};
use crate::route::{PathRewrite, Redirect, Rewrite, Share};

/// Headers that frame a message or belong to one connection (RFC 9110, section 7.6.1).
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the filters of a rule or backend come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modifiers {
    pub request_headers: Vec<HeaderEdit>,
    pub response_headers: Vec<HeaderEdit>,
    pub redirect: Option<Redirect>,
    pub rewrite: Rewrite,
    pub mirrors: Vec<MirrorTo>,
    /// What browsers are told, and the way to it.
    pub cors: Option<(cors::Spec, Path)>,
}

/// An upstream that gets copies of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorTo {
    pub backend: Backend,
    /// The way to the reference.
    pub at: Path,
    pub share: Share,
}

#[derive(Debug)]
struct Reader<'a> {
    /// The prefix of the only match, where a prefix may be replaced.
    prefix: Option<&'a str>,
    faults: Vec<Fault>,
}

/// Compiles filters; `headers_only` where a backend has them.
pub fn modifiers(
    filters: &[RouteFilter],
    prefix: Option<&str>,
    at: &Path,
    headers_only: bool,
) -> (Modifiers, Vec<Fault>) {
    let mut reader = Reader { prefix, faults: Vec::new() };
    let mut modifiers = Modifiers::default();
    let mut seen: Vec<FilterType> = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        let kind = filter.kind;
        if seen.contains(&kind) && kind != FilterType::RequestMirror {
            reader.fault(&at.key("type"), format!("a second {} here", word(kind)));
        }
        seen.push(kind);
        let of_headers = [FilterType::RequestHeaderModifier, FilterType::ResponseHeaderModifier];
        if headers_only && !of_headers.contains(&kind) {
            reader.fault(&at.key("type"), format!("{} is for rules, not for backends", word(kind)));
        }
        if reader.fields(filter, &at) {
            reader.filter(filter, &at, &mut modifiers);
        }
    }
    if seen.contains(&FilterType::RequestRedirect) && seen.contains(&FilterType::URLRewrite) {
        reader.fault(at, "a rule cannot both redirect and rewrite".to_owned());
    }
    if seen.contains(&FilterType::RequestRedirect) && seen.contains(&FilterType::RequestMirror) {
        reader.fault(at, "a rule that redirects has nothing to mirror".to_owned());
    }
    (modifiers, reader.faults)
}

impl Reader<'_> {
    fn fault(&mut self, at: &Path, message: String) {
        self.faults.push(Fault::new(codes::ROUTE_FILTER, at.clone(), message));
    }

    /// The field of its type must be there, and no other.
    fn fields(&mut self, filter: &RouteFilter, at: &Path) -> bool {
        let fields = [
            (
                FilterType::RequestHeaderModifier,
                "requestHeaderModifier",
                filter.request_header_modifier.is_some(),
            ),
            (
                FilterType::ResponseHeaderModifier,
                "responseHeaderModifier",
                filter.response_header_modifier.is_some(),
            ),
            (FilterType::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
            (FilterType::URLRewrite, "urlRewrite", filter.url_rewrite.is_some()),
            (FilterType::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
            (FilterType::CORS, "cors", filter.cors.is_some()),
        ];
        let mut sound = true;
        for (kind, field, there) in fields {
            if kind == filter.kind && !there {
                sound = false;
                self.fault(&at.key("type"), format!("a {} needs the field `{field}`", word(kind)));
            } else if kind != filter.kind && there {
                sound = false;
                self.fault(&at.key(field), format!("`{field}` does not belong to a {}", word(filter.kind)));
            }
        }
        sound
    }

    fn filter(&mut self, filter: &RouteFilter, at: &Path, out: &mut Modifiers) {
        if let Some(headers) = &filter.request_header_modifier {
            self.headers(headers, &at.key("requestHeaderModifier"), &mut out.request_headers);
        }
        if let Some(headers) = &filter.response_header_modifier {
            self.headers(headers, &at.key("responseHeaderModifier"), &mut out.response_headers);
        }
        if let Some(redirect) = &filter.request_redirect {
            out.redirect = Some(self.redirect(redirect, &at.key("requestRedirect")));
        }
        if let Some(rewrite) = &filter.url_rewrite {
            out.rewrite = self.rewrite(rewrite, &at.key("urlRewrite"));
        }
        if let Some(mirror) = &filter.request_mirror {
            out.mirrors.extend(self.mirror(mirror, &at.key("requestMirror")));
        }
        if let Some(cors) = &filter.cors {
            let at = at.key("cors");
            if let Err(mut wrong) = Cors::build(cors, &at) {
                self.faults.append(&mut wrong);
            }
            out.cors = Some((cors.clone(), at));
        }
    }

    fn headers(&mut self, modifier: &HeaderModifier, at: &Path, edits: &mut Vec<HeaderEdit>) {
        for (index, field) in modifier.set.iter().enumerate() {
            let field = self.field(field, &at.key("set").index(index));
            edits.extend(field.map(|(name, value)| HeaderEdit::Set(name, value)));
        }
        for (index, field) in modifier.add.iter().enumerate() {
            let field = self.field(field, &at.key("add").index(index));
            edits.extend(field.map(|(name, value)| HeaderEdit::Add(name, value)));
        }
        for (index, name) in modifier.remove.iter().enumerate() {
            edits.extend(self.name(name, &at.key("remove").index(index)).map(HeaderEdit::Remove));
        }
    }

    fn field(&mut self, field: &HeaderField, at: &Path) -> Option<(HeaderName, HeaderValue)> {
        let name = self.name(&field.name, &at.key("name"));
        let value = HeaderValue::from_str(&field.value);
        if value.is_err() {
            let message = "a header value holds visible characters, spaces and tabs only";
            self.faults.push(Fault::new(Code::VALUE, at.key("value"), message));
        }
        name.zip(value.ok())
    }

    fn name(&mut self, name: &str, at: &Path) -> Option<HeaderName> {
        let Ok(name) = name.parse::<HeaderName>() else {
            self.faults.push(Fault::new(Code::VALUE, at.clone(), "this is not a header name"));
            return None;
        };
        if FRAMING.contains(&name.as_str()) {
            self.fault(at, format!("`{name}` belongs to the connection and cannot be edited"));
            return None;
        }
        if name == http::header::HOST {
            self.fault(at, "the Host is changed by URLRewrite with `hostname`".to_owned());
            return None;
        }
        Some(name)
    }

    fn redirect(&mut self, redirect: &RequestRedirect, at: &Path) -> Redirect {
        Redirect {
            scheme: redirect.scheme.map(|scheme| match scheme {
                Scheme::Http => "http".into(),
                Scheme::Https => "https".into(),
            }),
            host: redirect.hostname.as_deref().map(Into::into),
            port: redirect.port,
            path: redirect.path.as_ref().and_then(|path| self.path(path, &at.key("path"))),
            status: redirect
                .status_code
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or(StatusCode::FOUND),
        }
    }

    fn mirror(&mut self, mirror: &RequestMirror, at: &Path) -> Option<MirrorTo> {
        let share = match (mirror.percent, mirror.fraction) {
            (Some(_), Some(_)) => {
                self.fault(&at.key("percent"), "either `percent` or `fraction`, not both".to_owned());
                return None;
            }
            (Some(percent), None) => Share { numerator: percent, denominator: 100 },
            (None, Some(fraction)) => {
                let denominator = fraction.denominator.unwrap_or(100);
                Share { numerator: fraction.numerator, denominator }
            }
            (None, None) => Share { numerator: 1, denominator: 1 },
        };
        if share.numerator > share.denominator {
            let message = format!("{} of {} is more than all", share.numerator, share.denominator);
            self.fault(&at.key("fraction").key("numerator"), message);
            return None;
        }
        let (said, at) = (&mirror.backend_ref, at.key("backendRef"));
        Some(MirrorTo { backend: Backend::from(said), at, share })
    }

    fn rewrite(&mut self, rewrite: &UrlRewrite, at: &Path) -> Rewrite {
        Rewrite {
            host: rewrite.hostname.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            path: rewrite.path.as_ref().and_then(|path| self.path(path, &at.key("path"))),
        }
    }

    fn path(&mut self, path: &PathModifier, at: &Path) -> Option<PathRewrite> {
        let (mine, other, value, stray) = match path.kind {
            PathModifierType::ReplaceFullPath => {
                ("replaceFullPath", "replacePrefixMatch", &path.replace_full_path, &path.replace_prefix_match)
            }
            PathModifierType::ReplacePrefixMatch => {
                ("replacePrefixMatch", "replaceFullPath", &path.replace_prefix_match, &path.replace_full_path)
            }
        };
        if stray.is_some() {
            self.fault(&at.key(other), format!("`{other}` does not belong to this type"));
        }
        let Some(value) = value else {
            self.fault(&at.key("type"), format!("this type needs the field `{mine}`"));
            return None;
        };
        // An empty prefix takes the matched one away.
        let empty = value.is_empty() && path.kind == PathModifierType::ReplacePrefixMatch;
        if let Some(wrong) = path_fault(value).filter(|_| !empty) {
            self.fault(&at.key(mine), format!("the path {wrong}"));
            return None;
        }
        if path.kind == PathModifierType::ReplaceFullPath {
            return Some(PathRewrite::Full(value.as_str().into()));
        }
        let Some(prefix) = self.prefix else {
            self.fault(
                &at.key("type"),
                "a prefix is replaced only where the rule has exactly one match, of type PathPrefix"
                    .to_owned(),
            );
            return None;
        };
        Some(PathRewrite::Prefix { matched: prefix.into(), with: value.as_str().into() })
    }
}

fn word(kind: FilterType) -> &'static str {
    match kind {
        FilterType::RequestHeaderModifier => "RequestHeaderModifier",
        FilterType::ResponseHeaderModifier => "ResponseHeaderModifier",
        FilterType::RequestRedirect => "RequestRedirect",
        FilterType::URLRewrite => "URLRewrite",
        FilterType::RequestMirror => "RequestMirror",
        FilterType::CORS => "CORS",
    }
}
