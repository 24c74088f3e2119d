//! The key of a feature store: seals values, and turns keys of rows into numbers.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use siphasher::sip128::SipHasher13;

use super::snapshot::RowKey;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of the tag behind a sealed value.
const TAG_BYTES: usize = 16;
/// Bytes that a sealed value has beside its own.
pub(super) const SEALED: usize = NONCE_LEN + TAG_BYTES;
/// What keys are derived for: a key for one purpose tells nothing of that for another.
const FOR_VALUES: &[u8] = b"foregate feature store 1: values";
const FOR_KEYS: &[u8] = b"foregate feature store 1: keys of rows";

/// RFC 4648, section 4, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Two keys made of one secret: for values (AES-256-GCM-SIV, RFC 8452) and for the keys of rows (SipHash-1-3, 128 bits).
#[derive(Clone)]
pub struct StoreKey {
    values: Arc<RandomizedNonceKey>,
    pub(super) rows: RowHasher,
}

/// Turns keys of rows into numbers.
#[derive(Clone, Copy)]
pub struct RowHasher(SipHasher13);

/// A secret that is no key, or a value that was not sealed with this one. Never tells any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key must be 32 bytes, as 64 hexadecimal digits or in base64")]
    Form,
    #[error("it cannot be opened with this key")]
    Sealed,
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreKey").finish_non_exhaustive()
    }
}

impl StoreKey {
    /// Reads the text of a secret; white space around it is ignored.
    pub fn parse(secret: &[u8]) -> Result<Self, KeyError> {
        let text = secret.trim_ascii();
        let bytes = if text.len() == 2 * KEY_BYTES { hexadecimal(text) } else { BASE64.decode(text).ok() };
        let bytes = bytes.filter(|bytes| bytes.len() == KEY_BYTES).ok_or(KeyError::Form)?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let (values, rows) = (hmac::sign(&secret, FOR_VALUES), hmac::sign(&secret, FOR_KEYS));
        let values =
            RandomizedNonceKey::new(&AES_256_GCM_SIV, values.as_ref()).map_err(|_| KeyError::Form)?;
        let rows = rows.as_ref().first_chunk::<16>().ok_or(KeyError::Form)?;
        Ok(Self { values: Arc::new(values), rows: RowHasher::new(rows) })
    }

    /// The number that stands for the key of a row: of no meaning without this key.
    pub fn row(&self, key: &str) -> RowKey {
        self.rows.row(key)
    }

    /// The same for a store whose rows have their numbers by an earlier key.
    pub(super) fn with_rows(self, rows: RowHasher) -> Self {
        Self { rows, ..self }
    }

    /// Nonce, sealed bytes, tag. `place` is where the value belongs: elsewhere it cannot be opened.
    pub(super) fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut sealed = plain.to_vec();
        let nonce = self.values.seal_in_place_append_tag(Aad::from(place), &mut sealed);
        let nonce = nonce.map_err(|_| KeyError::Sealed)?;
        let mut out = Vec::with_capacity(NONCE_LEN + sealed.len());
        out.extend_from_slice(nonce.as_ref());
        out.append(&mut sealed);
        Ok(out)
    }

    /// The plain bytes of what [`Self::seal`] gave for the same place.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(KeyError::Sealed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut plain = sealed.to_vec();
        let opened = self.values.open_in_place(nonce, Aad::from(place), &mut plain);
        let length = opened.map_err(|_| KeyError::Sealed)?.len();
        debug_assert_eq!(length + TAG_BYTES, sealed.len());
        plain.truncate(length);
        Ok(plain)
    }
}

impl fmt::Debug for RowHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RowHasher").finish_non_exhaustive()
    }
}

impl RowHasher {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// What it was made of.
    pub(super) fn key(&self) -> [u8; 16] {
        self.0.key()
    }

    /// The number that stands for the key of a row.
    #[inline]
    pub fn row(&self, key: &str) -> RowKey {
        let hash = self.0.hash(key.as_bytes());
        RowKey((u128::from(hash.h1) << 64 | u128::from(hash.h2)).to_le_bytes())
    }
}

fn hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let text =
        std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{KeyError, StoreKey};

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_key_is_read_in_either_form_and_nothing_else_is_one() {
        let hex = StoreKey::parse(HEX.as_bytes()).unwrap();
        let base64 = StoreKey::parse(format!(" {BASE64}\n").as_bytes()).unwrap();
        assert_eq!(hex.row("001"), base64.row("001"));
        let sealed = hex.seal(b"a", b"values").unwrap();
        assert_eq!(base64.open(b"a", &sealed).unwrap(), b"values");
        for wrong in ["", "secret", &HEX[2..], &BASE64[4..], &HEX.replace('0', "g")] {
            assert_eq!(StoreKey::parse(wrong.as_bytes()).unwrap_err(), KeyError::Form, "{wrong}");
        }
        assert!(!format!("{hex:?}").contains('0'));
    }

    #[test]
    fn a_value_opens_with_its_key_at_its_place_and_unchanged() {
        let key = StoreKey::parse(HEX.as_bytes()).unwrap();
        let other = StoreKey::parse(HEX.replace("00", "ff").as_bytes()).unwrap();
        let sealed = key.seal(b"a", b"values").unwrap();
        assert_ne!(sealed, key.seal(b"a", b"values").unwrap(), "equal values look different");
        assert!(!sealed.windows(6).any(|window| window == b"values"));
        assert_ne!(key.row("001"), key.row("002"));
        assert_ne!(key.row("001"), other.row("001"));
        assert_eq!(other.open(b"a", &sealed), Err(KeyError::Sealed));
        assert_eq!(key.open(b"b", &sealed), Err(KeyError::Sealed));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(key.open(b"a", &flipped), Err(KeyError::Sealed), "byte {at}");
        }
        assert_eq!(key.open(b"a", b"short"), Err(KeyError::Sealed));
    }
}
