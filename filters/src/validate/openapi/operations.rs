//! Reads one operation of an `OpenAPI` document.

use http::HeaderName;
use serde_json::{Map, Value};

use crate::fault::Code;
use crate::validate::media::MediaType;
use crate::validate::openapi::build::Builder;
use crate::validate::openapi::parameters::{Parameter, Place, Shape};
use crate::validate::openapi::{Content, Media, RequestBody};
use crate::validate::schema::compile::Compiler;
use crate::validate::schema::references::below;

type Members = Map<String, Value>;

/// Headers that other parts of a contract speak of (`OpenAPI` 3.1, section 4.8.12.1).
const NOT_PARAMETERS: [&str; 3] = ["accept", "content-type", "authorization"];

/// An operation, before its schemas are there.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) open_query: bool,
    pub(super) body: Option<RequestBody>,
    pub(super) exact: Vec<(u16, Content)>,
    pub(super) ranges: Vec<(u16, Content)>,
    pub(super) otherwise: Option<Content>,
}

impl Draft {
    /// The query parameter of a security scheme: other filters look at it.
    pub(super) fn key(name: &str) -> Parameter {
        Parameter {
            name: name.into(),
            place: Place::Query,
            required: false,
            may_be_empty: true,
            shape: Shape::One,
            schema: None,
            element: None,
        }
    }
}

impl<'d> Builder<'d> {
    /// `at`: the place of the operation, and that of its path item.
    pub(super) fn operation(
        &mut self,
        operation: &'d Members,
        item: &'d Members,
        (at, place): (&str, &str),
        variables: &[Box<str>],
    ) -> Draft {
        let mut draft = Draft { open_query: self.open_query, ..Draft::default() };
        for (holder, at) in [(operation, at), (item, place)] {
            let at = below(at, "parameters");
            let listed = holder.get("parameters").and_then(Value::as_array);
            for (index, value) in listed.into_iter().flatten().enumerate() {
                let at = below(&at, &index.to_string());
                let Some(parameter) = self.parameter(value, &at, &mut draft.open_query) else { continue };
                // Those of the operation come first, and take the place of those of the path.
                let same = |known: &Parameter| known.place == parameter.place && known.name == parameter.name;
                if !draft.parameters.iter().any(same) {
                    draft.parameters.push(parameter);
                }
            }
        }
        for variable in variables {
            let named = |known: &Parameter| known.place == Place::Path && known.name == *variable;
            if !draft.parameters.iter().any(named) {
                self.fault(at, Code::CONTRACT, format!("no parameter says what `{{{variable}}}` may be"));
            }
        }
        if let Some(value) = operation.get("requestBody") {
            let at = below(at, "requestBody");
            if let Some((body, at)) = self.object(value, &at) {
                let required = body.get("required") == Some(&Value::Bool(true));
                let content = self.content(body, &at, false);
                if content.0.is_empty() {
                    self.fault(&at, Code::CONTRACT, "a body has content of one media type or more");
                }
                draft.body = Some(RequestBody { required, content });
            }
        }
        if self.responses.is_some() {
            self.answers(operation, at, &mut draft);
        }
        draft
    }

    fn answers(&mut self, operation: &'d Members, at: &str, draft: &mut Draft) {
        let at = below(at, "responses");
        let Some(listed) =
            operation.get("responses").and_then(Value::as_object).filter(|all| !all.is_empty())
        else {
            return self.fault(&at, Code::CONTRACT, "an operation has responses");
        };
        for (status, value) in listed.iter().filter(|(status, _)| !status.starts_with("x-")) {
            let at = below(&at, status);
            let Some((response, place)) = self.object(value, &at) else { continue };
            let content = self.content(response, &place, true);
            let range = status.strip_suffix("XX").and_then(|first| first.parse().ok());
            if status == "default" {
                draft.otherwise = Some(content);
            } else if let Some(range) = range.filter(|range| (1..=5).contains(range)) {
                draft.ranges.push((range, content));
            } else if let Some(exact) = status.parse().ok().filter(|status| (100..=599).contains(status)) {
                draft.exact.push((exact, content));
            } else {
                self.fault(
                    &at,
                    Code::CONTRACT,
                    "a status is a number such as 200, a range such as 2XX, or default",
                );
            }
        }
    }

    fn content(&mut self, holder: &'d Members, at: &str, response: bool) -> Content {
        let at = below(at, "content");
        let mut content = Content::default();
        for (range, value) in holder.get("content").and_then(Value::as_object).into_iter().flatten() {
            let at = below(&at, range);
            let range = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let media = MediaType::parse(&range);
            if media.is_none() {
                self.fault(&at, Code::CONTRACT, "not a media type");
            }
            let json = range.ends_with("/*") || media.is_some_and(|media| media.is_json());
            let schema = value.get("schema").filter(|_| json);
            let compiler: Option<&mut Compiler<'d>> =
                if response { self.responses.as_mut() } else { Some(&mut self.requests) };
            let schema =
                schema.zip(compiler).map(|(schema, compiler)| compiler.schema(schema, &below(&at, "schema")));
            content.0.push(Media { range: range.into(), schema });
        }
        content.0.sort_by_key(|media| match &*media.range {
            "*/*" => 2,
            range if range.ends_with("/*") => 1,
            _ => 0,
        });
        content
    }

