//! Tensors written as JSON: flat or nested numbers, and records.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::fault::Fault;

/// Inputs, outputs or dimensions that a request names at most.
const MAX_FEW: usize = 64;

/// Reads the numbers of a tensor of this shape; `null` stands for what is missing.
pub(super) fn floats(tensor: &str, data: &RawValue, shape: &[usize]) -> Result<Vec<f32>, Fault> {
    let text = data.get();
    // A number and its comma have two bytes at least, so that a shape that lies costs nothing.
    let mut cells = Vec::with_capacity(product(shape).min(text.len() / 2 + 1));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let level = Level { cells: &mut cells, shape };
    deserializer
        .deserialize_seq(level)
        .map_err(|error| Fault::invalid(format!("input `{tensor}`: data: {error}")))?;
    Ok(cells)
}

fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |product, size| product.saturating_mul(*size))
}

/// An array of a tensor, and the shape of what is in it.
struct Level<'o> {
    cells: &'o mut Vec<f32>,
    shape: &'o [usize],
}

/// An element of such an array; tells whether it is an array itself.
struct Element<'o> {
    cells: &'o mut Vec<f32>,
    shape: &'o [usize],
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { cells, shape } = self;
        let [first, inner @ ..] = shape else { return Err(A::Error::custom("nested deeper than its shape")) };
        let flat = product(shape);
        let (mut count, mut nested) = (0, None);
        while let Some(is_nested) = array.next_element_seed(Element { cells: &mut *cells, shape: inner })? {
            if nested.replace(is_nested).is_some_and(|before| before != is_nested) {
                return Err(A::Error::custom("numbers and arrays in one array"));
            }
            count += 1;
            if count > flat {
                break;
            }
        }
        let expected = if nested == Some(true) { *first } else { flat };
        if count == expected {
            Ok(())
        } else {
            Err(A::Error::custom(format!(
                "an array with other than {expected} elements, for shape {shape:?}"
            )))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, null or an array")
    }

    #[expect(clippy::cast_possible_truncation, reason = "the tensor is of f32; what is beyond it is refused")]
    fn visit_f64<E: Error>(self, number: f64) -> Result<bool, E> {
        let number = number as f32;
        if number.is_finite() {
            self.cells.push(number);
            Ok(false)
        } else {
            Err(E::custom("a number beyond FP32"))
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the tensor is of f32")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<bool, E> {
        self.visit_f64(number as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "the tensor is of f32")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<bool, E> {
        self.visit_f64(number as f64)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        self.cells.push(f32::NAN);
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<bool, A::Error> {
        let level = Level { cells: self.cells, shape: self.shape };
        level.visit_seq(array).map(|()| true)
    }
}

/// The elements of an array as they are written: one more than `most` where it has more, and none behind it.
pub(super) fn elements(data: &RawValue, most: usize) -> Result<Vec<&RawValue>, serde_json::Error> {
    let mut elements = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(data.get());
    let read = deserializer.deserialize_seq(Elements { elements: &mut elements, most });
    // That the rest was not read is no fault of the array.
    if elements.len() > most { Ok(elements) } else { read.map(|()| elements) }
}

struct Elements<'o, 'de> {
    elements: &'o mut Vec<&'de RawValue>,
    most: usize,
}

impl<'de> Visitor<'de> for Elements<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while self.elements.len() <= self.most {
            let Some(element) = array.next_element()? else { break };
            self.elements.push(element);
        }
        Ok(())
    }
}

/// An array of at most [`MAX_FEW`] elements; what is in it takes a multiple of its text.
pub(super) fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(array: D) -> Result<Vec<T>, D::Error> {
    array.deserialize_seq(Few(PhantomData))
}

struct Few<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX_FEW}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element()? {
            if elements.len() == MAX_FEW {
                return Err(A::Error::custom(format!("over {MAX_FEW} inputs, outputs or dimensions")));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// The name and value of an object that has one and no more.
pub(super) fn alone(object: &RawValue) -> Option<(Cow<'_, str>, &RawValue)> {
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Alone).ok().flatten()
}

struct Alone;

impl<'de> Visitor<'de> for Alone {
    type Value = Option<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let first = object.next_entry()?;
        let mut more = false;
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(first.filter(|_| !more))
    }
}

