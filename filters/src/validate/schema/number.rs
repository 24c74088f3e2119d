//! Numbers as JSON writes them, compared exactly.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

/// A decimal number: `0.DIGITS * 10^scale`, without zeros at either end of its digits. Zero has no digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: SmallVec<[u8; 32]>,
    /// Saturates: what is written with an exponent of twenty digits is as good as infinite.
    scale: i64,
}

/// What numbers are divided by: `number * 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor {
    number: u64,
    exponent: i64,
}

impl Decimal {
    /// Takes what the grammar of JSON accepts (RFC 8259, section 6).
    pub fn parse(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = match text.find(['e', 'E']).and_then(|at| text.split_at_checked(at)) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent.get(1..).unwrap_or_default())),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: SmallVec<[u8; 32]> =
            whole.bytes().chain(fraction.bytes()).map(|digit| digit.wrapping_sub(b'0')).collect();
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..leading);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        if digits.is_empty() {
            return Self { negative: false, digits, scale: 0 };
        }
        let point = signed(whole.len()).saturating_sub(signed(leading));
        Self { negative, digits, scale: exponent.saturating_add(point) }
    }

    /// True for whole numbers, however they are written: `1.0` and `1e2` are.
    pub fn is_integer(&self) -> bool {
        self.digits.is_empty() || self.scale >= signed(self.digits.len())
    }

    /// True where it is a whole number of times `divisor`.
    pub fn is_multiple_of(&self, divisor: Divisor) -> bool {
        if self.digits.is_empty() {
            return true;
        }
        // self = digits * 10^own: the digits as a whole number.
        let own = self.scale.saturating_sub(signed(self.digits.len()));
        // Digits end in no zero, so no power of ten divides them.
        let Ok(shift) = u64::try_from(own.saturating_sub(divisor.exponent)) else { return false };
        let modulus = u128::from(divisor.number);
        let rest = self.digits.iter().fold(0, |rest, digit| (rest * 10 + u128::from(*digit)) % modulus);
        (rest * power_of_ten(shift, modulus)).is_multiple_of(modulus)
    }

    /// As something that numbers are divided by: positive, of 18 digits at most.
    pub fn divisor(&self) -> Option<Divisor> {
        if self.negative || self.digits.is_empty() || self.digits.len() > 18 {
            return None;
        }
        let number = self.digits.iter().fold(0, |number, digit| number * 10 + u64::from(*digit));
        Some(Divisor { number, exponent: self.scale.saturating_sub(signed(self.digits.len())) })
    }

    /// As a count of characters, elements or members: a whole number from 0 up.
    pub fn count(&self) -> Option<u64> {
        if self.negative || !self.is_integer() || self.scale > 18 {
            return None;
        }
        let mut number = self.digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(*digit));
        for _ in signed(self.digits.len())..self.scale {
            number *= 10;
        }
        Some(number)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |it: &Self| i8::from(!it.digits.is_empty()) * if it.negative { -1 } else { 1 };
        sign(self).cmp(&sign(other)).then_with(|| {
            let size = self.scale.cmp(&other.scale).then_with(|| self.digits.cmp(&other.digits));
            if self.negative { size.reverse() } else { size }
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Decimal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.negative, &self.digits[..], self.scale).hash(state);
    }
}

/// The whole number that a short text is, where it is one: the usual case, without any copy.
pub fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() > 18 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_exponent(text: &str) -> i64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = digits.bytes().fold(0_i64, |size, digit| {
        size.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    if negative { -size } else { size }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn power_of_ten(mut exponent: u64, modulus: u128) -> u128 {
    let (mut power, mut base) = (1 % modulus, 10 % modulus);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = power * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::Decimal;
    use std::cmp::Ordering;

    #[test]
    fn numbers_are_compared_as_numbers_and_exactly() {
        for (one, order, other) in [
            ("1", Ordering::Equal, "1.0"),
            ("1e2", Ordering::Equal, "100"),
            ("-0", Ordering::Equal, "0.000e9"),
            ("0.1", Ordering::Less, "0.10000000000000000000000001"),
            ("9007199254740993", Ordering::Greater, "9007199254740992"),
            ("-2", Ordering::Less, "-1"),
            ("-1", Ordering::Less, "0"),
            ("99", Ordering::Less, "100"),
            ("-99", Ordering::Greater, "-100"),
            ("12e-1", Ordering::Equal, "1.2"),
            ("1e99999999999999999999", Ordering::Greater, "1e400"),
            ("1e-99999999999999999999", Ordering::Less, "1e-400"),
        ] {
            assert_eq!(Decimal::parse(one).cmp(&Decimal::parse(other)), order, "{one} {other}");
        }
    }

    #[test]
    fn whole_numbers_and_multiples_are_told_however_they_are_written() {
        for (text, whole) in
            [("1", true), ("1.0", true), ("1.5", false), ("15e-1", false), ("1.5e1", true), ("0.0", true)]
        {
            assert_eq!(Decimal::parse(text).is_integer(), whole, "{text}");
        }
        for (text, divisor, multiple) in [
            ("0.3", "0.1", true),
            ("0.35", "0.1", false),
            ("4.5", "1.5", true),
            ("0", "7", true),
            ("1e308", "123456789", false),
            ("1e30", "1024", true),
            ("10", "0.01", true),
            ("0.0075", "0.0001", true),
            ("0.00751", "0.0001", false),
            ("1", "10", false),
        ] {
            let divisor_of = Decimal::parse(divisor).divisor().unwrap();
            assert_eq!(Decimal::parse(text).is_multiple_of(divisor_of), multiple, "{text} {divisor}");
        }
        for (text, count) in
            [("0", Some(0)), ("2.0", Some(2)), ("3e1", Some(30)), ("-1", None), ("0.5", None)]
        {
            assert_eq!(Decimal::parse(text).count(), count, "{text}");
        }
    }
}
