//! Which bodies a canary decides about: the same record, the same version.

use std::hash::Hasher;

use foregate_filters::json::{Container, Kind, Malformed, Scalar, Text, Visitor, walk};
use siphasher::sip::SipHasher13;

/// Bodies are counted in so many parts: a hundredth of a per cent each.
const PARTS: u64 = 10_000;
/// Letters of a Salesforce id with its checksum, and without.
const LONG_ID: usize = 18;
const SHORT_ID: usize = 15;

/// A part of all records, the same in every process.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Hundredths of a per cent.
    parts: u64,
    /// Other canaries are given other records.
    salt: SipHasher13,
}

impl Share {
    pub(super) fn new(model: &str, version: &str, parts: u32) -> Self {
        let mut salt = SipHasher13::new_with_keys(0, 0);
        for name in [model, version] {
            salt.write(name.as_bytes());
            salt.write_u8(0xff);
        }
        Self { parts: parts.into(), salt }
    }

    /// True for bodies within the share. A larger share holds all of a smaller one.
    ///
    /// The `Id` that stands least deep decides, of several the first: so all records of a body go the same way.
    /// A body without one, or one that cannot be read, goes by its bytes.
    pub(super) fn holds(&self, body: &[u8]) -> bool {
        let mut ids = Ids::default();
        let read = walk(body, &mut ids).is_ok();
        let key = ids.best.filter(|_| read).map_or(body, |(_, id)| id.as_bytes());
        let mut hash = self.salt;
        hash.write(key);
        hash.finish() % PARTS < self.parts
    }
}

/// Looks for the `Id` of a record.
#[derive(Default)]
struct Ids<'a> {
    /// Containers that are open.
    depth: u32,
    /// The member that comes next is an `Id`.
    named: bool,
    /// How deep it stands, and what it says.
    best: Option<(u32, &'a str)>,
}

impl<'a> Visitor<'a> for Ids<'a> {
    type Error = Malformed;

    fn begin(&mut self, _: Container, _: usize, depth: u32) -> Result<(), Malformed> {
        self.depth = depth + 1;
        self.named = false;
        Ok(())
    }

    fn end(&mut self, _: Container, _: usize, depth: u32) -> Result<(), Malformed> {
        self.depth = depth;
        Ok(())
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), Malformed> {
        self.named = key.raw.eq_ignore_ascii_case("id");
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Malformed> {
        let named = std::mem::take(&mut self.named) && scalar.kind == Kind::String && !scalar.raw.is_empty();
        if named && self.best.is_none_or(|(depth, _)| self.depth < depth) {
            // The long form of an id is the short one with a checksum behind it.
            let short = scalar.raw.get(..SHORT_ID).filter(|_| scalar.raw.len() == LONG_ID);
            self.best = Some((self.depth, short.unwrap_or(scalar.raw)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Share;

    /// One body in two.
    fn half() -> Share {
        Share::new("lead-score", "v2", 5_000)
    }

    #[test]
    fn the_id_decides_wherever_it_stands_and_whatever_is_beside_it() {
        for number in 0..64 {
            let id = format!("00Q5g00000abc{number:02}");
            let expected = half().holds(format!(r#"{{"Id":"{id}"}}"#).as_bytes());
            for body in [
                format!(r#"{{"LastName":"a","id":"{id}"}}"#),
                format!(r#"{{"Id":"{id}AAQ"}}"#),
                format!(r#"{{"Owner":{{"Id":"005"}},"Id":"{id}"}}"#),
                format!(r#"{{"records":[{{"Owner":{{"Id":"005"}},"Id":"{id}"}},{{"Id":"00Q"}}]}}"#),
                format!(r#"{{"compositeRequest":[{{"body":{{"Id":"{id}"}}}}]}}"#),
            ] {
                assert_eq!(half().holds(body.as_bytes()), expected, "{body}");
            }
        }
    }

    #[test]
    fn a_share_is_as_large_as_it_says_and_holds_every_smaller_one() {
        let share = |parts| Share::new("lead-score", "v2", parts);
        let bodies: Vec<String> =
            (0..20_000).map(|number| format!(r#"{{"Email":"{number}@a.example"}}"#)).collect();
        let count = |share: &Share| bodies.iter().filter(|body| share.holds(body.as_bytes())).count();
        assert!((1_800..2_200).contains(&count(&share(1_000))), "{}", count(&share(1_000)));
        assert!((100..320).contains(&count(&share(100))), "{}", count(&share(100)));
        for body in &bodies {
            assert!(!share(1_000).holds(body.as_bytes()) || share(2_000).holds(body.as_bytes()), "{body}");
        }
        let other = Share::new("lead-score", "v3", 1_000);
        let both = bodies.iter().filter(|it| share(1_000).holds(it.as_bytes()) && other.holds(it.as_bytes()));
        assert!(both.count() < 300, "another canary is given the same records");
    }

    #[test]
    fn what_cannot_be_read_goes_by_its_bytes() {
        let bodies = (0..200).map(|number| format!("{{\"Id\":\"same\",{number}"));
        let chosen = bodies.filter(|body| half().holds(body.as_bytes())).count();
        assert!((50..150).contains(&chosen), "{chosen}");
    }
}
