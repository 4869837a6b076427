//! Quantize and dequantize (equations 1 and 2), and dynamic qparams (equation 10).

use super::epilogue::qparams_of_row;
use super::error::CpuError;
use super::rounding::{clamp, rounded};
use super::step_run::{Output, StepRun};
use super::task_size::{TASK, task_len};
use crate::numerics::{self, QuantizeRule, Range, block_range, float, vectorized};
use crate::ops::{ChooseQParams, Dequantize, Op, Quantize, QuantizeDynamic};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::slices::{CHECKED, codes, f32s, i8s, tensor, with_last};
use crate::values::{Number, QParams, QScheme, QuantRange, Tensor, TensorQParams};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    let q = match op {
        Op::Quantize(_) | Op::QuantizeDynamic(_) => run.pool.take_int8(run.x().len()),
        _ => Vec::new(),
    };
    let (x, rest) = (run.x(), run.rest);
    Some(match *op {
        Op::Quantize(Quantize { ref qparams, range, rule }) => {
            match quantize(q, f32s(x), per_tensor(qparams), range, rule) {
                Ok(q) => Ok(codes(run.shape, q)),
                Err(index) => Err(CpuError::NotANumber { step: run.name(), index }),
            }
        }
        Op::Dequantize(Dequantize { ref qparams }) => {
            Ok(tensor(run.shape.to_vec(), dequantize(i8s(x), per_tensor(qparams))))
        }
        Op::ChooseQParams(ChooseQParams { qscheme, range, eps }) => {
            choose_qparams(x, qscheme, range, eps).map_err(|index| {
                let value = Number(f32s(x)[index]).to_string();
                CpuError::Range { step: run.name(), index, value }
            })
        }
        Op::QuantizeDynamic(QuantizeDynamic { range }) => Ok(quantize_dynamic(q, x, f32s(rest[0]), range)),
        Op::DequantizeDynamic(_) => Ok(dequantize_dynamic(x, f32s(rest[0]))),
        _ => return None,
    })
}

/// The qparams of a step. Lowering leaves those for each channel or group to constants.
fn per_tensor(qparams: &TensorQParams) -> QParams {
    match qparams {
        TensorQParams::PerTensor(qparams) => *qparams,
        TensorQParams::PerChannel { .. } | TensorQParams::PerGroup(_) => unreachable!("{CHECKED}"),
    }
}

/// Quantizes a tensor (equation 2) into a buffer. The error is the row-major index of a NaN, which has no quantized value.
fn quantize(
    mut q: Vec<i8>,
    x: &[f32],
    qparams: QParams,
    range: QuantRange,
    rule: QuantizeRule,
) -> Result<Vec<i8>, usize> {
    let task = task_len(x.len(), 1);
    let blocks = q.par_chunks_mut(task).zip(x.par_chunks(task)).map(|(q, x)| {
        vectorized(
            #[inline(always)]
            || match rule {
                QuantizeRule::Multiply => quantize_block(q, x, |v| v * qparams.inv_scale(), qparams, range),
                QuantizeRule::Divide => quantize_block(q, x, |v| float::div(v, qparams.scale()), qparams, range),
            },
        )
    });
    if blocks.reduce_with(|a, b| a & b) != Some(false) {
        return Ok(q);
    }
    Err(x.iter().position(|v| v.is_nan()).expect("one of them is NaN"))
}

/// Dequantizes a tensor (equation 1).
fn dequantize(q: &[i8], qparams: QParams) -> Vec<f32> {
    let mut x = vec![0f32; q.len()];
    let (scale, z) = (qparams.scale(), qparams.zero_point());
    let task = task_len(q.len(), 1);
    x.par_chunks_mut(task).zip(q.par_chunks(task)).for_each(|(x, q)| {
        vectorized(
            #[inline(always)]
            || {
                for (x, &q) in x.iter_mut().zip(q) {
                    *x = (i32::from(q) - z) as f32 * scale;
                }
            },
        );
    });
    x
}

/// Quantizes elements that share qparams, with `steps` to scale them. Returns whether none is NaN.
#[inline(always)]
fn quantize_block(q: &mut [i8], x: &[f32], steps: impl Fn(f32) -> f32, qparams: QParams, range: QuantRange) -> bool {
    let z = qparams.zero_point();
    let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
    let mut number = true;
    for (q, &v) in q.iter_mut().zip(x) {
        *q = rounded(clamp(steps(v), lo, hi), z);
        number &= !v.is_nan();
    }
    number
}

/// Quantizes a row as [`numerics::quantize`](crate::numerics::quantize) does (equation 2): NaN gives the zero point.
#[inline(always)]
fn quantize_row(q: &mut [i8], x: &[f32], inv_scale: f32, z: i32, range: QuantRange) {
    if z.unsigned_abs() > 1 << 20 {
        // Equation 10 gives no such zero point, but a graph may compute its own. The sum with MAGIC would not be exact.
        let rule = |x: f32| crate::numerics::quantize(x, inv_scale, z, range.quant_min(), range.quant_max());
        for (q, &x) in q.iter_mut().zip(x) {
            *q = rule(x) as i8;
        }
        return;
    }
    let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
    for (q, &x) in q.iter_mut().zip(x) {
        let v = x * inv_scale;
        let v = if v.is_nan() { 0.0 } else { v };
        *q = rounded(clamp(v, lo, hi), z);
    }
}

