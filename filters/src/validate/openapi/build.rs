//! From an `OpenAPI` document to a contract; every fault at once.

use std::sync::Arc;

use http::{HeaderValue, Method};
use serde_json::{Map, Value};

use crate::fault::Code;
use crate::validate::openapi::operations::Draft;
use crate::validate::openapi::paths::{Paths, Segment, template};
use crate::validate::openapi::{Contract, Operation, PathItem, Responses};
use crate::validate::schema::compile::{Compiler, Dialect, Direction, Options, SchemaFault};
use crate::validate::schema::references::{References, below};

/// Operations of one contract, at most.
const MAX_OPERATIONS: usize = 10_000;

/// The methods that a path item may hold (`OpenAPI` 3.1, section 4.8.9).
const METHODS: [(&str, Method); 8] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
    ("trace", Method::TRACE),
];

/// What a policy asks of a contract.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub base: &'a str,
    pub responses: bool,
    pub open_query: bool,
    pub formats: bool,
}

/// Reads a document as it is compiled.
pub(super) struct Builder<'d> {
    pub(super) references: References<'d>,
    pub(super) requests: Compiler<'d>,
    pub(super) responses: Option<Compiler<'d>>,
    pub(super) faults: Vec<SchemaFault>,
    /// What is passed on unchecked.
    pub(super) unchecked: Vec<SchemaFault>,
    pub(super) open_query: bool,
    /// Query parameters by which security schemes take keys.
    keys: Vec<&'d str>,
}

/// One path, before the schemas are there.
struct Path {
    segments: Vec<Segment>,
    variables: Vec<Box<str>>,
    operations: Vec<(Method, Draft)>,
    at: String,
}

/// Compiles a document. Beside the contract: what of it is passed on unchecked.
///
/// # Errors
/// Everything that is wrong with it, each with its place in the document.
pub fn build(document: &Value, asked: Asked<'_>) -> Result<(Contract, Vec<SchemaFault>), Vec<SchemaFault>> {
    let dialect = dialect(document).map_err(|fault| vec![fault])?;
    let options = |direction| Options { dialect, direction, formats: asked.formats };
    let mut builder = Builder {
        references: References::new(document),
        requests: Compiler::new(document, options(Direction::Request)),
        responses: asked.responses.then(|| Compiler::new(document, options(Direction::Response))),
        faults: Vec::new(),
        unchecked: Vec::new(),
        open_query: asked.open_query,
        keys: keys_in_queries(document),
    };
    let drafted = builder.paths(document);
    let Builder { requests, responses, mut faults, unchecked, .. } = builder;
    let requests = requests.finish().map_err(|mut wrong| faults.append(&mut wrong));
    let responses = responses.map(Compiler::finish).transpose();
    let responses = responses.map_err(|wrong| {
        let new: Vec<SchemaFault> = wrong.into_iter().filter(|fault| !faults.contains(fault)).collect();
        faults.extend(new);
    });
    let mut paths = Paths::default();
    if let (Ok(requests), Ok(responses)) = (requests, responses) {
        let (requests, responses) = (Arc::new(requests), responses.map(Arc::new));
        for Path { segments, variables, operations, at } in drafted {
            let methods: Vec<&str> = operations.iter().map(|(method, _)| method.as_str()).collect();
            let methods = HeaderValue::try_from(methods.join(", ")).unwrap_or(HeaderValue::from_static(""));
            let operations = operations.into_iter().map(|(method, draft)| {
                let operation = Operation {
                    name: draft.name.into(),
                    parameters: draft.parameters,
                    open_query: draft.open_query,
                    body: draft.body,
                    requests: Arc::clone(&requests),
                    responses: responses.as_ref().map(|set| Responses {
                        set: Arc::clone(set),
                        exact: draft.exact,
                        ranges: draft.ranges,
                        otherwise: draft.otherwise,
                    }),
                };
                (method, Arc::new(operation))
            });
            let item = PathItem { variables, operations: operations.collect(), methods };
            if !paths.insert(&segments, item) {
                let message = "another path of the document matches exactly the same requests";
                faults.push(SchemaFault { at, code: Code::CONTRACT, message: message.to_owned() });
            }
        }
    }
    let contract = Contract { paths, base: asked.base.trim_end_matches('/').into() };
    if faults.is_empty() { Ok((contract, unchecked)) } else { Err(faults) }
}

