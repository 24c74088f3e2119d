//! Text to columns: normalised, cut into n-grams, hashed, counted.

use super::letters::{base, in_word};
use super::spec::{Frequency, Norm};

/// Code points read of one field.
pub const MAX_LETTERS: usize = 4096;

/// How the text of one feature becomes columns.
#[derive(Debug)]
pub(super) struct Ngrams {
    pub(super) lower: bool,
    pub(super) unaccent: bool,
    /// What stands for every ASCII digit.
    pub(super) digits: Option<char>,
    /// Shortest and longest run of words.
    pub(super) words: Option<(usize, usize)>,
    /// Shortest and longest run of code points inside a word, one space before and behind it.
    pub(super) chars: Option<(usize, usize)>,
    pub(super) buckets: Buckets,
    pub(super) tf: Frequency,
    pub(super) norm: Norm,
}

/// `hash % count`, with a multiplication in place of a division.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    count: u64,
    /// 2^64 / count, rounded down.
    reciprocal: u64,
}

/// FNV-1a, 64 bits (draft-eastlake-fnv, section 2), byte after byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv(u64);

impl Fnv {
    pub(super) const NEW: Self = Self(0xcbf2_9ce4_8422_2325);

    #[inline]
    pub(super) fn write(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |state, byte| state.push(*byte))
    }

    #[inline]
    fn push(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    pub(super) fn finish(self) -> u64 {
        self.0
    }
}

impl Buckets {
    /// `None` for no bucket at all.
    pub(super) fn new(count: u32) -> Option<Self> {
        let count = u64::from(count);
        Some(Self { count, reciprocal: u64::MAX.checked_div(count)? })
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^32 buckets")]
    pub(super) fn len(self) -> usize {
        self.count as usize
    }

    /// The estimate of the quotient is at most two too small.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of a product, and below 2^32")]
    pub(super) fn of(self, hash: u64) -> usize {
        let quotient = ((u128::from(hash) * u128::from(self.reciprocal)) >> 64) as u64;
        let mut rest = hash - quotient * self.count;
        while rest >= self.count {
            rest -= self.count;
        }
        rest as usize
    }
}

/// Words of a field, each with a space before and behind it; words side by side share it.
#[derive(Debug, Default)]
struct Words {
    text: String,
    /// Start and end of each word in `text`, spaces not included.
    spans: Vec<(usize, usize)>,
}

impl Words {
    fn push(&mut self, letter: char) {
        if in_word(letter) {
            self.text.push(letter);
        } else if !self.text.ends_with(' ') {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(start) = self.text.rfind(' ').map(|space| space + 1).filter(|at| *at < self.text.len()) {
            self.spans.push((start, self.text.len()));
            self.text.push(' ');
        }
    }
}

impl Ngrams {
    /// Appends `buckets` columns for these fields; no n-gram goes from one field into the next.
    pub(super) fn encode<'t>(&self, fields: impl Iterator<Item = &'t str>, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + self.buckets.len(), 0.0);
        let Some(columns) = out.get_mut(start..) else { return };
        for field in fields {
            let words = self.words(field);
            self.count(&words, columns);
        }
        self.weigh(columns);
    }

    fn words(&self, field: &str) -> Words {
        let mut words = Words::default();
        words.text.reserve(field.len().min(4 * MAX_LETTERS) + 2);
        words.text.push(' ');
        for letter in field.chars().take(MAX_LETTERS) {
            if letter.is_ascii() {
                words.push(self.ascii(letter));
            } else if self.lower {
                letter.to_lowercase().for_each(|letter| self.unaccented(letter, &mut words));
            } else {
                words.push(letter);
            }
        }
        words.end();
        words
    }

    #[inline]
    fn ascii(&self, letter: char) -> char {
        match self.digits {
            Some(digit) if letter.is_ascii_digit() => digit,
            _ if self.lower => letter.to_ascii_lowercase(),
            _ => letter,
        }
    }

    /// A letter may become two, or none.
    fn unaccented(&self, letter: char, words: &mut Words) {
        match base(letter).filter(|_| self.unaccent) {
            Some(letters) => letters.chars().for_each(|letter| words.push(letter)),
            None if letter.is_ascii() => words.push(self.ascii(letter)),
            None => words.push(letter),
        }
    }

