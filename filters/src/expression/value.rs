//! Values of expressions; they borrow from the request wherever they can.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use http::header::GetAll;
use http::{HeaderMap, HeaderValue};
use serde_json::Value as Json;

use super::EvaluationError;
use crate::timestamp::Timestamp;

type Result<T> = std::result::Result<T, EvaluationError>;

/// A value that outlives requests: a literal, or what was folded from literals.
#[derive(Clone, Debug)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(Box<str>),
    Time(Timestamp),
    List(Box<[Constant]>),
}

/// A value during one evaluation.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(Cow<'a, str>),
    Time(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
}

/// A list, wherever its elements lie.
#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Texts(&'a [Box<str>]),
    Shared(&'a [Arc<str>]),
    Floats(&'a [f32]),
    Json(&'a [Json]),
    Constants(&'a [Constant]),
    Values(Vec<Value<'a>>),
}

/// A map from strings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Map<'a> {
    Headers(&'a HeaderMap),
    Json(&'a serde_json::Map<String, Json>),
}

impl Constant {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Time(value) => Value::Time(*value),
            Self::Str(value) => Value::Str(Cow::Borrowed(value)),
            Self::List(values) => Value::List(List::Constants(values)),
        }
    }

    /// The constant of a value that was folded; `None` for what only a request can hold.
    pub(super) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Double(value) => Self::Double(*value),
            Value::Time(value) => Self::Time(*value),
            Value::Str(value) => Self::Str(value.as_ref().into()),
            Value::List(list) => {
                Self::List(list.iter().map(|item| Self::of(&item)).collect::<Option<Vec<_>>>()?.into())
            }
            Value::Map(_) => return None,
        })
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Str(Cow::Borrowed(text))
    }

    pub(super) fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(value) => Self::text(value),
            Json::Array(values) => Self::List(List::Json(values)),
            Json::Object(members) => Self::Map(Map::Json(members)),
        }
    }

    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::Str(_) => "string",
            Self::Time(_) => "timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    fn wanted<T>(&self, wanted: &'static str) -> Result<T> {
        Err(EvaluationError::Type { wanted, found: self.kind() })
    }

    pub(super) fn bool(&self) -> Result<bool> {
        if let Self::Bool(value) = self { Ok(*value) } else { self.wanted("bool") }
    }

    pub(super) fn str(&self) -> Result<&str> {
        if let Self::Str(value) = self { Ok(value) } else { self.wanted("string") }
    }

    pub(super) fn time(&self) -> Result<Timestamp> {
        if let Self::Time(value) = self { Ok(*value) } else { self.wanted("timestamp") }
    }

    pub(super) fn list(self) -> Result<List<'a>> {
        if let Self::List(value) = self { Ok(value) } else { self.wanted("list") }
    }

    /// The text of a key: what `string()` gives.
    pub(super) fn key(&self) -> Result<Cow<'_, str>> {
        Ok(match self {
            Self::Str(value) => Cow::Borrowed(value),
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Int(value) => Cow::Owned(value.to_string()),
            Self::Double(value) => Cow::Owned(value.to_string()),
            Self::Null | Self::Time(_) | Self::List(_) | Self::Map(_) => {
                return self.wanted("string, int, bool or double");
            }
        })
    }

    /// Equality as CEL has it: values of different types differ, numbers compare by value.
    pub(super) fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::Str(a), Value::Str(b)) => a == b,
            (Self::Time(a), Value::Time(b)) => a == b,
            (Self::Int(a), Value::Int(b)) => a == b,
            (Self::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b))
            }
            (Self::Map(Map::Json(a)), Value::Map(Map::Json(b))) => {
                a.len() == b.len()
                    && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| Value::json(v).equals(&Value::json(w))))
            }
            (a, b) => a.number_order(b) == Some(Ordering::Equal),
        }
    }

    /// Order of strings, of bools, of numbers; an error between other types. `None` with NaN.
    pub(super) fn order(&self, other: &Value<'_>) -> Result<Option<Ordering>> {
        match (self, other) {
            (Self::Str(a), Value::Str(b)) => Ok(Some(a.as_ref().cmp(b.as_ref()))),
            (Self::Bool(a), Value::Bool(b)) => Ok(Some(a.cmp(b))),
            (Self::Time(a), Value::Time(b)) => Ok(Some(a.cmp(b))),
            (Self::Time(_), other) => other.wanted("timestamp"),
            (Self::Int(_) | Self::Double(_), Value::Int(_) | Value::Double(_)) => {
                Ok(self.number_order(other))
            }
            (Self::Str(_), other) => other.wanted("string"),
            (Self::Bool(_), other) => other.wanted("bool"),
            (Self::Int(_) | Self::Double(_), other) => other.wanted("number"),
            (this, _) => this.wanted("string, number or bool"),
        }
    }

    fn number_order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Value::Double(b)) => int_to_double_order(*a, *b),
            (Self::Double(a), Value::Int(b)) => int_to_double_order(*b, *a).map(Ordering::reverse),
            _ => None,
        }
    }
}

