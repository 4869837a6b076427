//! Softmax and normalizations. Sums are computed in `f64`, so that long rows lose no precision.

use rayon::prelude::*;
use rten_simd::SimdOp;

use super::movement::transpose;
use super::options::Functions;
use super::step_run::{Output, StepRun, TASK};
use crate::numerics::vectorized;
use crate::ops::{LayerNorm, Op, RmsNorm, Softmax};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{f32s, f32s_mut};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    let rest = run.rest;
    Some(Ok(match *op {
        Op::Softmax(Softmax { axis }) => {
            let rows = match run.functions {
                Functions::Vectors => softmax_simd,
                Functions::Libm => softmax,
            };
            along_axis(run.take_x(), axis, rows)
        }
        Op::LayerNorm(LayerNorm { eps }) => {
            let mut y = run.take_x();
            layer_norm(f32s_mut(&mut y), f32s(rest[0]), f32s(rest[1]), eps);
            y
        }
        Op::RmsNorm(RmsNorm { eps }) => {
            let mut y = run.take_x();
            rms_norm(f32s_mut(&mut y), f32s(rest[0]), eps);
            y
        }
        _ => return None,
    }))
}

/// Applies `f` to the elements as rows along an axis, with the length of a row. It works in place if the axis is the last.
fn along_axis(x: Tensor, axis: usize, f: impl Fn(&mut [f32], usize)) -> Tensor {
    let last = x.shape().len() - 1;
    // Swapping two axes twice restores their order, so one permutation serves both ways.
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    let mut y = if axis == last { x } else { transpose(&x, &perm) };
    let cols = y.shape()[last];
    f(f32s_mut(&mut y), cols);
    if axis == last { y } else { transpose(&y, &perm) }
}

/// Computes the softmax of each row of `cols` elements, in place, with SIMD functions. The softmax of a row of −∞ (all masked) is
/// NaN, as in PyTorch.
fn softmax_simd(x: &mut [f32], cols: usize) {
    if cols == 0 {
        return;
    }
    x.par_chunks_mut(TASK.div_ceil(cols) * cols).for_each(|x| {
        x.chunks_exact_mut(cols).for_each(|row| {
            rten_vecmath::Softmax::new_mut(row).dispatch();
        });
    });
}

/// Computes the softmax of each row of `cols` elements, in place, as the interpreter does.
fn softmax(x: &mut [f32], cols: usize) {
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
fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    by_row(
        x,
        weight.len(),
        #[inline(always)]
        |row| {
            let n = row.len() as f64;
            let mean = sum(row, |v| v) / n;
            let variance = sum(row, |v| (v - mean) * (v - mean)) / n;
            let inv_std = 1.0 / (variance + f64::from(eps)).sqrt();
            for ((v, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                *v = ((f64::from(*v) - mean) * inv_std) as f32 * w + b;
            }
        },
    );
}

/// Normalizes each row of `weight.len()` elements, in place: `x / √(mean(x²) + eps) · weight`.
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    by_row(
        x,
        weight.len(),
        #[inline(always)]
        |row| {
            let inv_rms = 1.0 / (sum(row, |v| v * v) / row.len() as f64 + f64::from(eps)).sqrt();
            row.iter_mut().zip(weight).for_each(|(v, &w)| *v = (f64::from(*v) * inv_rms) as f32 * w);
        },
    );
}

/// Calls `normalize` with each row of `n` elements.
fn by_row(x: &mut [f32], n: usize, normalize: impl Fn(&mut [f32]) + Sync) {
    if n == 0 {
        return;
    }
    x.par_chunks_mut(TASK.div_ceil(n) * n).for_each(|x| {
        vectorized(
            #[inline(always)]
            || x.chunks_exact_mut(n).for_each(&normalize),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_close_to_f64() {
        for cols in [1, 2, 7, 8, 17, 64, 1000] {
            let x: Vec<f32> = (0..3 * cols).map(|i| ((i * 37) % 101) as f32 / 7.0 - 9.0).collect();
            let mut y = x.clone();
            // This element is masked.
            y[0] -= 10_000.0;
            let masked = y.clone();
            softmax_simd(&mut y, cols);
            for (y, x) in y.chunks(cols).zip(masked.chunks(cols)) {
                let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let e: Vec<f64> = x.iter().map(|&v| libm::exp(f64::from(v) - f64::from(max))).collect();
                let sum: f64 = e.iter().sum();
                for (at, (&y, e)) in y.iter().zip(&e).enumerate() {
                    assert!(
                        (f64::from(y) - e / sum).abs() <= 1e-6,
                        "{cols} columns: {y} at {at}, expected {}",
                        e / sum
                    );
                }
            }
        }
    }

    #[test]
    fn softmax_of_nan_is_nan() {
        let (mask, nan) = (f32::NEG_INFINITY, f32::NAN);
        let mut y = [mask, mask, mask, 1.0, nan, 2.0, 0.0, mask, 0.0];
        softmax_simd(&mut y, 3);
        assert!(y[..6].iter().all(|v| v.is_nan()), "{y:?}");
        assert_eq!(y[6..], [0.5, 0.0, 0.5]);
    }
}
