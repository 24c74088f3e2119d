//! `idempotency` of a policy, as people write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, TimeSpan};

/// Requests that carry a key are carried out once; a repeat gets the first answer
/// (draft-ietf-httpapi-idempotency-key-header).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Idempotency")]
pub struct Spec {
    /// Where the key is; the header `Idempotency-Key` where absent.
    #[serde(default)]
    pub key: KeySource,
    /// False: requests without a key pass, and may be carried out twice. True where absent: they get 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// Methods that are carried out once; POST and PATCH where absent. Others are not concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub methods: Vec<Method>,
    /// CEL expression whose value says whose keys are meant, such as `jwt.org_id`: equal keys of different values
    /// have nothing to do with each other. Where absent, whoever is identified by token, key or certificate, on
    /// this route; a request of nobody is then refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub scope: Option<String>,
    /// How long answers are kept, 1m to 168h; 24h where absent. For as long, a request of which something was sent and
    /// that had no answer, because the upstream was late or the connection broke, is not carried out again: nobody
    /// knows whether it was, and a repeat gets 409 `IdempotencyAnswerGone`. What was never sent frees the key, and so
    /// does an outbound message: Salesforce delivers it until it is acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<TimeSpan>,
    /// What a repeat meets while the first request is still being carried out.
    #[serde(default, skip_serializing_if = "is_conflict")]
    pub concurrent: Concurrent,
    /// Largest answer body that is kept, 1B to 768KiB; 256KiB where absent. Larger ones pass, and a repeat
    /// gets 409 `IdempotencyAnswerGone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_response: Option<ByteSize>,
    /// True: answers from 500 up of the upstream are kept too. Where absent, they free the key: a repeat is carried
    /// out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_errors: bool,
    /// Name of a `Store` that several gateways share; the memory of this process where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub store: Option<String>,
    /// What becomes of requests while the store cannot be asked.
    #[serde(default, skip_serializing_if = "is_reject")]
    pub on_error: OnError,
}

/// Where the key of a request is: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "IdempotencyKey")]
pub struct KeySource {
    /// A request header: a structured string (RFC 9651, section 3.3.3) or 1 to 255 visible characters without
    /// quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"), length(max = 256))]
    pub header: Option<String>,
    /// What Salesforce itself calls the message. The payload is not compared: the name says what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salesforce: Option<SalesforceKey>,
    /// CEL expression whose value is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
}

/// How messages of Salesforce are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "IdempotencySalesforceKey")]
pub enum SalesforceKey {
    /// An outbound message: the ids of its notifications, each of which is carried out once. Of those known already
    /// nothing reaches the upstream; only an answer with `<Ack>true</Ack>` is kept.
    Notification,
    /// A platform event or a change event as JSON: its `EventUuid`.
    EventUuid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(rename = "IdempotencyMethod")]
pub enum Method {
    Post,
    Patch,
    Put,
    Delete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "IdempotencyConcurrent")]
pub enum Concurrent {
    /// 409 `IdempotencyConflict`, with `Retry-After`.
    #[default]
    Conflict,
    /// It waits for the first answer, no longer than its route lets a request take.
    Wait,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "IdempotencyOnError")]
pub enum OnError {
    /// 503 `IdempotencyUnavailable`.
    #[default]
    Reject,
    /// They pass, and may be carried out twice.
    Continue,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_conflict(concurrent: &Concurrent) -> bool {
    *concurrent == Concurrent::Conflict
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_reject(on_error: &OnError) -> bool {
    *on_error == OnError::Reject
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}
