//! Bodies out of gzip and deflate, within a bound on what they become.

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::validate::media::Coding;

/// How many times as large as it came a body may become.
pub const MAX_RATIO: usize = 100;
/// What any body may become.
const FLOOR: usize = 4 << 10;
/// Bytes decoded at once.
const CHUNK: usize = 16 << 10;

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    #[error("a content coding that is not decoded here")]
    Unsupported,
    #[error("more than the bound once decoded")]
    TooLarge,
    #[error("more than {MAX_RATIO} times as large once decoded")]
    Bomb,
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// The body as it was before it was encoded. Work and memory end at `limit` bytes, or at [`MAX_RATIO`].
pub fn decode(body: &[u8], coding: Coding, limit: usize) -> Result<Vec<u8>, DecodeFault> {
    decode_to(body, coding, limit, body.len().saturating_mul(MAX_RATIO).max(FLOOR))
}

/// The same without the ratio, for what is packed more tightly by its nature, such as tensors full of zeros.
pub fn decode_dense(body: &[u8], coding: Coding, limit: usize) -> Result<Vec<u8>, DecodeFault> {
    decode_to(body, coding, limit, limit)
}

fn decode_to(body: &[u8], coding: Coding, limit: usize, allowed: usize) -> Result<Vec<u8>, DecodeFault> {
    match coding {
        Coding::Identity => Ok(body.to_vec()),
        Coding::Other => Err(DecodeFault::Unsupported),
        Coding::Deflate => {
            let (decoded, used) = inflated(body, DataFormat::Zlib, limit, allowed)?;
            if used == body.len() {
                Ok(decoded)
            } else {
                Err(DecodeFault::Malformed("deflate: bytes behind its end"))
            }
        }
        Coding::Gzip => gunzip(body, limit, allowed),
    }
}

/// One member (RFC 1952): what a second one holds, not everybody reads.
fn gunzip(body: &[u8], limit: usize, allowed: usize) -> Result<Vec<u8>, DecodeFault> {
    let malformed = DecodeFault::Malformed("gzip");
    let start = header(body).ok_or(malformed)?;
    let packed = body.get(start..).ok_or(malformed)?;
    let (decoded, used) = inflated(packed, DataFormat::Raw, limit, allowed)?;
    let trailer = packed.get(used..).ok_or(malformed)?;
    let (sum, size) = trailer.split_first_chunk::<4>().ok_or(malformed)?;
    let size = <[u8; 4]>::try_from(size).map_err(|_| DecodeFault::Malformed("gzip: bytes behind its end"))?;
    let length = u32::try_from(decoded.len()).unwrap_or(u32::MAX);
    if u32::from_le_bytes(*sum) != crc32fast::hash(&decoded) || u32::from_le_bytes(size) != length {
        return Err(DecodeFault::Malformed("gzip: a wrong checksum"));
    }
    Ok(decoded)
}

