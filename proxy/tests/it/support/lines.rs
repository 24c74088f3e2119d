//! JSON lines that a process writes, waited for as they come.

use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::Value;
use tokio::sync::watch;

use crate::support::{DEADLINE, within};

/// Everything a pipe has told so far.
#[derive(Clone, Debug)]
pub struct Lines {
    texts: Arc<Mutex<Vec<String>>>,
    /// Number of lines, and whether the pipe is at its end.
    seen: watch::Receiver<(usize, bool)>,
}

/// While this is there the pipe is not read, and nothing may be asked of its lines.
#[derive(Debug)]
pub struct Stalled<'a> {
    _texts: MutexGuard<'a, Vec<String>>,
}

impl Lines {
    /// Reads a pipe to its end in a thread.
    pub fn read(pipe: impl Read + Send + 'static) -> Self {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let (sender, seen) = watch::channel((0, false));
        let write = Arc::clone(&texts);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                write.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                sender.send_modify(|(count, _)| *count += 1);
            }
            sender.send_modify(|(_, ended)| *ended = true);
        });
        Self { texts, seen }
    }

    /// Stops reading, behind one line at most, until what this gives is dropped.
    pub fn stall(&self) -> Stalled<'_> {
        Stalled { _texts: self.texts.lock().unwrap() }
    }

    /// All lines so far that are JSON.
    pub fn all(&self) -> Vec<Value> {
        self.texts.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All lines so far, as written.
    pub fn text(&self) -> String {
        let mut all = String::new();
        for line in self.texts.lock().unwrap().iter() {
            writeln!(all, "{line}").unwrap();
        }
        all
    }

    /// The first line that fits; waits for it.
    pub async fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_count(what, 1, fits).await.remove(0)
    }

    /// The first `count` lines that fit; waits for them.
    pub async fn wait_count(&self, what: &str, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let found = self.find_count(what, count, fits).await;
        found.unwrap_or_else(|| panic!("the process ended before {what}:\n{}", self.text()))
    }

    /// The first `count` lines that fit; waits for them. None where the pipe ends before.
    pub async fn find_count(
        &self,
        what: &str,
        count: usize,
        fits: impl Fn(&Value) -> bool,
    ) -> Option<Vec<Value>> {
        let mut seen = self.seen.clone();
        let wait = async {
            loop {
                let (_, ended) = *seen.borrow_and_update();
                let found: Vec<Value> =
                    self.all().into_iter().filter(|line| fits(line)).take(count).collect();
                if found.len() == count {
                    return Some(found);
                }
                if ended {
                    return None;
                }
                // The sender gone means the end, which it has told before.
                let _ = seen.changed().await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, wait).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {what}; there was:\n{}", self.text()))
    }

    /// Waits until the pipe is closed.
    pub async fn ended(&self) {
        let mut seen = self.seen.clone();
        within("the end of the process", async {
            let _ = seen.wait_for(|(_, ended)| *ended).await;
        })
        .await;
    }
}
