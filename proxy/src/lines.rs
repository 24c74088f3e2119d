//! Finds line ends in HTTP/1 heads that not everybody takes for one.

use memchr::memchr_iter;

/// Looks at the lines of one head as they come. A lone LF ends a line for some readers and is part of a value for
/// others (RFC 9112, section 2.2): what stands behind it would be a header to one of them only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The byte before those that come next.
    last: u8,
    /// Bytes of the line that is not at its end yet.
    begun: usize,
    /// A line with content has passed: the next empty one ends the head.
    started: bool,
    over: bool,
}

impl Lines {
    /// For bytes that are no head.
    pub fn ended() -> Self {
        Self { over: true, ..Self::default() }
    }

    /// False where a line of the head ends in a lone LF. What stands behind the head is not looked at.
    pub fn accept(&mut self, bytes: &[u8]) -> bool {
        if self.over {
            return true;
        }
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let before = end.checked_sub(1).and_then(|at| bytes.get(at).copied()).unwrap_or(self.last);
            if before != b'\r' {
                return false;
            }
            // Nothing but its CR.
            let empty = self.begun + (end - start) == 1;
            if empty && self.started {
                self.over = true;
                return true;
            }
            self.started |= !empty;
            (self.begun, start) = (0, end + 1);
        }
        self.begun += bytes.len() - start;
        self.last = bytes.last().copied().unwrap_or(self.last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn a_lone_line_feed_is_found_wherever_reads_part() {
        for (text, fine) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\nwith\nlines", true),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\n", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n", true),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", false),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ] {
            let bytes = text.as_bytes();
            for part in 0..=bytes.len() {
                let (first, second) = bytes.split_at(part);
                let mut lines = Lines::default();
                assert_eq!(lines.accept(first) && lines.accept(second), fine, "{text:?} at {part}");
            }
            let mut lines = Lines::default();
            assert_eq!(bytes.chunks(1).all(|byte| lines.accept(byte)), fine, "{text:?} byte by byte");
        }
    }
}
