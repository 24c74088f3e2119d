//! The closed list of reasons for which a request is refused or fails.

use std::fmt;

use http::StatusCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $grpc:literal, $title:literal;)*) => {
        /// Why a request did not get the upstream's answer. Each has one status, one gRPC code, one title.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The HTTP status a caller sees (RFC 9110, RFC 6585).
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The gRPC status code a gRPC caller sees.
            pub const fn grpc_code(self) -> u8 {
                match self { $(Self::$name => $grpc,)* }
            }

            /// The name in logs, labels, cases and problem documents.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// One sentence for the caller: true, and of no use to an attacker.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The reason with this name, if there is one.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.name() == name)
            }
        }
    };
}

reasons! {
    /// The head is malformed or ambiguous (RFC 9112, section 2.2 and 3).
    RequestMalformed = BAD_REQUEST, 3, "The request is malformed.";
    /// The path cannot be made canonical without guessing.
    PathMalformed = BAD_REQUEST, 3, "The request path is malformed.";
    /// The head did not arrive in time.
    HeadTimeout = REQUEST_TIMEOUT, 4, "The request did not arrive in time.";
    /// The body did not arrive in time.
    BodyTimeout = REQUEST_TIMEOUT, 4, "The request body did not arrive in time.";
    /// The body ended before its announced length, or its framing is broken.
    BodyMalformed = BAD_REQUEST, 3, "The request body is malformed.";
    /// The body is over the bound of this route.
    BodyTooLarge = PAYLOAD_TOO_LARGE, 8, "The request body is too large.";
    /// The body carries a content coding that the filters of this route cannot read.
    BodyEncoded = UNSUPPORTED_MEDIA_TYPE, 3, "The content coding of the request body is not supported.";
    /// The body has a content type that is not among those allowed, or none that can be read.
    MediaTypeUnsupported = UNSUPPORTED_MEDIA_TYPE, 3, "The content type of the request is not supported.";
    /// The header section is over its bounds (RFC 6585, section 5).
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, 8, "The request header fields are too large.";
    /// An expectation other than 100-continue (RFC 9110, section 10.1.1).
    ExpectationFailed = EXPECTATION_FAILED, 3, "The expectation cannot be met.";
    /// A method this gateway does not forward, such as CONNECT.
    MethodRefused = METHOD_NOT_ALLOWED, 12, "The method is not allowed.";
    /// No route matches.
    RouteNotFound = NOT_FOUND, 5, "No route matches this request.";
    /// The name asked for in TLS is not served by this connection (RFC 9110, section 7.4).
    Misdirected = MISDIRECTED_REQUEST, 14, "This connection does not serve the requested host.";
    /// Not a refusal: a browser asked whether it may send a request of another origin, and is told.
    Preflight = NO_CONTENT, 0, "The preflight is answered.";
    /// A browser asked whether scripts of an origin may send a request, and they may not.
    OriginDenied = FORBIDDEN, 7, "Scripts of this origin may not call.";
    /// The client address is not allowed.
    AddressDenied = FORBIDDEN, 7, "The client address is not allowed.";
    /// No token was sent where one is required.
    TokenMissing = UNAUTHORIZED, 16, "A bearer token is required.";
    /// The token is malformed, expired, meant for another audience, or not signed by a trusted key.
    TokenInvalid = UNAUTHORIZED, 16, "The bearer token is not valid.";
    /// The issuer's keys cannot be had, so the token cannot be checked.
    KeysUnavailable = SERVICE_UNAVAILABLE, 14, "The token cannot be verified at this time.";
    /// The authorization server cannot be asked, so the token cannot be checked.
    IntrospectionUnavailable = SERVICE_UNAVAILABLE, 14, "The token cannot be verified at this time.";
    /// No API key was sent where one is required.
    KeyMissing = UNAUTHORIZED, 16, "An API key is required.";
    /// The API key is malformed, unknown, wrong or expired: a caller learns not which.
    KeyInvalid = UNAUTHORIZED, 16, "The API key is not valid.";
    /// None of several ways to identify was taken.
    CredentialsMissing = UNAUTHORIZED, 16, "Credentials are required.";
    /// No access rule allows the request, or one denies it.
    AccessDenied = FORBIDDEN, 7, "Access is denied.";
    /// A rule could not be evaluated, so it refuses.
    RuleError = FORBIDDEN, 7, "Access is denied.";
    /// A rate limit is used up (RFC 6585, section 4).
    RateLimited = TOO_MANY_REQUESTS, 8, "The rate limit is used up.";
    /// A quota of a day or month is used up.
    QuotaExceeded = TOO_MANY_REQUESTS, 8, "The quota is used up.";
    /// As many requests are open at once as may be.
    ConcurrencyLimited = TOO_MANY_REQUESTS, 8, "Too many requests are open at once.";
    /// The store that counts a limit for several processes cannot be asked.
    LimitUnavailable = SERVICE_UNAVAILABLE, 14, "The limit cannot be checked at this time.";
    /// A request that must be carried out once names itself by no key.
    IdempotencyKeyMissing = BAD_REQUEST, 3, "An idempotency key is required.";
    /// The key, or the body that holds it, cannot be read.
    IdempotencyKeyInvalid = BAD_REQUEST, 3, "The idempotency key cannot be read.";
    /// Another request used the key (draft-ietf-httpapi-idempotency-key-header, section 2.7).
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, 3, "The idempotency key belongs to another request.";
    /// The first request with the key is still being carried out.
    IdempotencyConflict = CONFLICT, 10, "A request with this idempotency key is being carried out.";
    /// The request was carried out, or may have been: its answer was too large to be kept, broke off, or never came.
    IdempotencyAnswerGone = CONFLICT, 6, "The request may have been carried out, and there is no answer to repeat.";
    /// Nobody can say whether the request was carried out.
    IdempotencyUnavailable = SERVICE_UNAVAILABLE, 14, "The request cannot be carried out once at this time.";
    /// The calls that are left of an org's day, or of a share of it, are for others.
    OrgQuotaReserved = TOO_MANY_REQUESTS, 8, "The calls that are left are reserved.";
    /// The org has no call left for anybody.
    OrgQuotaExhausted = SERVICE_UNAVAILABLE, 8, "The service has no calls left.";
    /// The body is not what the model reads, and the policy refuses such requests.
    BodyUnreadable = UNPROCESSABLE_ENTITY, 3, "The request body cannot be scored.";
    /// The body is missing, cannot be decoded, or is not well-formed within the bounds of the policy.
    BodyInvalid = BAD_REQUEST, 3, "The request body is not acceptable.";
    /// The body is not what its schema asks for.
    SchemaViolation = UNPROCESSABLE_ENTITY, 3, "The request body does not match its schema.";
    /// A parameter of the path, the query, a header or a cookie is not what the contract asks for.
    ParameterInvalid = BAD_REQUEST, 3, "A parameter of the request is not acceptable.";
    /// The contract of the service has no such path.
    OperationUnknown = NOT_FOUND, 5, "The service has no such operation.";
    /// The client sent a field that only the gateway may set, and the policy refuses such requests.
    FieldReserved = UNPROCESSABLE_ENTITY, 3, "The request sets a field reserved for the gateway.";
    /// No score could be had in time, and the policy refuses to go on without one.
    ScoreUnavailable = SERVICE_UNAVAILABLE, 14, "The request cannot be scored at this time.";
    /// The gateway has no valid credential for the service.
    CredentialUnavailable = SERVICE_UNAVAILABLE, 14, "The service cannot be called at this time.";
    /// No endpoint could be reached.
    UpstreamUnreachable = SERVICE_UNAVAILABLE, 14, "The service cannot be reached.";
    /// A policy injects a fault into requests like this one.
    FaultInjected = SERVICE_UNAVAILABLE, 14, "The service fails on purpose.";
    /// The upstream did not answer in time.
    UpstreamTimeout = GATEWAY_TIMEOUT, 4, "The service did not answer in time.";
    /// The time that a gRPC caller gave is over.
    DeadlineExceeded = GATEWAY_TIMEOUT, 4, "The deadline of the call has passed.";
    /// The upstream ended the connection or the stream before it had answered.
    UpstreamReset = BAD_GATEWAY, 14, "The service broke off.";
    /// The upstream's answer is not valid HTTP.
    UpstreamMalformed = BAD_GATEWAY, 14, "The service gave an invalid answer.";
    /// The answer is not what the contract of the service allows.
    ResponseInvalid = BAD_GATEWAY, 13, "The service gave an answer that its contract does not allow.";
    /// The upstream's certificate is not acceptable.
    UpstreamUntrusted = BAD_GATEWAY, 14, "The service could not prove its identity.";
    /// The connection to the service comes back to this gateway (RFC 5842, section 7.2).
    LoopDetected = LOOP_DETECTED, 13, "The request leads back to where it comes from.";
    /// The route names no usable backend (Gateway API: 500 for an invalid backend reference).
    BackendInvalid = INTERNAL_SERVER_ERROR, 13, "The route has no usable backend.";
    /// The gateway is at its limit and sheds load.
    Overloaded = SERVICE_UNAVAILABLE, 8, "The gateway is overloaded.";
    /// All request bodies that are collected for filters are as large as they may be together.
    BodyMemoryExhausted = SERVICE_UNAVAILABLE, 8, "The gateway cannot hold another request body at this time.";
    /// The decision log cannot be written, and nothing may pass without being written there.
    LogUnavailable = SERVICE_UNAVAILABLE, 14, "The request cannot be served at this time.";
    /// The control plane grants this gateway nothing any more.
    GrantLost = SERVICE_UNAVAILABLE, 14, "The request cannot be served at this time.";
    /// A defect of the gateway itself.
    Internal = INTERNAL_SERVER_ERROR, 13, "The gateway failed.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_an_error_and_is_found_by_its_name() {
        for reason in Reason::ALL {
            let error = reason.status().is_client_error() || reason.status().is_server_error();
            assert!(error && reason.grpc_code() > 0 || *reason == Reason::Preflight, "{reason}");
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(Reason::from_name("Nonsense"), None);
    }
}
