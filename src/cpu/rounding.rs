//! Rounding to nearest even in a form that vectorizes.
//!
//! Kernels add 1.5 · 2²³, which leaves no fraction bits under the rounding mode that every host runs in. Unlike `round_ties_even`,
//! this vectorizes on processors without a rounding instruction. It is correct below 2²², hence the clamp comes first; clamping at
//! integers and rounding commute.

/// 1.5 · 2²³: the last bit of a sum with it counts ones.
const MAGIC: f32 = 12_582_912.0;

/// Clamps like `f32::clamp`, in a form that compiles to two instructions. NaN gives `lo`.
#[inline(always)]
pub(super) fn clamp(v: f32, lo: f32, hi: f32) -> f32 {
    let v = if v > lo { v } else { lo };
    if v < hi { v } else { hi }
}

/// Computes `rne(v) + z` for |v| < 2²², as int8.
#[inline(always)]
pub(super) fn rounded(v: f32, z: i32) -> i8 {
    // The low bits of the sum hold the rounded integer in two's complement, since the low byte of MAGIC is 0.
    ((v + MAGIC).to_bits() as i32).wrapping_add(z) as i8
}
