//! What an operator may do about a refusal.

use foregate_filters::reason::Reason;

/// One or two sentences for each reason.
#[expect(clippy::too_many_lines, reason = "a table: one row for each reason, so that none is forgotten")]
pub const fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::RequestMalformed | Reason::PathMalformed | Reason::BodyMalformed => {
            "The client sent what has no single meaning; the detail says what. The client must change."
        }
        Reason::HeadTimeout | Reason::BodyTimeout => {
            "The client was too slow. See --head-timeout and --body-timeout if honest clients are as slow."
        }
        Reason::BodyTooLarge => "Raise body.maxSize in the policy if such bodies are meant to pass.",
        Reason::BodyEncoded => {
            "Bodies in gzip and deflate are decoded and checked; the client must use one of these, or none."
        }
        Reason::MediaTypeUnsupported => {
            "The detail says what is wrong with the content type: compare contentTypes, or the contract's requestBody."
        }
        Reason::BodyInvalid => {
            "The body is missing or malformed, or over a bound under validate.body.limits; the detail says which."
        }
        Reason::SchemaViolation => {
            "The detail names places in the body and keywords of the schema. Client and schema differ: one must change."
        }
        Reason::ParameterInvalid => {
            "The detail names the parameters: compare them with those of the contract."
        }
        Reason::OperationUnknown => {
            "The contract has no such path: compare it, and basePath, with the path above."
        }
        Reason::ResponseInvalid => {
            "The service broke its contract; the detail says where. `responses: audit` lets such answers pass meanwhile."
        }
        Reason::HeadersTooLarge => "The client sent more or longer headers than the gateway takes.",
        Reason::RouteNotFound => {
            "No listener, host name or match fits: compare host and path above with the HTTPRoute documents."
        }
        Reason::Misdirected => {
            "The connection was made for another host, or before the listener asked for certificates: a new one will do."
        }
        Reason::Preflight => "Nothing: a browser was told whether it may send its request.",
        Reason::OriginDenied => "Add the origin to allowOrigins of the CORS filter if its pages may call.",
        Reason::FaultInjected => {
            "A policy injects this fault; the rule is under `inject`. Take it out to end it."
        }
        Reason::DeadlineExceeded => {
            "The caller's grpc-timeout, or timeouts.request of the route, is shorter than the call takes."
        }
        Reason::AddressDenied => {
            "Compare source.address with the lists at the place above. Behind a proxy, name it in trustedProxies."
        }
        Reason::TokenMissing => {
            "The client sent no bearer token; it must send one of an issuer listed above."
        }
        Reason::TokenInvalid => {
            "The detail says what is wrong with the token. Compare its iss, aud and exp with the policy."
        }
        Reason::KeysUnavailable => {
            "The keys of the issuer could not be fetched: look for `keys` events and foregate_jwks_* metrics."
        }
        Reason::AccessDenied => {
            "If this request is meant to pass, change the rule at the place above; the inputs are what it read."
        }
        Reason::RuleError => {
            "The rule has no value for this request; the detail says why. Guard it with has() or `in`."
        }
        Reason::RateLimited => {
            "The key above has used up its limit. Raise limit or burst if that is honest use."
        }
        Reason::QuotaExceeded => {
            "The key above has used up its quota, until the day or month ends. Raise limit if that is honest use."
        }
        Reason::ConcurrencyLimited => {
            "The key above has as many requests open as it may. Are some left open? See foregate_limit_open_requests."
        }
        Reason::LimitUnavailable => {
            "The store of the limit cannot be asked; onError: local counts in each process meanwhile."
        }
        Reason::IdempotencyKeyMissing | Reason::IdempotencyKeyInvalid => {
            "The client must name the request by a key, where `idempotency.key` says; required: false lets others pass."
        }
        Reason::IdempotencyKeyReused => {
            "The client used one key for two requests: each needs its own. Keys of other scopes do not count."
        }
        Reason::IdempotencyConflict => {
            "The first request with the key has not been answered yet. concurrent: Wait lets repeats wait for its answer."
        }
        Reason::IdempotencyAnswerGone => {
            "The first request was carried out, or may have been: its answer was over maxResponse, broke off or never came."
        }
        Reason::IdempotencyUnavailable => {
            "The store could not be asked; see foregate_store_* and /stores. onError: continue lets requests pass."
        }
        Reason::OrgQuotaReserved => {
            "The class above has what it may use for now; see foregate_org_quota_*, and `orgQuota` of the upstream."
        }
        Reason::OrgQuotaExhausted => {
            "The org has used all calls of its day: whoever uses most is seen in Salesforce, or buy more."
        }
        Reason::BodyUnreadable | Reason::FieldReserved => {
            "The body is not what the model reads; the detail says where. See onError and onReserved."
        }
        Reason::ScoreUnavailable => {
            "The model was late, busy or failed; see foregate_scores_total, and onError: continue with a default."
        }
        Reason::UpstreamUnreachable | Reason::UpstreamTimeout => {
            "The upstream above does not answer: is it up, and does its address lead there?"
        }
        Reason::UpstreamMalformed => "The upstream answered with what is not HTTP; see its own log.",
        Reason::UpstreamReset => {
            "The upstream ended the connection before it had answered: did it crash, or was it stopped? See its log."
        }
        Reason::UpstreamUntrusted => {
            "The certificate of the upstream does not prove the name or identity that the Upstream asks for."
        }
        Reason::BackendInvalid => "The route names no usable backend; see the HTTPRoute above.",
        Reason::Overloaded => {
            "The upstream, or a worker of the gateway, has as much as it can do: add instances, or raise `concurrency`."
        }
        Reason::BodyMemoryExhausted => {
            "Bodies that filters wait for take all of --max-body-memory: raise it, or lower body.maxSize in policies."
        }
        Reason::LogUnavailable => {
            "The decision log cannot be written, and --decision-log-required refuses until it can: free the disk."
        }
        Reason::LoopDetected => {
            "The kernel redirects the sidecar's own connections to it: `foregate init --proxy-uid` must name the user that \
             the sidecar runs as, and no other container may run so."
        }
        Reason::GrantLost => {
            "The control plane grants nothing to this proxy: /config and `foregate-control status` say why. Mend `grants` \
             there, or the labels here; --on-lost-grant keep goes on with what was granted last."
        }
        Reason::Internal => "A defect of the gateway: keep this text and report it.",
        Reason::ExpectationFailed => {
            "The client expects what nobody here knows; 100-continue alone is understood."
        }
        Reason::MethodRefused => {
            "CONNECT and TRACE pass no gateway that decides about requests; others are those that a contract does not have."
        }
        Reason::IntrospectionUnavailable => {
            "The authorization server did not answer: see foregate_introspections_failed_total, and onUnavailable: stale."
        }
        Reason::KeyMissing => "The client sent no API key; the policy names the header that it belongs in.",
        Reason::KeyInvalid => {
            "The detail says what is wrong with the key. Is it in a Consumer document, and has it expired?"
        }
        Reason::CredentialsMissing => {
            "The client sent neither token nor key; one of those listed above must come."
        }
        Reason::CredentialUnavailable => {
            "The gateway got no token for the upstream: see foregate_credential_* metrics and the token endpoint."
        }
    }
}
