//! The lines of a file of the decision log, sealed or plain.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::decision_log::keys::SealKey;
use crate::decision_log::seal::{FRAME_HEAD, FrameHead, Frames, HEADER, MAGIC};

/// Longest line that is read, in bytes; none that was written is as long.
const MAX_LINE: u64 = 4 << 20;

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is encrypted: give its key with --key")]
    Sealed,
    #[error("it is encrypted under another key, {0}")]
    OtherKey(String),
    #[error("its header is not that of a decision log")]
    Header,
}

/// A part of a file.
#[derive(Debug)]
pub enum Piece<'a> {
    /// One line, without its end.
    Line(&'a [u8]),
    /// What cannot be opened: a bit of this frame, or of its place, was changed.
    Closed { frame: u64 },
}

/// How a file ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Bytes behind the last whole line or frame.
    pub torn: u64,
    pub sealed: bool,
}

/// Hands out every line in the order of the file.
pub fn read(
    path: &Path,
    key: Option<&SealKey>,
    each: &mut dyn FnMut(Piece<'_>),
) -> Result<Ending, ReadError> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    if file.fill_buf()?.starts_with(MAGIC.get(..6).unwrap_or_default()) {
        return sealed(&mut file, key, each).map(|torn| Ending { torn, sealed: true });
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut file).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(Ending::default());
        }
        match line.strip_suffix(b"\n") {
            Some(line) => each(Piece::Line(line)),
            None if line.len() as u64 == MAX_LINE => each(Piece::Line(&line)),
            None => return Ok(Ending { torn: line.len() as u64, sealed: false }),
        }
    }
}

fn sealed(
    file: &mut impl Read,
    key: Option<&SealKey>,
    each: &mut dyn FnMut(Piece<'_>),
) -> Result<u64, ReadError> {
    let mut header = [0; HEADER];
    let got = fill(file, &mut header)?;
    if got < HEADER {
        return Ok(got as u64);
    }
    if !header.starts_with(&MAGIC) {
        return Err(ReadError::Header);
    }
    let key = key.ok_or(ReadError::Sealed)?;
    let frames = Frames::open(key, header).ok_or_else(|| {
        let id = header.get(8..24).unwrap_or_default();
        ReadError::OtherKey(id.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_hexdigit).collect())
    })?;
    for place in 0.. {
        let mut head = [0; FRAME_HEAD];
        let got = fill(file, &mut head)?;
        if got == 0 {
            break;
        }
        if got < FRAME_HEAD {
            return Ok(got as u64);
        }
        let Some(head) = FrameHead::parse(&head) else {
            // Without a length nobody knows where the next one begins.
            each(Piece::Closed { frame: place });
            break;
        };
        let mut sealed = vec![0; head.length as usize];
        let got = fill(file, &mut sealed)?;
        if got < sealed.len() {
            return Ok((FRAME_HEAD + got) as u64);
        }
        match frames.unseal(head, sealed) {
            // A frame in the wrong place holds entries that are out of turn: they tell more than their frame.
            Some(text) => {
                let lines = text.strip_suffix(b"\n").unwrap_or(&text);
                lines.split(|byte| *byte == b'\n').for_each(|line| each(Piece::Line(line)));
            }
            None => each(Piece::Closed { frame: place }),
        }
    }
    Ok(0)
}

/// Reads until the buffer is full or the file ends; gives the number of bytes.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