/// Computes dynamic qparams (equation 10): scale and zero point, `[2]` for the tensor or `[…, 2]` for each row. Values that are not
/// finite, or whose range is wider than the largest float, are an error: the row-major index of the first value to blame.
fn choose_qparams(x: &Tensor, qscheme: QScheme, range: QuantRange, eps: f32) -> Result<Tensor, usize> {
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
        f32s(x).par_chunks_exact(row).enumerate().with_min_len(TASK.div_ceil(row)).map(choose).collect();
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
    if values.len() < 2 * TASK {
        return of_block(values);
    }
    let merge = |(a, a_finite): (Range, bool), (b, b_finite)| (a.merge(b), a_finite && b_finite);
    values.par_chunks(task_len(values.len(), 1)).map(of_block).reduce_with(merge).unwrap_or((Range::EMPTY, true))
}

/// Quantizes with dynamic qparams (equation 2) into a buffer. NaN, which equation 10 refuses, would give the zero point.
fn quantize_dynamic(mut q: Vec<i8>, x: &Tensor, qparams: &[f32], range: QuantRange) -> Tensor {
    let cols = x.shape().last().copied().unwrap_or(1).max(1);
    by_rows(&mut q, cols, |row, q| quantize_rows(q, &f32s(x)[row * cols..][..q.len()], (qparams, row), cols, range));
    codes(x.shape(), q)
}

/// Calls `quantize(row, q)` for parts of `q[rows, cols]`, whole rows from a row on, in parallel.
pub(super) fn by_rows(q: &mut [i8], cols: usize, quantize: impl Fn(usize, &mut [i8]) + Sync) {
    let task = task_len(q.len(), cols);
    q.par_chunks_mut(task).enumerate().for_each(|(at, q)| quantize(at * task / cols, q));
}

/// Quantizes the rows `x[rows, cols]` with dynamic qparams of the tensor, or of each row: those of the first are at a row of `qparams`.
pub(super) fn quantize_rows(
    q: &mut [i8],
    x: &[f32],
    (qparams, first): (&[f32], usize),
    cols: usize,
    range: QuantRange,
) {
    vectorized(
        #[inline(always)]
        || {
            for (row, (q, x)) in q.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).enumerate() {
                let (scale, zero_point) = qparams_of_row(qparams, first + row);
                quantize_row(q, x, 1.0 / scale, zero_point, range);
            }
        },
    );
}

/// Dequantizes with dynamic qparams (equation 1).
fn dequantize_dynamic(q: &Tensor, qparams: &[f32]) -> Tensor {
    let cols = q.shape().last().copied().unwrap_or(1).max(1);
    let row = |(row, q): (usize, &[i8])| {
        let (scale, zero_point) = qparams_of_row(qparams, row);
        q.iter().map(move |&q| numerics::dequantize(q.into(), scale, zero_point)).collect::<Vec<_>>()
    };
    tensor(q.shape().to_vec(), i8s(q).chunks_exact(cols).enumerate().flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics;

    /// The values within a few ulp of each tie, and the extremes.
    fn hard_values() -> Vec<f32> {
        let near = (-600i32..=600).flat_map(|half| {
            let v = half as f32 / 2.0;
            (-3i32..=3).map(move |ulp| f32::from_bits(v.to_bits().wrapping_add_signed(ulp)))
        });
        let extremes = [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-45, 0.0, -0.0, 4e6, -4e6, 1e9];
        near.filter(|v| !v.is_nan()).chain(extremes).collect()
    }

    #[test]
    fn quantize_equals_the_scalar_rule() {
        let x = hard_values();
        for (scale, z) in [(1.0, 0), (0.1, -128), (0.3, 127), (1.7, 42), (1e-3, -5)] {
            let q = QParams::new(scale, z).expect("valid");
            for range in [QuantRange::INT8, QuantRange::INT8_NARROW] {
                for &rule in QuantizeRule::ALL {
                    let got = quantize(vec![0; x.len()], &x, q, range, rule).expect("no NaN");
                    for (&v, got) in x.iter().zip(got) {
                        let expected = rule.quantize(v, q, range.quant_min(), range.quant_max());
                        assert_eq!(i32::from(got), expected, "{rule}: {v:e} at scale {scale} zero point {z}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_equal_the_scalar_rule() {
        let x: Vec<f32> = hard_values().into_iter().chain([f32::NAN]).collect();
        for (scale, z) in [(1.0, 0), (0.1, -128), (0.3, 127), (1.7, 42), (1e-3, -5), (1e-40, 3), (1.0, 1 << 24)] {
            let inv_scale = 1.0 / scale;
            let mut quantized = vec![0; x.len()];
            quantize_row(&mut quantized, &x, inv_scale, z, QuantRange::INT8);
            for (&x, q) in x.iter().zip(quantized) {
                let expected = numerics::quantize(x, inv_scale, z, -128, 127) as i8;
                assert_eq!(q, expected, "{x:e} at scale {scale:e} zero point {z}");
            }
        }
    }

    #[test]
    fn dequantize_equals_the_scalar_rule() {
        let all: Vec<i8> = (-128..=127).collect();
        for (scale, z) in [(1.0, 0), (0.1, -128), (0.3, 127), (1.7, 42)] {
            let q = QParams::new(scale, z).expect("valid");
            for (&code, x) in all.iter().zip(dequantize(&all, q)) {
                assert_eq!(x.to_bits(), numerics::dequantize(code.into(), scale, z).to_bits(), "{code}");
            }
        }
    }

    #[test]
    fn nan_is_located() {
        let mut x = vec![1.0; 100_000];
        x[77_777] = f32::NAN;
        let q = QParams::new(1.0, 0).expect("valid");
        assert_eq!(quantize(vec![0; x.len()], &x, q, QuantRange::INT8, QuantizeRule::Multiply), Err(77_777));
    }
}
