//! Why a request is refused, as status of HTTP and of gRPC.

use foregate_filters::score::ScoreFault;
use http::StatusCode;

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is malformed, or does not fit the model.
    Invalid,
    Unauthenticated,
    /// This server is not told to do so.
    Forbidden,
    /// No such model, version, path or method.
    NotFound,
    MethodNotAllowed,
    TooLarge,
    /// A media type or content coding that is not read here.
    Unsupported,
    /// More is under way than is allowed.
    Busy,
    /// The deadline has passed.
    Late,
    Internal,
}

/// A refusal: its kind, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: Kind,
    pub message: String,
}

impl Kind {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The status code of gRPC.
    pub fn grpc(self) -> u8 {
        match self {
            Self::Invalid => 3,
            Self::Late => 4,
            Self::NotFound => 5,
            Self::Forbidden => 7,
            Self::TooLarge | Self::Busy => 8,
            Self::MethodNotAllowed | Self::Unsupported => 12,
            Self::Internal => 13,
            Self::Unauthenticated => 16,
        }
    }
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
}

impl From<ScoreFault> for Fault {
    fn from(fault: ScoreFault) -> Self {
        let kind = match &fault {
            ScoreFault::Body { .. } | ScoreFault::Feature(_) => Kind::Invalid,
            ScoreFault::Late => Kind::Late,
            ScoreFault::Busy => Kind::Busy,
            ScoreFault::Model(_) => Kind::Internal,
        };
        let message = match kind {
            Kind::Late => "the deadline has passed".to_owned(),
            Kind::Busy => "the queue of the model is full; try again later".to_owned(),
            _ => fault.to_string(),
        };
        Self { kind, message }
    }
}
