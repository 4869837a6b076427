//! Sine and cosine of any angle: the reduction of Payne and Hanek in integers, then Cephes' polynomials.

use super::{MAGNITUDE, NAN, SIGN, canonical};

/// The binary fraction 1/(2π), the word with its highest bits first. The largest number needs six.
const ONE_OVER_TWO_PI: [u32; 6] = [0x28be_60db, 0x9391_054a, 0x7f09_d5f4, 0x7d4d_3770, 0x36d8_a566, 0x4f10_e410];

/// Angles up to here, π/4, need no reduction.
const QUARTER: u32 = 0x3f49_0fda;

/// Returns the nearest multiple of π/2 (modulo 4) to an angle of at least 0.5, and the rest in radians.
fn reduced(magnitude: u32) -> (u32, f32) {
    let exponent = (magnitude >> 23) - 126;
    let mantissa = u64::from((magnitude << 8) | SIGN);
    let word = (exponent >> 5) as usize;
    let at = |word: usize| u64::from(ONE_OVER_TWO_PI.get(word).copied().unwrap_or(0));
    // Three words of the fraction from the bit on whose weight in the product is a whole turn.
    let before = if word > 0 { at(word - 1) } else { 0 };
    let shift = exponent & 31;
    let shifted = |high: u64, low: u64| ((high << 32 | low) << shift) >> 32 & 0xffff_ffff;
    let (high, middle, low) =
        (shifted(before, at(word)), shifted(at(word), at(word + 1)), shifted(at(word + 1), at(word + 2)));
    // The turns: two bits of quadrant, then the fraction of a quadrant.
    let turns = (mantissa * middle).wrapping_add((mantissa * high) << 32).wrapping_add((mantissa * low) >> 32);
    let (mut quadrant, mut fraction) = ((turns >> 62) as u32, turns & (u64::MAX >> 2));
    let above = fraction >> 61 != 0;
    if above {
        quadrant += 1;
        fraction = (1 << 62) - fraction;
    }
    // The 24 highest bits, rounded, are exact as a float.
    let zeros = fraction.leading_zeros().min(63);
    let top = (fraction << zeros) >> 39;
    let quarters = (top.div_ceil(2) as i32) as f32 * f32::from_bits((127 - 22 - zeros) << 23);
    let radians = quarters * std::f32::consts::FRAC_PI_2;
    (quadrant & 3, if above { -radians } else { radians })
}

/// Sine, or cosine if `turned` is 1.
pub(super) fn sine(x: f32, turned: u32) -> f32 {
    let bits = x.to_bits();
    let magnitude = bits & MAGNITUDE;
    if magnitude >= super::INFINITY {
        return f32::from_bits(NAN);
    }
    let (quadrant, r) =
        if magnitude > QUARTER { reduced(magnitude) } else { (0, super::flush(f32::from_bits(magnitude))) };
    let negative = bits & SIGN != 0;
    let (quadrant, r) = if negative { (4 - quadrant, -r) } else { (quadrant, r) };
    let quadrant = quadrant + turned;
    let s = r * r;
    let sine = (((-1.951_529_59e-4 * s + 8.332_160_87e-3) * s - 1.666_665_46e-1) * s) * r + r;
    let cosine = ((((2.443_315_71e-5 * s - 1.388_731_63e-3) * s + 4.166_664_57e-2) * s) * s - 0.5 * s) + 1.0;
    let y = if quadrant & 1 == 1 { cosine } else { sine };
    canonical(f32::from_bits(y.to_bits() ^ ((quadrant & 2) << 30)))
}
