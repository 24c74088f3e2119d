//! Encryption at rest: a file is a header and a row of frames, each AES-256-GCM.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;

use crate::decision_log::keys::{KeyError, SealKey};

/// What a sealed file begins with: a name, and the version of the format.
pub const MAGIC: [u8; 8] = *b"FGDLOG\x00\x01";

/// Bytes of the header: name, id of the key in hexadecimal digits, salt.
pub const HEADER: usize = 8 + 16 + 32;

/// Bytes in front of each frame: number, attempt, length of what follows.
pub const FRAME_HEAD: usize = 8 + 4 + 4;

/// Bytes that prove a frame.
pub const TAG: usize = 16;

/// Longest frame, in bytes.
pub const MAX_FRAME: usize = 4 << 20;

/// Seals or opens the frames of one file.
pub struct Frames {
    key: LessSafeKey,
    header: [u8; HEADER],
    /// Number of the next frame, from 0.
    pub number: u64,
    /// How often a frame was sealed that did not reach the disk: no nonce is ever used for two texts.
    attempt: u32,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Frames {
    /// A new file, under a key of its own.
    pub fn create(key: &SealKey) -> Result<Self, KeyError> {
        let mut salt = [0; 32];
        rand::fill(&mut salt).map_err(|_| KeyError::Random)?;
        let mut header = [0; HEADER];
        let text = [&MAGIC[..], key.id().as_bytes(), &salt].concat();
        if text.len() != HEADER {
            return Err(KeyError::Random);
        }
        header.copy_from_slice(&text);
        Self::new(key, header, &salt).ok_or(KeyError::Random)
    }

    /// The frames of a file with this header; `None` where another key sealed it.
    pub fn open(key: &SealKey, header: [u8; HEADER]) -> Option<Self> {
        let id = header.get(8..24)?;
        let salt: [u8; 32] = header.get(24..)?.try_into().ok()?;
        (id == key.id().as_bytes()).then(|| Self::new(key, header, &salt))?
    }

    fn new(key: &SealKey, header: [u8; HEADER], salt: &[u8; 32]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &*key.derive(salt)?).ok()?;
        Some(Self { key: LessSafeKey::new(key), header, number: 0, attempt: 0 })
    }

    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The next frame around this text. Call [`Frames::written`] once it is on disk, [`Frames::lost`] otherwise.
    pub fn seal(&self, text: &[u8]) -> Result<Vec<u8>, KeyError> {
        // A nonce is used once: behind the last attempt there is none left for this frame.
        if self.attempt == u32::MAX {
            return Err(KeyError::Random);
        }
        let length = u32::try_from(text.len() + TAG).map_err(|_| KeyError::Random)?;
        let head = frame_head(self.number, self.attempt, length);
        let mut sealed = text.to_vec();
        self.key
            .seal_in_place_append_tag(nonce(self.number, self.attempt), self.aad(&head), &mut sealed)
            .map_err(|_| KeyError::Random)?;
        Ok([&head[..], &sealed].concat())
    }

    pub fn written(&mut self) {
        self.number += 1;
        self.attempt = 0;
    }

    pub fn lost(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }

    /// The text of a frame; `None` where a bit of it, of its head or of the file's header was changed.
    pub fn unseal(&self, head: FrameHead, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let text = frame_head(head.number, head.attempt, head.length);
        let opened =
            self.key.open_in_place(nonce(head.number, head.attempt), self.aad(&text), &mut sealed).ok()?;
        Some(opened.to_vec())
    }

    /// What a frame is bound to beside its text: the file, its place there, its length.
    fn aad(&self, head: &[u8; FRAME_HEAD]) -> Aad<Vec<u8>> {
        Aad::from([&self.header[..], head].concat())
    }
}

/// What stands in front of a frame, in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub number: u64,
    pub attempt: u32,
    /// Bytes of text and tag.
    pub length: u32,
}

impl FrameHead {
    pub fn parse(bytes: &[u8; FRAME_HEAD]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (attempt, rest) = rest.split_first_chunk::<4>()?;
        let length = rest.first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length);
        let fits = (TAG..=MAX_FRAME).contains(&(length as usize));
        fits.then(|| Self {
            number: u64::from_be_bytes(*number),
            attempt: u32::from_be_bytes(*attempt),
            length,
        })
    }
}

fn frame_head(number: u64, attempt: u32, length: u32) -> [u8; FRAME_HEAD] {
    let mut head = [0; FRAME_HEAD];
    let bytes = number.to_be_bytes().into_iter().chain(attempt.to_be_bytes()).chain(length.to_be_bytes());
    for (place, byte) in head.iter_mut().zip(bytes) {
        *place = byte;
    }
    head
}

/// 96 bits: the attempt, then the number of the frame.
fn nonce(number: u64, attempt: u32) -> Nonce {
    let mut nonce = [0; 12];
    for (place, byte) in nonce.iter_mut().zip(attempt.to_be_bytes().into_iter().chain(number.to_be_bytes())) {
        *place = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::{FRAME_HEAD, FrameHead, Frames, HEADER};
    use crate::decision_log::keys::SealKey;

    fn parts(frame: &[u8]) -> (FrameHead, Vec<u8>) {
        let (head, sealed) = frame.split_first_chunk::<FRAME_HEAD>().unwrap();
        (FrameHead::parse(head).unwrap(), sealed.to_vec())
    }

    #[test]
    fn a_frame_opens_in_its_file_and_under_its_key_only() {
        let key = SealKey::generate().unwrap().0;
        let mut frames = Frames::create(&key).unwrap();
        let header: [u8; HEADER] = frames.header().try_into().unwrap();
        let first = frames.seal(b"text").unwrap();
        frames.lost();
        let again = frames.seal(b"other").unwrap();
        assert_ne!(first[..FRAME_HEAD], again[..FRAME_HEAD], "a text that was lost used up its nonce");
        frames.written();
        let second = frames.seal(b"text").unwrap();
        assert_ne!(first[FRAME_HEAD..], second[FRAME_HEAD..]);
        let reader = Frames::open(&key, header).unwrap();
        for (frame, text) in [(&first, "text"), (&again, "other"), (&second, "text")] {
            let (head, sealed) = parts(frame);
            assert_eq!(reader.unseal(head, sealed.clone()).unwrap(), text.as_bytes());
            let other = FrameHead { number: head.number + 1, ..head };
            assert_eq!(reader.unseal(other, sealed.clone()), None);
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(reader.unseal(head, changed), None, "byte {at}");
            }
        }
        let elsewhere = Frames::create(&key).unwrap();
        let (head, sealed) = parts(&first);
        assert_eq!(elsewhere.unseal(head, sealed), None, "another file");
        assert!(Frames::open(&SealKey::generate().unwrap().0, header).is_none());
    }
}
