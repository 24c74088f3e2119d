//! All clients known by key, found by the public part of what they send.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use subtle::Choice;

use crate::api_key::key::{Digest, prefix};
use crate::consumer::Consumer;
use crate::timestamp::Timestamp;

/// A key or client secret, as its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    pub digest: Digest,
    /// From then on it is refused; never where absent.
    pub expires: Option<Timestamp>,
}

/// A client that sends an id and a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId {
    pub id: Box<str>,
    pub secrets: Vec<Secret>,
}

/// What one `Consumer` document says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registration {
    pub consumer: Consumer,
    /// Keys by their public part.
    pub keys: Vec<(Box<str>, Secret)>,
    pub client: Option<ClientId>,
}

/// Most secrets of one client, and what an unknown one costs as well.
pub const MAX_SECRETS: usize = 2;

/// Why no consumer could be told; for the operator only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no key of any consumer begins so")]
    Key,
    #[error("no consumer has this client id")]
    Client,
    #[error("the public part is known, and the secret part is wrong")]
    Secret,
    #[error("the key has expired")]
    Expired,
}

/// An immutable index; the same work is done for known and unknown keys.
#[derive(Debug, Default)]
pub struct Consumers {
    keys: AHashMap<Box<str>, (Arc<Consumer>, [Secret; MAX_SECRETS])>,
    clients: AHashMap<Box<str>, (Arc<Consumer>, [Secret; MAX_SECRETS])>,
}

/// Stands for a secret that is not there.
const NOBODY: Secret = Secret { digest: Digest::nobody(), expires: None };

impl Consumers {
    /// Indexes what was registered. Of two with one public part or id, the first stays.
    pub fn new(all: impl IntoIterator<Item = Registration>) -> Self {
        let mut this = Self::default();
        for Registration { consumer, keys, client } in all {
            let consumer = Arc::new(consumer);
            for (prefix, key) in keys {
                this.keys.entry(prefix).or_insert_with(|| (Arc::clone(&consumer), [key, NOBODY]));
            }
            if let Some(ClientId { id, secrets }) = client {
                let mut slots = [NOBODY; MAX_SECRETS];
                slots.iter_mut().zip(secrets).for_each(|(slot, secret)| *slot = secret);
                this.clients.entry(id).or_insert((consumer, slots));
            }
        }
        this
    }

    /// The consumer whose key this is; `unix` is the time of the request.
    pub fn by_key(&self, key: &str, unix: Duration) -> Result<&Arc<Consumer>, Unknown> {
        let entry = prefix(key).and_then(|prefix| self.keys.get(prefix));
        prove(entry, &Digest::of_key(key), unix, Unknown::Key)
    }

    /// The consumer with this client id, where the secret is one of its own.
    pub fn by_client(&self, id: &str, secret: &str, unix: Duration) -> Result<&Arc<Consumer>, Unknown> {
        prove(self.clients.get(id), &Digest::of_secret(id, secret), unix, Unknown::Client)
    }
}

/// Compares with every secret of the entry, or with as many of nobody.
fn prove<'a>(
    entry: Option<&'a (Arc<Consumer>, [Secret; MAX_SECRETS])>,
    digest: &Digest,
    unix: Duration,
    unknown: Unknown,
) -> Result<&'a Arc<Consumer>, Unknown> {
    let secrets = entry.map_or(&[NOBODY; MAX_SECRETS], |(_, secrets)| secrets);
    let (mut known, mut valid) = (Choice::from(0), Choice::from(0));
    for secret in secrets {
        let same = secret.digest.same(digest);
        let alive = !secret.expires.is_some_and(|expires| expires.is_past(unix));
        known |= same;
        valid |= same & Choice::from(u8::from(alive));
    }
    match entry {
        None => Err(unknown),
        Some((consumer, _)) if bool::from(valid) => Ok(consumer),
        Some(_) if bool::from(known) => Err(Unknown::Expired),
        Some(_) => Err(Unknown::Secret),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ClientId, Consumers, Registration, Secret, Unknown};
    use crate::api_key::key::{Digest, key, prefix};
    use crate::consumer::Consumer;

    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn secret(digest: Digest, expires: Option<&str>) -> Secret {
        Secret { digest, expires: expires.map(|text| text.parse().unwrap()) }
    }

    #[test]
    fn keys_are_found_by_their_public_part_and_proved_by_the_rest() {
        let (good, old) = (key(&[1; 8], &[2; 32]), key(&[3; 8], &[4; 32]));
        let entry =
            |text: &str, expires| (prefix(text).unwrap().into(), secret(Digest::of_key(text), expires));
        let consumer = Consumer { name: "sales".into(), ..Consumer::default() };
        let keys = vec![entry(&good, None), entry(&old, Some("2026-09-21T14:13:20Z"))];
        let all = Consumers::new([Registration { consumer, keys, client: None }]);
        assert_eq!(&*all.by_key(&good, NOW).unwrap().name, "sales");
        assert_eq!(
            &*all.by_key(&old, NOW.checked_sub(Duration::from_secs(1)).unwrap()).unwrap().name,
            "sales"
        );
        assert_eq!(all.by_key(&old, NOW), Err(Unknown::Expired));
        assert_eq!(all.by_key(&key(&[1; 8], &[5; 32]), NOW), Err(Unknown::Secret));
        assert_eq!(all.by_key(&key(&[9; 8], &[2; 32]), NOW), Err(Unknown::Key));
        assert_eq!(all.by_key("", NOW), Err(Unknown::Key));
        // Nothing hashes to what stands for nobody.
        assert_eq!(Consumers::default().by_key(&good, NOW), Err(Unknown::Key));
    }

    #[test]
    fn clients_may_have_two_secrets_at_once() {
        let digest = |text: &str| Digest::of_secret("mule", text);
        let secrets = vec![secret(digest("old"), Some("2027-01-01T00:00:00Z")), secret(digest("new"), None)];
        let client = Some(ClientId { id: "mule".into(), secrets });
        let all = Consumers::new([Registration { client, ..Registration::default() }]);
        assert!(all.by_client("mule", "old", NOW).is_ok() && all.by_client("mule", "new", NOW).is_ok());
        assert_eq!(all.by_client("mule", "old", NOW * 2), Err(Unknown::Expired));
        assert_eq!(all.by_client("mule", "", NOW), Err(Unknown::Secret));
        assert_eq!(all.by_client("mul", "enew", NOW), Err(Unknown::Client));
    }
}
