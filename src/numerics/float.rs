//! Equation 11: float arithmetic whose results are the same bits on every processor and every GPU.
//!
//! Rust compiles `+ − · / √` of `f32` as IEEE 754 defines them and never contracts, so these functions are the normative results.
//! Their twins in `shaders/shared/float.wgsl` have to work for the same bits: shader compilers contract products and sums, reorder
//! sums, approximate divisions and functions, may treat subnormal numbers as 0, and may assume that no float is NaN or infinite.
//!
//! 1. A function uses only sums, differences and products of `f32`, integer operations on bits, and correctly rounded quotients and
//!    square roots. On a GPU, each result passes through an operation on its bits that no compiler sees through.
//! 2. Numbers below 2⁻¹⁰⁰ in magnitude are 0 where they are added, and in each result: [`canonical`]. What is left are multiples of
//!    2⁻¹²³, so no sum of them is subnormal. There is one NaN. Factors, dividends and divisors may be any normal numbers.
//! 3. Decisions are made on bits.
//! 4. Sums have a fixed order, which [`rows`] describes.
//!
//! The constants are written as their sources give them, with more digits than an `f32` holds.
//!
//! Selections (ReLU, maximum, comparisons, masks) are no arithmetic: they keep all bits.

#![expect(clippy::excessive_precision, reason = "constants as their sources give them")]

mod angle;
pub(crate) mod functions;
pub(crate) mod products;
pub(crate) mod rows;

/// The bits of 2⁻¹⁰⁰. Smaller magnitudes are 0.
pub(crate) const TINY: u32 = 0x0d80_0000;
/// The bits of infinity.
pub(crate) const INFINITY: u32 = 0x7f80_0000;
/// The bits of the one NaN.
pub(crate) const NAN: u32 = 0x7fc0_0000;
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;
pub(crate) const SIGN: u32 = 0x8000_0000;
/// 1.5 · 2²³: a sum with it has the nearest integer in its low bits, ties to even.
pub(crate) const MAGIC: f32 = 12_582_912.0;
pub(crate) const MAGIC_BITS: i32 = 0x4b40_0000;

/// Selects `a` if the condition holds, else `b`, by a mask: LLVM turns an `if` into a branch, and a loop with it does not vectorize.
#[inline(always)]
pub(crate) fn select(condition: bool, a: u32, b: u32) -> u32 {
    let mask = 0u32.wrapping_sub(u32::from(condition));
    (a & mask) | (b & !mask)
}

/// [`select`] of floats.
#[inline(always)]
pub(crate) fn select_f32(condition: bool, a: f32, b: f32) -> f32 {
    f32::from_bits(select(condition, a.to_bits(), b.to_bits()))
}

/// Replaces magnitudes below 2⁻¹⁰⁰, and −0, by +0, and every NaN by one.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    let magnitude = bits & MAGNITUDE;
    f32::from_bits(select(magnitude < TINY, 0, select(magnitude > INFINITY, NAN, bits)))
}

/// Replaces magnitudes below 2⁻¹⁰⁰, and −0, by +0.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(select(bits & MAGNITUDE < TINY, 0, bits))
}

/// Replaces subnormal numbers by 0 with their sign: what a product or a quotient reads.
#[inline(always)]
pub(crate) fn normal(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(select(bits & INFINITY == 0, bits & SIGN, bits))
}

/// Whether a number is infinite or NaN.
#[inline(always)]
pub(crate) fn is_special(x: f32) -> bool {
    x.to_bits() & INFINITY == INFINITY
}

/// Computes `a + b`. −0 is the neutral element: the other number keeps its bits.
#[inline(always)]
pub(crate) fn add(a: f32, b: f32) -> f32 {
    let sum = canonical(canonical(a) + canonical(b)).to_bits();
    let (a, b) = (a.to_bits(), b.to_bits());
    f32::from_bits(select(b == SIGN, a, select(a == SIGN, b, sum)))
}

/// Computes `a · b`.
#[inline(always)]
pub(crate) fn mul(a: f32, b: f32) -> f32 {
    canonical(normal(a) * normal(b))
}

/// Computes `a / b`. A division by 0 is infinite, with the product of the signs.
#[inline(always)]
pub(crate) fn div(a: f32, b: f32) -> f32 {
    canonical(normal(a) / normal(b))
}

/// The integer of a number that is not NaN has the order of such numbers; −0 is below +0.
#[inline(always)]
pub(crate) fn order_of(x: f32) -> i32 {
    let bits = x.to_bits();
    (bits ^ (0u32.wrapping_sub(bits >> 31) & MAGNITUDE)) as i32
}

/// The number that has this integer.
#[inline(always)]
pub(crate) fn number_of(order: i32) -> f32 {
    let bits = order as u32;
    f32::from_bits(bits ^ (0u32.wrapping_sub(bits >> 31) & MAGNITUDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers at the ends of each range that the rules tell apart.
    fn edges() -> Vec<f32> {
        let bits =
            [0, 1, 0x007f_ffff, 0x0080_0000, TINY - 1, TINY, 0x3f80_0000, 0x4049_0fdb, 0x7f7f_ffff, INFINITY, NAN];
        bits.into_iter().flat_map(|b| [f32::from_bits(b), f32::from_bits(b | SIGN)]).collect()
    }

    #[test]
    fn arithmetic_is_that_of_ieee_but_for_tiny_numbers() {
        for a in edges() {
            for b in edges() {
                for (name, got, exact) in [("+", add(a, b), a + b), ("·", mul(a, b), a * b), ("/", div(a, b), a / b)] {
                    let near = got == exact || got.is_nan() && exact.is_nan();
                    let is_tiny = |v: f32| v != 0.0 && v.abs() < f32::from_bits(TINY);
                    let allowed = is_tiny(exact) && got == 0.0 || is_tiny(a) || is_tiny(b);
                    assert!(near || allowed, "{a:e} {name} {b:e} is {got:e}, exactly {exact:e}");
                }
                // Factors and divisors may be any normal numbers.
                if !a.is_subnormal() && !b.is_subnormal() {
                    for (got, exact) in [(mul(a, b), a * b), (div(a, b), a / b)] {
                        assert_eq!(got.to_bits(), canonical(exact).to_bits(), "{a:e} {b:e}");
                    }
                }
            }
            for (got, kept) in [(add(a, -0.0), a), (add(-0.0, a), a)] {
                assert_eq!(got.to_bits(), kept.to_bits(), "{a:e}");
            }
        }
        assert_eq!(div(1.0, -0.0), f32::NEG_INFINITY);
    }

    #[test]
    fn results_are_canonical() {
        for a in edges() {
            let results = edges().into_iter().filter(|&b| a.to_bits() != SIGN && b.to_bits() != SIGN);
            for v in results.flat_map(|b| [add(a, b), mul(a, b), div(a, b)]) {
                assert_eq!(v.to_bits(), canonical(v).to_bits(), "{v:e}");
            }
        }
    }

    #[test]
    fn integers_have_the_order_of_floats() {
        let mut numbers: Vec<f32> = edges().into_iter().filter(|v| !v.is_nan()).collect();
        numbers.sort_by(f32::total_cmp);
        assert!(numbers.windows(2).all(|pair| order_of(pair[0]) < order_of(pair[1])));
        assert!(numbers.iter().all(|&v| number_of(order_of(v)).to_bits() == v.to_bits()));
    }
}