    fn parameter(&mut self, value: &'d Value, at: &str, open_query: &mut bool) -> Option<Parameter> {
        let (said, at) = self.object(value, at)?;
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        let (Some(name), Some(place)) = (text("name"), text("in")) else {
            self.fault(&at, Code::CONTRACT, "a parameter has a name, and says where it is `in`");
            return None;
        };
        let place = match place {
            "path" => Place::Path,
            "query" => Place::Query,
            "cookie" => Place::Cookie,
            "header" if NOT_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) => return None,
            "header" => {
                let Ok(name) = HeaderName::try_from(name) else {
                    self.fault(&below(&at, "name"), Code::CONTRACT, "not the name of a header");
                    return None;
                };
                Place::Header(name)
            }
            _ => {
                self.fault(
                    &below(&at, "in"),
                    Code::CONTRACT,
                    "a parameter is in path, query, header or cookie",
                );
                return None;
            }
        };
        let flag = |name: &str| said.get(name) == Some(&Value::Bool(true));
        let required = flag("required");
        if place == Place::Path && !required {
            self.fault(&at, Code::CONTRACT, "a parameter in the path is required");
        }
        let mut parameter =
            Parameter { required, may_be_empty: flag("allowEmptyValue"), place, ..Draft::key(name) };
        self.value(said, &at, &mut parameter, open_query);
        Some(parameter)
    }

    /// The schema of a parameter, and how its text is to be read.
    fn value(&mut self, said: &'d Members, at: &str, parameter: &mut Parameter, open_query: &mut bool) {
        if let Some(content) = said.get("content").and_then(Value::as_object) {
            let json =
                content.iter().find(|(range, _)| MediaType::parse(range).is_some_and(|it| it.is_json()));
            match json {
                Some((range, media)) => {
                    let at = below(&below(&below(at, "content"), range), "schema");
                    parameter.shape = Shape::Json;
                    parameter.schema = media.get("schema").map(|schema| self.requests.schema(schema, &at));
                }
                None => {
                    self.pass_on(
                        at,
                        format!("the parameter {} is not JSON, and not checked", parameter.name),
                    );
                }
            }
            return;
        }
        let Some(schema) = said.get("schema") else { return };
        let kind = self.kind(schema);
        let usual = if matches!(parameter.place, Place::Query | Place::Cookie) { "form" } else { "simple" };
        let style = said.get("style").and_then(Value::as_str).unwrap_or(usual);
        let explode = said.get("explode").and_then(Value::as_bool).unwrap_or(style == "form");
        let in_query = parameter.place == Place::Query;
        let shape = match (kind, style) {
            (Kind::One, "form" | "simple") => Some(Shape::One),
            (Kind::List, "form" | "spaceDelimited" | "pipeDelimited") if explode && in_query => {
                Some(Shape::Repeated)
            }
            (Kind::List, "form" | "simple") => Some(Shape::Separated(',')),
            (Kind::List, "spaceDelimited") => Some(Shape::Separated(' ')),
            (Kind::List, "pipeDelimited") => Some(Shape::Separated('|')),
            _ => None,
        };
        let Some(shape) = shape else {
            let name = &parameter.name;
            self.pass_on(at, format!("the parameter {name} is written in a style that is not checked"));
            parameter.required = false;
            *open_query |= in_query;
            return;
        };
        parameter.shape = shape;
        let at = below(at, "schema");
        parameter.schema = Some(self.requests.schema(schema, &at));
        let elements = self.resolved(schema).and_then(|schema| schema.get("items"));
        parameter.element = elements.map(|schema| self.requests.schema(schema, &below(&at, "items")));
    }

    fn resolved(&self, schema: &'d Value) -> Option<&'d Value> {
        let mut schema = schema;
        for _ in 0..16 {
            let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return Some(schema) };
            schema = self.references.resolve(reference).ok()?.0;
        }
        None
    }

    fn kind(&self, schema: &'d Value) -> Kind {
        let Some(schema) = self.resolved(schema) else { return Kind::One };
        let of = |wanted: &str| match schema.get("type") {
            Some(Value::String(name)) => name == wanted,
            Some(Value::Array(names)) => names.iter().any(|name| name.as_str() == Some(wanted)),
            _ => false,
        };
        if of("object") {
            Kind::Object
        } else if of("array") {
            Kind::List
        } else {
            Kind::One
        }
    }
}

/// What the value of a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    One,
    List,
    Object,
}
