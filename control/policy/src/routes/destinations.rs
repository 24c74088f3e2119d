//! Where redirected connections of an application may go.

use ahash::AHashMap;

/// What the routes of all outbound listeners lead to.
#[derive(Debug, Default)]
pub struct Destinations {
    /// By port of the listener, in the order of the documents.
    ports: AHashMap<u16, Vec<Known>>,
}

/// An upstream that a route of the listener leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Index into [`crate::snapshot::Snapshot::upstreams`].
    pub upstream: usize,
    /// The port that connections must mean; any where absent.
    pub port: Option<u16>,
    /// Index into [`crate::routes::streams::StreamTable::all`]; none where requests are read.
    pub stream: Option<usize>,
}

impl Destinations {
    /// Makes an upstream known; gives the route of connections that has it already.
    pub fn add(&mut self, listener: u16, known: Known) -> Option<usize> {
        let all = self.ports.entry(listener).or_default();
        let twin = |other: &&Known| {
            other.upstream == known.upstream
                && other.stream.is_some() == known.stream.is_some()
                && (other.port.is_none() || known.port.is_none() || other.port == known.port)
        };
        let taken =
            known.stream.and_then(|stream| all.iter().find(twin)?.stream.filter(|other| *other != stream));
        if taken.is_none() && !all.contains(&known) {
            all.push(known);
        }
        taken
    }

    /// All that is known, by port of the listener.
    pub fn listeners(&self) -> impl Iterator<Item = (u16, &[Known])> {
        self.ports.iter().map(|(port, all)| (*port, all.as_slice()))
    }

    /// Whatever connections to `port` may mean that came in on this port of a listener.
    pub fn of(&self, listener: u16, port: u16) -> impl Iterator<Item = Known> + '_ {
        let all = self.ports.get(&listener).map(Vec::as_slice).unwrap_or_default();
        all.iter().copied().filter(move |known| known.port.is_none_or(|named| named == port))
    }
}

#[cfg(test)]
mod tests {
    use super::{Destinations, Known};

    #[test]
    fn an_upstream_belongs_to_one_route_of_connections() {
        let mut all = Destinations::default();
        let known = |upstream, port, stream| Known { upstream, port, stream };
        assert_eq!(all.add(15_001, known(0, None, Some(7))), None);
        assert_eq!(all.add(15_001, known(0, None, Some(7))), None);
        assert_eq!(all.add(15_001, known(0, Some(5432), Some(8))), Some(7));
        assert_eq!(all.add(15_001, known(0, None, None)), None, "requests are told apart");
        assert_eq!(all.add(15_001, known(1, Some(80), None)), None);
        let of = |listener, port| all.of(listener, port).map(|known| known.upstream).collect::<Vec<_>>();
        assert_eq!((of(15_001, 80), of(15_001, 81), of(15_002, 80)), (vec![0, 0, 1], vec![0, 0], vec![]));
    }
}
