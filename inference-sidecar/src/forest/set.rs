//! The values that a branch on membership (`BRANCH_MEMBER`) compares with.

/// Whole numbers from 0 that are kept as bits: categories have such numbers.
const BITS: f64 = 64.0;

/// A set of numbers.
#[derive(Debug)]
pub(super) struct Set {
    small: u64,
    /// What `small` does not hold, sorted.
    others: Box<[f64]>,
}

impl Set {
    pub(super) fn new(values: &[f64]) -> Self {
        let mut others = values.to_vec();
        let mut small = 0;
        others.retain(|value| match bit(*value) {
            Some(bit) => {
                small |= bit;
                false
            }
            None => true,
        });
        others.sort_unstable_by(f64::total_cmp);
        Self { small, others: others.into() }
    }

    /// True for the values of the set; NaN is in none.
    #[inline]
    pub(super) fn holds(&self, value: f64) -> bool {
        match bit(value) {
            Some(bit) => self.small & bit != 0,
            None => self.others.binary_search_by(|known| known.total_cmp(&value)).is_ok(),
        }
    }
}

#[inline]
fn bit(value: f64) -> Option<u64> {
    let whole = (0.0..BITS).contains(&value) && value.fract() == 0.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within 0..64")]
    whole.then(|| 1 << value as u32)
}

#[cfg(test)]
mod tests {
    use super::Set;

    #[test]
    fn membership_is_equality_with_one_of_the_values() {
        let set = Set::new(&[3.0, -1.0, 0.0, 63.0, 64.0, 2.5, 1e9]);
        for value in [3.0, -1.0, 0.0, -0.0, 63.0, 64.0, 2.5, 1e9] {
            assert!(set.holds(value), "{value}");
        }
        for value in [1.0, 62.0, 65.0, 3.5, -3.0, f64::NAN, f64::INFINITY] {
            assert!(!set.holds(value), "{value}");
        }
        assert!(!Set::new(&[]).holds(0.0));
    }
}
