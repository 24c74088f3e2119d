//! Which endpoint a connection goes to that is passed on unread.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::streams::{OPEN, parrot, tcp};
use crate::support::process::{Foregate, Options};
use crate::support::within;

fn quoted(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join("\", \"")
}

/// A connection from one of many addresses of this machine, and the name that it was greeted with.
async fn greeted(address: SocketAddr, from: u8) -> (TcpStream, char) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
    let mut stream = within("a connection", socket.connect(address)).await.unwrap();
    let mut greeting = [0; 2];
    within("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    (stream, char::from(greeting[0]))
}

#[tokio::test]
async fn connections_that_are_open_count() {
    for policy in ["LeastRequest", "PeakEwma"] {
        let upstreams = [parrot("a").await, parrot("b").await];
        let endpoints = quoted(&[upstreams[0].address, upstreams[1].address]);
        let more = format!(", loadBalancing: {{ policy: {policy} }}");
        let gateway = Foregate::start(&tcp(endpoints, &more, OPEN), Options::default()).await;
        let address = gateway.address("edge/tcp");
        let mut open: HashMap<char, Vec<TcpStream>> = HashMap::new();
        for _ in 0..60 {
            let (stream, name) = greeted(address, 1).await;
            open.entry(name).or_default().push(stream);
        }
        let (a, b) = (open[&'a'].len(), open[&'b'].len());
        if policy == "LeastRequest" {
            assert!(a.abs_diff(b) <= 1, "{a} and {b}");
        }
        // What has ended counts no more: the other end gets all until it has as many.
        drop(open.remove(&'b'));
        let closed = "foregate_connections_open{listener=\"edge/tcp\"}";
        let left = f64::from(u32::try_from(a).unwrap());
        gateway.wait_sample(closed, |count| count <= left).await;
        if policy == "LeastRequest" {
            for number in 0..a - 1 {
                let (stream, name) = greeted(address, 1).await;
                assert_eq!(name, 'b', "number {number} of {a}");
                open.entry(name).or_default().push(stream);
            }
        }
        // Times are weighed as well: on a busy machine one end may look ten times as slow as the other.
        let least = if policy == "PeakEwma" { 3 } else { 10 };
        assert!(a > least && b > least, "{policy}: {a} and {b}");
    }
}

#[tokio::test]
async fn connections_of_one_address_go_to_one_endpoint() {
    let mut upstreams = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        upstreams.push(parrot(name).await);
    }
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    let more = ", loadBalancing: { policy: Maglev }";
    let gateway = Foregate::start(&tcp(quoted(&addresses), more, OPEN), Options::default()).await;
    let address = gateway.address("edge/tcp");
    let mut all = HashSet::new();
    for from in 1..=30 {
        let mut seen = HashSet::new();
        for _ in 0..4 {
            seen.insert(greeted(address, from).await.1);
        }
        assert_eq!(seen.len(), 1, "127.0.0.{from}: {seen:?}");
        all.extend(seen);
    }
    assert!(all.len() >= 3, "addresses are spread: {all:?}");
}
