//! Which server of a cluster keeps which key, as slots and servers change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foregate_policy::snapshot::Endpoint;
use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::store::error::StoreError;
use crate::store::link::Task;
use crate::store::node::{Circuit, Node, Refused, before};
use crate::store::settings::Settings;

/// Slots of every cluster (Redis Cluster Specification).
const SLOTS: u16 = 16_384;

/// Servers of one cluster that are connected to at most.
const MAX_NODES: usize = 1_000;

/// The cluster is looked at so often where nothing says that it changed.
const LOOK: Duration = Duration::from_secs(15);

/// Between two looks at least: many answers may say that it changed.
const LEAST: Duration = Duration::from_millis(100);

/// For one answer about the cluster.
const ANSWER: Duration = Duration::from_secs(1);

/// No server keeps this slot.
const NOBODY: u16 = u16::MAX;

/// The servers of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    state: Arc<State>,
    _keeper: Task,
}

#[derive(Debug)]
struct State {
    settings: Arc<Settings>,
    runtime: Handle,
    map: ArcSwap<Map>,
    nodes: Mutex<HashMap<Endpoint, Arc<Node>>>,
    changed: Notify,
    known: watch::Sender<bool>,
}

/// Who keeps which slot.
#[derive(Debug, Default)]
struct Map {
    /// A place in `nodes` for each slot; empty before the first look.
    slots: Vec<u16>,
    nodes: Vec<Arc<Node>>,
}

impl Cluster {
    pub(super) fn new(settings: Arc<Settings>, runtime: &Handle) -> Self {
        let state = Arc::new(State {
            settings,
            runtime: runtime.clone(),
            map: ArcSwap::default(),
            nodes: Mutex::default(),
            changed: Notify::new(),
            known: watch::Sender::new(false),
        });
        let keeper = Task(runtime.spawn(Arc::clone(&state).keep()));
        Self { state, _keeper: keeper }
    }

    /// The server of a slot, as far as is known.
    fn node(&self, slot: u16) -> Option<Arc<Node>> {
        self.state.map.load().node(slot)
    }

    /// Those that keep slots.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.state.map.load().nodes.clone()
    }

    /// One command about keys of one slot, answered before `until`, a monotonic time. Goes once more where the slot has
    /// moved, and not for anything else.
    pub(super) async fn ask(&self, slot: u16, command: &Cmd, until: Duration) -> Result<Value, Refused> {
        let state = &self.state;
        if !*state.known.borrow() {
            let mut known = state.known.subscribe();
            // The sender lives in the state.
            let _ = before(until, known.wait_for(|known| *known)).await.ok_or(StoreError::Timeout)?;
        }
        let Some(node) = self.node(slot) else {
            state.changed.notify_one();
            return Err(StoreError::Cluster("no server keeps the slot".into()).into());
        };
        let refused = match node.ask(command, until).await {
            Ok(value) => return Ok(value),
            Err(refused) => refused,
        };
        let Some((code, server)) = refused.redirection(&node) else {
            if matches!(refused.why, StoreError::Connection(_) | StoreError::Open(_) | StoreError::ReadOnly) {
                state.changed.notify_one();
            }
            return Err(refused);
        };
        state.changed.notify_one();
        let Some(node) = state.node_at(&server) else { return Err(refused) };
        if code == "ASK" {
            // The slot is on its way: only this one request goes there.
            let mut commands = redis::pipe();
            commands.cmd("ASKING").add_command(command.clone());
            return node.ask_all(&commands, until).await;
        }
        node.ask(command, until).await
    }
}

impl Refused {
    /// Where the server sends us instead, and by which word.
    fn redirection(&self, asked: &Node) -> Option<(&'static str, Endpoint)> {
        let error = self.error.as_ref()?;
        let code = match error.code()? {
            "MOVED" => "MOVED",
            "ASK" => "ASK",
            _ => return None,
        };
        // Address and slot.
        let (address, _) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = if host.is_empty() { &*asked.server()?.host } else { host };
        Some((code, endpoint(host, port)))
    }
}

