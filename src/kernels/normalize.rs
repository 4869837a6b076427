//! Softmax and normalization. Sums are computed in `f64`, so that long rows lose no precision.

use rayon::prelude::*;

use super::TASK;
use crate::numerics::vectorized;

/// Computes the softmax of each row of `cols` elements, in place.
pub(crate) fn softmax_rows(x: &mut [f32], cols: usize) {
    if cols == 0 {
        return;
    }
    x.par_chunks_exact_mut(cols).for_each(|row| {
        // The softmax of a row of −∞ (all masked) is NaN, as in PyTorch.
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = libm::expf(*v - max));
        let sum: f64 = row.iter().map(|&v| f64::from(v)).sum();
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / sum) as f32);
    });
}

/// Normalizes each row of `weight.len()` elements, in place: `(x − mean) / √(variance + eps) · weight + bias`.
pub(crate) fn layer_norm_in_place(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = weight.len();
    if n == 0 {
        return;
    }
    x.par_chunks_mut(TASK.div_ceil(n) * n).for_each(|x| {
        vectorized(
            #[inline(always)]
            || {
                for row in x.chunks_exact_mut(n) {
                    let mean = sum(row, |v| v) / n as f64;
                    let variance = sum(row, |v| (v - mean) * (v - mean)) / n as f64;
                    let inv_std = 1.0 / (variance + f64::from(eps)).sqrt();
                    for ((v, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                        *v = ((f64::from(*v) - mean) * inv_std) as f32 * w + b;
                    }
                }
            },
        );
    });
}

/// Computes `Σ f(x)` in 16 interleaved partial sums, so that the loop vectorizes.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0f64; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane += f(v.into());
        }
    }
    let rest = rest.iter().map(|&v| f(v.into()));
    lanes.into_iter().chain(rest).sum()
}
