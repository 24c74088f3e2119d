//! Tells a flood of HTTP/2 frames from a conversation.
//!
//! The codec bounds what frames leave behind; what it does not bound is how many come to no purpose: each is cheap to
//! send and costs this side more (CVE-2019-9512, 9513, 9515, 9518). A connection has a credit of such frames. Requests,
//! data and whatever is written to the client add to it, so that windows, pings and priorities that go with a
//! conversation never use it up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Connections that were ended for their floods.
pub static FLOODS: AtomicU64 = AtomicU64::new(0);

/// Frames to no purpose in one [`INTERVAL`].
const CREDIT: u32 = 2_000;

/// Time after which the whole credit is given anew.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a request adds: its window updates, its priority, its end.
const REQUEST: u32 = 2;

/// Bytes written that add one: a piece of data, however small, is answered with two window updates. The
/// acknowledgement of a ping or of settings is shorter, and does not pay for the next one.
const WRITTEN: u32 = 32;

/// The connection preface comes before the first frame (RFC 9113, section 3.4).
const PREFACE: u32 = 24;

/// Bytes of a frame before its payload (RFC 9113, section 4.1).
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// GOAWAY with the code `ENHANCE_YOUR_CALM`, for whichever streams there were (RFC 9113, sections 6.8 and 7).
pub const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0b";

/// Follows the frames that come from a client.
#[derive(Debug)]
pub struct Frames {
    head: [u8; HEAD],
    /// Bytes of the current head that have come.
    have: usize,
    /// Bytes of payload, or of the preface, that are still to come.
    left: u32,
    credit: u32,
    /// Bytes written that have added nothing yet.
    written: u32,
    /// When the credit was last given, on the monotonic clock.
    since: Duration,
}

impl Frames {
    /// Of a connection that begins at this monotonic time.
    pub fn new(now: Duration) -> Self {
        Self { head: [0; HEAD], have: 0, left: PREFACE, credit: CREDIT, written: 0, since: now }
    }

    /// Bytes came; true where they are part of a flood. The monotonic time is asked for only where the credit is
    /// used up.
    pub fn came(&mut self, bytes: &[u8], now: impl FnOnce() -> Duration) -> bool {
        if self.pass(bytes) {
            return false;
        }
        let now = now();
        let flood = now.saturating_sub(self.since) < INTERVAL;
        (self.since, self.credit) = (now, CREDIT);
        FLOODS.fetch_add(u64::from(flood), Ordering::Relaxed);
        flood
    }

    /// Bytes were written to the client.
    pub fn wrote(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(self.written);
        self.written = bytes % WRITTEN;
        self.add(bytes / WRITTEN);
    }

    fn add(&mut self, more: u32) {
        self.credit = self.credit.saturating_add(more).min(CREDIT);
    }

    /// False where the credit is used up.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut enough = true;
        while !bytes.is_empty() {
            let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            bytes = bytes.get(skipped..).unwrap_or_default();
            let taken = bytes.len().min(HEAD - self.have);
            let (part, rest) = bytes.split_at(taken);
            if let Some(place) = self.head.get_mut(self.have..self.have + taken) {
                place.copy_from_slice(part);
            }
            self.have += taken;
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                enough &= self.frame();
            }
        }
        enough
    }

    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, ..] = self.head;
        self.left = u32::from_be_bytes([0, high, middle, low]);
        match kind {
            HEADERS => self.add(REQUEST),
            // An empty one that ends its stream comes once a request; the codec counts small ones.
            DATA if self.left > 0 => self.add(1),
            _ => match self.credit.checked_sub(1) {
                Some(less) => self.credit = less,
                None => return false,
            },
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CREDIT, Frames, INTERVAL, PREFACE};

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    const NOW: Duration = Duration::from_secs(100);

    fn started() -> Frames {
        let mut frames = Frames::new(NOW);
        assert!(!came(&mut frames, &[0; PREFACE as usize]));
        frames
    }

    fn came(frames: &mut Frames, bytes: &[u8]) -> bool {
        frames.came(bytes, || NOW)
    }

    const PING: u8 = 6;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let text = [frame(PING, &[0; 8]), frame(0, &[1; 300]), frame(4, &[]), frame(8, &[9; 4])].concat();
        for step in [1, 2, 7, 9, text.len()] {
            let mut frames = started();
            for piece in text.chunks(step) {
                assert!(!came(&mut frames, piece));
            }
            // Three cost one each, and the data gave one back.
            assert_eq!((frames.credit, frames.have, frames.left), (CREDIT - 2, 0, 0), "{step}");
        }
    }

    #[test]
    fn a_flood_is_found_within_its_interval_only() {
        for kind in [2, 3, 4, PING, 8, 9, 0, 0xfe] {
            let mut frames = started();
            let one = frame(kind, &[]);
            assert!(!came(&mut frames, &one.repeat(CREDIT as usize)), "{kind}");
            assert!(came(&mut frames, &one), "{kind}");
            let mut patient = started();
            assert!(!came(&mut patient, &one.repeat(CREDIT as usize)), "{kind}");
            assert!(!patient.came(&one, || NOW + INTERVAL), "{kind}");
        }
    }

    #[test]
    fn acknowledgements_do_not_pay_for_the_flood_they_answer() {
        let mut frames = started();
        let ping = frame(PING, &[0; 8]);
        let flooded = (0..3 * CREDIT).any(|_| {
            frames.wrote(17);
            came(&mut frames, &ping)
        });
        assert!(flooded);
    }

    #[test]
    fn a_conversation_is_none() {
        let mut frames = started();
        let (request, update) = (frame(1, &[0; 40]), frame(8, &[0, 0, 0, 9]));
        for _ in 0..5 * CREDIT {
            assert!(!came(&mut frames, &request));
            frames.wrote(60);
            assert!(!came(&mut frames, &update.repeat(2)));
            // One piece of a stream of events, and a client that updates both windows for each.
            frames.wrote(9 + 60);
            assert!(!came(&mut frames, &update.repeat(2)));
        }
    }
}
