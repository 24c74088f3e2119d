//! Faults that no client hears of, told to the operator now and then.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;

/// Between two complaints of one kind, however often it happens.
const PAUSE: Duration = Duration::from_secs(10);

/// What is complained of.
#[derive(Clone, Copy, Debug)]
pub enum Complaint {
    /// The operating system gives no connection, as where files run out.
    Accept,
    /// A client that could not agree on TLS, or took too long.
    Handshake,
}

/// Where complaints go.
#[derive(Debug)]
pub struct Complaints {
    tell: fn(&str),
    last: [Mutex<Option<Stopwatch>>; 2],
}

impl Complaints {
    pub fn new(tell: fn(&str)) -> Self {
        Self { tell, last: Default::default() }
    }

    /// Tells of it, where the last time is long enough ago.
    pub fn note(&self, complaint: Complaint, fault: &dyn Display) {
        let Some(last) = self.last.get(complaint as usize) else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Stopwatch::start());
        drop(last);
        let what = match complaint {
            Complaint::Accept => "no connection is accepted",
            Complaint::Handshake => "a TLS handshake failed",
        };
        (self.tell)(&format!("{what}: {fault}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaint, Complaints};
    use std::sync::Mutex;

    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn what_goes_on_happening_is_told_once_in_a_while() {
        let complaints = Complaints::new(|line| TOLD.lock().unwrap().push(line.to_owned()));
        for _ in 0..3 {
            complaints.note(Complaint::Handshake, &"no certificate");
        }
        complaints.note(Complaint::Accept, &"too many open files");
        let told = TOLD.lock().unwrap();
        assert_eq!(
            *told,
            ["a TLS handshake failed: no certificate", "no connection is accepted: too many open files"]
        );
    }
}
