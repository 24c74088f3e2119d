//! Merge patches and server-side apply, as far as tests need them.

use serde_json::{Map, Value};

/// RFC 7396.
pub fn merge(old: Value, said: &Value) -> Value {
    let Value::Object(said) = said else { return said.clone() };
    let mut fields = match old {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for (field, value) in said {
        if value.is_null() {
            fields.remove(field);
        } else {
            let old = fields.remove(field).unwrap_or_default();
            fields.insert(field.clone(), merge(old, value));
        }
    }
    Value::Object(fields)
}

/// What a manager applies: what it applied before and says no more is gone, the rest is merged. Lists with keys are
/// merged by them, all others are atomic.
pub fn apply(old: Value, before: Option<&Value>, said: &Value) -> Value {
    let left = match before {
        Some(before) => without(old, before, said, ""),
        None => old,
    };
    merge_in(left, said, "")
}

/// The key of the entries of a list.
fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "listeners" | "ports" | "webhooks" => Some("name"),
        _ => None,
    }
}

fn without(there: Value, before: &Value, said: &Value, field: &str) -> Value {
    match (there, before) {
        (Value::Object(mut there), Value::Object(before)) => {
            for (field, before) in before {
                let Some(value) = there.remove(field) else { continue };
                match said.get(field) {
                    Some(said) => drop(there.insert(field.clone(), without(value, before, said, field))),
                    None if before.is_object() => {
                        let left = without(value, before, &Value::Null, field);
                        if left.as_object().is_some_and(|left| !left.is_empty()) {
                            there.insert(field.clone(), left);
                        }
                    }
                    None => {}
                }
            }
            Value::Object(there)
        }
        (Value::Array(there), Value::Array(before)) => {
            let Some(key) = list_key(field) else { return Value::Array(there) };
            let names = |list: &Value, name: Option<&Value>| {
                list.as_array().is_some_and(|list| list.iter().any(|entry| entry.get(key) == name))
            };
            let before = Value::Array(before.clone());
            let stays = |entry: &Value| !names(&before, entry.get(key)) || names(said, entry.get(key));
            Value::Array(there.into_iter().filter(stays).collect())
        }
        (there, _) => there,
    }
}

fn merge_in(there: Value, said: &Value, field: &str) -> Value {
    match (there, said) {
        (Value::Object(mut there), Value::Object(said)) => {
            for (field, value) in said {
                let old = there.remove(field).unwrap_or_default();
                there.insert(field.clone(), merge_in(old, value, field));
            }
            Value::Object(there)
        }
        (Value::Array(mut there), Value::Array(said)) if list_key(field).is_some() => {
            let key = list_key(field).unwrap_or_default();
            for entry in said {
                match there.iter_mut().find(|other| other.get(key) == entry.get(key)) {
                    Some(other) => *other = merge_in(other.take(), entry, ""),
                    None => there.push(entry.clone()),
                }
            }
            Value::Array(there)
        }
        (_, said) => said.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::apply;
    use serde_json::json;

    #[test]
    fn what_a_manager_says_no_more_is_gone_and_what_others_say_stays() {
        let before = json!({ "status": { "conditions": [{ "type": "A", "x": 1 }], "listeners": [{ "name": "l" }], "gone": 1 } });
        let old = json!({ "spec": 1, "status": { "conditions": [{ "type": "A", "x": 1 }, { "type": "B" }], "listeners": [{ "name": "l" }], "gone": 1 } });
        let said =
            json!({ "status": { "conditions": [{ "type": "A", "x": 2 }], "listeners": [{ "name": "m" }] } });
        let new = apply(old, Some(&before), &said);
        let want = json!({ "spec": 1, "status": { "conditions": [{ "type": "A", "x": 2 }, { "type": "B" }], "listeners": [{ "name": "m" }] } });
        assert_eq!(new, want);
    }
}
