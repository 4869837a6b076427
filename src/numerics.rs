//! The scalar rules of quantized arithmetic, as numbered equations.
//!
//! The interpreter calls these functions. The CPU kernels and the shaders are faster forms of them, and tests check that they give
//! the same bits. Other files quote the equation numbers.
//!
//! 1. `real = scale · (q − zero_point)`. Real 0 is exactly representable; `scale` is a positive normal `f32`.
//! 2. `quantize(x) = i32(clamp(rne(x · inv_scale), quant_min − z, quant_max − z)) + z` with `inv_scale = 1f32 / scale`.
//!    NaN is an error on the CPU and gives `z` on a GPU. Nodes that come from ONNX divide, `x / scale`, by the rules of equation 11.
//! 3. `multiplier[n] = f32(f64(s_x) · f64(s_w[n]) / (f64(s_y) · 2^p))`, refused unless a normal `f32`.
//! 4. `acc[m,n] = (Σ_k x[m,k] · w[n,k]) << p + bias[n]` in `i32`, with
//!    `bias[n] = rne(b[n] · 2^p / (s_x · s_w[n])) − z_x · 2^p · Σ_k w[n,k]` (the rounding in `f64`).
//!    `p`, the layer's *fraction bits*, is the largest of 0..=12 for which in every channel
//!    `(Σ_k |w[n,k]| · 128) · 2^p + |bias[n]| ≤ i32::MAX`. A layer that `p = 0` does not satisfy is refused.
//!    A convolution is the same sum over the taps of its window; a tap outside the image counts as `z_x`.
//!    Without fraction bits, rounding the bias to a whole accumulator step changes about 0.05 % of the quantized outputs.
//!    Group-wise weights: the scale of a group is `s_w[n] · m[n,g]`, with an integer `m` of 1..=255 and `z` the zero point of the group, and
//!    `Σ_g m[n,g] · Σ_{k∈g} x[m,k] · (w[n,k] − z[n,g])` stands for `Σ_k x · w`, `m · (w − z)` for `w` in the bias, in the bound and in
//!    equation 7. `w − z` fits int8. All of the sum is in `i32`, so that its order does not matter. A layer that does not satisfy the bound
//!    takes scales with `m` of at most 127, 63, 31 or 15.
//! 5. `requantize(acc) = i32(clamp(rne(f32(acc) · multiplier), lo − z_y, hi − z_y)) + z_y`. The clamp comes before the
//!    conversion: converting first saturates, and adding the zero point then wraps.
//! 6. A ReLU after a quantized linear layer is `lo = max(lo, z_y)` in equation 5. It needs no kernel of its own.
//! 7. A float output is `f32(acc) · f32(s_x · s_w[n] / 2^p)`: one product, hence the same bits everywhere.
//!    The dynamic form is `(f32(Σ_k x·w − z_x · Σ_k w) · s_x) · s_w[n] + b[n]`, each result rounded by the rules of equation 11, where
//!    `s_x` and `z_x` belong to the row or the tensor (equation 10).
//! 8. `int8 + int8 → int8`: `clamp(rne((a − z_a) · m_a + (b − z_b) · m_b, 2^shift) + z_y, lo, hi)` in `i32`, with
//!    `shift = 20 − floor(log2(max(s_a, s_b) / s_y))`, `m = rne(s · 2^shift / s_y)`, and
//!    `rne(acc, 2^shift) = (acc + 2^(shift−1) − 1 + ((acc >> shift) & 1)) >> shift`. A node whose shift is not 1..=30 stays float.
//! 9. Products of two activations: `acc = Σ_k (a − z_a) · (b − z_b)` in `i32`, exact for K up to 33,025; then equation 5 or 7
//!    with the multiplier `f32(f64(s_a) · f64(s_b) / f64(s_y))`. For an elementwise product, K is 1.
//!    The dynamic form (9d) is a float: `(f32(Σ_k (a − z_a[m]) · (b − z_b)) · s_a[m]) · s_b`, where `s_a` and `z_a` belong to the row
//!    of `a` or the tensor, and `s_b` and `z_b` to the tensor: those of a row of `b` would vary along the sum. Equation 11 rounds
//!    each product.
//! 10. Dynamic qparams are computed in `f32` from the smallest and the largest value, widened to include 0: per tensor by
//!     [`affine_qparams`] or [`symmetric_qparams`], per token by [`per_token_qparams`].
//! 11. Float arithmetic, functions, sums and norms: the functions of this module's `float`, by rules that every engine follows to the
//!     bit. [`UnaryOp`] and [`BinaryOp`] list the functions of one and two floats.
//! 12. A chain of pointwise functions from int8 to int8 is a lookup table of 256 entries, computed on the host in `f64` with `libm`.
//! 13. A mean of int8 values is `requantize(Σ (x − z_x))` with the multiplier `f32(f64(s_x) / (f64(s_y) · count))`. A linear
//!     interpolation is the same with integer weights, whose sum is the count.
//!
//! `rne` is round to nearest, ties to even: [`f32::round_ties_even`] here, `round` in WGSL. Between an int8 input and an
//! int8 output there is exactly one float product and no float sum, so no compiler can change the result by contraction.
//!
//! The choice of scale and zero point from an observed range ([`affine_qparams`], [`symmetric_qparams`]) follows
//! PyTorch's observers, evaluated in `f32` in the written order.

