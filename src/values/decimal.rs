//! Floats from decimal text.
//!
//! The result is that of [`str::parse`], whose tables and special cases for speed are 13 KB of a player that a web server compresses by
//! nothing. Here, one division of integers of any length gives the bits one after the other.

/// Reads a number, `inf` or `NaN`, as `f32`. Rounds to nearest, ties to even. `None` for other text.
pub(crate) fn parse_f32(text: &str) -> Option<f32> {
    parse(text, Format { fraction_bits: 23, bias: 127 }).map(|bits| f32::from_bits(bits as u32))
}

/// Reads a number, `inf` or `NaN`, as `f64`. Rounds to nearest, ties to even. `None` for other text.
pub(crate) fn parse_f64(text: &str) -> Option<f64> {
    parse(text, Format { fraction_bits: 52, bias: 1023 }).map(f64::from_bits)
}

/// Digits that are read one by one. No two floats have a middle with more digits than 768, so that of others it only matters whether
/// one is not 0.
const MAX_DIGITS: i64 = 800;

/// A format of IEEE 754.
#[derive(Clone, Copy)]
struct Format {
    fraction_bits: u32,
    bias: i64,
}

impl Format {
    fn infinity(self) -> u64 {
        (2 * self.bias as u64 + 1) << self.fraction_bits
    }

    /// The bit of the sign.
    fn sign(self) -> u64 {
        (2 * (self.bias as u64 + 1)) << self.fraction_bits
    }
}

/// The bits of a float.
fn parse(text: &str, format: Format) -> Option<u64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (format.sign(), rest),
        None => (0, text.strip_prefix('+').unwrap_or(text)),
    };
    if text.eq_ignore_ascii_case("inf") || text.eq_ignore_ascii_case("infinity") {
        return Some(sign | format.infinity());
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(sign | format.infinity() | 1 << (format.fraction_bits - 1));
    }
    let (text, exponent) = match text.split_once(['e', 'E']) {
        Some((text, exponent)) => (text, parse_exponent(exponent)?),
        None => (text, 0),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    // The number is `digits · 10^exponent`.
    let (mut digits, mut count, mut exponent) = (Natural::default(), 0, exponent - fraction.len() as i64);
    let mut is_more = false;
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return None;
        }
        if count < MAX_DIGITS {
            digits.times_and(10, u32::from(byte - b'0'));
            count += i64::from(!digits.is_zero());
        } else {
            exponent += 1;
            is_more |= byte != b'0';
        }
    }
    if is_more {
        digits.times_and(10, 1);
        exponent -= 1;
    }
    // Below 10^−400 and from 10^400 on, every number is 0 or infinite.
    let magnitude = count + exponent;
    if digits.is_zero() || magnitude < -400 {
        return Some(sign);
    }
    let bits = if magnitude > 400 { format.infinity() } else { nearest(digits, exponent, format) };
    Some(sign | bits)
}

/// An exponent, at most a billion: more is no other float.
fn parse_exponent(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut exponent = 0;
    for byte in digits.bytes() {
        exponent = i64::min(10 * exponent + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?), 1_000_000_000);
    }
    (!digits.is_empty()).then_some(sign * exponent)
}

/// The bits of the float that is nearest to `digits · 10^exponent`, which is not 0.
fn nearest(digits: Natural, exponent: i64, format: Format) -> u64 {
    // 10^e is 5^e · 2^e.
    let (mut above, mut below) = (digits, Natural(vec![1]));
    let by_five = if exponent < 0 { &mut below } else { &mut above };
    by_five.times_power(5, 13, exponent.unsigned_abs());
    // The number is `above / below · 2^power`, and the quotient is from 1 to below 2.
    let mut shift = above.bits() - below.bits();
    let shifted = if shift < 0 { &mut above } else { &mut below };
    shifted.times_power(2, 31, shift.unsigned_abs());
    if above.is_below(&below) {
        above.times_and(2, 0);
        shift -= 1;
    }
    let power = shift + exponent;
    let smallest = 1 - format.bias;
    // A subnormal number has fewer bits.
    let count = i64::from(format.fraction_bits) + 1 - i64::max(smallest - power, 0);
    if count < 0 {
        return 0;
    }
    let mut bits = 0;
    for _ in 0..count {
        let bit = !above.is_below(&below);
        if bit {
            above.minus(&below);
        }
        bits = 2 * bits + u64::from(bit);
        above.times_and(2, 0);
    }
    // The rest is twice as large as it was, so that a half is 1.
    let is_less = above.is_below(&below);
    let is_half = !is_less && !below.is_below(&above);
    bits += u64::from(if is_half { bits % 2 == 1 } else { !is_less });
    // The first bit of a normal number counts as 1 of its exponent, and so does a carry.
    let bits = bits + ((i64::max(power, smallest) - smallest) as u64).saturating_mul(1 << format.fraction_bits);
    bits.min(format.infinity())
}

