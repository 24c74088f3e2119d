//! What is kept beside the record of a decision to explain each step.

pub mod advice;
mod inputs;
mod links;
pub mod steps;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::context::RequestContext;
use foregate_filters::principal::Principal;
use foregate_filters::step::Step;
use foregate_filters::trace::Trace;
use foregate_policy::description::Description;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName};

/// Request headers whose values are shown: they describe a message, and prove nothing.
const SHOWN: [HeaderName; 5] = [ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT];

/// Longest header value kept, in bytes.
const MAX_VALUE: usize = 128;

/// Most headers kept of one decision: a policy may name many.
const MAX_HEADERS: usize = 32;

/// Most scopes kept of one token.
const MAX_SCOPES: usize = 32;

/// How far a request came, and what its rules read beside the facts of its record.
#[derive(Debug)]
pub struct Explanation {
    /// What was demanded; `None` where no route was found.
    pub description: Option<Arc<Description>>,
    pub trace: Trace,
    /// Where the connection comes from.
    pub source: IpAddr,
    /// Where it meant to go, where the kernel redirected it to us.
    pub destination: Option<SocketAddr>,
    pub scopes: Vec<Box<str>>,
    /// Headers that rules name; `None` where nobody looked before the head went on.
    pub headers: Option<Vec<HeaderFact>>,
}

/// A request header that some rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFact {
    pub name: HeaderName,
    pub content: HeaderContent,
}

/// What is kept of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderContent {
    Absent,
    /// It was there; what it said is nobody's business.
    Hidden,
    /// The value of a header that holds no secret.
    Shown(Box<str>),
}

/// The headers that rules of the route name, as they are now.
pub fn look(description: &Description, headers: &HeaderMap) -> Vec<HeaderFact> {
    let fact = |name: &HeaderName| {
        let content = match headers.get(name) {
            None => HeaderContent::Absent,
            Some(value) if SHOWN.contains(name) => {
                let text = String::from_utf8_lossy(value.as_bytes());
                HeaderContent::Shown(text.get(..text.floor_char_boundary(MAX_VALUE)).unwrap_or(&text).into())
            }
            Some(_) => HeaderContent::Hidden,
        };
        HeaderFact { name: name.clone(), content }
    };
    description.headers.iter().take(MAX_HEADERS).map(fact).collect()
}

impl Explanation {
    /// Takes the trace out of the context, and shares the rest.
    pub fn new(
        description: Option<Arc<Description>>,
        ctx: &mut RequestContext,
        principal: Option<&Principal>,
        headers: Option<Vec<HeaderFact>>,
    ) -> Self {
        let scopes = principal.map(|principal| &*principal.scopes).unwrap_or_default();
        Self {
            description,
            trace: std::mem::take(&mut ctx.trace),
            source: ctx.client.peer.ip(),
            destination: ctx.client.destination,
            scopes: scopes
                .iter()
                .filter(|scope| scope.len() <= MAX_VALUE)
                .take(MAX_SCOPES)
                .cloned()
                .collect(),
            headers,
        }
    }

    /// Each filter that answered, when it was asked and the time that it took, where that was measured.
    pub fn timed(&self) -> impl Iterator<Item = (Step, &'static str, Duration, Duration)> {
        let links = self.description.iter().flat_map(|description| &description.links);
        let times = self.trace.timing.iter().flat_map(|timing| timing.began.iter().zip(&timing.spent));
        links.zip(times).map(|(link, (began, spent))| (link.step, link.filter, *began, *spent))
    }

    /// Memory that it holds alone, in bytes, to within a few allocations.
    pub fn weight(&self) -> usize {
        let header = |fact: &HeaderFact| {
            let value = if let HeaderContent::Shown(value) = &fact.content { value.len() } else { 0 };
            size_of::<HeaderFact>() + value
        };
        let headers: usize = self.headers.iter().flatten().map(header).sum();
        let scopes: usize = self.scopes.iter().map(|scope| size_of::<Box<str>>() + scope.len()).sum();
        let timing = self.trace.timing.as_ref().map_or(0, |timing| size_of_val(&**timing));
        size_of::<Self>() + headers + scopes + timing
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderContent, look};
    use crate::telemetry::testing::description;
    use http::HeaderMap;

    #[test]
    fn headers_are_kept_by_name_and_only_harmless_ones_with_their_value() {
        let mut headers = HeaderMap::new();
        headers.insert("x-staff", "hunter2".parse().unwrap());
        headers.insert("user-agent", "u".repeat(4_000).parse().unwrap());
        headers.insert("cookie", "not asked for".parse().unwrap());
        let facts = look(&description(), &headers);
        let told: Vec<_> = facts.iter().map(|fact| (fact.name.as_str(), &fact.content)).collect();
        assert_eq!(
            told,
            [
                ("content-type", &HeaderContent::Absent),
                ("user-agent", &HeaderContent::Shown("u".repeat(128).into())),
                ("x-staff", &HeaderContent::Hidden),
            ]
        );
    }
}
