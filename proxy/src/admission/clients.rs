//! How many connections one client address may have open.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::AHashMap;
use tokio::sync::OwnedSemaphorePermit;

/// Bits of an IPv6 address that tell one client from another: a host has a whole /64 to choose from (RFC 4291).
const IPV6_SITE: u32 = 64;

/// Open connections by client address. It remembers nobody without one.
#[derive(Debug)]
pub struct Clients {
    most: usize,
    open: Mutex<AHashMap<IpAddr, usize>>,
    refused: AtomicU64,
}

/// One connection of a client; counted until dropped.
#[derive(Debug)]
pub struct Counted {
    clients: Arc<Clients>,
    address: IpAddr,
}

/// All that a connection takes of what there is; free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    _permits: [OwnedSemaphorePermit; 2],
    client: Option<Counted>,
}

impl Seat {
    /// `permits`: of its listener and of the process.
    /// Without a client it is not known yet whose it is.
    pub fn new(permits: [OwnedSemaphorePermit; 2], client: Option<Counted>) -> Self {
        Self { _permits: permits, client }
    }

    /// Counts the connection as one of this address; false where that has too many.
    pub fn count(&mut self, clients: &Arc<Clients>, address: IpAddr) -> bool {
        self.client = clients.count(address);
        self.client.is_some()
    }
}

/// The addresses that count as one client.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> IPV6_SITE << IPV6_SITE).into()),
        address @ IpAddr::V4(_) => address,
    }
}

impl Clients {
    /// `most`: connections of one address at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default(), refused: AtomicU64::new(0) })
    }

    fn open(&self) -> MutexGuard<'_, AHashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection; `None` where its client has too many.
    pub fn count(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let address = site(address);
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= self.most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        Some(Counted { clients: Arc::clone(self), address })
    }

    /// Connections that were refused, until now.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clients;

    #[test]
    fn each_address_has_its_own_bound_and_a_site_has_one() {
        let clients = Clients::new(2);
        let count = |address: &str| clients.count(address.parse().unwrap());
        let first = count("192.0.2.1").unwrap();
        let _mapped = count("::ffff:192.0.2.1").unwrap();
        assert!(count("192.0.2.1").is_none());
        let _other = count("192.0.2.2").unwrap();
        drop(first);
        let _again = count("192.0.2.1").unwrap();
        let site = [count("2001:db8::1").unwrap(), count("2001:db8::2").unwrap()];
        assert!(count("2001:db8::3").is_none());
        assert!(count("2001:db8:0:1::3").is_some());
        drop(site);
        assert_eq!(clients.refused(), 2);
        assert_eq!(clients.open().len(), 2, "nobody is remembered without a connection");
    }
}
