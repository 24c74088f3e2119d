//! What happens on a connection, and when nothing has for too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::OwnedSemaphorePermit;

/// How long a connection may do nothing; it is ended before twice that time has passed.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// With an answer of which the client takes nothing.
    pub write: Duration,
}

/// What a connection did for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Still {
    Idle,
    /// It has answers that nobody takes.
    Stuck,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Busy,
    Rests,
    /// An answer of which nothing was taken since the look before.
    Stuck,
}

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests without an answer so far: their deadline ends them.
    working: AtomicUsize,
    /// Goes on with all that happens.
    moved: AtomicU64,
    /// Looks at what happens.
    looks: AtomicUsize,
    /// Answers of which a part is still here, by whether they last went on behind an even or an odd look.
    sending: [AtomicUsize; 2],
}

/// A request, from its head until its answer has left.
#[derive(Debug)]
pub struct Turn {
    traffic: Arc<Traffic>,
    /// The look behind which its answer last went on; [`UNANSWERED`] before there is one.
    look: AtomicUsize,
    /// Given back with the last byte of the answer: what waits to be sent is memory too.
    room: Option<OwnedSemaphorePermit>,
}

/// No look is this one.
const UNANSWERED: usize = usize::MAX;

/// Bytes of an answer on their way.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Bytes,
    pub turn: Option<Arc<Turn>>,
}

impl Traffic {
    pub fn begin(self: &Arc<Self>) -> Turn {
        self.working.fetch_add(1, Ordering::Relaxed);
        self.move_on();
        Turn { traffic: Arc::clone(self), look: UNANSWERED.into(), room: None }
    }

    fn move_on(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that last went on behind this look.
    fn sending(&self, look: usize) -> &AtomicUsize {
        let [even, odd] = &self.sending;
        if look.is_multiple_of(2) { even } else { odd }
    }

    /// Ends once nothing has happened for too long, or an answer has rested for too long whatever else happens: it takes
    /// the room of other requests.
    pub async fn still(&self, patience: Patience) -> Still {
        // A look now and then costs requests less than a timer that each of them sets anew.
        let pause = patience.idle.min(patience.write);
        let (mut moved, mut rested) = (self.moved.load(Ordering::Relaxed), Duration::ZERO);
        loop {
            tokio::time::sleep(pause).await;
            match self.look(&mut moved) {
                Look::Stuck => return Still::Stuck,
                Look::Busy => rested = Duration::ZERO,
                Look::Rests => rested += pause,
            }
            if rested >= patience.idle {
                return Still::Idle;
            }
        }
    }

    /// What has happened since the last look; `moved` is what had at that time.
    fn look(&self, moved: &mut u64) -> Look {
        let look = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        // Those of the look before the last one, as none of the new one is there yet.
        if self.sending(look).load(Ordering::Relaxed) > 0 {
            return Look::Stuck;
        }
        let before = std::mem::replace(moved, self.moved.load(Ordering::Relaxed));
        let sending = self.sending(look - 1).load(Ordering::Relaxed);
        let works = self.working.load(Ordering::Relaxed) > 0;
        if works || sending > 0 || *moved != before { Look::Busy } else { Look::Rests }
    }
}

impl Turn {
    /// One more request of the same connection.
    pub fn another(&self) -> Self {
        self.traffic.begin()
    }

    /// Has room for itself.
    pub fn admitted(&mut self, room: OwnedSemaphorePermit) {
        self.room = Some(room);
    }

    /// Notes that there is an answer, and goes with it.
    pub fn answered(self) -> Arc<Self> {
        self.go_on();
        Arc::new(self)
    }

    /// Notes that a part of the answer has left.
    fn go_on(&self) {
        let traffic = &*self.traffic;
        let now = traffic.looks.load(Ordering::Relaxed);
        let before = self.look.swap(now, Ordering::Relaxed);
        if before != now {
            traffic.sending(now).fetch_add(1, Ordering::Relaxed);
            self.leave(before);
        }
        traffic.move_on();
    }

    /// Is no longer counted where it was.
    fn leave(&self, look: usize) {
        let Traffic { working, .. } = &*self.traffic;
        let own = if look == UNANSWERED { working } else { self.traffic.sending(look) };
        own.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave(self.look.load(Ordering::Relaxed));
        self.traffic.move_on();
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(turn) = &self.turn {
            turn.go_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Look, Piece, Traffic};
    use crate::server::body::Whole;
    use bytes::Buf;
    use http_body::Body;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use tokio::sync::Semaphore;

    fn piece(body: &mut Whole) -> Piece {
        let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = frame else { panic!("no frame") };
        frame.into_data().unwrap()
    }

    #[test]
    fn room_is_given_back_once_the_answer_has_left() {
        let (open, traffic) = (Arc::new(Semaphore::new(1)), Arc::new(Traffic::default()));
        let answer = |sent: bool| {
            let mut turn = traffic.begin();
            turn.admitted(Arc::clone(&open).try_acquire_owned().unwrap());
            let mut body = Whole::new("answer").of_turn(turn.answered());
            let piece = sent.then(|| piece(&mut body));
            (body, piece)
        };
        let (body, sent) = answer(true);
        drop(body);
        assert_eq!(open.available_permits(), 0, "its bytes are still here");
        drop(sent);
        assert_eq!(open.available_permits(), 1);
        // And where its client has gone before.
        drop(answer(false));
        assert_eq!(open.available_permits(), 1);
    }

    #[test]
    fn an_answer_that_rests_ends_the_connection_and_one_that_goes_on_does_not() {
        let (traffic, mut moved) = (Arc::new(Traffic::default()), 0);
        let others = || drop(traffic.begin().answered());
        let mut piece = Piece { bytes: vec![0; 100].into(), turn: Some(traffic.begin().answered()) };
        for _ in 0..5 {
            others();
            piece.advance(1);
            assert_eq!(traffic.look(&mut moved), Look::Busy);
        }
        others();
        assert_eq!(traffic.look(&mut moved), Look::Stuck, "whatever others do");
        drop(piece);
        assert_eq!(traffic.look(&mut moved), Look::Busy);
        // Work has a deadline of its own.
        let works = traffic.begin();
        let looks = [(); 4].map(|()| traffic.look(&mut moved));
        assert_eq!(looks, [Look::Busy; 4]);
        drop(works);
        assert_eq!([(); 2].map(|()| traffic.look(&mut moved)), [Look::Busy, Look::Rests]);
    }
}