fn dialect(document: &Value) -> Result<Dialect, SchemaFault> {
    let fault = |at: &str, message: &str| SchemaFault {
        at: at.to_owned(),
        code: Code::SCHEMA_DIALECT,
        message: message.to_owned(),
    };
    let said = document.get("jsonSchemaDialect").and_then(Value::as_str);
    let known =
        ["https://spec.openapis.org/oas/3.1/dialect/base", "https://json-schema.org/draft/2020-12/schema"];
    if said.is_some_and(|said| !known.contains(&said)) {
        return Err(fault("/jsonSchemaDialect", "another dialect than JSON Schema 2020-12"));
    }
    match document.get("openapi").and_then(Value::as_str) {
        Some(version) if version.starts_with("3.0.") => Ok(Dialect::OpenApi30),
        Some(version) if version.starts_with("3.1.") => Ok(Dialect::Json2020),
        _ => Err(fault("/openapi", "a contract is OpenAPI 3.0.x or 3.1.x, and says so under `openapi`")),
    }
}

fn keys_in_queries(document: &Value) -> Vec<&str> {
    let schemes = document.pointer("/components/securitySchemes").and_then(Value::as_object);
    let keys = schemes.into_iter().flat_map(Map::values).filter(|scheme| {
        let says = |name: &str, value: &str| scheme.get(name).and_then(Value::as_str) == Some(value);
        says("type", "apiKey") && says("in", "query")
    });
    keys.filter_map(|scheme| scheme.get("name")?.as_str()).collect()
}

impl<'d> Builder<'d> {
    fn paths(&mut self, document: &'d Value) -> Vec<Path> {
        let mut drafted = Vec::new();
        let Some(paths) = document.get("paths").and_then(Value::as_object) else {
            self.fault("/paths", Code::CONTRACT, "a contract has paths");
            return drafted;
        };
        let mut left = MAX_OPERATIONS;
        for (text, value) in paths.iter().filter(|(text, _)| !text.starts_with("x-")) {
            let at = below("/paths", text);
            let Some((item, place)) = self.object(value, &at) else { continue };
            let (segments, variables) = match template(text) {
                Ok(read) => read,
                Err(why) => {
                    self.fault(&at, Code::CONTRACT, why);
                    continue;
                }
            };
            let mut operations = Vec::new();
            for (name, method) in METHODS {
                let Some(value) = item.get(name) else { continue };
                let at = below(&place, name);
                let Some(operation) = value.as_object() else {
                    self.fault(&at, Code::CONTRACT, "an operation is an object");
                    continue;
                };
                if left == 0 {
                    self.fault(&at, Code::SCHEMA_SIZE, format!("more than {MAX_OPERATIONS} operations"));
                    return drafted;
                }
                left -= 1;
                let mut draft = self.operation(operation, item, (&at, &place), &variables);
                draft.name = format!("{method} {text}");
                draft.parameters.extend(self.keys.iter().map(|name| Draft::key(name)));
                operations.push((method, draft));
            }
            drafted.push(Path { segments, variables, operations, at });
        }
        drafted
    }

    pub(super) fn fault(&mut self, at: &str, code: Code, message: impl Into<String>) {
        self.faults.push(SchemaFault { at: at.to_owned(), code, message: message.into() });
    }

    pub(super) fn pass_on(&mut self, at: &str, message: impl Into<String>) {
        let message = message.into();
        self.unchecked.push(SchemaFault { at: at.to_owned(), code: Code::CONTRACT_UNCHECKED, message });
    }

    /// An object, or the one that it refers to, with its place.
    pub(super) fn object(&mut self, value: &'d Value, at: &str) -> Option<(&'d Map<String, Value>, String)> {
        let (mut value, mut at) = (value, at.to_owned());
        for _ in 0..16 {
            let Some(object) = value.as_object() else {
                self.fault(&at, Code::CONTRACT, "an object expected");
                return None;
            };
            let Some(reference) = object.get("$ref") else { return Some((object, at)) };
            match reference.as_str().map(|reference| self.references.resolve(reference)) {
                Some(Ok((target, pointer))) => (value, at) = (target, pointer),
                Some(Err(why)) => {
                    self.fault(&below(&at, "$ref"), Code::SCHEMA_REFERENCE, why);
                    return None;
                }
                None => {
                    self.fault(&below(&at, "$ref"), Code::CONTRACT, "a reference is a string");
                    return None;
                }
            }
        }
        self.fault(&at, Code::SCHEMA_REFERENCE, "a reference that comes to no end");
        None
    }
}
