//! Parameters of an operation, and whether a request has them as they should be.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, request};
use smallvec::SmallVec;

use crate::validate::findings;
use crate::validate::limits::Limits;
use crate::validate::openapi::Operation;
use crate::validate::openapi::query::{Pairs, cookies, pairs};
use crate::validate::schema::{SchemaId, Set};
use crate::validate::tape::{Kind, Node, Tape};
use crate::violation::{MAX_VIOLATIONS, Violation};

/// Values of one parameter, at most.
const MAX_VALUES: usize = 1_000;

/// Where a parameter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Header(HeaderName),
    Cookie,
}

/// How the text of a parameter becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One string, number or boolean.
    One,
    /// A list in one text, with this between its elements.
    Separated(char),
    /// A list of the values of all that have the name.
    Repeated,
    /// JSON.
    Json,
}

#[derive(Debug)]
pub struct Parameter {
    pub(crate) name: Box<str>,
    pub(crate) place: Place,
    pub(crate) required: bool,
    /// `allowEmptyValue`: a name without value says enough.
    pub(crate) may_be_empty: bool,
    pub(crate) shape: Shape,
    /// `None`: it may be there, and is not looked at.
    pub(crate) schema: Option<SchemaId>,
    /// The schema of the elements of a list.
    pub(crate) element: Option<SchemaId>,
}

/// What a request holds, taken apart once.
struct Request<'h> {
    head: &'h request::Parts,
    captured: &'h [Cow<'h, str>],
    variables: &'h [Box<str>],
    query: Pairs<'h>,
    cookies: Option<Pairs<'h>>,
}

/// Everything that is wrong with the parameters of a request.
pub fn check(
    operation: &Operation,
    head: &request::Parts,
    captured: &[Cow<'_, str>],
    variables: &[Box<str>],
) -> Vec<Violation> {
    let Some(query) = pairs(head.uri.query().unwrap_or_default()) else {
        return vec![Violation::new("query", "malformed", "has an escape that is not whole, or not UTF-8")];
    };
    let mut found = Vec::new();
    let known = |name: &str| {
        operation.parameters.iter().any(|known| known.place == Place::Query && *known.name == *name)
    };
    if !operation.open_query {
        let unknown = query.iter().filter(|(name, _)| !known(name)).take(MAX_VIOLATIONS);
        found.extend(unknown.map(|(name, _)| {
            Violation::new("query", "undeclared", "is no parameter of this operation").name(name)
        }));
    }
    let asks_cookies = operation.parameters.iter().any(|parameter| parameter.place == Place::Cookie);
    let cookies = asks_cookies.then(|| cookies(&head.headers));
    let request = Request { head, captured, variables, query, cookies };
    for parameter in &operation.parameters {
        if found.len() < MAX_VIOLATIONS {
            found.extend(parameter.check(&request, &operation.requests));
        }
    }
    found.truncate(MAX_VIOLATIONS);
    found
}

impl<'h> Request<'h> {
    /// The texts that a parameter has; the lines of a header are one list (RFC 9110, section 5.3).
    fn texts(&self, parameter: &Parameter) -> Result<SmallVec<[Cow<'h, str>; 2]>, &'static str> {
        Ok(match &parameter.place {
            Place::Path => {
                let place = self.variables.iter().position(|name| *name == parameter.name);
                place.and_then(|place| self.captured.get(place).cloned()).into_iter().collect()
            }
            Place::Query => named(&self.query, &parameter.name),
            Place::Cookie => {
                self.cookies.as_ref().map(|cookies| named(cookies, &parameter.name)).unwrap_or_default()
            }
            Place::Header(name) => {
                let lines: Result<Vec<&str>, _> =
                    self.head.headers.get_all(name).iter().map(HeaderValue::to_str).collect();
                let lines = lines.map_err(|_| "is not plain text")?;
                match lines.as_slice() {
                    [] => SmallVec::new(),
                    [line] => [Cow::Borrowed(*line)].into_iter().collect(),
                    lines if parameter.shape == Shape::One => {
                        lines.iter().map(|it| Cow::Borrowed(*it)).collect()
                    }
                    lines => [Cow::Owned(lines.join(","))].into_iter().collect(),
                }
            }
        })
    }
}

/// The values of all pairs of this name.
fn named<'h>(pairs: &Pairs<'h>, wanted: &str) -> SmallVec<[Cow<'h, str>; 2]> {
    pairs.iter().filter(|(name, _)| *name == *wanted).map(|(_, value)| value.clone()).collect()
}

impl Place {
    fn name(&self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header(_) => "header",
            Self::Cookie => "cookie",
        }
    }
}