    fn count(&self, words: &Words, columns: &mut [f32]) {
        let mut add = |hash: Fnv| {
            if let Some(cell) = columns.get_mut(self.buckets.of(hash.finish())) {
                *cell += 1.0;
            }
        };
        let bytes = words.text.as_bytes();
        if let Some((shortest, longest)) = self.words {
            for first in 0..words.spans.len() {
                let mut hash = Fnv::NEW;
                let run = words.spans.iter().skip(first).take(longest);
                for (count, (start, end)) in (1..).zip(run) {
                    // The space before a word belongs to the n-gram, but for its first word.
                    hash = hash.write(bytes.get(start - usize::from(count > 1)..*end).unwrap_or_default());
                    if count >= shortest {
                        add(hash);
                    }
                }
            }
        }
        if let Some(range) = self.chars {
            for (start, end) in &words.spans {
                runs(bytes.get(start - 1..=*end).unwrap_or_default(), range, &mut add);
            }
        }
    }

    /// Counts to weights, in f64.
    fn weigh(&self, columns: &mut [f32]) {
        let weight = |count: f32| match self.tf {
            // Most words of a text stand in it once: no logarithm is needed to tell.
            _ if count <= 1.0 => f64::from(count),
            Frequency::Raw => f64::from(count),
            Frequency::Log => 1.0 + f64::from(count).ln(),
            Frequency::Binary => 1.0,
        };
        let length = match self.norm {
            Norm::None => 1.0,
            Norm::L2 => {
                let used = columns.iter().filter(|count| **count != 0.0);
                let sum: f64 = used.map(|count| weight(*count).powi(2)).sum();
                if sum > 0.0 { sum.sqrt() } else { 1.0 }
            }
        };
        if self.tf == Frequency::Raw && self.norm == Norm::None {
            return;
        }
        for cell in columns.iter_mut().filter(|count| **count != 0.0) {
            #[expect(clippy::cast_possible_truncation, reason = "the tensor is f32")]
            let weighed = (weight(*cell) / length) as f32;
            *cell = weighed;
        }
    }
}

/// Hashes every run of `shortest` to `longest` code points.
#[inline]
fn runs(word: &[u8], (shortest, longest): (usize, usize), add: &mut impl FnMut(Fnv)) {
    for start in 0..word.len() {
        let rest = word.get(start..).unwrap_or_default();
        if rest.first().is_some_and(|byte| is_inner(*byte)) {
            continue;
        }
        let (mut hash, mut count) = (Fnv::NEW, 0);
        let mut bytes = rest.iter().peekable();
        while let Some(byte) = bytes.next() {
            hash = hash.push(*byte);
            if bytes.peek().is_some_and(|next| is_inner(**next)) {
                continue;
            }
            count += 1;
            if count >= shortest {
                add(hash);
            }
            if count == longest {
                break;
            }
        }
    }
}

/// True for a byte of UTF-8 that begins no code point.
#[inline]
fn is_inner(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::{Buckets, Fnv, Ngrams};
    use crate::features::spec::{Frequency, Norm};

    #[test]
    fn buckets_are_the_remainder_of_the_hash() {
        let mut hash = 1_u64;
        for count in [1, 2, 3, 7, 113, 4093, 4096, u32::MAX] {
            let buckets = Buckets::new(count).unwrap();
            for edge in [0, 1, u64::from(count) - 1, u64::from(count), u64::MAX, u64::MAX - 1] {
                assert_eq!(buckets.of(edge) as u64, edge % u64::from(count), "{edge} % {count}");
            }
            for _ in 0..1000 {
                hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                assert_eq!(buckets.of(hash) as u64, hash % u64::from(count), "{hash} % {count}");
            }
        }
        assert!(Buckets::new(0).is_none());
    }

    #[test]
    fn the_ngrams_are_those_that_the_format_names() {
        let ngrams = Ngrams {
            lower: true,
            unaccent: true,
            digits: Some('0'),
            words: Some((1, 2)),
            chars: Some((3, 4)),
            buckets: Buckets::new(4093).unwrap(),
            tf: Frequency::Raw,
            norm: Norm::None,
        };
        let mut row = Vec::new();
        ngrams.encode(["Été, A7!", "Straße"].into_iter(), &mut row);
        let expected = [
            "ete", "a0", "ete a0", " et", "ete", "te ", " ete", "ete ", " a0", "a0 ", " a0 ", "strasse",
            " st", "str", "tra", "ras", "ass", "sse", "se ", " str", "stra", "tras", "rass", "asse", "sse ",
        ];
        let mut wanted = vec![0.0; 4093];
        for ngram in expected {
            wanted[ngrams.buckets.of(Fnv::NEW.write(ngram.as_bytes()).finish())] += 1.0;
        }
        assert_eq!(row, wanted);
    }
}
