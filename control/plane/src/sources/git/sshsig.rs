//! SSH signatures as git puts them into commits (OpenSSH, PROTOCOL.sshsig).

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";
/// Largest signature, in bytes of text: those of RSA with 8192 bits take 5 KiB.
const MAX_TEXT: usize = 16 << 10;

/// What is wrong with a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature is malformed: {0}")]
    Malformed(&'static str),
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("the signature does not fit what it signs")]
    Wrong,
}

/// A signature that was read and not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSignature {
    /// The public key as SSH writes it.
    pub key: Vec<u8>,
    pub namespace: String,
    hash: String,
    algorithm: String,
    signature: Vec<u8>,
}

/// Reads the strings that SSH puts one behind the other (RFC 4251, section 5).
#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SignatureError> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(SignatureError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, SignatureError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn bytes(&mut self) -> Result<&'a [u8], SignatureError> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Result<&'a str, SignatureError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| SignatureError::Malformed("a name is no text"))
    }

    fn end(&self) -> Result<(), SignatureError> {
        if self.0.is_empty() { Ok(()) } else { Err(SignatureError::Malformed("something follows")) }
    }
}

impl SshSignature {
    /// Reads the armored form.
    ///
    /// # Errors
    /// What is malformed, or of a version that is not known.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let inner = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let inner = inner.ok_or(SignatureError::Malformed("it is no SSH signature"))?;
        if text.len() > MAX_TEXT {
            return Err(SignatureError::Malformed("it is too long"));
        }
        let encoded: String = inner.split_ascii_whitespace().collect();
        let blob = STANDARD.decode(encoded).map_err(|_| SignatureError::Malformed("it is not base64"))?;
        let mut reader = Reader(&blob);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(SignatureError::Malformed("it is no SSH signature"));
        }
        let version = reader.number()?;
        if version != 1 {
            return Err(SignatureError::Unsupported(format!("version {version} of SSH signatures")));
        }
        let key = reader.bytes()?.to_vec();
        let namespace = reader.text()?.to_owned();
        reader.bytes()?;
        let hash = reader.text()?.to_owned();
        let mut inner = Reader(reader.bytes()?);
        reader.end()?;
        let algorithm = inner.text()?.to_owned();
        let signature = inner.bytes()?.to_vec();
        inner.end()?;
        Ok(Self { key, namespace, hash, algorithm, signature })
    }

    /// Verifies the signature over `message` with the key it names. Whether that key may sign is another question.
    ///
    /// # Errors
    /// `Wrong` where it does not fit; `Unsupported` for hashes, keys and curves that are not known.
    pub fn verify(&self, message: &[u8]) -> Result<(), SignatureError> {
        let hashed = match self.hash.as_str() {
            "sha256" => digest(&SHA256, message),
            "sha512" => digest(&SHA512, message),
            other => return Err(SignatureError::Unsupported(format!("the hash {other:?}"))),
        };
        let mut signed = MAGIC.to_vec();
        for part in [self.namespace.as_bytes(), b"", self.hash.as_bytes(), hashed.as_ref()] {
            signed.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            signed.extend(part);
        }
        self.check(&signed)
    }

    fn check(&self, signed: &[u8]) -> Result<(), SignatureError> {
        let mut key = Reader(&self.key);
        let kind = key.text()?;
        let fits = |name: &str| self.algorithm == name;
        match kind {
            "ssh-ed25519" if fits(kind) => {
                let point = key.bytes()?;
                key.end()?;
                plain(&ED25519, point, signed, &self.signature)
            }
            "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" if fits(kind) => {
                let (width, algorithm): (_, &'static dyn VerificationAlgorithm) = if kind.ends_with("256") {
                    (32, &ECDSA_P256_SHA256_FIXED)
                } else {
                    (48, &ECDSA_P384_SHA384_FIXED)
                };
                key.text()?;
                let point = key.bytes()?;
                key.end()?;
                let mut numbers = Reader(&self.signature);
                let mut fixed = padded(numbers.bytes()?, width)?;
                fixed.extend(padded(numbers.bytes()?, width)?);
                numbers.end()?;
                plain(algorithm, point, signed, &fixed)
            }
            "ssh-rsa" => {
                let (e, n) = (positive(key.bytes()?), positive(key.bytes()?));
                key.end()?;
                let parameters = match self.algorithm.as_str() {
                    "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                    "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                    other => return Err(SignatureError::Unsupported(format!("the algorithm {other:?}"))),
                };
                let key = PublicKeyComponents { n, e };
                key.verify(parameters, signed, &self.signature).map_err(|_| SignatureError::Wrong)
            }
            other => Err(SignatureError::Unsupported(format!("a key of type {other:?}"))),
        }
    }
}

fn plain(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(algorithm, key).verify(signed, signature).map_err(|_| SignatureError::Wrong)
}

/// A number without the zero that keeps it positive.
fn positive(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn padded(number: &[u8], width: usize) -> Result<Vec<u8>, SignatureError> {
    let number = positive(number);
    let zeros = width.checked_sub(number.len()).ok_or(SignatureError::Malformed("a number is too large"))?;
    Ok(std::iter::repeat_n(0, zeros).chain(number.iter().copied()).collect())
}