mod binary;
pub(crate) mod float;
mod float_products;
pub(crate) mod gemm;
mod integers;
mod named_enum;
mod quantize_rule;
mod reduce;
#[cfg(test)]
mod same_bits;
mod scatter_reduction;
mod simd;
mod unary;

pub use binary::BinaryOp;
pub(crate) use binary::{maximum, minimum};
pub use float_products::FloatProducts;
pub(crate) use float_products::FloatProductsRecord;
pub(crate) use integers::truncate;
pub use integers::{Int32Op, IntegerType};
pub use quantize_rule::QuantizeRule;
pub(crate) use reduce::{Range, block_range};
pub use scatter_reduction::ScatterReduction;
pub(crate) use simd::vectorized;
pub use unary::UnaryOp;

/// The largest number of fraction bits in equation 4.
pub const MAX_FRACTION_BITS: u32 = 12;

/// The smallest scale that an observer returns in PT2E's symmetric configuration: 2⁻¹².
pub const EPS: f32 = 1.0 / 4096.0;

/// Computes scale and zero point of an affine scheme for the observed range `[min, max]`, widened to include 0, as PyTorch's
/// observers do.
///
/// `scale = max((max − min) / (quant_max − quant_min), eps)`, `zero_point = clamp(quant_min − rne(min / scale))`.
/// The caller guarantees finite `min ≤ max` and `quant_min < quant_max`.
#[must_use]
pub fn affine_qparams(min: f32, max: f32, quant_min: i32, quant_max: i32, eps: f32) -> (f32, i32) {
    let (negative, positive) = (min.min(0.0), max.max(0.0));
    // The difference is in f32, as in PyTorch. It may overflow for two large finite numbers, which the caller must refuse.
    let scale = ((positive - negative) / (quant_max - quant_min) as f32).max(eps);
    let zero_point = quant_min - (negative / scale).round_ties_even() as i32;
    (scale, zero_point.clamp(quant_min, quant_max))
}

/// Computes scale and zero point (always 0) of a symmetric scheme for the observed range `[min, max]`, as PyTorch's observers do.
///
/// `scale = max(max(−min, max) / ((quant_max − quant_min) / 2), eps)`. The caller guarantees finite `min ≤ max`.
#[must_use]
pub fn symmetric_qparams(min: f32, max: f32, quant_min: i32, quant_max: i32, eps: f32) -> (f32, i32) {
    let magnitude = (-min.min(0.0)).max(max.max(0.0));
    let scale = (magnitude / ((quant_max - quant_min) as f32 / 2.0)).max(eps);
    (scale, 0)
}

/// Computes scale and zero point of one row of a dynamically quantized tensor, as PyTorch's
/// `choose_qparams_per_token_asymmetric` does: from the end of the range that has the larger error.
///
/// The caller guarantees finite `min ≤ max` and `quant_min < quant_max`.
#[must_use]
pub fn per_token_qparams(min: f32, max: f32, quant_min: i32, quant_max: i32, eps: f32) -> (f32, i32) {
    let (negative, positive) = (min.min(0.0), max.max(0.0));
    let (lo, hi) = (quant_min as f32, quant_max as f32);
    let scale = ((positive - negative) / (hi - lo)).max(eps);
    let (low, high) = (negative / scale, positive / scale);
    let zero_point = if (lo + low) + (hi + high) > 0.0 { lo - low } else { hi - high };
    (scale, zero_point.clamp(lo, hi).round_ties_even() as i32)
}

