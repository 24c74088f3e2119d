//! A request on its way to an upstream.

use http::request::Parts;
use http::{Method, Request};

use crate::body::RequestBody;

/// A request, handed on from step to step until a connection takes it: its head has a room of its own and stays there.
#[derive(Debug)]
pub struct Outgoing {
    pub head: Box<Parts>,
    pub body: RequestBody,
}

impl Outgoing {
    /// True where it may be sent twice: its method is idempotent, and its body does not pass by.
    pub fn may_repeat(&self) -> bool {
        let idempotent = matches!(
            self.head.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        idempotent && !matches!(self.body, RequestBody::Stream(..) | RequestBody::Tee(_))
    }

    /// A second copy, where it may be sent twice.
    pub fn repeatable(&self) -> Option<Self> {
        if !self.may_repeat() {
            return None;
        }
        let mut copy = Self::from(Request::new(self.body.replay()?));
        copy.head.method = self.head.method.clone();
        copy.head.uri = self.head.uri.clone();
        copy.head.version = self.head.version;
        copy.head.headers = self.head.headers.clone();
        Some(copy)
    }
}

impl From<Request<RequestBody>> for Outgoing {
    fn from(request: Request<RequestBody>) -> Self {
        let (head, body) = request.into_parts();
        Self { head: Box::new(head), body }
    }
}

impl From<Outgoing> for Request<RequestBody> {
    fn from(outgoing: Outgoing) -> Self {
        Self::from_parts(*outgoing.head, outgoing.body)
    }
}