/// An integer from 0, whose words of 32 bits begin with the lowest. The last is not 0.
#[derive(Debug, Default)]
struct Natural(Vec<u32>);

impl Natural {
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of the highest bit that is 1, from 1 on.
    fn bits(&self) -> i64 {
        let last = self.0.last().map_or(0, |last| last.leading_zeros());
        32 * self.0.len() as i64 - i64::from(last)
    }

    /// Multiplies by a factor and adds a number.
    fn times_and(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for word in &mut self.0 {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// Multiplies by `base^exponent`, by steps of `base^most`, which must be below 2^32.
    fn times_power(&mut self, base: u32, most: u32, exponent: u64) {
        (0..exponent / u64::from(most)).for_each(|_| self.times_and(base.pow(most), 0));
        self.times_and(base.pow((exponent % u64::from(most)) as u32), 0);
    }

    fn is_below(&self, other: &Self) -> bool {
        self.0.len() < other.0.len() || self.0.len() == other.0.len() && self.0.iter().rev().lt(other.0.iter().rev())
    }

    /// Subtracts a number that is not larger.
    fn minus(&mut self, other: &Self) {
        let mut borrow = false;
        for (at, word) in self.0.iter_mut().enumerate() {
            let (less, is_below) = word.overflowing_sub(other.0.get(at).copied().unwrap_or(0));
            let (less, is_below_too) = less.overflowing_sub(u32::from(borrow));
            (*word, borrow) = (less, is_below || is_below_too);
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether both functions give the bits of the standard library.
    fn is_standard(text: &str) -> bool {
        parse_f32(text).map(f32::to_bits) == text.parse().ok().map(f32::to_bits)
            && parse_f64(text).map(f64::to_bits) == text.parse().ok().map(f64::to_bits)
    }

    #[test]
    fn floats_are_those_of_the_standard_library() {
        let many = format!("1{}.{}1", "0".repeat(30), "0".repeat(1000));
        // Half of the smallest subnormal number, and the middle between 1 and the next number, with a digit far behind.
        let (half, one) = (format!("{:.160}", 2f64.powi(-150)), 1.0 + f64::from(f32::EPSILON) / 2.0);
        let texts = [
            "0",
            "-0",
            "0.0e5",
            "1",
            "-1.5",
            "1e0",
            "1E+2",
            "1e-2",
            ".5",
            "5.",
            "inf",
            "-inf",
            "Infinity",
            "NaN",
            "-nan",
            "1e38",
            "1e39",
            "3.4028235e38",
            "3.4028235677973366e38",
            "3.4028235677973365e38",
            "1e308",
            "1.7976931348623157e308",
            "1.7976931348623159e308",
            "1e309",
            "1e-45",
            "7e-46",
            "7.006492321624085e-46",
            "1.1754943e-38",
            "1.17549428e-38",
            "5e-324",
            "2.4703282292062327e-324",
            "2.4703282292062328e-324",
            "2.2250738585072011e-308",
            "1e-400",
            "1e-99999999999999999999",
            "1e99999999999999999999",
            "0e99999999999999999999",
            "9007199254740993",
            "16777217",
            "16777219",
            &many,
            &half,
            &format!("{half}1"),
            &format!("{one}"),
            &format!("{one}0000000001"),
        ];
        for text in texts {
            assert!(is_standard(text), "{text}");
        }
        for text in [
            "", "-", ".", "e5", "1e", "1e+", "1e1.5", "0x10", "1_000", " 1", "1 ", "--1", "infin", "1..2", "1.2.3", "é",
        ] {
            assert!(is_standard(text), "{text}");
            assert_eq!(parse_f64(text), None, "{text}");
        }
        // The comparison finds a bit that differs.
        assert_ne!(parse_f32("16777217").map(f32::to_bits), Some(16_777_218f32.to_bits()));
    }

    proptest! {
        #[test]
        fn any_floats_are_those_of_the_standard_library(bits: u64, single: u32, more in "[0-9]{1,40}", exponent in -340i32..320) {
            let (float, single) = (f64::from_bits(bits), f32::from_bits(single));
            for text in [format!("{float:e}"), format!("{float:.30e}"), format!("{single}"), format!("{more}e{exponent}"), format!("0.{more}")] {
                prop_assert!(is_standard(&text), "{}", text);
            }
            // The middle of two floats, and numbers beside it.
            let next = f32::from_bits(single.to_bits() + u32::from(single.is_finite()));
            let middle = format!("{:.200}", (f64::from(single) + f64::from(next)) / 2.0);
            for text in [format!("{middle}1"), middle] {
                prop_assert!(is_standard(&text), "{}", text);
            }
        }
    }
}