/// Compares without losing digits of large integers.
#[expect(clippy::cast_possible_truncation, reason = "only within the range of i64")]
#[expect(clippy::cast_precision_loss, reason = "the bound 2^63 is exact")]
fn int_to_double_order(int: i64, double: f64) -> Option<Ordering> {
    const BOUND: f64 = -(i64::MIN as f64);
    if double.is_nan() {
        return None;
    }
    if double >= BOUND {
        return Some(Ordering::Less);
    }
    if double < -BOUND {
        return Some(Ordering::Greater);
    }
    let whole = double.trunc();
    Some(int.cmp(&(whole as i64)).then_with(|| 0.0_f64.total_cmp(&(double - whole + 0.0))))
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(items) => items.len(),
            Self::Shared(items) => items.len(),
            Self::Floats(items) => items.len(),
            Self::Json(items) => items.len(),
            Self::Constants(items) => items.len(),
            Self::Values(items) => items.len(),
        }
    }

    pub(super) fn at(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Texts(items) => items.get(index).map(|item| Value::text(item)),
            Self::Shared(items) => items.get(index).map(|item| Value::text(item)),
            Self::Floats(items) => items.get(index).map(|item| Value::Double(f64::from(*item))),
            Self::Json(items) => items.get(index).map(Value::json),
            Self::Constants(items) => items.get(index).map(Constant::value),
            Self::Values(items) => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map_while(|index| self.at(index))
    }

    pub(super) fn holds(&self, wanted: &Value<'_>) -> bool {
        match (self, wanted) {
            (_, Value::Str(text)) => self.holds_text(text),
            _ => self.iter().any(|item| item.equals(wanted)),
        }
    }

    /// True where one element is this text; compares in place.
    pub(super) fn holds_text(&self, wanted: &str) -> bool {
        match self {
            Self::Texts(items) => items.iter().any(|item| **item == *wanted),
            Self::Shared(items) => items.iter().any(|item| **item == *wanted),
            Self::Floats(_) => false,
            Self::Json(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
            Self::Constants(items) => {
                items.iter().any(|item| matches!(item, Constant::Str(text) if **text == *wanted))
            }
            Self::Values(items) => {
                items.iter().any(|item| matches!(item, Value::Str(text) if text.as_ref() == wanted))
            }
        }
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Headers(headers) => headers.keys_len(),
            Self::Json(members) => members.len(),
        }
    }

    pub(super) fn holds(self, key: &str) -> bool {
        match self {
            Self::Headers(headers) => headers.contains_key(key),
            Self::Json(members) => members.contains_key(key),
        }
    }

    /// The value of a key.
    pub(super) fn at(self, key: &str) -> Result<Value<'a>> {
        match self {
            Self::Json(members) => {
                members.get(key).map(Value::json).ok_or_else(|| EvaluationError::Absent(key.into()))
            }
            Self::Headers(headers) => joined(&headers.get_all(key), key),
        }
    }
}

/// The values of one header, joined by commas (RFC 9110, section 5.3).
pub(super) fn joined<'a>(values: &GetAll<'a, HeaderValue>, name: &str) -> Result<Value<'a>> {
    let not_utf8 = |_| EvaluationError::NotUtf8(name.into());
    let mut values = values.iter();
    let first = values.next().ok_or_else(|| EvaluationError::Absent(name.into()))?;
    let mut text = Cow::Borrowed(std::str::from_utf8(first.as_bytes()).map_err(not_utf8)?);
    for value in values {
        let value = std::str::from_utf8(value.as_bytes()).map_err(not_utf8)?;
        let text = text.to_mut();
        text.push_str(", ");
        text.push_str(value);
    }
    Ok(Value::Str(text))
}