impl Parameter {
    fn check(&self, request: &Request<'_>, set: &Set) -> Vec<Violation> {
        let wrong =
            |keyword, message| vec![Violation::new(self.place.name(), keyword, message).name(&self.name)];
        let texts = match request.texts(self) {
            Ok(texts) => texts,
            Err(message) => return wrong("malformed", message),
        };
        let Some(first) = texts.first() else {
            return if self.required { wrong("required", "is missing") } else { Vec::new() };
        };
        let Some(schema) = self.schema else { return Vec::new() };
        if self.may_be_empty && texts.len() == 1 && first.is_empty() {
            return Vec::new();
        }
        // Services take the first, the last, or both.
        if texts.len() > 1 && self.shape != Shape::Repeated {
            return wrong("repeated", "stands more than once");
        }
        let told = match self.shape {
            Shape::Json => {
                let limits = Limits::default();
                let checked =
                    findings::json(first.as_bytes(), &limits, Some((set, schema)), self.place.name());
                checked.map_err(|found| found.violations(self.place.name()))
            }
            Shape::One => self.one(first, set, schema),
            Shape::Separated(_) if first.is_empty() => self.list(&[], set, schema),
            Shape::Separated(separator) => {
                let parts: Vec<Cow<'_, str>> =
                    first.split(separator).take(MAX_VALUES + 1).map(|it| it.trim().into()).collect();
                self.list(&parts, set, schema)
            }
            Shape::Repeated => self.list(&texts, set, schema),
        };
        let named = |violation: Violation| violation.name(&self.name);
        told.err().into_iter().flatten().map(named).collect()
    }

    /// A text may be read as a number or a boolean, where it looks like one, or as a string.
    fn one(&self, text: &str, set: &Set, schema: SchemaId) -> Result<(), Vec<Violation>> {
        let mut first: Result<(), Vec<Violation>> = Ok(());
        for kind in kinds(text) {
            let nodes = [Node::scalar(kind, 0..text.len(), 0)];
            let told = findings::value(set, schema, Tape { text, nodes: &nodes }, self.place.name());
            if told.is_ok() {
                return told;
            }
            // Not of the type says less than anything else.
            let vague = first
                .as_ref()
                .err()
                .is_none_or(|told: &Vec<Violation>| told.iter().all(|it| it.keyword == "type"));
            if vague {
                first = told;
            }
        }
        first
    }

    fn list(&self, parts: &[Cow<'_, str>], set: &Set, schema: SchemaId) -> Result<(), Vec<Violation>> {
        if parts.len() > MAX_VALUES {
            return Err(vec![Violation::new(self.place.name(), "items", "has too many values")]);
        }
        let mut text = String::new();
        let mut nodes = vec![Node::array(parts.len(), 0)];
        for part in parts {
            let start = text.len();
            text.push_str(part);
            // Read as whatever the schema of elements takes.
            let kind = kinds(part).find(|kind| {
                let nodes = [Node::scalar(*kind, 0..part.len(), 0)];
                let tape = Tape { text: part, nodes: &nodes };
                self.element.is_some_and(|element| findings::value(set, element, tape, "").is_ok())
            });
            let kind = kind.or_else(|| kinds(part).next()).unwrap_or(Kind::String);
            nodes.push(Node::scalar(kind, start..text.len(), nodes.len()));
        }
        findings::value(set, schema, Tape { text: &text, nodes: &nodes }, self.place.name())
    }
}

/// What a text can be read as.
fn kinds(text: &str) -> impl Iterator<Item = Kind> + use<> {
    let literal = match text {
        "true" => Some(Kind::True),
        "false" => Some(Kind::False),
        _ if is_number(text) => Some(Kind::Number),
        _ => None,
    };
    literal.into_iter().chain([Kind::String])
}

/// The grammar of JSON (RFC 8259, section 6), within the bound on digits.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    text.len() <= Limits::default().number
        && digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|it| digits(it.strip_prefix(['+', '-']).unwrap_or(it)))
}
