//! The inference protocol over gRPC: paths, messages, and their frame.

pub mod messages;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// Where the calls lie.
pub const CALLS: &str = "/inference.GRPCInferenceService/";
/// Bytes before a message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;
/// Parameter of an answer, and property of a model: the digest of the bundle. Other clients pass over it.
pub const BUNDLE: &str = "bundle_sha256";
/// Status codes of gRPC, as far as they are told apart here.
pub const DEADLINE_EXCEEDED: u8 = 4;
pub const NOT_FOUND: u8 = 5;
pub const RESOURCE_EXHAUSTED: u8 = 8;

/// A message with its prefix, not compressed.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for all of it, which is the one thing that could fail.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// The same for a message that is encoded already.
pub fn framed_bytes(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Takes the one message out of a body; `None` where it is compressed, or of another length than it says.
pub fn unframed(mut body: Bytes) -> Option<Bytes> {
    let [packed, length @ ..] = body.first_chunk::<PREFIX>().copied()?;
    let message = body.split_off(PREFIX);
    (packed == 0 && u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::messages::ModelReadyRequest;
    use super::{framed, framed_bytes, unframed};
    use bytes::Bytes;
    use prost::Message;

    #[test]
    fn a_frame_holds_one_message() {
        let asked = ModelReadyRequest { name: "lead".to_owned(), version: "7".to_owned() };
        assert_eq!(framed_bytes(&asked.encode_to_vec()), framed(&asked));
        let message = unframed(framed(&asked)).unwrap();
        assert_eq!(ModelReadyRequest::decode(message).unwrap(), asked);
        for body in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x02abc", b"\x01\0\0\0\x01a"] {
            assert_eq!(unframed(Bytes::from_static(body)), None, "{body:?}");
        }
    }
}
