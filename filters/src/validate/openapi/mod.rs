//! Contracts in `OpenAPI` 3.0 and 3.1: operations, their parameters, bodies and responses.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, request};

use crate::validate::media::MediaType;
use crate::validate::openapi::parameters::Parameter;
use crate::validate::openapi::paths::{Captured, Paths};
use crate::validate::schema::{SchemaId, Set};
use crate::violation::Violation;

mod build;
mod operations;
pub mod parameters;
mod paths;
mod query;
#[cfg(test)]
mod tests;

pub use build::{Asked, build};

/// A contract, ready to be asked. Immutable.
#[derive(Debug)]
pub struct Contract {
    pub(crate) paths: Paths,
    /// Stands before every path of the document; no slash at its end.
    pub(crate) base: Box<str>,
}

/// The methods of one path.
#[derive(Debug)]
pub struct PathItem {
    /// Names of the variables of its template, in order.
    pub(crate) variables: Vec<Box<str>>,
    pub(crate) operations: Vec<(Method, Arc<Operation>)>,
    /// For `Allow`.
    pub(crate) methods: HeaderValue,
}

/// One operation of a contract.
#[derive(Debug)]
pub struct Operation {
    /// Method and template, as `GET /leads/{id}`.
    pub name: Arc<str>,
    pub(crate) parameters: Vec<Parameter>,
    /// True where the query may hold what the contract does not name.
    pub(crate) open_query: bool,
    pub(crate) body: Option<RequestBody>,
    /// Those of requests.
    pub(crate) requests: Arc<Set>,
    /// Present where responses are checked.
    pub(crate) responses: Option<Responses>,
}

#[derive(Debug)]
pub(crate) struct RequestBody {
    pub(crate) required: bool,
    pub(crate) content: Content,
}

/// Media ranges, the most specific first, each with the schema of bodies in JSON.
#[derive(Debug, Default)]
pub(crate) struct Content(pub(crate) Vec<Media>);

#[derive(Debug)]
pub(crate) struct Media {
    pub(crate) range: Box<str>,
    pub(crate) schema: Option<SchemaId>,
}

#[derive(Debug)]
pub(crate) struct Responses {
    pub(crate) set: Arc<Set>,
    pub(crate) exact: Vec<(u16, Content)>,
    /// By the first digit.
    pub(crate) ranges: Vec<(u16, Content)>,
    pub(crate) otherwise: Option<Content>,
}

/// What a contract says of a request.
#[derive(Debug)]
pub enum Found<'c, 'h> {
    Operation(&'c Arc<Operation>, Captured<'h>, &'c [Box<str>]),
    /// The path is there, with other methods.
    Method(&'c HeaderValue),
    Nothing,
}

impl Contract {
    /// The operation of a request.
    pub fn find<'c, 'h>(&'c self, head: &'h request::Parts) -> Found<'c, 'h> {
        let Some(path) = head.uri.path().strip_prefix(&*self.base) else { return Found::Nothing };
        let Some((item, captured)) = self.paths.find(path) else { return Found::Nothing };
        let with = |method: &Method| {
            item.operations.iter().find(|(known, _)| known == method).map(|(_, operation)| operation)
        };
        // What may be got may be asked for its head alone (RFC 9110, section 9.3.2).
        let operation = with(&head.method)
            .or_else(|| if head.method == Method::HEAD { with(&Method::GET) } else { None });
        match operation {
            Some(operation) => Found::Operation(operation, captured, &item.variables),
            None => Found::Method(&item.methods),
        }
    }
}

impl Content {
    /// The entry for a media type: `None` where it is not among them.
    pub(crate) fn find(&self, media: &MediaType) -> Option<&Media> {
        self.0.iter().find(|known| media.is_in(&known.range))
    }
}

impl Responses {
    fn content(&self, status: StatusCode) -> Option<&Content> {
        let status = status.as_u16();
        let exact = self.exact.iter().find(|(known, _)| *known == status);
        let range = || self.ranges.iter().find(|(known, _)| *known == status / 100);
        exact.or_else(range).map(|(_, content)| content).or(self.otherwise.as_ref())
    }
}

/// What is left to be checked of a response once its head is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Its body is not looked at: there is none, or it is not JSON, or the contract says nothing of it.
    Nothing,
    /// A body in JSON.
    Body(SchemaId),
}

impl Operation {
    /// True where responses are checked.
    pub const fn checks_responses(&self) -> bool {
        self.responses.is_some()
    }

    /// What the contract says of a response with this head. `bodiless` where there is none by the rules of HTTP.
    pub fn response(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        bodiless: bool,
    ) -> Result<Expected, Violation> {
        let Some(responses) = &self.responses else { return Ok(Expected::Nothing) };
        let Some(content) = responses.content(status) else {
            return Err(Violation::new("response", "status", "has a status that the contract does not name"));
        };
        if bodiless || content.0.is_empty() {
            return Ok(Expected::Nothing);
        }
        let media = MediaType::of(headers)
            .map_err(|_| Violation::new("response", "contentType", "has no content type that can be read"))?;
        let found = content.find(&media).ok_or_else(|| {
            Violation::new("response", "contentType", "has a content type that the contract does not name")
        })?;
        Ok(found.schema.filter(|_| media.is_json()).map_or(Expected::Nothing, Expected::Body))
    }

    /// The schemas of responses.
    pub(crate) fn response_set(&self) -> Option<&Set> {
        self.responses.as_ref().map(|responses| &*responses.set)
    }
}
