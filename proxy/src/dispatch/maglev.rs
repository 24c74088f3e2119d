//! Hashes that keep keys and endpoints together: Maglev, rendezvous.

/// Slots of every table: a prime, and always the same, so that a table of more endpoints resembles one of fewer.
const SLOTS: usize = 65_537;

/// FNV-1a: the same in every gateway and version, unlike the hashers of the libraries.
pub fn hash(bytes: &[u8]) -> u64 {
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(mixed)
}

/// Spreads a number over all its bits (`SplitMix64`, Steele et al. 2014).
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A lookup table (Eisenbud et al. 2016, section 3.4).
#[derive(Debug)]
pub struct Maglev(Box<[u16]>);

struct Turns {
    at: u16,
    next: usize,
    skip: usize,
    weight: f64,
    owed: f64,
}

impl Maglev {
    /// A table of `members`: number, hash of the name, weight. `None` where there are none.
    pub fn new(members: impl Iterator<Item = (u16, u64, u32)>) -> Option<Self> {
        let mut members: Vec<(u16, u64, u32)> = members.collect();
        // Their order must not matter.
        members.sort_unstable_by_key(|(_, seed, _)| *seed);
        let heaviest = f64::from(members.iter().map(|(.., weight)| *weight).max()?.max(1));
        let slots = SLOTS as u64;
        let mut turns: Vec<Turns> = members
            .into_iter()
            .map(|(at, seed, weight)| Turns {
                at,
                next: usize::try_from(mix(seed) % slots).unwrap_or(0),
                skip: usize::try_from(mix(!seed) % (slots - 1)).unwrap_or(0) + 1,
                weight: f64::from(weight.max(1)) / heaviest,
                owed: 0.0,
            })
            .collect();
        let mut table: Vec<Option<u16>> = vec![None; SLOTS];
        let mut empty = SLOTS;
        while empty > 0 {
            for turn in &mut turns {
                turn.owed += turn.weight;
                if turn.owed < 1.0 || empty == 0 {
                    continue;
                }
                turn.owed -= 1.0;
                // A prime number of slots: the steps visit every one.
                while let Some(slot) = table.get_mut(turn.next) {
                    turn.next = (turn.next + turn.skip) % SLOTS;
                    if slot.is_none() {
                        *slot = Some(turn.at);
                        empty -= 1;
                        break;
                    }
                }
            }
        }
        Some(Self(table.into_iter().flatten().collect()))
    }

    /// The member for a key.
    pub fn find(&self, key: u64) -> Option<u16> {
        let slot = usize::try_from(key % SLOTS as u64).ok()?;
        self.0.get(slot).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Maglev, hash, mix};

    fn table(names: &[&str], weights: &[u32]) -> Maglev {
        let members = names.iter().zip(weights).zip(0..);
        Maglev::new(members.map(|((name, weight), at)| (at, hash(name.as_bytes()), *weight))).unwrap()
    }

    fn shares(table: &Maglev, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for key in 0..100_000 {
            shares[usize::from(table.find(mix(key)).unwrap())] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_weights() {
        let even = shares(&table(&["a", "b", "c", "d"], &[1; 4]), 4);
        assert!(even.iter().all(|share| (24_000..26_000).contains(share)), "{even:?}");
        let uneven = shares(&table(&["a", "b"], &[3, 1]), 2);
        assert!((74_000..76_000).contains(&uneven[0]), "{uneven:?}");
        assert!(Maglev::new(std::iter::empty()).is_none());
    }

    #[test]
    fn few_keys_move_when_one_leaves() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let (before, after) = (table(&names, &[1; 10]), table(&names[..9], &[1; 9]));
        let moved = (0..100_000).filter(|key| before.find(mix(*key)) != after.find(mix(*key))).count();
        assert!((9_000..14_000).contains(&moved), "{moved}");
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let (one, other) = (table(&["a", "b", "c"], &[1, 2, 3]), table(&["c", "a", "b"], &[3, 1, 2]));
        let swapped = [1, 2, 0];
        for key in (0..1_000).map(mix) {
            assert_eq!(swapped[usize::from(one.find(key).unwrap())], other.find(key).unwrap());
        }
    }
}
