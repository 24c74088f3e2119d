//! What a rule read of a request, with every secret left out.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use foregate_filters::context::{Beside, ScoreFact};
use foregate_filters::expression::inputs::Input;
use foregate_filters::peer::SpiffeId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::decision_log::entry::hex;
use crate::telemetry::explain::{Explanation, HeaderContent};
use crate::telemetry::json::Told;
use crate::telemetry::record::Record;

/// Makes the names of limit keys differ from process to process.
static SALT: LazyLock<[u64; 4]> =
    LazyLock::new(|| [1, 2, 3, 4].map(|number: u64| RandomState::new().hash_one(number)));

/// Bytes of a digest that are told: enough to tell keys apart.
const KEY_BYTES: usize = 6;

/// A name for the key of a limit: equal for equal keys of one limit in one process, and no way back.
pub fn key_name(key: u64) -> String {
    let mut hash = Sha256::new();
    for part in SALT.iter().chain([&key]) {
        hash.update(part.to_be_bytes());
    }
    hex(hash.finalize().get(..KEY_BYTES).unwrap_or_default())
}

/// Stands for a value that is not told.
fn hidden() -> Value {
    json!({ "redacted": true })
}

/// The value of a name: null where it was absent, `{"redacted": true}` where it may be a secret. What is
/// not known to be harmless is not told.
pub fn value(input: &Input, record: &Record, explanation: &Explanation) -> Value {
    let key = input.key.as_deref();
    match (&*input.root, &*input.field) {
        ("request", field) => request(field, key, record, explanation),
        ("source", "address") => record.client.to_string().into(),
        ("source", "peer") => explanation.source.to_canonical().to_string().into(),
        ("source", "tls") => record.tls.into(),
        ("destination", "port") => explanation.destination.map(|destination| destination.port()).into(),
        ("route", "name") => (*record.route).into(),
        ("peer", field) => peer(field, record),
        ("jwt", field) => jwt(field, record, explanation),
        ("consumer", field) => match (&record.consumer, field) {
            (None, _) => Value::Null,
            (Some(consumer), "name") => (*consumer.name).into(),
            (Some(consumer), "groups") => texts(&consumer.groups),
            (Some(_), _) => hidden(),
        },
        ("enrich", rule) => score(record.scores.iter().find(|fact| *fact.rule == *rule), key),
        _ => hidden(),
    }
}

fn texts(list: &[Box<str>]) -> Value {
    list.iter().map(|text| Value::from(&**text)).collect()
}

fn request(field: &str, key: Option<&str>, record: &Record, explanation: &Explanation) -> Value {
    match (field, key) {
        ("method", _) => record.method.as_str().into(),
        ("path", _) => (*record.path).into(),
        ("host", _) => (*record.host).into(),
        ("scheme", _) => if record.tls { "https" } else { "http" }.into(),
        ("headers", Some(name)) => {
            let named = |headers: &Vec<_>| {
                let found = headers.iter().find(|fact: &&super::HeaderFact| fact.name == *name);
                found.map(|fact| fact.content.clone())
            };
            match explanation.headers.as_ref().and_then(named) {
                Some(HeaderContent::Absent) => Value::Null,
                Some(HeaderContent::Shown(value)) => (*value).into(),
                Some(HeaderContent::Hidden) | None => hidden(),
            }
        }
        _ => hidden(),
    }
}

fn peer(field: &str, record: &Record) -> Value {
    let id = record.peer.as_ref().and_then(|peer| peer.id.as_ref());
    let text = match field {
        "id" => id.map(SpiffeId::as_str),
        "trustDomain" => id.map(SpiffeId::trust_domain),
        "path" => id.map(SpiffeId::path),
        "namespace" => id.and_then(SpiffeId::namespace),
        "serviceAccount" => id.and_then(SpiffeId::service_account),
        _ => return hidden(),
    };
    text.into()
}

