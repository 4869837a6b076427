//! Kernels for the integer operators, by the equations of [`numerics`].

use rayon::prelude::*;

use super::broadcast::zip_i8;
use super::quantize::{Int8Output, quantize_row};
use crate::numerics::{self, AddMultipliers, Range, block_range, vectorized};
use crate::values::slices::{codes, f32s, i8s, i32s, like, tensor, with_last};
use crate::values::{QScheme, QuantRange, Tensor};

/// Adds quantized values (equation 8), broadcast.
pub(crate) fn add_i8(a: &Tensor, b: &Tensor, zero_points: [i32; 2], m: AddMultipliers, y: Int8Output) -> Tensor {
    let [a_zero, b_zero] = zero_points;
    zip_i8(a, b, |a, b| numerics::add(i32::from(a) - a_zero, i32::from(b) - b_zero, m, y.zero_point, y.lo, y.hi) as i8)
}

/// Multiplies quantized values element by element (equation 9 with K = 1, then equation 5), broadcast.
pub(crate) fn mul_i8(a: &Tensor, b: &Tensor, zero_points: [i32; 2], multiplier: f32, y: Int8Output) -> Tensor {
    let [a_zero, b_zero] = zero_points;
    zip_i8(a, b, |a, b| {
        let acc = (i32::from(a) - a_zero) * (i32::from(b) - b_zero);
        numerics::requantize(acc, multiplier, y.zero_point, y.lo, y.hi) as i8
    })
}

/// Looks up each element: entry `x + 128` of a lookup table of 256 entries.
pub(crate) fn lut(x: &Tensor, table: &[i8]) -> Tensor {
    let mut y = vec![0i8; x.len()];
    y.par_chunks_mut(super::TASK).zip(i8s(x).par_chunks(super::TASK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = table[(i32::from(x) + 128) as usize]);
    });
    codes(x.shape(), y)
}

/// Computes dynamic qparams (equation 10): scale and zero point, `[2]` for the tensor or `[…, 2]` for each row. Values that are not
/// finite, or whose range is wider than the largest float, are an error: the row-major index of the first value to blame.
pub(crate) fn choose_qparams(x: &Tensor, qscheme: QScheme, range: QuantRange, eps: f32) -> Result<Tensor, usize> {
    let (lo, hi) = (range.quant_min(), range.quant_max());
    let choose = |(row, values): (usize, &[f32])| {
        let (seen, finite) = range_of(values);
        let (min, max) = (seen.min.min(0.0), seen.max.max(0.0));
        let rule = match (qscheme.is_per_token(), qscheme.is_symmetric()) {
            (true, _) => numerics::per_token_qparams,
            (false, true) => numerics::symmetric_qparams,
            (false, false) => numerics::affine_qparams,
        };
        let (scale, zero_point) = rule(min, max, lo, hi, eps);
        if finite && scale.is_finite() {
            return Ok([scale, zero_point as f32]);
        }
        let largest = |v: &f32| v.abs() >= max.max(-min);
        let at = values.iter().position(|v| !v.is_finite()).or_else(|| values.iter().position(largest));
        Err(row * values.len() + at.expect("one is not finite, or the largest"))
    };
    let (shape, row) = if qscheme.is_per_token() {
        (with_last(x.shape(), 2), x.shape().last().copied().unwrap_or(1))
    } else {
        (vec![2], x.len())
    };
    if row == 0 {
        return Ok(tensor(shape.clone(), [eps, 0.0].repeat(shape.iter().product::<usize>() / 2)));
    }
    let qparams: Vec<_> =
        f32s(x).par_chunks_exact(row).enumerate().with_min_len(super::TASK.div_ceil(row)).map(choose).collect();
    // Collecting into a `Result` in order gives the first of several errors. In parallel, it would give any of them.
    let qparams = qparams.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(tensor(shape, qparams.concat()))
}

/// Returns the smallest and the largest value, and whether all are finite.
fn range_of(values: &[f32]) -> (Range, bool) {
    let of_block = |values: &[f32]| {
        vectorized(
            #[inline(always)]
            || block_range(values),
        )
    };
    if values.len() <= super::TASK {
        return of_block(values);
    }
    let merge = |(a, a_finite): (Range, bool), (b, b_finite)| (a.merge(b), a_finite && b_finite);
    values.par_chunks(super::TASK).map(of_block).reduce(|| (Range::EMPTY, true), merge)
}

