//! A small DNS server that answers as a test wants.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::support::within;

const A: u16 = 1;
const SRV: u16 = 33;

/// What the server says of one name.
#[derive(Clone, Debug)]
pub enum Said {
    Addresses(Vec<Ipv4Addr>),
    /// Priority, weight, port, target.
    Services(Vec<(u16, u16, u16, String)>),
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, Said>,
    /// SERVFAIL to everything.
    fails: bool,
    /// No answer to questions for these.
    silent: HashSet<String>,
    questions: HashMap<String, usize>,
}

/// A server on a free port of 127.0.0.1; ends when dropped. Its answers live for one second.
#[derive(Debug)]
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&buffer[..length], &mut shared.lock().unwrap());
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, state, task }
    }

    pub fn say(&self, name: &str, said: Said) {
        self.state.lock().unwrap().names.insert(name.to_owned(), said);
    }

    /// Everything fails from now on, or no longer.
    pub fn fail(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// Questions for this name are not answered any more.
    pub fn keep_silent(&self, name: &str) {
        self.state.lock().unwrap().silent.insert(name.to_owned());
    }

    /// Questions so far.
    pub fn questions(&self) -> usize {
        self.state.lock().unwrap().questions.values().sum()
    }

    /// Waits until a name was asked for so many times more.
    pub async fn asked_again(&self, name: &str, more: usize) {
        let count = || self.state.lock().unwrap().questions.get(name).copied().unwrap_or(0);
        let wanted = count() + more;
        within("questions", async {
            while count() < wanted {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to one message (RFC 1035, section 4).
fn answer(message: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let question = message.get(12..at + 4)?;
    let kind = u16::from_be_bytes([message[at], message[at + 1]]);
    let name = labels.join(".");
    *state.questions.entry(name.clone()).or_default() += 1;
    if state.silent.contains(&name) {
        return None;
    }
    let said = state.names.get(&name);
    let code: u8 = match said {
        _ if state.fails => 2,
        None => 3,
        Some(_) => 0,
    };
    let records: Vec<Vec<u8>> = match (said, kind) {
        _ if code != 0 => Vec::new(),
        (Some(Said::Addresses(addresses)), A) => {
            addresses.iter().map(|address| address.octets().to_vec()).collect()
        }
        (Some(Said::Services(services)), SRV) => services.iter().map(service).collect(),
        _ => Vec::new(),
    };
    let mut answer = message[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for record in records {
        // The name of the question, its type, IN, one second.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 1]);
        answer.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        answer.extend(record);
    }
    Some(answer)
}

fn service((priority, weight, port, target): &(u16, u16, u16, String)) -> Vec<u8> {
    let mut record = Vec::new();
    for number in [priority, weight, port] {
        record.extend(number.to_be_bytes());
    }
    for label in target.split('.') {
        record.push(u8::try_from(label.len()).unwrap());
        record.extend(label.as_bytes());
    }
    record.push(0);
    record
}