/// Reads so many records: strings that hold JSON, or the objects themselves; each may stand in an array of its own.
pub(super) fn records(tensor: &str, data: &RawValue, count: usize) -> Result<Vec<Bytes>, Fault> {
    let fault = |what: String| Fault::invalid(format!("input `{tensor}`: data: {what}"));
    let elements = elements(data, count).map_err(|error| fault(error.to_string()))?;
    if elements.len() != count {
        let over = if elements.len() > count { "over " } else { "" };
        return Err(fault(format!("{over}{} elements for {count} records", elements.len().min(count))));
    }
    let mut records = Vec::with_capacity(count);
    for (place, element) in elements.into_iter().enumerate() {
        let inner: [&RawValue; 1] = if element.get().starts_with('[') {
            let alone = serde_json::from_str(element.get());
            alone.map_err(|_| fault(format!("element {place} is not one record")))?
        } else {
            [element]
        };
        let [element] = inner;
        records.push(record(element).ok_or_else(|| fault(format!("element {place} is no record")))?);
    }
    Ok(records)
}

/// A record: a string that holds JSON, or the object itself.
pub(super) fn record(element: &RawValue) -> Option<Bytes> {
    let text = element.get();
    match text.as_bytes().first()? {
        b'{' => Some(Bytes::copy_from_slice(text.as_bytes())),
        b'"' => serde_json::from_str::<String>(text).ok().map(Bytes::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{alone, elements, few, floats, records};
    use serde_json::value::RawValue;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn numbers_are_flat_or_nested_as_their_shape() {
        for text in ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [1.0,2e0,3],[4,5,6.0] ] "] {
            assert_eq!(floats("x", &raw(text), &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{text}");
        }
        let missing = floats("x", &raw("[[null,-1]]"), &[1, 2]).unwrap();
        assert!(missing[0].is_nan() && missing[1].to_bits() == (-1.0_f32).to_bits());
        for text in [
            "[]",
            "[1,2,3,4,5]",
            "[1,2,3,4,5,6,7]",
            "[[1,2],[3,4],[5,6]]",
            "[[1,2,3,4],[5,6]]",
            "[[1,2,3],4,5,6]",
            "[1,2,3,[4,5,6]]",
            "[[[1],[2],[3]],[[4],[5],[6]]]",
            "[[1,2,3]]",
            "[1,2,3,4,5,1e39]",
            "[1,2,3,4,5,\"6\"]",
            "[1,2,3,4,5,true]",
            "{}",
            "7",
            "null",
        ] {
            assert!(floats("x", &raw(text), &[2, 3]).is_err(), "{text}");
        }
        assert!(floats("x", &raw("[1]"), &[usize::MAX, 2]).is_err(), "nothing is allocated for a lie");
    }

    #[test]
    fn records_are_objects_or_strings() {
        let found = records("record", &raw(r#"[{"a":1},"{\"a\":2}",["{}"]]"#), 3).unwrap();
        assert_eq!(found, [&br#"{"a":1}"#[..], br#"{"a":2}"#, b"{}"]);
        for text in ["[1]", "[null]", "[[]]", "[[{},{}]]", "[[[{}]]]", "[]", "[{},{}]", "{}", "\"{}\""] {
            assert!(records("record", &raw(text), 1).is_err(), "{text}");
        }
    }

    #[test]
    fn arrays_are_read_up_to_their_bound_and_no_further() {
        let many = raw(&format!("[{}0]", "0,".repeat(99)));
        assert_eq!(elements(&many, 100).unwrap().len(), 100);
        assert_eq!(elements(&many, 10).unwrap().len(), 11);
        assert!(elements(&raw("{}"), 10).is_err());
        let read = |text: &str| few::<_, u8>(&mut serde_json::Deserializer::from_str(text));
        assert_eq!(read(&format!("[{}0]", "0,".repeat(63))).unwrap().len(), 64);
        let error = read(&format!("[{}0, what is not read", "0,".repeat(64))).unwrap_err();
        assert!(error.to_string().contains("over 64"), "{error}");
    }

    #[test]
    fn objects_of_one_member_are_told() {
        let object = raw(r#"{"a\u0062": [1]}"#);
        let (name, value) = alone(&object).unwrap();
        assert_eq!((&*name, value.get()), ("ab", "[1]"));
        for text in ["{}", r#"{"a":1,"b":2}"#, r#"{"a":1,"a":2}"#, "[1]", "7"] {
            assert!(alone(&raw(text)).is_none(), "{text}");
        }
    }
}
