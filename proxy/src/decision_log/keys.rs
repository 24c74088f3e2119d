//! Keys of the decision log, by reference: to seal, to sign, to prove.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

use crate::decision_log::entry::{hex, sha256};

/// Longest key text that is read, in bytes.
const MAX_TEXT: u64 = 16 << 10;

/// Bytes of a digest that name a key.
const ID_BYTES: usize = 8;

/// The DER in front of the 32 bytes of an Ed25519 public key (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Where a key is: never the key itself, which every process list would show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    File(PathBuf),
    Env(String),
}

/// Why there is no key. Names the reference, never what it holds.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}: {1}")]
    Read(KeyRef, String),
    #[error("{0} does not hold {1}")]
    Form(KeyRef, &'static str),
    #[error("no key could be made")]
    Random,
}

/// 256 bits from which the key of every file is derived.
pub struct SealKey {
    bytes: Zeroizing<[u8; 32]>,
    id: String,
}

/// An Ed25519 key that signs checkpoints.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

/// What proves the signatures of a [`SigningKey`].
#[derive(Clone, Debug)]
pub struct PublicKey {
    bytes: Vec<u8>,
    id: String,
}

/// What was derived for one file.
struct FileKey;

impl KeyType for FileKey {
    fn len(&self) -> usize {
        32
    }
}

impl FromStr for KeyRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            _ => Err("expected file:PATH or env:NAME".to_owned()),
        }
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl KeyRef {
    /// The text of the key.
    pub fn read(&self) -> Result<Zeroizing<String>, KeyError> {
        let failed = |why: String| KeyError::Read(self.clone(), why);
        match self {
            Self::Env(name) => {
                let text = std::env::var(name);
                text.map(Zeroizing::new).map_err(|_| failed("is not set, or is no text".to_owned()))
            }
            Self::File(path) => {
                let mut text = Zeroizing::new(String::new());
                let file = File::open(path).map_err(|error| failed(error.to_string()))?;
                file.take(MAX_TEXT).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
                Ok(text)
            }
        }
    }
}

fn named(what: &str, bytes: &[u8]) -> String {
    let hash = sha256(&[what.as_bytes(), b"\n", bytes].concat());
    hex(hash.get(..ID_BYTES).unwrap_or_default())
}

impl SealKey {
    /// Reads 32 bytes in Base64 (RFC 4648, section 4).
    pub fn load(from: &KeyRef) -> Result<Self, KeyError> {
        let text = from.read()?;
        let bytes = STANDARD.decode(text.trim()).ok().map(Zeroizing::new);
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        bytes.map(Self::new).ok_or_else(|| KeyError::Form(from.clone(), "32 bytes in Base64"))
    }

    /// A new key, and its text.
    pub fn generate() -> Result<(Self, String), KeyError> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
        Ok((Self::new(bytes), format!("{}\n", STANDARD.encode(bytes))))
    }

    fn new(bytes: [u8; 32]) -> Self {
        Self { id: named("foregate decision log seal key", &bytes), bytes: Zeroizing::new(bytes) }
    }

    /// Names the key without telling it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key of the file with this salt (HKDF with SHA-256, RFC 5869).
    pub fn derive(&self, salt: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let extracted = Salt::new(HKDF_SHA256, salt).extract(&*self.bytes);
        let expanded = extracted.expand(&[b"foregate decision log file 1"], FileKey).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        expanded.fill(&mut *key).ok()?;
        Some(key)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealKey").field(&self.id).finish()
    }
}

impl SigningKey {
    /// Reads an Ed25519 private key, PEM (PKCS #8).
    pub fn load(from: &KeyRef) -> Result<Self, KeyError> {
        let text = from.read()?;
        Self::from_pem(&text)
            .ok_or_else(|| KeyError::Form(from.clone(), "an Ed25519 private key in PKCS #8 PEM"))
    }

    fn from_pem(text: &str) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
        let id = PublicKey::new(pair.public_key().as_ref()).id;
        Some(Self { pair, id })
    }

    /// A new key, its text, and the text of its public half.
    pub fn generate() -> Result<(Self, String, String), KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| KeyError::Random)?;
        let (private, public) = (pair.serialize_pem(), pair.public_key_pem());
        let key = Self::from_pem(&private).ok_or(KeyError::Random)?;
        Ok((key, private, public))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.pair.public_key().as_ref())
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.id).finish()
    }
}

impl PublicKey {
    fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), id: named("foregate decision log signing key", bytes) }
    }

    /// Reads an Ed25519 public key, PEM (`SubjectPublicKeyInfo`).
    pub fn load(from: &KeyRef) -> Result<Self, KeyError> {
        let text = from.read()?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).ok();
        let bytes = der.as_ref().and_then(|der| der.as_ref().strip_prefix(&SPKI));
        let bytes = bytes.filter(|bytes| bytes.len() == 32);
        bytes.map(Self::new).ok_or_else(|| KeyError::Form(from.clone(), "an Ed25519 public key in PEM"))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyRef, PublicKey, SealKey, SigningKey};
    use std::fs;

    #[test]
    fn references_are_files_or_variables_and_nothing_else() {
        assert_eq!("file:/a:b".parse(), Ok(KeyRef::File("/a:b".into())));
        assert_eq!("env:KEY".parse(), Ok(KeyRef::Env("KEY".to_owned())));
        for bad in ["", "file:", "env:", "/a", "c2VjcmV0", "FILE:/a"] {
            assert!(bad.parse::<KeyRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_read_back_and_what_is_none_is_told_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            KeyRef::File(path)
        };
        let (seal, text) = SealKey::generate().unwrap();
        let read = SealKey::load(&put("seal", &text)).unwrap();
        assert_eq!((read.id(), read.derive(&[1; 32])), (seal.id(), seal.derive(&[1; 32])));
        assert_ne!(seal.derive(&[1; 32]), seal.derive(&[2; 32]));
        let (key, private, public) = SigningKey::generate().unwrap();
        let signature = SigningKey::load(&put("sign", &private)).unwrap().sign(b"message");
        let public = PublicKey::load(&put("public", &public)).unwrap();
        assert!(public.verifies(b"message", &signature) && !public.verifies(b"massage", &signature));
        assert_eq!(public.id(), key.id());
        let wrong = put("wrong", "hunter2");
        for error in [
            SealKey::load(&wrong).unwrap_err(),
            SigningKey::load(&wrong).unwrap_err(),
            PublicKey::load(&wrong).unwrap_err(),
            SealKey::load(&KeyRef::Env("FOREGATE_NO_SUCH_VARIABLE".to_owned())).unwrap_err(),
        ] {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(!format!("{seal:?}{key:?}").contains(text.trim()));
    }
}