impl Map {
    fn node(&self, slot: u16) -> Option<Arc<Node>> {
        let place = *self.slots.get(usize::from(slot % SLOTS))?;
        self.nodes.get(usize::from(place)).cloned()
    }
}

impl State {
    fn nodes(&self) -> MutexGuard<'_, HashMap<Endpoint, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_at(&self, server: &Endpoint) -> Option<Arc<Node>> {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get(server) {
            return Some(Arc::clone(node));
        }
        if nodes.len() >= MAX_NODES {
            return None;
        }
        let node = Node::new(Arc::clone(&self.settings), vec![server.clone()], &self.runtime);
        let node = Arc::new(node);
        nodes.insert(server.clone(), Arc::clone(&node));
        Some(node)
    }

    /// Looks at the cluster again and again.
    async fn keep(self: Arc<Self>) {
        loop {
            let found = Box::pin(self.look()).await;
            if let Some(map) = found {
                let keep: Vec<Endpoint> =
                    map.nodes.iter().filter_map(|node| node.server().cloned()).collect();
                self.nodes().retain(|server, _| keep.contains(server));
                self.map.store(Arc::new(map));
                self.known.send_replace(true);
            }
            sleep(LEAST).await;
            // Until there is a map, nothing can say that it changed.
            let rest = if *self.known.borrow() { LOOK } else { LEAST };
            let _ = timeout(rest, self.changed.notified()).await;
        }
    }

    /// Asks those that are known, then those that the document names; the first whole answer counts.
    async fn look(&self) -> Option<Map> {
        let mut servers: Vec<Endpoint> = {
            let nodes = self.nodes();
            let up = nodes.iter().filter(|(_, node)| node.circuit() == Circuit::Closed);
            up.map(|(server, _)| server.clone()).collect()
        };
        let named = self.settings.servers.iter();
        servers.extend(named.map(|server| endpoint(&server.host, server.port)));
        for server in servers {
            let Some(node) = self.node_at(&server) else { continue };
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            if let Ok(Ok(answer)) = timeout(ANSWER, node.ask(&command, Duration::MAX)).await
                && let Some(map) = self.map_of(&answer, &server.host)
            {
                return Some(map);
            }
        }
        None
    }

    /// `[[first, last, [host, port, id, ..], replicas..]..]`; `None` where it is something else, or names nobody.
    fn map_of(&self, answer: &Value, asked: &str) -> Option<Map> {
        let Value::Array(ranges) = answer else { return None };
        let mut map = Map { slots: vec![NOBODY; usize::from(SLOTS)], nodes: Vec::new() };
        let mut places: HashMap<Endpoint, u16> = HashMap::new();
        for range in ranges {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &**parts else {
                return None;
            };
            let [host, Value::Int(port), ..] = &**primary else { return None };
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                // The server does not know its own name.
                Value::Nil => "",
                _ => return None,
            };
            let host = if host.is_empty() || host == "?" { asked } else { host };
            let server = endpoint(host, u16::try_from(*port).ok()?);
            let place = if let Some(place) = places.get(&server) {
                *place
            } else {
                let place = u16::try_from(map.nodes.len()).ok()?;
                map.nodes.push(self.node_at(&server)?);
                places.insert(server, place);
                place
            };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            map.slots.get_mut(first..=last)?.fill(place);
        }
        (!map.nodes.is_empty()).then_some(map)
    }
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.into(), port, weight: 1, zone: None, priority: 0 }
}

/// The slot of a key: CRC-16 (XMODEM) of what stands between its first braces, or of all of it.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc =
        hashed.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            })
        });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn slots_are_those_of_the_specification() {
        // `CLUSTER KEYSLOT` of a Redis 7.0.
        for (key, expected) in [
            ("123456789", 0x31c3),
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("a{foo}{bar}", 12_182),
            ("foo{}", 5_542),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }
}