/// Computes scale and zero point as PyTorch's fused fake-quantize module does, by QNNPACK's `ChooseQuantizationParams`.
///
/// The caller guarantees finite `min ≤ max`.
#[must_use]
pub fn torch_fused_qparams(min: f32, max: f32, quant_min: i32, quant_max: i32, symmetric: bool) -> (f32, i32) {
    const SMALLEST: f32 = 6.1e-5;
    let (mut min, mut max) = (min, max);
    let steps = quant_max - quant_min;
    let both_signs = min < 0.0 && max > 0.0;
    if symmetric && both_signs {
        let (lo, hi) = (f64::from(-(steps / 2 + 1)), f64::from(steps / 2));
        let scale = (f64::from(min) / lo).abs().max((f64::from(max) / hi).abs());
        (min, max) = ((scale * lo) as f32, (scale * hi) as f32);
    }
    (min, max) = (min.min(0.0), max.max(0.0));
    let mut scale = (f64::from(max) - f64::from(min)) / f64::from(steps);
    if scale as f32 == 0.0 || (1.0 / scale as f32).is_infinite() {
        scale = 0.1;
    }
    if scale < f64::from(SMALLEST) {
        let larger = SMALLEST / scale as f32;
        scale = f64::from(SMALLEST);
        if min == 0.0 {
            max = SMALLEST * steps as f32;
        } else if max == 0.0 {
            min = -SMALLEST * steps as f32;
        } else {
            (min, max) = (min * larger, max * larger);
        }
    }
    let (lo, hi) = (f64::from(quant_min), f64::from(quant_max));
    let (low, high) = (f64::from(min) / scale, f64::from(max) / scale);
    let from_low_is_better = lo.abs() - low.abs() < hi.abs() - high.abs();
    let mut zero_point = if from_low_is_better { lo - low } else { hi - high };
    if symmetric && min < 0.0 && max > 0.0 {
        zero_point = f64::from(quant_min + quant_max) / 2.0;
    }
    (scale as f32, zero_point.clamp(lo, hi).round_ties_even() as i32)
}

/// Rounds a number below 2²² in magnitude to the nearest integer, ties to even. The result is never −0.
///
/// Adding and subtracting 1.5 · 2²³ leaves no fraction bits, under the rounding mode that every host runs in. Unlike
/// [`f32::round_ties_even`] this vectorizes on processors without a rounding instruction.
#[inline(always)]
pub(crate) fn round_small(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    v + MAGIC - MAGIC
}

/// Quantizes one element (equation 2). `x` must not be NaN (NaN gives `zero_point`, as on a GPU).
#[must_use]
#[inline(always)]
pub fn quantize(x: f32, inv_scale: f32, zero_point: i32, quant_min: i32, quant_max: i32) -> i32 {
    quantize_steps(x * inv_scale, zero_point, quant_min, quant_max)
}

/// Rounds, clamps and shifts a scaled float (equation 2).
#[inline(always)]
fn quantize_steps(steps: f32, zero_point: i32, quant_min: i32, quant_max: i32) -> i32 {
    // A graph may compute a zero point that no int8 range has. Then the differences wrap around, and `lo` may be larger than `hi`.
    let lo = quant_min.wrapping_sub(zero_point) as f32;
    let hi = quant_max.wrapping_sub(zero_point) as f32;
    let v = steps.round_ties_even();
    let v = if v < lo { lo } else { v };
    (if v > hi { hi } else { v } as i32).wrapping_add(zero_point)
}

/// Dequantizes one element (equation 1). The difference is computed in integers, so the result is one float product.
#[must_use]
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    q.wrapping_sub(zero_point) as f32 * scale
}

