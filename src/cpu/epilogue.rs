//! The computation that follows the sums of an int8 product: equations 5 and 7, for rows and for tensors.
//!
//! Loops over a row index slices of its length: where a kernel calls them with a length that the compiler knows, nothing is left of the loop.

use super::rounding::{clamp, rounded};
use crate::numerics;
use crate::parallel::*;
use crate::values::Tensor;
use crate::values::slices::{codes, i32s, like};

/// The zero point and the range of an int8 result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8Output {
    pub(super) zero_point: i32,
    pub(super) lo: i32,
    pub(super) hi: i32,
}

/// Requantizes the sums of one row (equation 5). The accumulator is that of equation 4, `(sum << shift) + bias`, wrapping.
#[inline(always)]
pub(super) fn requantize_row(q: &mut [i8], sums: &[i32], bias: &[i32], multiplier: &[f32], shift: u32, y: Int8Output) {
    let Int8Output { zero_point: z, lo, hi } = y;
    let (lo, hi) = ((lo - z) as f32, (hi - z) as f32);
    let n = q.len();
    let (sums, bias, multiplier) = (&sums[..n], &bias[..n], &multiplier[..n]);
    for at in 0..n {
        let acc = (sums[at] << shift).wrapping_add(bias[at]);
        q[at] = rounded(clamp(acc as f32 * multiplier[at], lo, hi), z);
    }
}

/// Scales the sums of one row to floats (equation 7). The accumulator is that of [`requantize_row`].
#[inline(always)]
pub(super) fn scale_row(y: &mut [f32], sums: &[i32], bias: &[i32], scale: &[f32], shift: u32, relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let n = y.len();
    let (sums, bias, scale) = (&sums[..n], &bias[..n], &scale[..n]);
    for at in 0..n {
        let v = (sums[at] << shift).wrapping_add(bias[at]) as f32 * scale[at];
        y[at] = if v < floor { floor } else { v };
    }
}

/// The vectors `[n]` of the dynamic form of equation 7, one element for each output channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channels<'a> {
    /// What is added to the sums.
    pub(super) acc_bias: &'a [i32],
    pub(super) weight_sums: &'a [i32],
    pub(super) scales: &'a [f32],
    /// In real units, and canonical.
    pub(super) bias: &'a [f32],
}

impl<'a> Channels<'a> {
    /// Returns the channels from `first` on.
    #[inline(always)]
    pub(super) fn from(self, first: usize) -> Self {
        let Self { acc_bias, weight_sums, scales, bias } = self;
        Self {
            acc_bias: &acc_bias[first..],
            weight_sums: &weight_sums[first..],
            scales: &scales[first..],
            bias: &bias[first..],
        }
    }
}

/// Scales the sums of one row by the dynamic form of equation 7. `scale` is that of the row of activations, and `zero_point` its zero point,
/// unless [`Channels::acc_bias`] has it already.
#[inline(always)]
pub(super) fn scale_dynamic_row(
    y: &mut [f32],
    sums: &[i32],
    (scale, zero_point): (f32, Option<i32>),
    w: Channels<'_>,
    relu: bool,
) {
    // A floor that is always applied compiles to one instruction; a branch on `relu` would not.
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let n = y.len();
    let (sums, acc_bias, scales, bias) = (&sums[..n], &w.acc_bias[..n], &w.scales[..n], &w.bias[..n]);
    let scaled = |at: usize, sum: i32| {
        let v = numerics::scale_sum(sum.wrapping_add(acc_bias[at]), scale, scales[at], bias[at]);
        if v < floor { floor } else { v }
    };
    match zero_point {
        None => {
            for at in 0..n {
                y[at] = scaled(at, sums[at]);
            }
        }
        Some(zero_point) => {
            let weight_sums = &w.weight_sums[..n];
            for at in 0..n {
                y[at] = scaled(at, sums[at].wrapping_sub(zero_point.wrapping_mul(weight_sums[at])));
            }
        }
    }
}

/// Returns scale and zero point of a row, from dynamic qparams for the tensor or for each row.
#[inline(always)]
pub(super) fn qparams_of_row(qparams: &[f32], row: usize) -> (f32, i32) {
    let at = if qparams.len() == 2 { 0 } else { row * 2 };
    (qparams[at], qparams[at + 1] as i32)
}

/// Requantizes accumulators `[…, n]` to int8 (equation 5).
pub(super) fn requantize(acc: &Tensor, multiplier: &[f32], zero_point: i32, lo: i32, hi: i32) -> Tensor {
    let rule = |(&acc, &m): (&i32, &f32)| numerics::requantize(acc, m, zero_point, lo, hi) as i8;
    codes(acc.shape(), by_channel(acc, multiplier, rule))
}

/// Scales accumulators `[…, n]` to floats (equation 7).
pub(super) fn scale_accumulator(acc: &Tensor, scale: &[f32], relu: bool) -> Tensor {
    let rule = |(&acc, &s): (&i32, &f32)| numerics::scale_accumulator(acc, s, relu);
    like(acc, by_channel(acc, scale, rule))
}

/// Computes `rule(acc, factor)` of each accumulator and the factor of its channel.
fn by_channel<T: Send + Clone + Default>(
    acc: &Tensor,
    factors: &[f32],
    rule: impl Fn((&i32, &f32)) -> T + Sync,
) -> Vec<T> {
    let mut y = vec![T::default(); acc.len()];
    let n = factors.len().max(1);
    let rows = y.par_chunks_exact_mut(n).zip(i32s(acc).par_chunks_exact(n));
    rows.for_each(|(y, acc)| y.iter_mut().zip(acc.iter().zip(factors)).for_each(|(y, operands)| *y = rule(operands)));
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantize_equals_the_scalar_rule() {
        let sums = [0, 1, -1, 3, 5, -3, 12345, -12345, i32::MAX >> 8, i32::MIN >> 8, 1 << 24, (1 << 24) + 1];
        for m in [0.5, 0.25, 1.0 / 3.0, 1e-6, 1e30, 7e-3] {
            for (zero_point, lo, hi) in [(0, -128, 127), (-128, -128, 127), (127, -128, 127), (-3, -3, 100)] {
                for shift in [0, 1, 8] {
                    for bias in [0, 1, -77] {
                        let (n, y) = (sums.len(), Int8Output { zero_point, lo, hi });
                        let mut quantized = vec![0; n];
                        requantize_row(&mut quantized, &sums, &vec![bias; n], &vec![m; n], shift, y);
                        for (&sum, q) in sums.iter().zip(quantized) {
                            let acc = (sum << shift).wrapping_add(bias);
                            let expected = numerics::requantize(acc, m, zero_point, lo, hi);
                            assert_eq!(i32::from(q), expected, "acc {acc} multiplier {m:e} z {zero_point}");
                        }
                    }
                }
            }
        }
    }
}
