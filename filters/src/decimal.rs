//! Numbers in decimal, written without the machinery of formatting.

/// Most digits of a number of 64 bits.
const DIGITS: usize = 20;

/// Scores up to this are exact in the arithmetic below; larger ones are formatted.
const LARGEST: f64 = 1e11;

/// Appends a number.
pub fn push(text: &mut String, mut number: u64) {
    let mut digits = [b'0'; DIGITS];
    let mut first = DIGITS;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
        first = place;
        if number == 0 {
            break;
        }
    }
    text.extend(digits.iter().skip(first).map(|digit| char::from(*digit)));
}

/// Appends a score: at most four decimals, no trailing zeros, never `-0`. Valid in headers and in JSON.
pub fn push_score(text: &mut String, score: f32) {
    // Exact: the 24 bits of a float times 10,000 fit into the 53 bits of a double.
    let scaled = (f64::from(score) * 10_000.0).round_ties_even();
    if scaled.is_nan() || scaled.abs() > LARGEST {
        let long = format!("{score:.4}");
        return text.push_str(long.trim_end_matches('0').trim_end_matches('.'));
    }
    if scaled < 0.0 {
        text.push('-');
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number below 10^11")]
    let number = scaled.abs() as u64;
    push(text, number / 10_000);
    let mut decimals = number % 10_000;
    if decimals > 0 {
        text.push('.');
        for place in [1_000, 100, 10, 1] {
            push(text, decimals / place);
            decimals %= place;
            if decimals == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{push, push_score};

    #[test]
    fn numbers_are_written_as_they_are_formatted() {
        for number in [0, 7, 10, 99, 100, 1_000_000, u64::MAX] {
            let mut text = "r=".to_owned();
            push(&mut text, number);
            assert_eq!(text, format!("r={number}"));
        }
    }

    fn formatted(score: f32) -> String {
        let text = format!("{score:.4}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        if text == "-0" { "0".to_owned() } else { text.to_owned() }
    }

    #[test]
    fn scores_are_written_as_they_are_formatted() {
        let mut scores =
            vec![0.0, -0.0, 1.0, -1.0, 0.5, 0.00005, 0.00015, -0.00004, 0.03125, 0.09375, 0.99996];
        scores.extend([1e7, 1.5e7, 1e30, -1e30, f32::MAX, 100.25, f32::MIN_POSITIVE]);
        // Floats of all sizes between 2^-16 and 2^16, ties among them.
        scores.extend((0x3780_0000_u32..0x4780_0000).step_by(9_973).map(f32::from_bits));
        scores.extend((0..4_096_u16).map(|number| f32::from(number) / 4_096.0));
        for score in scores {
            let mut text = String::new();
            push_score(&mut text, score);
            assert_eq!(text, formatted(score), "{score:?}");
        }
    }
}
