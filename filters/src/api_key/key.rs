//! Keys and client secrets: how they look, and the digests that stand for them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What every key begins with, so that scanners for leaked secrets find it.
pub const KEY_MARK: &str = "fg_";
/// What every client secret begins with.
pub const SECRET_MARK: &str = "fgs_";
/// Random bytes of the public part of a key: none of a million collides by chance.
pub const PREFIX_BYTES: usize = 8;
/// Random bytes of the secret part: 256 bits.
pub const SECRET_BYTES: usize = 32;
/// Characters of the public part: what eight bytes need in base 62.
const PREFIX_CHARS: usize = 11;
/// Characters of the secret part.
const SECRET_CHARS: usize = 43;
/// Characters of the checksum behind it, which tells scanners a key from a look-alike.
const SUM_CHARS: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a key or secret, written `sha256:` and 64 hexadecimal digits.
///
/// A fast hash is enough: keys are made of 256 random bits, so that there is nothing to guess. For passwords,
/// which people choose, it would not be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash must be sha256: and 64 hexadecimal digits in lower case")]
pub struct DigestError;

/// The pattern of a digest.
pub const DIGEST: &str = "^sha256:[0-9a-f]{64}$";
/// The pattern of the public part of a key.
pub const PREFIX: &str = "^[0-9A-Za-z]{8,32}$";

impl Digest {
    /// The digest of a whole key, its public part included: that is its salt.
    pub fn of_key(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// The digest of a client's secret; the id is its salt. Ids hold no NUL.
    pub fn of_secret(client: &str, secret: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(client.as_bytes());
        hash.update([0]);
        hash.update(secret.as_bytes());
        Self(hash.finalize().into())
    }

    /// What nobody's key has: compared with where there is nothing to compare with.
    pub const fn nobody() -> Self {
        Self([0; 32])
    }

    /// Whether both are the same, in a time that says nothing of them.
    pub fn same(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Digests are no secrets, but nobody needs them in a log.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or(DigestError)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let lower = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.as_bytes().iter().all(lower));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// The public part of a key; `None` where the text has not the form of one.
pub fn prefix(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_MARK)?.split_once('_').map(|(prefix, _)| prefix)
}

/// A key of random bytes: `fg_<public part>_<secret part and checksum>`.
pub fn key(prefix: &[u8; PREFIX_BYTES], secret: &[u8; SECRET_BYTES]) -> String {
    let prefix = base62(prefix, PREFIX_CHARS);
    summed(format!("{KEY_MARK}{prefix}_{}", base62(secret, SECRET_CHARS)))
}

/// A client secret of random bytes: `fgs_<secret part and checksum>`.
pub fn secret(secret: &[u8; SECRET_BYTES]) -> String {
    summed(format!("{SECRET_MARK}{}", base62(secret, SECRET_CHARS)))
}

/// A name for a client of random bytes: as unguessable as a public part, and no secret.
pub fn client_id(random: &[u8; PREFIX_BYTES]) -> String {
    base62(random, PREFIX_CHARS)
}

/// Adds the checksum: the first four bytes of the SHA-256 of what stands before it.
fn summed(text: String) -> String {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let sum = digest.first_chunk::<4>().map(|first| base62(first, SUM_CHARS)).unwrap_or_default();
    text + &sum
}

/// A number of any length in base 62, with leading zeros.
fn base62(bytes: &[u8], chars: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; chars];
    for digit in digits.iter_mut().rev() {
        let mut rest: u32 = 0;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            rest = value % 62;
        }
        *digit = ALPHABET.get(rest as usize).copied().unwrap_or(b'0');
    }
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Digest, base62, key, prefix, secret};

    #[test]
    fn a_key_has_a_mark_a_public_part_and_a_checksum() {
        let made = key(&[0xff; 8], &[0xff; 32]);
        assert_eq!(made.len(), 3 + 11 + 1 + 43 + 6);
        assert_eq!(prefix(&made), Some("LygHa16AHYF"));
        assert!(made[3..].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        let other = key(&[0xff; 8], &[0xfe; 32]);
        assert_ne!(made[made.len() - 6..], other[other.len() - 6..], "the checksum follows the secret");
        assert_eq!(secret(&[7; 32]).len(), 4 + 43 + 6);
        for bad in ["", "fg_", "fg_abc", "FG_abc_def", "fgs_abc", "Bearer fg_a_b"] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_in_base_62_keep_every_bit() {
        assert_eq!(base62(&[0; 8], 11), "00000000000");
        assert_eq!(base62(&[0, 61], 2), "0z");
        assert_eq!(base62(&[0, 62], 2), "10");
        assert_eq!(base62(&u64::MAX.to_be_bytes(), 11), "LygHa16AHYF");
    }

    #[test]
    fn digests_are_written_in_one_way() {
        let digest = Digest::of_key("fg_a_b");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(
            Digest::of_key("abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(bool::from(digest.same(&digest)) && !bool::from(digest.same(&Digest::nobody())));
        assert_ne!(Digest::of_secret("a", "bc"), Digest::of_secret("ab", "c"));
        let text = digest.to_string();
        for bad in
            [text.to_uppercase(), text.replace("sha256:", ""), text[..70].to_owned(), text.clone() + "0"]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
