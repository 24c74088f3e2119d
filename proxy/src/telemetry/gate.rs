//! A reader of lines that takes them when a test lets it.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Tells of each write, and waits until it may go on.
pub struct Gate {
    entered: Sender<()>,
    open: Receiver<io::Result<()>>,
    text: Arc<Mutex<Vec<u8>>>,
}

/// The other end of a [`Gate`].
pub struct Keeper {
    /// Something for each write that has begun.
    pub entered: Receiver<()>,
    /// What becomes of the next write; dropped, all go on.
    pub open: Sender<io::Result<()>>,
    /// What was written.
    pub text: Arc<Mutex<Vec<u8>>>,
}

impl Gate {
    pub fn new() -> (Self, Keeper) {
        let ((entered, seen), (open, wait), text) = (channel(), channel(), Arc::<Mutex<Vec<u8>>>::default());
        let gate = Self { entered, open: wait, text: Arc::clone(&text) };
        (gate, Keeper { entered: seen, open, text })
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.entered.send(()).ok();
        // Once the test lets go of its end, the gate stays open.
        self.open.recv().unwrap_or(Ok(()))?;
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