/// Length of the header of a member (RFC 1952, section 2.3).
fn header(body: &[u8]) -> Option<usize> {
    let [0x1f, 0x8b, 8, flags, ..] = *body.first_chunk::<10>()? else { return None };
    if flags & 0b1110_0000 != 0 {
        return None;
    }
    let mut at = 10;
    if flags & 4 != 0 {
        let length = body.get(at..)?.first_chunk::<2>()?;
        at += 2 + usize::from(u16::from_le_bytes(*length));
    }
    // Name and comment end with a zero.
    for flag in [8, 16] {
        if flags & flag != 0 {
            at += body.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    Some(at)
}

/// What the data are, and how many bytes they took.
fn inflated(
    data: &[u8],
    format: DataFormat,
    limit: usize,
    allowed: usize,
) -> Result<(Vec<u8>, usize), DecodeFault> {
    let bound = limit.min(allowed);
    let mut state = InflateState::new_boxed(format);
    let (mut out, mut used) = (Vec::new(), 0);
    loop {
        let filled = out.len();
        // One byte more than allowed tells that there is more.
        let room = (bound + 1 - filled).min(CHUNK);
        out.resize(filled + room, 0);
        let rest = data.get(used..).unwrap_or_default();
        let step = inflate(&mut state, rest, out.get_mut(filled..).unwrap_or_default(), MZFlush::None);
        used += step.bytes_consumed;
        out.truncate(filled + step.bytes_written);
        if out.len() > bound {
            return Err(if bound == limit { DecodeFault::TooLarge } else { DecodeFault::Bomb });
        }
        match step.status {
            Ok(MZStatus::StreamEnd) => return Ok((out, used)),
            Ok(_) if step.bytes_consumed > 0 || step.bytes_written > 0 => {}
            Ok(_) | Err(MZError::Buf) => return Err(DecodeFault::Malformed("deflate: it ends too soon")),
            Err(_) => return Err(DecodeFault::Malformed("deflate")),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::{DecodeFault, decode, decode_dense};
    use crate::validate::media::Coding;
    use miniz_oxide::deflate::{compress_to_vec, compress_to_vec_zlib};

    /// A gzip member.
    pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        packed.extend(compress_to_vec(body, 6));
        packed.extend(crc32fast::hash(body).to_le_bytes());
        packed.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn bodies_come_out_as_they_were() {
        let body: Vec<u8> = (0..50_000_u32).flat_map(|number| (number * number).to_le_bytes()).collect();
        assert_eq!(decode(&gzip(&body), Coding::Gzip, 1 << 20), Ok(body.clone()));
        assert_eq!(decode(&compress_to_vec_zlib(&body, 6), Coding::Deflate, 1 << 20), Ok(body.clone()));
        assert_eq!(decode(&gzip(b""), Coding::Gzip, 10), Ok(Vec::new()));
        let mut named = gzip(b"x");
        named[3] = 8 | 16 | 4 | 2;
        named.splice(10..10, *b"\x03\0abcname\0comment\0\0\0");
        assert_eq!(decode(&named, Coding::Gzip, 10), Ok(b"x".to_vec()));
    }

    #[test]
    fn bombs_end_at_the_bound_and_whatever_is_not_whole_is_refused() {
        let bomb = gzip(&vec![b' '; 8 << 20]);
        assert_eq!(decode(&bomb, Coding::Gzip, 64 << 20), Err(DecodeFault::Bomb));
        assert_eq!(decode(&bomb, Coding::Gzip, 100_000), Err(DecodeFault::TooLarge));
        assert_eq!(decode_dense(&bomb, Coding::Gzip, 8 << 20).map(|body| body.len()), Ok(8 << 20));
        assert_eq!(decode_dense(&bomb, Coding::Gzip, (8 << 20) - 1), Err(DecodeFault::TooLarge));
        let body = gzip(b"{\"a\":1}");
        assert_eq!(decode(&body, Coding::Gzip, 7).map(|body| body.len()), Ok(7));
        assert_eq!(decode(&body, Coding::Gzip, 6), Err(DecodeFault::TooLarge));
        for end in 0..body.len() {
            assert!(decode(&body[..end], Coding::Gzip, 100).is_err(), "{end}");
        }
        for trailing in [&b"x"[..], &body] {
            let two = [&body, trailing].concat();
            assert_eq!(
                decode(&two, Coding::Gzip, 100),
                Err(DecodeFault::Malformed("gzip: bytes behind its end"))
            );
        }
        let mut wrong = body.clone();
        let sum = wrong.len() - 5;
        wrong[sum] ^= 1;
        assert_eq!(decode(&wrong, Coding::Gzip, 100), Err(DecodeFault::Malformed("gzip: a wrong checksum")));
        assert_eq!(decode(&body, Coding::Other, 100), Err(DecodeFault::Unsupported));
        assert!(decode(b"{}", Coding::Deflate, 100).is_err());
    }
}