fn jwt(field: &str, record: &Record, explanation: &Explanation) -> Value {
    let Some(principal) = &record.subject else { return Value::Null };
    match field {
        "issuer" => (*principal.issuer).into(),
        "subject" => (*principal.subject).into(),
        "scopes" => texts(&explanation.scopes),
        "expires" => principal.expires.into(),
        _ => hidden(),
    }
}

fn score(fact: Option<&ScoreFact>, key: Option<&str>) -> Value {
    let Some(fact) = fact else { return Value::Null };
    match key {
        Some("ok") => fact.fault.is_none().into(),
        Some("model") => (*fact.model).into(),
        Some("version") => (*fact.version).into(),
        Some("count") => fact.scores.len().into(),
        Some("scores") => fact.scores.as_slice().into(),
        Some("min") => fact.scores.iter().copied().reduce(f32::min).into(),
        Some("class") => fact.class().into(),
        Some("band") => fact.band().into(),
        Some(list @ ("classes" | "bands" | "reasons")) => beside(fact.beside.as_deref(), list),
        Some("score" | "max") => fact.scores.iter().copied().reduce(f32::max).into(),
        _ => hidden(),
    }
}

fn beside(beside: Option<&Beside>, list: &str) -> Value {
    let Some(beside) = beside else { return Value::Null };
    let texts = |list: &[Arc<str>]| list.iter().map(|text| Value::from(&**text)).collect();
    match list {
        "classes" => texts(&beside.classes),
        "bands" => texts(&beside.bands),
        _ => {
            let told = |reasons: &Option<_>| serde_json::to_value(reasons.as_ref().map(Told));
            beside.reasons.iter().map(|reasons| told(reasons).unwrap_or_default()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{key_name, value};
    use crate::telemetry::testing::{explained_record, full_record};
    use foregate_filters::expression::inputs::Input;
    use serde_json::json;

    #[test]
    fn values_are_told_where_they_are_no_secret() {
        let record = explained_record();
        let explanation = record.explanation.as_deref().unwrap();
        let told = |root, field, key: Option<&str>| {
            let input = Input { key: key.map(Into::into), ..Input::new(root, field) };
            value(&input, &record, explanation)
        };
        let hidden = json!({ "redacted": true });
        for (root, field, key, expected) in [
            ("request", "method", None, json!("POST")),
            ("request", "path", None, json!("/services/data/v62.0/sobjects/Lead")),
            ("request", "query", None, hidden.clone()),
            ("request", "headers", None, hidden.clone()),
            ("request", "headers", Some("x-staff"), hidden.clone()),
            ("request", "headers", Some("user-agent"), json!("curl/8")),
            ("request", "headers", Some("content-type"), json!(null)),
            ("source", "address", None, json!("203.0.113.7")),
            ("destination", "port", None, json!(8_080)),
            ("jwt", "subject", None, json!("uid:005")),
            ("jwt", "scopes", None, json!(["crm.write"])),
            ("jwt", "claims", Some("secret"), hidden.clone()),
            ("jwt", "audiences", None, hidden.clone()),
            ("peer", "id", None, json!(null)),
            ("consumer", "name", None, json!(null)),
            ("enrich", "lead", Some("score"), json!(0.5)),
            ("enrich", "lead", Some("ok"), json!(false)),
            ("enrich", "lead", Some("class"), json!("")),
            ("enrich", "lead", Some("band"), json!("warm")),
            ("enrich", "lead", Some("bands"), json!(["cold", "warm"])),
            ("enrich", "lead", Some("classes"), json!([])),
            ("enrich", "other", Some("score"), json!(null)),
            ("something", "new", None, hidden),
        ] {
            assert_eq!(told(root, field, key), expected, "{root}.{field} {key:?}");
        }
    }

    #[test]
    fn a_key_is_named_and_not_told() {
        let key = full_record().limits[0].key;
        assert_eq!(key_name(key), key_name(key));
        assert_ne!(key_name(key), key_name(key + 1));
        assert!(!key_name(key).contains(&format!("{key:x}")) && key_name(key).len() == 12);
    }
}