/// Computes the multiplier of equation 3. It is `None` unless the result is a normal `f32`.
#[must_use]
pub fn multiplier(x_scale: f32, w_scale: f32, y_scale: f32, fraction_bits: u32) -> Option<f32> {
    let steps = f64::from(1u32 << fraction_bits);
    let multiplier = (f64::from(x_scale) * f64::from(w_scale) / (f64::from(y_scale) * steps)) as f32;
    multiplier.is_normal().then_some(multiplier)
}

/// Computes the multiplier of equation 13, for the mean of `count` elements. It is `None` unless the result is a normal `f32`.
#[must_use]
pub fn average_multiplier(x_scale: f32, y_scale: f32, count: usize) -> Option<f32> {
    let multiplier = (f64::from(x_scale) / (f64::from(y_scale) * count as f64)) as f32;
    multiplier.is_normal().then_some(multiplier)
}

/// Computes the factor of equation 7. It is `None` unless the result is a normal `f32`.
#[must_use]
pub fn output_scale(x_scale: f32, w_scale: f32, fraction_bits: u32) -> Option<f32> {
    let scale = (f64::from(x_scale) * f64::from(w_scale) / f64::from(1u32 << fraction_bits)) as f32;
    scale.is_normal().then_some(scale)
}

/// Computes the bias of equation 4 at `fraction_bits`, in `i64`, so that the caller can test it against the bound.
///
/// `weight_sum` is Σ_k w\[n,k\].
#[must_use]
pub fn folded_bias(
    bias: f32,
    x_scale: f32,
    x_zero_point: i32,
    w_scale: f32,
    weight_sum: i64,
    fraction_bits: u32,
) -> i64 {
    let steps = f64::from(1u32 << fraction_bits);
    let quotient = f64::from(bias) * steps / (f64::from(x_scale) * f64::from(w_scale));
    // A float that is too large for i64 saturates, and the bound then refuses it.
    let rounded = quotient.round_ties_even() as i64;
    rounded.saturating_sub((i64::from(x_zero_point) * weight_sum) << fraction_bits)
}

/// Whether a channel satisfies the bound of equation 4; `weight_magnitude` is Σ_k |w\[n,k\]|.
#[must_use]
pub fn fits_accumulator(weight_magnitude: i64, bias: i64, fraction_bits: u32) -> bool {
    let products = (weight_magnitude * 128) << fraction_bits;
    products.saturating_add(bias.saturating_abs()) <= i64::from(i32::MAX)
}

/// Requantizes an accumulator to int8 (equation 5); `lo..=hi` is the range of the result.
#[must_use]
pub fn requantize(acc: i32, multiplier: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    let v = (acc as f32 * multiplier).round_ties_even();
    v.clamp((lo - zero_point) as f32, (hi - zero_point) as f32) as i32 + zero_point
}

/// Scales an accumulator to a float (equation 7, static form). With `relu`, negative results become 0.
#[must_use]
pub fn scale_accumulator(acc: i32, scale: f32, relu: bool) -> f32 {
    let y = acc as f32 * scale;
    if relu && y < 0.0 { 0.0 } else { y }
}

/// Scales an accumulator to a float (equation 7, dynamic form). With `relu`, negative results become 0.
///
/// `x` is the scale and zero point of the activations, `weight` the scale and the sum Σ_k w\[n,k\] of the channel.
#[must_use]
#[inline(always)]
pub fn scale_accumulator_dynamic(acc: i32, x: (f32, i32), weight: (f32, i32), bias: f32, relu: bool) -> f32 {
    let ((x_scale, x_zero_point), (w_scale, weight_sum)) = (x, weight);
    let sum = acc.wrapping_sub(x_zero_point.wrapping_mul(weight_sum));
    let y = scale_sum(sum, x_scale, w_scale, float::canonical(bias));
    if relu && y < 0.0 { 0.0 } else { y }
}

/// Scales the sum Σ_k (x − zero point) · w to a float (equation 7, dynamic form), with a bias that is canonical.
#[inline(always)]
pub(crate) fn scale_sum(sum: i32, x_scale: f32, w_scale: f32, bias: f32) -> f32 {
    float::canonical(float::flush(float::flush(sum as f32 * x_scale) * w_scale) + bias)
}

