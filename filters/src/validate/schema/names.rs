//! Names that a schema speaks of, found by the hash that a text has already.

use crate::validate::tape::NAMES;

/// Open addressing; at most half of the slots are taken.
#[derive(Debug, Default)]
pub struct Names {
    names: Vec<(u64, Box<str>)>,
    /// Places in `names`, from 1; 0 where a slot is free.
    slots: Vec<u32>,
}

impl Names {
    /// The place of a name, which is put in where it is not there.
    pub fn place(&mut self, name: &str) -> usize {
        let hash = NAMES.hash_one(name);
        if let Some(place) = self.find(hash, name) {
            return place;
        }
        self.names.push((hash, name.into()));
        if self.names.len() * 2 > self.slots.len() {
            self.slots = vec![0; (self.names.len() * 4).next_power_of_two()];
            for place in 0..self.names.len() {
                self.fill(place);
            }
        } else {
            self.fill(self.names.len() - 1);
        }
        self.names.len() - 1
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn name(&self, place: usize) -> &str {
        self.names.get(place).map_or("", |(_, name)| name)
    }

    /// The place of the name with this hash by [`NAMES`].
    pub fn find(&self, hash: u64, name: &str) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = start(hash, mask);
        loop {
            let place = self.slots.get(slot)?.checked_sub(1)? as usize;
            let (known, text) = self.names.get(place)?;
            if *known == hash && **text == *name {
                return Some(place);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn fill(&mut self, place: usize) {
        let (Some((hash, _)), Some(mask)) = (self.names.get(place), self.slots.len().checked_sub(1)) else {
            return;
        };
        let mut slot = start(*hash, mask);
        while self.slots.get(slot).is_some_and(|taken| *taken != 0) {
            slot = (slot + 1) & mask;
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = u32::try_from(place + 1).unwrap_or(0);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
const fn start(hash: u64, mask: usize) -> usize {
    hash as usize & mask
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::validate::tape::NAMES;

    #[test]
    fn every_name_is_found_and_no_other() {
        let mut names = Names::default();
        assert_eq!(names.find(NAMES.hash_one("a"), "a"), None);
        for round in 0..2 {
            for number in 0..500 {
                assert_eq!(names.place(&format!("n{number}")), number, "{round}");
            }
        }
        assert_eq!(names.len(), 500);
        assert_eq!((names.name(7), names.find(NAMES.hash_one("n499"), "n499")), ("n7", Some(499)));
        assert_eq!(names.find(NAMES.hash_one("n500"), "n500"), None);
    }
}
