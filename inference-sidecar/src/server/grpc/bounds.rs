//! Bounds of a call to infer, held before its message is read.

use super::super::fault::{Fault, Kind};

/// Inputs, outputs, parameters or dimensions in a request at most: those that are read grow in memory.
const MAX_FIELDS: usize = 64;

/// What a request has of all that takes more memory once it is read than in its message.
#[derive(Default)]
struct Counts {
    inputs: usize,
    outputs: usize,
    /// Of the request and of its tensors.
    parameters: usize,
    dimensions: usize,
    raw: usize,
    /// Elements of bytes.
    records: usize,
    rows: usize,
}

/// Refuses a message whose many small fields would take a multiple of its size once they are read; `rows` is how
/// many records a request may have. Field numbers are those of `ModelInferRequest` and what is in it.
pub(super) fn check(message: &[u8], rows: usize) -> Result<(), Fault> {
    let mut counts = Counts { rows, ..Counts::default() };
    walk(message, |field, value| match (field, value) {
        (4, _) => few(&mut counts.parameters, 1),
        (5, value) => {
            few(&mut counts.inputs, 1)?;
            counts.tensor(value.unwrap_or_default())
        }
        (6, value) => {
            few(&mut counts.outputs, 1)?;
            walk(value.unwrap_or_default(), |field, _| match field {
                2 => few(&mut counts.parameters, 1),
                _ => Ok(()),
            })
        }
        (7, _) => few(&mut counts.raw, 1),
        _ => Ok(()),
    })
}

impl Counts {
    /// `InferInputTensor`.
    fn tensor(&mut self, tensor: &[u8]) -> Result<(), Fault> {
        walk(tensor, |field, value| match (field, value) {
            // Each number ends with the one byte whose first bit is not set.
            (3, Some(packed)) => {
                few(&mut self.dimensions, packed.iter().filter(|byte| **byte < 0x80).count())
            }
            (3, None) => few(&mut self.dimensions, 1),
            (4, _) => few(&mut self.parameters, 1),
            (5, value) => self.contents(value.unwrap_or_default()),
            _ => Ok(()),
        })
    }

    /// `InferTensorContents`. Its numbers take no more memory than they have bytes here.
    fn contents(&mut self, contents: &[u8]) -> Result<(), Fault> {
        walk(contents, |field, _| {
            if field == 8 {
                self.records += 1;
            }
            if self.records > self.rows {
                let message = format!("a request has at most {} records", self.rows);
                return Err(Fault::new(Kind::TooLarge, message));
            }
            Ok(())
        })
    }
}

fn few(count: &mut usize, more: usize) -> Result<(), Fault> {
    *count = count.saturating_add(more);
    if *count > MAX_FIELDS {
        return Err(Fault::invalid(format!("over {MAX_FIELDS} inputs, outputs, parameters or dimensions")));
    }
    Ok(())
}

/// Tells the fields of a message in order; the value where its length stands before it.
fn walk(
    mut message: &[u8],
    mut seen: impl FnMut(u64, Option<&[u8]>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let malformed = || Fault::invalid("the message is malformed");
    let number = |rest: &mut &[u8]| prost::decode_length_delimiter(rest).map_err(|_| malformed());
    while !message.is_empty() {
        let key = number(&mut message)? as u64;
        let length = match key & 7 {
            0 => {
                number(&mut message)?;
                0
            }
            1 => 8,
            2 => number(&mut message)?,
            5 => 4,
            _ => return Err(malformed()),
        };
        let (value, rest) = message.split_at_checked(length).ok_or_else(malformed)?;
        message = rest;
        seen(key >> 3, Some(value).filter(|_| key & 7 == 2))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::server::fault::{Fault, Kind};

    /// A field of one byte of length, and what is in it.
    fn field(key: u8, value: &[u8]) -> Vec<u8> {
        assert!(value.len() < 128);
        [&[key, u8::try_from(value.len()).unwrap()][..], value].concat()
    }

    fn kind(message: &[u8], rows: usize) -> Result<(), Kind> {
        check(message, rows).map_err(|fault: Fault| fault.kind)
    }

    #[test]
    fn many_small_fields_are_refused_before_they_are_read() {
        assert!(check(b"", 1).is_ok());
        assert!(check(b"\x0a\x01a\x2a\x00\x32\x00", 1).is_ok());
        assert!(check(&b"\x2a\x00".repeat(64), 1).is_ok());
        for field in [0x22_u8, 0x2a, 0x32, 0x3a] {
            assert!(check(&[field, 0].repeat(65), 1).is_err(), "{field}");
        }
        for message in [
            &b"\x2a"[..],
            b"\x2a\x02a",
            b"\x2b",
            b"\x2f",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09ab",
            b"\x2a\x01\x2a",
        ] {
            assert_eq!(kind(message, 1), Err(Kind::Invalid), "{message:?}");
        }
    }

    #[test]
    fn so_are_those_of_tensors() {
        let (shape, packed) = ([0x18, 1].repeat(33), field(0x1a, &[0x80, 1].repeat(33)));
        assert!(check(&field(0x2a, &shape), 1).is_ok());
        assert!(check(&field(0x2a, &packed), 1).is_ok());
        let parameters = field(0x2a, &[0x22, 0].repeat(33));
        let wanted = field(0x32, &[0x12, 0].repeat(32));
        assert!(check(&parameters, 1).is_ok() && check(&wanted, 1).is_ok());
        for (one, other) in [(&shape, &shape), (&packed, &packed), (&shape, &packed)] {
            let both = [field(0x2a, one), field(0x2a, other)].concat();
            assert_eq!(kind(&both, 1), Err(Kind::Invalid));
        }
        assert_eq!(kind(&[parameters, wanted].concat(), 1), Err(Kind::Invalid));
    }

    #[test]
    fn records_are_counted_over_all_contents() {
        let records = field(0x2a, &field(0x2a, &[0x42, 0].repeat(5)));
        assert_eq!(kind(&records, 5), Ok(()));
        assert_eq!(kind(&records, 4), Err(Kind::TooLarge));
        assert_eq!(kind(&records.repeat(2), 9), Err(Kind::TooLarge));
        let numbers = field(0x2a, &field(0x2a, &field(0x32, &[0; 40])));
        assert_eq!(kind(&numbers, 1), Ok(()));
    }
}