/// Scales a sum of products to a float (equation 9d). With `relu`, negative results become 0.
#[must_use]
#[inline(always)]
pub fn scale_matmul_dynamic(acc: i32, a_scale: f32, b_scale: f32, relu: bool) -> f32 {
    let y = float::flush(float::flush(acc as f32 * a_scale) * b_scale);
    if relu && y < 0.0 { 0.0 } else { y }
}

/// The largest K for which `Σ_k (a − z_a) · (b − z_b)` always fits `i32` (equation 9).
pub const MAX_MATMUL_K: usize = i32::MAX as usize / (255 * 255);

/// The integer multipliers of equation 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AddMultipliers {
    /// `rne(s_a · 2^shift / s_y)`, at most 2^21.
    pub a: i32,
    /// `rne(s_b · 2^shift / s_y)`, at most 2^21.
    pub b: i32,
    /// Number of bits by which the sum is shifted right, 1 to 30.
    pub shift: u32,
}

impl AddMultipliers {
    /// Computes the multipliers from the scales. They are `None` if the larger ratio of an input scale to the output scale is not in
    /// `2^−10..2^20`.
    #[must_use]
    pub fn new(a_scale: f32, b_scale: f32, y_scale: f32) -> Option<Self> {
        let [a, b] = [a_scale, b_scale].map(|s| f64::from(s) / f64::from(y_scale));
        // The exponent of a normal f64 is the floor of its logarithm.
        let exponent = (a.max(b).to_bits() >> 52) as i64 - 1023;
        let shift = u32::try_from(20 - exponent).ok().filter(|shift| (1..=30).contains(shift))?;
        let ratio = |ratio: f64| (ratio * f64::from(1u32 << shift)).round_ties_even() as i32;
        Some(Self { a: ratio(a), b: ratio(b), shift })
    }

    /// Whether [`add`] cannot overflow with these multipliers.
    #[must_use]
    pub fn are_usable(&self) -> bool {
        let fits = |m: i32| (0..=1 << 21).contains(&m);
        fits(self.a) && fits(self.b) && (1..=30).contains(&self.shift)
    }
}

