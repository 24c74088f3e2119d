//! What happens on a connection, and when nothing has for too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};

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

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests without an answer so far: their deadline ends them.
    working: AtomicUsize,
    /// Answers of which a part is still here.
    sending: AtomicUsize,
    /// Goes on with all that happens.
    moved: AtomicU64,
}

/// A request, from its head until its answer has left.
#[derive(Debug)]
pub struct Turn {
    traffic: Arc<Traffic>,
    answered: bool,
}

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
        Turn { traffic: Arc::clone(self), answered: false }
    }

    fn move_on(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends once nothing has happened for too long.
    pub async fn still(&self, patience: Patience) -> Still {
        loop {
            let moved = self.moved.load(Ordering::Relaxed);
            let sending = self.sending.load(Ordering::Relaxed) > 0;
            let (limit, still) =
                if sending { (patience.write, Still::Stuck) } else { (patience.idle, Still::Idle) };
            // One look at the end costs requests less than a timer that each of them sets anew.
            tokio::time::sleep(limit).await;
            let rests = self.working.load(Ordering::Relaxed) == 0;
            if rests && self.moved.load(Ordering::Relaxed) == moved {
                return still;
            }
        }
    }
}

impl Turn {
    /// Notes that there is an answer, and goes with it.
    pub fn answered(mut self) -> Arc<Self> {
        self.answered = true;
        self.traffic.sending.fetch_add(1, Ordering::Relaxed);
        self.traffic.working.fetch_sub(1, Ordering::Relaxed);
        self.traffic.move_on();
        Arc::new(self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Traffic { working, sending, .. } = &*self.traffic;
        let own = if self.answered { sending } else { working };
        own.fetch_sub(1, Ordering::Relaxed);
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
            turn.traffic.move_on();
        }
    }
}
