//! Reads what the API server asks, in a bounded room for all of it.

use std::net::IpAddr;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use http_body_util::BodyExt;

use crate::places::{Place, Places};

/// Largest question in bytes: two objects of the largest size, and what is around them.
const MAX_BODY: usize = 4 << 20;
/// What is read of questions that are not answered yet has so many pieces of this many bytes: 128 MiB. Of one address it is an
/// eighth, four of the largest questions; who is slow to say much keeps no other address from being heard.
const PIECES: usize = 2_048;
const PIECE: usize = 64 << 10;

/// Room for what is read of all questions.
#[derive(Debug)]
pub struct Room {
    pieces: Places<IpAddr>,
}

/// What is read of a question, and the room that it takes until it is dropped.
#[derive(Debug, Default)]
pub struct Question {
    pub text: Vec<u8>,
    room: Vec<Place>,
    /// How many pieces that is.
    pieces: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(PIECES, PIECES / 8)
    }
}

impl Room {
    fn new(pieces: usize, share: usize) -> Self {
        Self { pieces: Places::new(pieces, share) }
    }

    /// Reads a question within its bounds. Who says nothing takes no room.
    ///
    /// # Errors
    /// What is answered instead, and why.
    pub async fn read(&self, from: IpAddr, mut body: Body) -> Result<Question, (StatusCode, String)> {
        let mut question = Question::default();
        let whole = body.size_hint().exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            let length = question.text.len().saturating_add(bytes.len());
            if length > MAX_BODY {
                let why = format!("a review of over {MAX_BODY} bytes");
                return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
            }
            if !self.make_room(from, &mut question, length.max(whole.min(MAX_BODY))).await {
                let why = "too many reviews at once for one that does not say how long it is";
                return Err((StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
            }
            question.text.extend_from_slice(&bytes);
        }
        Ok(question)
    }

    /// Makes room for a question of this length: all that is known to be needed at once. Who holds some waits for no more, since
    /// whoever has the rest may wait for that; false where there is none.
    async fn make_room(&self, from: IpAddr, question: &mut Question, length: usize) -> bool {
        let missing = length.div_ceil(PIECE).saturating_sub(question.pieces);
        let Ok(count) = u32::try_from(missing) else { return false };
        if count == 0 {
            return true;
        }
        let taken = if question.pieces == 0 {
            self.pieces.take_many(from, count).await
        } else {
            self.pieces.try_take_many(from, count)
        };
        let Some(taken) = taken else { return false };
        question.room.push(taken);
        question.pieces += missing;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body, HttpBody};
    use axum::http::StatusCode;
    use bytes::Bytes;
    use futures_util::poll;
    use hyper::body::{Frame, SizeHint};
    use tokio::sync::mpsc;

    use super::{PIECE, Room};

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    /// A body that comes as it is sent here.
    struct Said {
        length: Option<usize>,
        pieces: mpsc::UnboundedReceiver<Bytes>,
    }

    impl HttpBody for Said {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.pieces.poll_recv(context).map(|bytes| Some(Ok(Frame::data(bytes?))))
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length as u64))
        }
    }

    /// A body that says its length in pieces, or does not, and where it is sent.
    fn said(pieces: Option<usize>) -> (mpsc::UnboundedSender<Bytes>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let length = pieces.map(|count| count * PIECE);
        (sender, Body::new(Said { length, pieces: receiver }))
    }

    fn piece() -> Bytes {
        Bytes::from(vec![b' '; PIECE])
    }

    #[tokio::test]
    async fn questions_that_need_more_than_there_is_are_read_one_after_another() {
        let room = Room::new(8, 4);
        let ((first, one), (second, two)) = (said(Some(3)), said(Some(3)));
        let (mut one, mut two) = (Box::pin(room.read(ONE, one)), Box::pin(room.read(ONE, two)));
        assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
        // Both together have said as much as their address may have.
        for _ in 0..2 {
            first.send(piece()).unwrap();
            second.send(piece()).unwrap();
            assert!(poll!(&mut two).is_pending() && poll!(&mut one).is_pending());
        }
        for sender in [&first, &second] {
            sender.send(piece()).unwrap();
        }
        drop((first, second));
        let question = two.await.unwrap();
        assert_eq!(question.text.len(), 3 * PIECE);
        assert!(poll!(&mut one).is_pending(), "it waits for that");
        drop(question);
        assert_eq!(one.await.unwrap().text.len(), 3 * PIECE);
    }

    #[tokio::test]
    async fn one_that_does_not_say_its_length_is_refused_before_it_waits_with_what_it_holds() {
        let room = Room::new(8, 4);
        let ((first, one), (second, two)) = (said(None), said(None));
        let (mut one, mut two) = (Box::pin(room.read(ONE, one)), Box::pin(room.read(ONE, two)));
        for sender in [&first, &second] {
            sender.send(piece()).unwrap();
            sender.send(piece()).unwrap();
        }
        assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
        first.send(piece()).unwrap();
        assert_eq!(one.await.unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE);
        second.send(piece()).unwrap();
        drop(second);
        let question = two.await.unwrap();
        assert_eq!(question.text.len(), 3 * PIECE);
        // Who holds nothing yet waits, and others are heard meanwhile.
        let ((third, three), (fourth, four)) = (said(Some(4)), said(None));
        let mut three = Box::pin(room.read(ONE, three));
        third.send(piece()).unwrap();
        assert!(poll!(&mut three).is_pending());
        fourth.send(piece()).unwrap();
        drop((third, fourth));
        assert_eq!(room.read(OTHER, four).await.unwrap().text.len(), PIECE);
        drop(question);
        assert_eq!(three.await.unwrap().text.len(), PIECE);
    }
}