/// Adds two quantized values (equation 8); `a` and `b` are quantized values minus their zero points.
#[must_use]
pub fn add(a: i32, b: i32, multipliers: AddMultipliers, zero_point: i32, lo: i32, hi: i32) -> i32 {
    let AddMultipliers { a: m_a, b: m_b, shift } = multipliers;
    let acc = a * m_a + b * m_b;
    let rounded = (acc + ((1 << (shift - 1)) - 1) + ((acc >> shift) & 1)) >> shift;
    (rounded + zero_point).clamp(lo, hi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affine_matches_torch() {
        // torchao 0.15.0 computed these values, for int8 and eps 2^-12.
        for (min, max, scale, zero_point) in
            [(-1.0, 0.5, 0.005_882_353, 42), (0.0, 0.0, EPS, -128), (0.2, 1.0, 0.003_921_569, -128)]
        {
            assert_eq!(affine_qparams(min, max, -128, 127, EPS), (scale, zero_point), "[{min}, {max}]");
        }
        assert_eq!(affine_qparams(-1.0, -0.2, -128, 127, EPS).1, 127);
    }

    #[test]
    fn symmetric_divides_by_half_the_range() {
        assert_eq!(symmetric_qparams(-0.5, 1.0, -127, 127, EPS), (1.0 / 127.0, 0));
        assert_eq!(symmetric_qparams(-1.0, 0.5, -8, 7, EPS), (1.0 / 7.5, 0));
        assert_eq!(symmetric_qparams(0.0, 0.0, -127, 127, EPS), (EPS, 0));
    }

    #[test]
    fn quantize_rounds_ties_to_even_before_the_zero_point() {
        let rounded: Vec<i32> = [0.5, 1.5, 2.5, -0.5, -1.5].map(|x| quantize(x, 1.0, 3, -128, 127) - 3).to_vec();
        assert_eq!(rounded, [0, 2, 2, 0, -2]);
        assert_eq!(quantize(f32::INFINITY, 1.0, 3, -128, 127), 127);
        assert_eq!(quantize(f32::NEG_INFINITY, 1.0, 3, -128, 127), -128);
        assert_eq!(quantize(f32::NAN, 1.0, 3, -128, 127), 3);
    }

    #[test]
    fn requantize_clamps_before_converting() {
        assert_eq!(requantize(i32::MAX, 1e30, -100, -128, 127), 127);
        assert_eq!(requantize(i32::MIN, 1e30, 100, -128, 127), -128);
        assert_eq!([1, 3, 5, -1, -3].map(|acc| requantize(acc, 0.5, 0, -128, 127)), [0, 2, 2, 0, -2]);
    }

    #[test]
    fn bound_counts_both_products_and_bias() {
        let limit = i64::from(i32::MAX) / 128;
        assert!(fits_accumulator(limit, 127, 0));
        assert!(!fits_accumulator(limit, 128, 0));
        assert!(!fits_accumulator(limit, 0, 1));
    }

    #[test]
    fn biases_round_to_even_and_carry_the_zero_point() {
        // The bias is b · 2^p / (s_x · s_w), rounded, − z_x · 2^p · Σw.
        let bias = |b: f32, z: i32, sum: i64, p: u32| folded_bias(b, 0.5, z, 0.5, sum, p);
        assert_eq!([0.625, 0.875, -0.625, -0.875, 0.65, -0.65].map(|b| bias(b, 0, 0, 0)), [2, 4, -2, -4, 3, -3]);
        assert_eq!([0.65, -0.65].map(|b| bias(b, 0, 0, 8)), [666, -666]);
        assert_eq!(bias(0.25, -3, 100, 2), 4 + 3 * 4 * 100);
        assert_eq!(bias(f32::MAX, 0, 0, 8), i64::MAX, "what is too large saturates, and the bound refuses it");
    }

    #[test]
    fn multipliers_must_be_normal() {
        assert_eq!(multiplier(0.5, 0.5, 0.25, 1), Some(0.5));
        assert_eq!(multiplier(1e-30, 1e-30, 1.0, 0), None);
        assert_eq!(multiplier(1e30, 1e30, 1.0, 0), None);
        assert_eq!(output_scale(1e-30, 1e-30, 0), None);
    }

    #[test]
    fn sums_round_ties_to_even() {
        let halves = AddMultipliers::new(0.5, 0.5, 1.0).expect("usable");
        assert_eq!(halves, AddMultipliers { a: 1 << 20, b: 1 << 20, shift: 21 });
        let y = |a, b| add(a, b, halves, 0, -128, 127);
        assert_eq!([y(1, 0), y(1, 2), y(2, 3), y(-1, 0), y(-1, -2)], [0, 2, 2, 0, -2]);
        assert_eq!([y(255, 255), y(-255, -255)], [127, -128]);
        assert_eq!(add(1, 0, AddMultipliers::new(0.75, 0.1, 1.0).expect("usable"), 7, -128, 127), 8);
    }

    #[test]
    fn sums_have_a_range_of_ratios() {
        let shift = |a: f32, b: f32| AddMultipliers::new(a, b, 1.0).map(|m| m.shift);
        assert_eq!([shift(1.0, 1e-9), shift(1e-9, 0.99), shift(524_288.0, 1.0)], [Some(20), Some(21), Some(1)]);
        assert_eq!([shift(1_048_576.0, 1.0), shift(9.8e-4, 1e-9), shift(9.7e-4, 1e-9)], [None, Some(30), None]);
        for (a, b) in [(1.999_999_9, 1.999_999_9), (524_287.97, 524_287.97), (9.8e-4, 9.8e-4)] {
            let m = AddMultipliers::new(a, b, 1.0).expect("usable");
            assert!(m.are_usable(), "{m:?}");
            // The largest sums fit i32: an overflow would panic.
            assert_eq!(add(255, 255, m, 0, -128, 127).signum(), i32::from(a > 0.01));
        }
    }

    #[test]
    fn a_token_takes_the_zero_point_of_its_worse_end() {
        assert_eq!(per_token_qparams(0.0, 0.0, -128, 127, f32::EPSILON), (f32::EPSILON, 127));
        let (scale, zero_point) = per_token_qparams(-1.0, 0.5, -128, 127, EPS);
        assert_eq!((scale, zero_point), (1.5 / 255.0, 42));
        assert_eq!(per_token_qparams(0.2, 1.0, -128, 127, EPS), (1.0 / 255.0, -128));
    }
}