/// Returns scale and zero point of a row, from dynamic qparams for the tensor or for each row.
#[inline(always)]
pub(crate) fn qparams_of_row(qparams: &[f32], row: usize) -> (f32, i32) {
    let at = if qparams.len() == 2 { 0 } else { row * 2 };
    (qparams[at], qparams[at + 1] as i32)
}

/// Quantizes with dynamic qparams (equation 2). NaN, which equation 10 refuses, would give the zero point.
pub(crate) fn quantize_dynamic(x: &Tensor, qparams: &[f32], range: QuantRange) -> Tensor {
    let cols = x.shape().last().copied().unwrap_or(1).max(1);
    let mut y = vec![0i8; x.len()];
    let rows = super::TASK.div_ceil(cols);
    let tasks = y.par_chunks_mut(rows * cols).zip(f32s(x).par_chunks(rows * cols)).enumerate();
    tasks.for_each(|(at, (y, x))| {
        vectorized(
            #[inline(always)]
            || {
                for (row, (y, x)) in y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).enumerate() {
                    let (scale, zero_point) = qparams_of_row(qparams, at * rows + row);
                    quantize_row(y, x, 1.0 / scale, zero_point, range);
                }
            },
        );
    });
    codes(x.shape(), y)
}

/// Dequantizes with dynamic qparams (equation 1).
pub(crate) fn dequantize_dynamic(q: &Tensor, qparams: &[f32]) -> Tensor {
    let cols = q.shape().last().copied().unwrap_or(1).max(1);
    let row = |(row, q): (usize, &[i8])| {
        let (scale, zero_point) = qparams_of_row(qparams, row);
        q.iter().map(move |&q| numerics::dequantize(q.into(), scale, zero_point)).collect::<Vec<_>>()
    };
    tensor(q.shape().to_vec(), i8s(q).chunks_exact(cols).enumerate().flat_map(row).collect())
}

/// The vectors `[n]` of the dynamic form of equation 7, one element for each output channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) weight_sums: &'a [i32],
    pub(crate) scales: &'a [f32],
    pub(crate) bias: &'a [f32],
}

impl<'a> Channels<'a> {
    /// Returns the channels from `first` on.
    pub(crate) fn from(self, first: usize) -> Self {
        let Self { weight_sums, scales, bias } = self;
        Self { weight_sums: &weight_sums[first..], scales: &scales[first..], bias: &bias[first..] }
    }
}

/// Scales the sums of one row by the dynamic form of equation 7. The accumulator is `sum + acc_bias`, and `x` are scale and zero
/// point of the row of activations.
#[inline(always)]
pub(crate) fn scale_dynamic_row(
    y: &mut [f32],
    sums: &[i32],
    acc_bias: &[i32],
    x: (f32, i32),
    w: Channels<'_>,
    relu: bool,
) {
    // A floor that is always applied compiles to one instruction; a branch on `relu` would not.
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let weights = w.scales.iter().zip(w.weight_sums).zip(w.bias);
    for (((y, &sum), &acc_bias), ((&scale, &weight_sum), &bias)) in y.iter_mut().zip(sums).zip(acc_bias).zip(weights) {
        let acc = sum.wrapping_add(acc_bias);
        let v = numerics::scale_accumulator_dynamic(acc, x, (scale, weight_sum), bias, false);
        *y = if v < floor { floor } else { v };
    }
}

/// Requantizes accumulators `[…, n]` to int8 (equation 5).
pub(crate) fn requantize(acc: &Tensor, multiplier: &[f32], zero_point: i32, lo: i32, hi: i32) -> Tensor {
    let rule = |(&acc, &m): (&i32, &f32)| numerics::requantize(acc, m, zero_point, lo, hi) as i8;
    codes(acc.shape(), by_channel(acc, multiplier, rule))
}

/// Scales accumulators `[…, n]` to floats (equation 7).
pub(crate) fn scale_accumulator(acc: &Tensor, scale: &[f32], relu: bool) -> Tensor {
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
